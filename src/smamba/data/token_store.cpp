#include "smamba/data/token_store.h"

#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "smamba/core/error.h"
#include "smamba/data/printable.h"

namespace smamba::data {
namespace {

constexpr size_t kCheckBlock = size_t{16} << 20;

uint32_t crc_of(std::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

/// Checked arithmetic and one form of message for everything that can be wrong with a store.
class Validator {
 public:
  Validator(const std::filesystem::path& path, uint64_t file_size) : path_(path), size_(file_size) {}

  template <class Expected, class Found>
  void expect(bool ok, uint64_t offset, std::string_view what, const Expected& expected, const Found& found) const {
    if (!ok)
      fail(Exit::kBadData, "{}: token store, offset {}: {}: expected {}, found {}", path_.string(), offset, what,
           expected, found);
  }
  template <class T>
  void equal(uint64_t offset, std::string_view what, const T& expected, const T& found) const {
    expect(expected == found, offset, what, expected, found);
  }
  /// offset + count * width, refused unless it lies inside the file.
  uint64_t end_of(uint64_t at, std::string_view what, uint64_t offset, uint64_t count, uint64_t width) const {
    uint64_t bytes = 0, end = 0;
    const bool overflow = __builtin_mul_overflow(count, width, &bytes) || __builtin_add_overflow(offset, bytes, &end);
    expect(!overflow && end <= size_, at, what, fmt::format("a section within {} bytes of file", size_),
           fmt::format("{} x {} bytes from offset {}", count, width, offset));
    return end;
  }

 private:
  const std::filesystem::path& path_;
  uint64_t size_;
};

#define SMAMBA_FIELD(name) offsetof(StoreHeader, name)

void check_header(const Validator& v, const StoreHeader& h) {
  v.equal(SMAMBA_FIELD(version), "version", kStoreVersion, h.version);
  v.equal(SMAMBA_FIELD(header_crc), "checksum of the header",
          crc_of({reinterpret_cast<const char*>(&h), offsetof(StoreHeader, header_crc)}), h.header_crc);
  v.expect(h.token_size == 2 || h.token_size == 4, SMAMBA_FIELD(token_size), "bytes of a token", "2 or 4",
           h.token_size);
  v.expect(h.vocab_size >= 1 && h.vocab_size <= (h.token_size == 2 ? 65536U : 0x7fffffffU), SMAMBA_FIELD(vocab_size),
           "vocabulary", fmt::format("1 to {} ids", h.token_size == 2 ? 65536U : 0x7fffffffU), h.vocab_size);
  v.expect(h.end_of_text >= 0 && static_cast<uint32_t>(h.end_of_text) < h.vocab_size, SMAMBA_FIELD(end_of_text),
           "end-of-text id", fmt::format("an id in [0, {})", h.vocab_size), h.end_of_text);
}

void check_sections(const Validator& v, const StoreHeader& h, uint64_t file_size) {
  v.equal(SMAMBA_FIELD(tokens_offset), "offset of the tokens", kStoreHeaderSize, h.tokens_offset);
  const uint64_t tokens_end = v.end_of(SMAMBA_FIELD(tokens), "tokens", h.tokens_offset, h.tokens, h.token_size);
  v.equal(SMAMBA_FIELD(documents_offset), "offset of the documents", (tokens_end + 7) / 8 * 8, h.documents_offset);
  const uint64_t documents_end =
      v.end_of(SMAMBA_FIELD(documents), "document records", h.documents_offset, h.documents, sizeof(DocumentRecord));
  v.equal(SMAMBA_FIELD(description_offset), "offset of the tokenizer's description", documents_end,
          h.description_offset);
  v.expect(h.description_size <= kStoreMaxDescription, SMAMBA_FIELD(description_size),
           "size of the tokenizer's description", fmt::format("at most {} bytes", kStoreMaxDescription),
           h.description_size);
  v.equal(
      SMAMBA_FIELD(description_size), "size of the file",
      v.end_of(SMAMBA_FIELD(description_size), "tokenizer's description", h.description_offset, h.description_size, 1),
      file_size);
}

#undef SMAMBA_FIELD

void check_documents(const Validator& v, const StoreHeader& h, std::span<const DocumentRecord> documents) {
  uint64_t end = 0, bytes = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    const uint64_t at = h.documents_offset + i * sizeof(DocumentRecord);
    const DocumentRecord& d = documents[i];
    v.expect(d.token_end > end && d.token_end <= h.tokens, at, "end of a document's tokens",
             fmt::format("in ({}, {}]", end, h.tokens), d.token_end);
    v.expect(!__builtin_add_overflow(bytes, d.bytes, &bytes) && bytes <= h.text_bytes,
             at + offsetof(DocumentRecord, bytes), "bytes of the documents so far",
             fmt::format("at most {}", h.text_bytes), bytes);
    end = d.token_end;
  }
  v.equal(offsetof(StoreHeader, tokens), "end of the last document's tokens", h.tokens, end);
  v.equal(offsetof(StoreHeader, text_bytes), "bytes of all documents", h.text_bytes, bytes);
}

}  // namespace

TokenStore::TokenStore(std::filesystem::path path) : path_(std::move(path)), file_(path_) { validate(); }

void TokenStore::validate() {
  const std::string_view bytes = file_.text();
  const Validator v(path_, bytes.size());
  v.expect(bytes.size() >= kStoreHeaderSize, 0, "size of the file", fmt::format("at least {} bytes", kStoreHeaderSize),
           bytes.size());
  v.expect(bytes.starts_with(kStoreMagic), 0, "magic", kStoreMagic, "something else (not a token store?)");
  std::memcpy(&header_, bytes.data(), sizeof header_);
  check_header(v, header_);
  check_sections(v, header_, bytes.size());
  documents_ = {reinterpret_cast<const DocumentRecord*>(bytes.data() + header_.documents_offset), header_.documents};
  check_documents(v, header_, documents_);

  const std::string_view description = tokenizer_description();
  v.equal(header_.description_offset, "checksum of the tokenizer's description", header_.description_crc,
          crc_of(description));
  tokenizer_ = make_tokenizer(description, path_.string());
  v.equal(offsetof(StoreHeader, fingerprint), "fingerprint of the tokenizer", tokenizer_->fingerprint(),
          printable(fingerprint()));
  v.equal(offsetof(StoreHeader, vocab_size), "vocabulary of the tokenizer", tokenizer_->vocab_size(), vocab_size());
  v.equal(offsetof(StoreHeader, end_of_text), "end-of-text id of the tokenizer", tokenizer_->special().end_of_text,
          end_of_text());
}

std::string_view TokenStore::tokenizer_description() const {
  return file_.text().substr(header_.description_offset, header_.description_size);
}

std::string TokenStore::identity() const {
  return hash128({reinterpret_cast<const char*>(&header_), sizeof header_}).hex();
}

DocumentView TokenStore::document(uint64_t i) const {
  const DocumentRecord& d = documents_[i];
  return {i == 0 ? 0 : documents_[i - 1].token_end, d.token_end, d.bytes, d.hash};
}

uint64_t TokenStore::document_of(uint64_t position) const {
  const auto after = std::upper_bound(documents_.begin(), documents_.end(), position,
                                      [](uint64_t p, const DocumentRecord& d) { return p < d.token_end; });
  return static_cast<uint64_t>(after - documents_.begin());
}

template <class Token>
void TokenStore::copy(uint64_t begin, std::span<int32_t> out) const {
  const char* in = file_.text().data() + header_.tokens_offset + begin * sizeof(Token);
  uint32_t largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    Token token;
    std::memcpy(&token, in + i * sizeof(Token), sizeof(Token));
    largest = std::max<uint32_t>(largest, token);
    out[i] = static_cast<int32_t>(token);
  }
  if (largest < header_.vocab_size) return;
  const auto bad =
      std::find_if(out.begin(), out.end(), [&](int32_t id) { return static_cast<uint32_t>(id) >= header_.vocab_size; });
  const uint64_t position = begin + static_cast<uint64_t>(bad - out.begin());
  fail(Exit::kBadData, "{}: token store, offset {}: token {}: expected an id below {}, found {}", path_.string(),
       header_.tokens_offset + position * sizeof(Token), position, header_.vocab_size, static_cast<uint32_t>(*bad));
}

