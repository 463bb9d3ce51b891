#include "smamba/data/token_store.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "data/data_testing.h"
#include "smamba/data/token_store_writer.h"

namespace smamba::data {
namespace {

using testing::expect_error;
using testing::Folder;

std::string read_text(const TokenStore& store, uint64_t document) {
  const DocumentView d = store.document(document);
  std::vector<int32_t> ids(d.tokens());
  store.read(d.begin, ids);
  EXPECT_EQ(ids.back(), store.end_of_text());
  ids.pop_back();
  return store.tokenizer()->decode(ids);
}

TEST(TokenStore, HoldsWhatWasAdded) {
  Folder folder;
  const std::vector<std::string> texts = {"abc", "", std::string("\0\xff", 2), "last one"};
  const auto store = testing::make_store(folder / "s", texts);
  ASSERT_EQ(store->document_count(), texts.size());
  EXPECT_EQ(store->text_bytes(), 3u + 0 + 2 + 8);
  EXPECT_EQ(store->token_count(), store->text_bytes() + texts.size());
  EXPECT_EQ(store->tokenizer()->name(), "bytes");
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(read_text(*store, i), texts[i]);
    EXPECT_EQ(store->document(i).bytes, texts[i].size());
    EXPECT_EQ(store->document(i).hash, hash128(texts[i]));
    for (uint64_t p = store->document(i).begin; p < store->document(i).end; ++p) EXPECT_EQ(store->document_of(p), i);
  }
  store->verify();
  EXPECT_EQ(folder.names(), std::vector<std::string>{"s"});
}

TEST(TokenStore, EmptyStoreIsValid) {
  Folder folder;
  const auto store = testing::make_store(folder / "s", {});
  EXPECT_EQ(store->token_count(), 0u);
  store->verify();
}

TEST(TokenStore, UncommittedWriterLeavesNothing) {
  Folder folder;
  {
    TokenStoreWriter writer(folder / "s", std::make_shared<ByteTokenizer>());
    writer.add_text("abc");
    writer.sync();
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(TokenStore, ResumedWriterGivesTheSameBytes) {
  Folder folder;
  const auto texts = testing::sample_texts(50);
  testing::make_store(folder / "whole", texts);
  for (size_t cut : {0u, 1u, 20u, 50u}) {
    const auto tokenizer = std::make_shared<ByteTokenizer>();
    const auto target = folder / ("cut" + std::to_string(cut));
    StorePosition position;
    {
      TokenStoreWriter writer(target, tokenizer);
      for (size_t i = 0; i < cut; ++i) writer.add_text(texts[i]);
      position = writer.sync();
      writer.add_text("written after the last durable position");
      writer.keep();
    }
    {
      TokenStoreWriter writer(target, tokenizer, position);
      for (size_t i = cut; i < texts.size(); ++i) writer.add_text(texts[i]);
      writer.commit();
    }
    EXPECT_EQ(read_file(target), read_file(folder / "whole")) << "cut at " << cut;
    EXPECT_FALSE(std::filesystem::exists(TokenStoreWriter::work_folder(target)));
  }
}

TEST(TokenStore, OneWriterAtATime) {
  Folder folder;
  TokenStoreWriter writer(folder / "s", std::make_shared<ByteTokenizer>());
  expect_error(Exit::kRetry, {"another process"},
               [&] { TokenStoreWriter second(folder / "s", std::make_shared<ByteTokenizer>()); });
}

TEST(TokenStore, FullDiskLeavesNothing) {
  Folder folder;
  expect_error(Exit::kIo, {"cannot create folder"},
               [&] { TokenStoreWriter writer("/dev/full/s", std::make_shared<ByteTokenizer>()); });
}

class Corrupt : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::make_store(folder_ / "good", {"hello", "world!", "xyz"});
    good_ = read_file(folder_ / "good");
    std::memcpy(&header_, good_.data(), sizeof header_);
  }
  /// The bytes with a changed header whose checksum is right again.
  std::string with_header(const std::function<void(StoreHeader&)>& change) const {
    StoreHeader h = header_;
    change(h);
    h.header_crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(&h), 124));
    std::string out = good_;
    std::memcpy(out.data(), &h, sizeof h);
    return out;
  }
  /// The bytes with changed document records whose checksums are right again.
  std::string with_records(const std::function<void(DocumentRecord*)>& change) const {
    DocumentRecord records[3];
    std::memcpy(records, good_.data() + header_.documents_offset, sizeof records);
    change(records);
    std::string out = with_header([&](StoreHeader& h) {
      h.documents_crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(records), sizeof records));
    });
    std::memcpy(out.data() + header_.documents_offset, records, sizeof records);
    return out;
  }
  void refused(const std::string& bytes, const std::vector<std::string>& parts) const {
    std::ofstream(folder_ / "bad", std::ios::binary) << bytes;  // hundreds of them: no fsync
    auto all = parts;
    all.push_back((folder_ / "bad").string());
    all.push_back("offset");
    expect_error(Exit::kBadData, all, [&] { TokenStore(folder_ / "bad").verify(); });
  }
  Folder folder_;
  std::string good_;
  StoreHeader header_;
};

