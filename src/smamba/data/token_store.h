// The token store: token ids of many documents in one memory-mapped file. Byte layout: docs/formats/token_store.md.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "smamba/core/file.h"
#include "smamba/core/hash.h"
#include "smamba/data/tokenizer.h"

namespace smamba::data {

inline constexpr std::string_view kStoreMagic = "SMTOKENS";
inline constexpr uint32_t kStoreVersion = 1;
inline constexpr uint64_t kStoreHeaderSize = 128;
inline constexpr uint64_t kStoreMaxDescription = uint64_t{256} << 20;

/// The first 128 bytes of a store, little-endian, no padding.
struct StoreHeader {
  std::array<char, 8> magic{};
  uint32_t version = kStoreVersion;
  uint32_t token_size = 2;  // bytes of a token: 2 or 4, unsigned
  uint64_t tokens = 0, documents = 0;
  uint64_t text_bytes = 0;  // sum over documents
  uint32_t vocab_size = 0;  // every token id is below it
  int32_t end_of_text = -1;
  uint64_t tokens_offset = kStoreHeaderSize, documents_offset = 0, description_offset = 0, description_size = 0;
  std::array<char, 32> fingerprint{};  // of the tokenizer, hexadecimal
  uint32_t tokens_crc = 0, documents_crc = 0, description_crc = 0;
  uint32_t header_crc = 0;  // of the 124 bytes before it
};
static_assert(sizeof(StoreHeader) == kStoreHeaderSize);

/// One document as it stands in the file.
struct DocumentRecord {
  uint64_t token_end = 0;  // its tokens are [token_end of the document before, token_end); the last is end_of_text
  uint64_t bytes = 0;      // of the original text
  Hash128 hash;            // of the original text
};
static_assert(sizeof(DocumentRecord) == 32);

/// Whether a file begins as a token store does.
bool is_token_store(const std::filesystem::path& path);

/// One document of an open store.
struct DocumentView {
  uint64_t begin = 0, end = 0;  // token range, its end_of_text included
  uint64_t bytes = 0;
  Hash128 hash;
  uint64_t tokens() const { return end - begin; }
};

/// A store opened for reading. The constructor validates the header, the sizes, the tokenizer and every document
/// record, so that nothing read later can reach outside the file; token content is only summed by verify().
/// Thread-safe. Errors: Error(kIo) when it cannot be read, Error(kBadData) naming the file, the offset, the rule and
/// what was found.
class TokenStore {
 public:
  explicit TokenStore(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  const StoreHeader& header() const { return header_; }
  uint64_t token_count() const { return header_.tokens; }
  uint64_t document_count() const { return header_.documents; }
  uint64_t text_bytes() const { return header_.text_bytes; }
  int32_t vocab_size() const { return static_cast<int32_t>(header_.vocab_size); }
  int32_t end_of_text() const { return header_.end_of_text; }
  std::string_view fingerprint() const { return {header_.fingerprint.data(), header_.fingerprint.size()}; }
  std::string_view tokenizer_description() const;
  /// Of the content (sums of tokens, documents and tokenizer), wherever the file lies: 32 hexadecimal digits.
  std::string identity() const;
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }

  /// i < document_count().
  DocumentView document(uint64_t i) const;
  /// The document that holds token `position` < token_count(): O(log documents).
  uint64_t document_of(uint64_t position) const;
  /// Copies tokens [begin, begin + out.size()). Error(kBadData) for an id outside the vocabulary.
  void read(uint64_t begin, std::span<int32_t> out) const;

  /// Recomputes every checksum and checks every token id and that each document ends with end_of_text. Reads the whole
  /// file.
  void verify() const;

 private:
  void validate();
  template <class Token>
  void copy(uint64_t begin, std::span<int32_t> out) const;
  template <class Token>
  void verify_tokens() const;

  std::filesystem::path path_;
  MappedFile file_;
  StoreHeader header_;
  std::span<const DocumentRecord> documents_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace smamba::data
