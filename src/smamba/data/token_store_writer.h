// Writes a token store in bounded memory; the target appears whole or not at all, and an interrupted writer can go on
// where it was.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "smamba/core/hash.h"
#include "smamba/data/output_file.h"
#include "smamba/data/token_store.h"

namespace smamba::data {

/// How far a writer is: all that is needed to go on.
struct StorePosition {
  uint64_t tokens = 0, documents = 0, text_bytes = 0;
  uint32_t tokens_crc = 0, documents_crc = 0;
};

/// Token ids in the width of the store, ready to be written: made by many threads, added by one.
class PackedTokens {
 public:
  explicit PackedTokens(uint32_t token_size = 2) : token_size_(token_size) {}
  void append(std::span<const int32_t> ids);
  void append(int32_t id) { append(std::span(&id, 1)); }
  uint64_t size() const { return bytes_.size() / token_size_; }
  std::span<const char> slice(uint64_t begin, uint64_t end) const {
    return std::span(bytes_).subspan(begin * token_size_, (end - begin) * token_size_);
  }
  void clear() { bytes_.clear(); }

 private:
  uint32_t token_size_;
  std::vector<char> bytes_;
};

/// Works in the folder `<target>.partial`, which only one writer at a time may hold (Error(kRetry) otherwise), and
/// renames at commit(). Without commit() the destructor removes that folder, unless keep() was called. Errors of
/// writing: Error(kIo).
class TokenStoreWriter {
 public:
  /// `tokenizer` needs an end_of_text. Starts anew, or from a position that sync() returned in a run that was cut off.
  TokenStoreWriter(std::filesystem::path target, std::shared_ptr<const Tokenizer> tokenizer,
                   const StorePosition& resume = {});
  ~TokenStoreWriter();
  TokenStoreWriter(const TokenStoreWriter&) = delete;
  TokenStoreWriter& operator=(const TokenStoreWriter&) = delete;

  static std::filesystem::path work_folder(const std::filesystem::path& target);
  /// 2 where every id fits, else 4.
  static uint32_t token_size(const Tokenizer& tokenizer) { return tokenizer.vocab_size() <= 65536 ? 2 : 4; }

  /// One document: its token ids without end_of_text, which is appended; bytes and hash of its original text.
  void add(std::span<const int32_t> ids, uint64_t bytes, const Hash128& hash);
  /// The same, tokenized here.
  void add_text(std::string_view text);
  /// The same, packed, end_of_text included.
  void add_packed(std::span<const char> tokens, uint64_t bytes, const Hash128& hash);

  const StorePosition& position() const { return position_; }
  /// The text hashes of the documents so far, in order: read back from the work folder.
  void for_each_hash(const std::function<void(const Hash128&)>& visit);
  /// Makes everything added so far durable in the work folder.
  StorePosition sync();
  /// Leaves the work folder behind for a later resume.
  void keep() { keep_ = true; }
  /// Completes the file, syncs it, renames it to the target and removes the work folder. Call once, last.
  void commit();

 private:
  std::filesystem::path target_, folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  uint32_t token_size_;
  StorePosition position_;
  int lock_ = -1;
  std::unique_ptr<OutputFile> tokens_, documents_;
  PackedTokens packed_;
  bool keep_ = false;
};

}  // namespace smamba::data