TEST_F(Corrupt, TruncatedAnywhere) {
  for (size_t size = 0; size < good_.size(); ++size) refused(good_.substr(0, size), {"expected", "found"});
}

TEST_F(Corrupt, TrailingBytes) { refused(good_ + "x", {"size of the file", std::to_string(good_.size())}); }

TEST_F(Corrupt, AnyBitOfTheHeader) {
  for (size_t byte = 0; byte < kStoreHeaderSize; ++byte) {
    std::string bad = good_;
    bad[byte] = static_cast<char>(bad[byte] ^ (1 << (byte % 8)));
    refused(bad, {byte < 8 ? "magic" : byte < 12 ? "version" : "checksum of the header"});
  }
}

TEST_F(Corrupt, AnyByteOfTheContent) {
  for (size_t byte = kStoreHeaderSize; byte < good_.size(); ++byte) {
    std::string bad = good_;
    bad[byte] = static_cast<char>(bad[byte] ^ 0x40);
    refused(bad, {"expected", "found"});
  }
}

TEST_F(Corrupt, HeaderFieldsWithRightChecksum) {
  struct Case {
    const char* message;
    std::function<void(StoreHeader&)> change;
  };
  const Case cases[] = {
      {"version", [](StoreHeader& h) { h.version = 2; }},
      {"bytes of a token", [](StoreHeader& h) { h.token_size = 3; }},
      {"bytes of a token", [](StoreHeader& h) { h.token_size = 0; }},
      {"offset of the documents", [](StoreHeader& h) { h.token_size = 4; }},
      {"tokens", [](StoreHeader& h) { h.tokens = ~uint64_t{0}; }},
      {"tokens", [](StoreHeader& h) { h.tokens = uint64_t{1} << 63; }},
      {"offset of the documents", [](StoreHeader& h) { h.tokens += 4; }},
      {"end of the last document", [](StoreHeader& h) { h.tokens += 1; }},
      {"document records", [](StoreHeader& h) { h.documents = ~uint64_t{0} / 16; }},
      {"document records", [](StoreHeader& h) { h.documents = uint64_t{1} << 59; }},
      {"offset of the tokenizer's description", [](StoreHeader& h) { h.documents = 2; }},
      {"bytes of all documents", [](StoreHeader& h) { h.text_bytes += 1; }},
      {"bytes of the documents so far", [](StoreHeader& h) { h.text_bytes = 0; }},
      {"vocabulary", [](StoreHeader& h) { h.vocab_size = 0; }},
      {"vocabulary", [](StoreHeader& h) { h.vocab_size = 65537; }},
      {"vocabulary of the tokenizer", [](StoreHeader& h) { h.vocab_size = 300; }},
      {"end-of-text id", [](StoreHeader& h) { h.end_of_text = -1; }},
      {"end-of-text id", [](StoreHeader& h) { h.end_of_text = 261; }},
      {"end-of-text id of the tokenizer", [](StoreHeader& h) { h.end_of_text = 7; }},
      {"offset of the tokens", [](StoreHeader& h) { h.tokens_offset = 0; }},
      {"offset of the documents", [](StoreHeader& h) { h.documents_offset += 8; }},
      {"offset of the tokenizer's description", [](StoreHeader& h) { h.description_offset = ~uint64_t{0}; }},
      {"size of the tokenizer's description", [](StoreHeader& h) { h.description_size = uint64_t{1} << 40; }},
      {"size of the file", [](StoreHeader& h) { h.description_size -= 1; }},
      {"fingerprint", [](StoreHeader& h) { h.fingerprint[0] ^= 1; }},
      {"checksum of the tokens", [](StoreHeader& h) { h.tokens_crc ^= 1; }},
      {"checksum of the documents", [](StoreHeader& h) { h.documents_crc ^= 1; }},
      {"checksum of the tokenizer's description", [](StoreHeader& h) { h.description_crc ^= 1; }},
  };
  for (const auto& c : cases) refused(with_header(c.change), {c.message});
}

