#include "smamba/data/token_store_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "smamba/core/error.h"

namespace smamba::data {
namespace {

uint32_t extend_crc(uint32_t crc, const void* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(crc, static_cast<const Bytef*>(data), size));
}

int lock_folder(const std::filesystem::path& folder) {
  make_directories(folder);
  const std::filesystem::path path = folder / "lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail(Exit::kIo, "{}: cannot create: {}", path.string(), std::strerror(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    fail(Exit::kRetry, "{}: another process is writing this store", folder.string());
  }
  return fd;
}

/// ids as 16-bit integers. Fixed blocks, because GCC's -O2 turns only those into vector instructions.
void narrow(std::span<const int32_t> ids, char* out) {
  constexpr size_t kBlock = 16;
  size_t i = 0;
  for (; i + kBlock <= ids.size(); i += kBlock) {
    std::array<uint16_t, kBlock> block;
    for (size_t k = 0; k < kBlock; ++k) block[k] = static_cast<uint16_t>(ids[i + k]);
    std::memcpy(out + 2 * i, block.data(), sizeof block);
  }
  for (; i < ids.size(); ++i) {
    const auto id = static_cast<uint16_t>(ids[i]);
    std::memcpy(out + 2 * i, &id, 2);
  }
}

uint64_t aligned(uint64_t offset) { return (offset + 7) / 8 * 8; }

}  // namespace

void PackedTokens::append(std::span<const int32_t> ids) {
  const size_t at = bytes_.size();
  bytes_.resize(at + ids.size() * token_size_);
  char* out = bytes_.data() + at;
  if (token_size_ == 4)
    std::memcpy(out, ids.data(), ids.size() * 4);
  else
    narrow(ids, out);
}

std::filesystem::path TokenStoreWriter::work_folder(const std::filesystem::path& target) {
  std::filesystem::path folder = target;
  folder += ".partial";
  return folder;
}

TokenStoreWriter::TokenStoreWriter(std::filesystem::path target, std::shared_ptr<const Tokenizer> tokenizer,
                                   const StorePosition& resume)
    : target_(std::move(target)),
      folder_(work_folder(target_)),
      tokenizer_(std::move(tokenizer)),
      token_size_(token_size(*tokenizer_)),
      position_(resume),
      packed_(token_size_) {
  require(tokenizer_->special().end_of_text >= 0,
          "token store {}: expected a tokenizer with an end-of-text token, found {}", target_.string(),
          tokenizer_->name());
  lock_ = lock_folder(folder_);
  try {
    tokens_ = std::make_unique<OutputFile>(folder_ / "store",
                                           resume.documents ? kStoreHeaderSize + resume.tokens * token_size_ : 0);
    documents_ = std::make_unique<OutputFile>(folder_ / "documents", resume.documents * sizeof(DocumentRecord));
    if (tokens_->size() == 0) {
      const StoreHeader blank;
      tokens_->append(&blank, sizeof blank);
    }
  } catch (...) {
    std::error_code ignored;
    if (resume.documents == 0) std::filesystem::remove_all(folder_, ignored);
    ::close(lock_);
    throw;
  }
}

TokenStoreWriter::~TokenStoreWriter() {
  tokens_.reset();
  documents_.reset();
  std::error_code ignored;
  if (!keep_) std::filesystem::remove_all(folder_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void TokenStoreWriter::add(std::span<const int32_t> ids, uint64_t bytes, const Hash128& hash) {
  packed_.clear();
  packed_.append(ids);
  packed_.append(tokenizer_->special().end_of_text);
  add_packed(packed_.slice(0, packed_.size()), bytes, hash);
}

void TokenStoreWriter::add_text(std::string_view text) { add(tokenizer_->encode(text), text.size(), hash128(text)); }

void TokenStoreWriter::add_packed(std::span<const char> tokens, uint64_t bytes, const Hash128& hash) {
  position_.tokens += tokens.size() / token_size_;
  position_.documents += 1;
  position_.text_bytes += bytes;
  const DocumentRecord record{position_.tokens, bytes, hash};
  position_.tokens_crc = extend_crc(position_.tokens_crc, tokens.data(), tokens.size());
  position_.documents_crc = extend_crc(position_.documents_crc, &record, sizeof record);
  tokens_->append(tokens.data(), tokens.size());
  documents_->append(&record, sizeof record);
}

void TokenStoreWriter::for_each_hash(const std::function<void(const Hash128&)>& visit) {
  documents_->flush();
  const MappedFile file(documents_->path());
  DocumentRecord record;
  for (size_t at = 0; at + sizeof record <= file.bytes().size(); at += sizeof record) {
    std::memcpy(&record, file.bytes().data() + at, sizeof record);
    visit(record.hash);
  }
}

StorePosition TokenStoreWriter::sync() {
  tokens_->sync();
  documents_->sync();
  return position_;
}

void TokenStoreWriter::commit() {
  const std::string description = tokenizer_->description(), fingerprint = tokenizer_->fingerprint();
  StoreHeader h;
  std::memcpy(h.magic.data(), kStoreMagic.data(), h.magic.size());
  h.token_size = token_size_;
  h.tokens = position_.tokens;
  h.documents = position_.documents;
  h.text_bytes = position_.text_bytes;
  h.vocab_size = static_cast<uint32_t>(tokenizer_->vocab_size());
  h.end_of_text = tokenizer_->special().end_of_text;
  h.documents_offset = aligned(tokens_->size());
  h.description_offset = h.documents_offset + h.documents * sizeof(DocumentRecord);
  h.description_size = description.size();
  std::memcpy(h.fingerprint.data(), fingerprint.data(), h.fingerprint.size());
  h.tokens_crc = position_.tokens_crc;
  h.documents_crc = position_.documents_crc;
  h.description_crc = extend_crc(0, description.data(), description.size());
  h.header_crc = extend_crc(0, &h, offsetof(StoreHeader, header_crc));

  const uint64_t padding = 0;
  tokens_->append(&padding, h.documents_offset - tokens_->size());
  documents_->flush();
  tokens_->append_file(documents_->path());
  tokens_->append(description.data(), description.size());
  tokens_->write_at(0, &h, sizeof h);
  tokens_->sync();
  if (::rename(tokens_->path().c_str(), target_.c_str()) != 0)
    fail(Exit::kIo, "{}: cannot rename: {}", target_.string(), std::strerror(errno));
  sync_directory(target_.parent_path());
  keep_ = false;
}

}  // namespace smamba::data
