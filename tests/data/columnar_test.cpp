// The protocol between smamba and its reader of columnar data: a stand-in for the reader sends prepared frames. The
// real reader is tested by tests/data/readers_test.py.
#include <sys/stat.h>

#include <cstring>

#include "data/data_testing.h"
#include "smamba/data/prepare.h"

namespace smamba::data {
namespace {

using testing::expect_error;
using testing::Folder;

std::string number(uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); }
std::string frame(char type, const std::string& payload) { return type + number(payload.size()) + payload; }
std::string texts_frame(const std::vector<std::string>& texts) {
  std::string lengths, content;
  for (const auto& t : texts) {
    lengths += number(t.size());
    content += t;
  }
  return frame('B', number(texts.size()) + lengths + content);
}
std::string tokens_frame(const std::vector<int32_t>& ids) {
  return frame('T', std::string(reinterpret_cast<const char*>(ids.data()), 4 * ids.size()));
}
std::string lists_frame(const std::vector<std::vector<int32_t>>& rows) {
  std::string lengths, content;
  for (const auto& row : rows) {
    lengths += number(row.size());
    content += std::string(reinterpret_cast<const char*>(row.data()), 4 * row.size());
  }
  return frame('L', number(rows.size()) + lengths + content);
}
const std::string kHello = "SMREAD1\n", kEnd = frame('Z', "");

class Columnar : public ::testing::Test {
 protected:
  Columnar() {
    setenv("SMAMBA_READERS", folder_.path().c_str(), 1);
    folder_.file("data.parquet", "stands for a real one");
  }
  ~Columnar() override { unsetenv("SMAMBA_READERS"); }
  /// A program that sends `stream`, writes `message` to standard error and ends with `code`.
  PrepareOptions reader(const std::string& stream, const std::string& message = "", int code = 0) const {
    folder_.file("stream", stream);
    std::string script = "#!/bin/sh\ncat '" + (folder_ / "stream").string() + "'\n";
    if (!message.empty()) script += "echo '" + message + "' >&2\n";
    folder_.file("reader", script + "exit " + std::to_string(code) + "\n");
    chmod((folder_ / "reader").c_str(), 0755);
    PrepareOptions o;
    o.inputs = {folder_ / "data.parquet"};
    o.output = folder_ / "out";
    o.tokenizer = std::make_shared<ByteTokenizer>();
    o.reader_python = folder_ / "reader";
    o.overwrite = true;
    o.threads = 2;
    return o;
  }
  std::vector<std::string> documents(const PrepareOptions& o) const {
    prepare_store(o);
    const TokenStore store(o.output);
    store.verify();
    std::vector<std::string> out;
    for (uint64_t i = 0; i < store.document_count(); ++i) {
      std::vector<int32_t> ids(store.document(i).tokens());
      store.read(store.document(i).begin, ids);
      out.push_back(store.tokenizer()->decode(std::span(ids).first(ids.size() - 1)));
    }
    return out;
  }
  void refused(Exit code, const std::vector<std::string>& parts, const PrepareOptions& o) const {
    auto all = parts;
    all.push_back("data.parquet");
    expect_error(code, all, [&] { prepare_store(o); });
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "out.partial"));
  }
  Folder folder_;
};

TEST_F(Columnar, Texts) {
  EXPECT_EQ(
      documents(reader(kHello + texts_frame({"one", "two"}) + texts_frame({}) + texts_frame({"", "three"}) + kEnd)),
      (std::vector<std::string>{"one", "two", "three"}));
}

TEST_F(Columnar, TokensEndAtEndOfText) {
  const std::string stream =
      kHello + tokens_frame({'a', 'b', 256, 'c'}) + tokens_frame({'d'}) + tokens_frame({256, 256, 'e'}) + kEnd;
  EXPECT_EQ(documents(reader(stream)), (std::vector<std::string>{"ab", "cd", "e"}));
}

TEST_F(Columnar, LongTokenColumnIsCutInFixedPieces) {
  // The pieces do not depend on the frames: 2^20 tokens, then the rest.
  std::string stream = kHello;
  for (int i = 0; i < 3; ++i) stream += tokens_frame(std::vector<int32_t>(400000, 'x'));
  const auto d = documents(reader(stream + kEnd));
  ASSERT_EQ(d.size(), 2u);
  EXPECT_EQ(d[0].size(), 1u << 20);
  EXPECT_EQ(d[1].size(), 1200000u - (1u << 20));
}

