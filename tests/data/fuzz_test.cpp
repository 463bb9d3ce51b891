// Damaged files by the hundred thousand: every one is refused with its message, or all that it promises holds.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <numeric>

#include "core/fuzzing.h"
#include "data/data_testing.h"
#include "data/tokenizer_golden.h"
#include "smamba/core/random.h"
#include "smamba/data/prepare_journal.h"

namespace smamba::data {
namespace {

using smamba::testing::edited;
using smamba::testing::fuzz_rounds;
using testing::Folder;

constexpr const char* kJsonPieces[] = {
    "0",  "9", "-", "1e9",  "18446744073709551615", "4294967296", "[",    "]",    "{",    "}",     ",",
    "\"", ":", " ", "null", "\"version\":",         "\\u0000",    "\xff", "true", "\\\\", "\"x\"", "[\"a\",\"b\"]"};

/// A file that is written anew, in place, for every round.
class Rewritten {
 public:
  explicit Rewritten(std::filesystem::path path)
      : path_(std::move(path)), fd_(open(path_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) {}
  ~Rewritten() { close(fd_); }
  Rewritten(const Rewritten&) = delete;
  Rewritten& operator=(const Rewritten&) = delete;
  void set(std::string_view bytes) const {
    ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(bytes.size())), 0);
    ASSERT_EQ(pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_;
};

/// Runs `body`; a refusal must be of bad data, one line, and name the file. Whether it was accepted.
template <class Body>
bool accepted_or_refused(const std::string& name, const Body& body) {
  try {
    body();
    return true;
  } catch (const Error& e) {
    const std::string what = e.what();
    EXPECT_EQ(static_cast<int>(e.code()), static_cast<int>(Exit::kBadData)) << what;
    EXPECT_NE(what.find(name), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    return false;
  }
}

uint32_t crc(std::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

/// A store with changed words in its header and its records, and often with the checksums and offsets that belong to
/// them, so that the rules behind the checksums are reached.
std::string damaged_store(std::string bytes, Random& random) {
  StoreHeader h;
  std::memcpy(&h, bytes.data(), sizeof h);
  const StoreHeader good = h;
  const uint64_t values[] = {0,
                             1,
                             2,
                             255,
                             65535,
                             65536,
                             random.bits(),
                             ~uint64_t{0},
                             uint64_t{1} << 63,
                             uint64_t{1} << 32,
                             ~uint64_t{0} / sizeof(DocumentRecord),
                             bytes.size(),
                             random.below(bytes.size() + 64)};
  const auto changed = [&](uint64_t value) {
    return random.below(2) ? values[random.below(std::size(values))] : value + random.below(9) - 4;
  };
  for (uint64_t i = random.below(3); i > 0; --i) {
    const size_t at = 8 + 4 * random.below((kStoreHeaderSize - 8) / 4);
    const size_t width = at % 8 == 0 && random.below(2) ? 8 : 4;
    uint64_t value = 0;
    std::memcpy(&value, reinterpret_cast<const char*>(&h) + at, width);
    value = changed(value);
    std::memcpy(reinterpret_cast<char*>(&h) + at, &value, width);
  }
  for (uint64_t i = random.below(3); i > 0; --i) {
    const size_t at = good.documents_offset + 8 * random.below(good.documents * sizeof(DocumentRecord) / 8);
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, 8);
    value = changed(value);
    std::memcpy(bytes.data() + at, &value, 8);
  }
  if (random.below(8) == 0) bytes.resize(kStoreHeaderSize + random.below(bytes.size()), 'x');
  if (random.below(4) != 0) {
    const std::string_view text = bytes;
    const auto section = [&](uint64_t at, uint64_t size) {
      return at <= text.size() && size <= text.size() - at ? text.substr(at, size) : std::string_view();
    };
    if (h.documents < 1000) h.documents_crc = crc(section(h.documents_offset, h.documents * sizeof(DocumentRecord)));
    h.header_crc = crc({reinterpret_cast<const char*>(&h), offsetof(StoreHeader, header_crc)});
  }
  std::memcpy(bytes.data(), &h, sizeof h);
  return bytes;
}

/// All documents lie in the store one behind the other, and every token is below the vocabulary.
void read_whole(const TokenStore& store) {
  uint64_t end = 0, bytes = 0;
  std::vector<int32_t> ids;
  for (uint64_t i = 0; i < store.document_count(); ++i) {
    const DocumentView d = store.document(i);
    ASSERT_EQ(d.begin, end);
    ASSERT_GT(d.end, d.begin);
    ASSERT_LE(d.end, store.token_count());
    end = d.end;
    bytes += d.bytes;
    ids.resize(d.tokens());
    store.read(d.begin, ids);
    for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < static_cast<int32_t>(store.vocab_size()));
  }
  EXPECT_EQ(end, store.token_count());
  EXPECT_EQ(bytes, store.text_bytes());
}

TEST(Fuzz, TokenStoresAreRefusedOrKeepThePromises) {
  const Folder folder;
  testing::make_store(folder / "good", {"hello", "world!", "xyz", ""});
  const std::string good = read_file(folder / "good");
  const Rewritten file(folder / "damaged");
  Random random(1, "store-fuzz");
  int64_t accepted = 0;
  const int64_t rounds = fuzz_rounds(100000);
  for (int64_t i = 0; i < rounds && !::testing::Test::HasFailure(); ++i) {
    file.set(damaged_store(good, random));
    accepted += accepted_or_refused(file.path(), [&] {
      const TokenStore store(file.path());
      read_whole(store);
      store.verify();
    });
  }
  EXPECT_GT(accepted, rounds / 1000) << "the damage no longer reaches the accepting paths";
  EXPECT_LT(accepted, rounds / 2);
}

TEST(Fuzz, TokenizerFilesAreRefusedOrDecodeWhatTheyEncode) {
  const std::string good = testing::golden_tokenizer();
  Random random(1, "tokenizer-fuzz");
  const std::string text = "def f(x):\n\treturn x + 12  # caf\u00e9 \u4e2d\n";
  int64_t accepted = 0;
  const int64_t rounds = fuzz_rounds(20000);
  for (int64_t i = 0; i < rounds && !::testing::Test::HasFailure(); ++i) {
    const std::string damaged = edited(good, kJsonPieces, random);
    accepted += accepted_or_refused("test.json", [&] {
      const auto tokenizer = testing::bpe_from(damaged);
      const auto ids = tokenizer->encode(text);
      for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer->vocab_size());
    });
  }
  EXPECT_GT(accepted, rounds / 1000);
  EXPECT_LT(accepted, rounds);
}

TEST(Fuzz, ProgressOfAPreparationIsRefusedOrRead) {
  const Folder folder;
  JournalEntry entry;
  entry.options = std::string(32, 'a');
  write_journal(folder.path(), entry);
  const std::string good = read_file(folder / "progress.json");
  const Rewritten file(folder / "progress.json");
  Random random(1, "journal-fuzz");
  int64_t accepted = 0;
  const int64_t rounds = fuzz_rounds(50000);
  for (int64_t i = 0; i < rounds && !::testing::Test::HasFailure(); ++i) {
    file.set(edited(good, kJsonPieces, random));
    accepted += accepted_or_refused(file.path(), [&] { ASSERT_TRUE(read_journal(folder.path()).has_value()); });
  }
  EXPECT_GT(accepted, rounds / 1000);
  EXPECT_LT(accepted, rounds);
}

}  // namespace
}  // namespace smamba::data