TEST_F(Corrupt, RecordsWithRightChecksum) {
  refused(with_records([](DocumentRecord* r) { r[1].token_end = r[0].token_end; }), {"end of a document's tokens"});
  refused(with_records([](DocumentRecord* r) { r[1].token_end = 2; }), {"end of a document's tokens"});
  refused(with_records([](DocumentRecord* r) { r[2].token_end = 1000; }), {"end of a document's tokens"});
  refused(with_records([](DocumentRecord* r) { r[2].token_end -= 1; }), {"end of the last document's tokens"});
  refused(with_records([](DocumentRecord* r) { r[1].bytes = ~uint64_t{0}; }), {"bytes of the documents so far"});
  refused(with_records([](DocumentRecord* r) { r[0].token_end -= 1; }), {"last token of a document"});
}

TEST_F(Corrupt, TokensWithRightChecksum) {
  const auto with_token = [&](size_t index, uint16_t id) {
    std::string out = good_;
    std::memcpy(out.data() + kStoreHeaderSize + 2 * index, &id, 2);
    const auto crc = static_cast<uint32_t>(
        crc32_z(0, reinterpret_cast<const Bytef*>(out.data() + kStoreHeaderSize), header_.tokens * 2));
    const std::string header = with_header([&](StoreHeader& h) { h.tokens_crc = crc; });
    return out.replace(0, kStoreHeaderSize, header, 0, kStoreHeaderSize);
  };
  refused(with_token(3, 261), {"token 3", "261"});
  refused(with_token(3, 65535), {"token 3", "65535"});
  refused(with_token(5, 10), {"last token of a document", "256", "10"});
  // Reading names it too, without verify().
  write_file(folder_ / "bad", with_token(3, 700));
  const TokenStore store(folder_ / "bad");
  std::vector<int32_t> ids(4);
  expect_error(Exit::kBadData, {"token 3", "700"}, [&] { store.read(0, ids); });
}

TEST_F(Corrupt, DescriptionWithRightChecksum) {
  const auto with_description = [&](const std::string& text) {
    const std::string fingerprint = hash128(text).hex();
    return with_header([&](StoreHeader& h) {
             h.description_size = text.size();
             h.description_crc =
                 static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), text.size()));
             std::copy(fingerprint.begin(), fingerprint.end(), h.fingerprint.begin());
           }).substr(0, header_.description_offset) +
           text;
  };
  for (const char* text : {"", "{", "[]", "{}", R"({"type":1})", R"({"type":"nonsense"})"}) {
    write_file(folder_ / "bad", with_description(text));
    expect_error(Exit::kBadData, {(folder_ / "bad").string(), "tokenizer"}, [&] { TokenStore store(folder_ / "bad"); });
  }
}

TEST(TokenStore, UnreadableFiles) {
  Folder folder;
  expect_error(Exit::kIo, {"absent", "No such file"}, [&] { TokenStore store(folder / "absent"); });
  expect_error(Exit::kIo, {"folder"}, [&] { TokenStore store(folder.path()); });
}

TEST(TokenStore, ReadRefusesARangeOutside) {
  Folder folder;
  const auto store = testing::make_store(folder / "s", {"abc"});
  std::vector<int32_t> ids(2);
  store->read(2, ids);
  expect_error(Exit::kUsage, {"4 tokens"}, [&] { store->read(3, ids); });
  expect_error(Exit::kUsage, {"4 tokens"}, [&] { store->read(~uint64_t{0}, ids); });
}

}  // namespace
}  // namespace smamba::data