TEST_F(Columnar, RowsOfTokensEndTheirDocuments) {
  auto o = reader(kHello + lists_frame({{'a', 'b'}, {'c', 256, 'd'}, {}, {256}}) + lists_frame({{'e'}}) + kEnd);
  EXPECT_EQ(documents(o), (std::vector<std::string>{"ab", "c", "d", "e"}));
  const PrepareProgress p = prepare_store(o);
  EXPECT_EQ(p.rows, 5u);
  EXPECT_EQ(p.skipped, 2u);
  o.row_limit = 2;
  EXPECT_EQ(documents(o), (std::vector<std::string>{"ab", "c", "d"}));
}

TEST_F(Columnar, RefusalsOfTheReader) {
  refused(Exit::kBadData, {"expected a column"},
          reader(kHello + frame('E',
                                "\x41"
                                "expected a column")));
  refused(Exit::kUsage, {"pip install"}, reader(kHello + frame('E', "\x02pip install")));
  refused(Exit::kIo, {"two lines"}, reader(kHello + frame('E', "\x4atwo\nlines")));
  refused(Exit::kIo, {"ended early", "exit code 3", "Traceback end"},
          reader(kHello + texts_frame({"a"}), "Traceback end", 3));
  refused(Exit::kIo, {"ended early"}, reader(""));
  auto o = reader("");
  o.reader_python = folder_ / "absent";
  expect_error(Exit::kIo, {"absent", "cannot start"}, [&] { prepare_store(o); });
}

TEST_F(Columnar, BadFrames) {
  refused(Exit::kIo, {"greeting"}, reader("SMREAD2\n" + kEnd));
  refused(Exit::kIo, {"frame type", "0x51"}, reader(kHello + frame('Q', "")));
  refused(Exit::kIo, {"at most"}, reader(kHello + "B" + number(uint64_t{1} << 40)));
  refused(Exit::kIo, {"rows"}, reader(kHello + frame('B', "1234")));
  refused(Exit::kIo, {"lengths"}, reader(kHello + frame('B', number(~uint64_t{0}))));
  refused(Exit::kIo, {"lengths"},
          reader(kHello + frame('B', number(2) + number(4) + number(uint64_t{1} << 62) + "abcd")));
  refused(Exit::kIo, {"bytes of rows"}, reader(kHello + frame('B', number(1) + number(3) + "abcd")));
  refused(Exit::kIo, {"bytes of rows"}, reader(kHello + frame('L', number(1) + number(1) + "12345")));
  refused(Exit::kIo, {"lengths"}, reader(kHello + frame('L', number(1) + number(2) + "1234")));
  refused(Exit::kIo, {"multiple of 4"}, reader(kHello + frame('T', "12345")));
  const std::string whole = kHello + texts_frame({"one"}) + tokens_frame({1, 2}) + kEnd;
  for (size_t size = 0; size < kHello.size() + texts_frame({"one"}).size(); ++size)
    refused(Exit::kIo, {"ended early"}, reader(whole.substr(0, size)));
}

TEST_F(Columnar, BadRows) {
  refused(Exit::kBadData, {"row 1", "null"},
          reader(kHello + frame('B', number(2) + number(1) + number(~uint64_t{0}) + "a") + kEnd));
  refused(Exit::kBadData, {"row 0", "at most"},
          reader(kHello + frame('B', number(1) + number(~uint64_t{0} - 1)) + kEnd));
  refused(Exit::kBadData, {"row 1", "UTF-8"}, reader(kHello + texts_frame({"a", "\xff"}) + kEnd));
  refused(Exit::kBadData, {"row 2", "261", "300"}, reader(kHello + tokens_frame({1, 2, 300}) + kEnd));
  refused(Exit::kBadData, {"row 0", "-1"}, reader(kHello + tokens_frame({-1}) + kEnd));
  refused(Exit::kBadData, {"row 1, token 1", "261", "300"}, reader(kHello + lists_frame({{1}, {2, 300}}) + kEnd));
  refused(Exit::kBadData, {"row 0", "null"}, reader(kHello + frame('L', number(1) + number(~uint64_t{0})) + kEnd));
  auto o = reader(kHello + frame('B', number(3) + number(1) + number(~uint64_t{0}) + number(1) + "ab") + kEnd);
  o.rules.bad_text = BadText::kSkip;
  EXPECT_EQ(documents(o), (std::vector<std::string>{"a", "b"}));
}

}  // namespace
}  // namespace smamba::data