void TokenStore::read(uint64_t begin, std::span<int32_t> out) const {
  require(begin <= header_.tokens && out.size() <= header_.tokens - begin,
          "token store {}: expected a range within {} tokens, found {} + {}", path_.string(), header_.tokens, begin,
          out.size());
  header_.token_size == 2 ? copy<uint16_t>(begin, out) : copy<uint32_t>(begin, out);
}

template <class Token>
void TokenStore::verify_tokens() const {
  const std::string_view bytes = file_.text();
  std::vector<int32_t> block(std::min<uint64_t>(kCheckBlock / sizeof(Token), header_.tokens));
  uLong crc = 0;
  for (uint64_t at = 0; at < header_.tokens; at += block.size()) {
    const uint64_t n = std::min<uint64_t>(block.size(), header_.tokens - at);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data() + header_.tokens_offset + at * sizeof(Token)),
                  n * sizeof(Token));
    copy<Token>(at, std::span(block).first(n));
  }
  const Validator v(path_, bytes.size());
  v.equal(header_.tokens_offset, "checksum of the tokens", header_.tokens_crc, static_cast<uint32_t>(crc));
  for (const DocumentRecord& d : documents_) {
    int32_t last = 0;
    copy<Token>(d.token_end - 1, std::span(&last, 1));
    v.equal(header_.tokens_offset + (d.token_end - 1) * sizeof(Token), "last token of a document", header_.end_of_text,
            last);
  }
}

void TokenStore::verify() const {
  const std::string_view bytes = file_.text();
  const Validator v(path_, bytes.size());
  v.equal(header_.documents_offset, "checksum of the documents", header_.documents_crc,
          crc_of(bytes.substr(header_.documents_offset, header_.documents * sizeof(DocumentRecord))));
  header_.token_size == 2 ? verify_tokens<uint16_t>() : verify_tokens<uint32_t>();
  const uint64_t tokens_end = header_.tokens_offset + header_.tokens * header_.token_size;
  for (uint64_t i = tokens_end; i < header_.documents_offset; ++i) v.equal(i, "padding", 0, static_cast<int>(bytes[i]));
}

bool is_token_store(const std::filesystem::path& path) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return false;
  return MappedFile(path).text().starts_with(kStoreMagic);
}

}  // namespace smamba::data
