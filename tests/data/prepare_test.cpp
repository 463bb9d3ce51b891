#include "smamba/data/prepare.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/fuzzing.h"
#include "data/data_testing.h"
#include "smamba/core/random.h"
#include "smamba/data/store_report.h"

namespace smamba::data {
namespace {

using testing::expect_error;
using testing::Folder;

std::string gzip(std::string_view text) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, text.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  ZSTD_CCtx* z = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);  // as the zstd program does
  out.resize(ZSTD_compress2(z, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(z);
  return out;
}

std::string json_lines(const std::vector<std::string>& texts, const std::string& column = "text") {
  std::string out;
  for (size_t i = 0; i < texts.size(); ++i)
    out += nlohmann::json{{"id", i}, {column, texts[i]}, {"nested", {{"text", "not this"}}}}.dump() + "\n";
  return out;
}

class Prepare : public ::testing::Test {
 protected:
  PrepareOptions options(const std::string& input, const std::string& output = "out") const {
    PrepareOptions o;
    o.inputs = {input};
    o.output = folder_ / output;
    o.tokenizer = std::make_shared<ByteTokenizer>();
    o.threads = 2;
    return o;
  }
  std::vector<std::string> texts(const std::string& output = "out") const {
    const TokenStore store(folder_ / output);
    store.verify();
    std::vector<std::string> out;
    for (uint64_t i = 0; i < store.document_count(); ++i) {
      const DocumentView d = store.document(i);
      std::vector<int32_t> ids(d.tokens());
      store.read(d.begin, ids);
      ids.pop_back();
      out.push_back(store.tokenizer()->decode(ids));
      EXPECT_EQ(d.bytes, out.back().size());
      EXPECT_EQ(d.hash, hash128(out.back()));
    }
    return out;
  }
  std::vector<std::string> prepared(const PrepareOptions& o) const {
    prepare_store(o);
    return texts(o.output.filename());
  }
  /// Refused with this message, and nothing is left behind.
  void refused(Exit code, const std::vector<std::string>& parts, const PrepareOptions& o) const {
    expect_error(code, parts, [&] { prepare_store(o); });
    EXPECT_FALSE(std::filesystem::exists(o.output)) << o.output;
    EXPECT_FALSE(std::filesystem::exists(o.output.string() + ".partial"));
  }
  /// A file of this name and content is refused.
  void file_refused(const std::string& name, std::string_view content, const std::vector<std::string>& parts) const {
    auto all = parts;
    all.push_back(folder_.file(name, content).string());
    refused(Exit::kBadData, all, options(folder_ / name));
  }

  Folder folder_;
  const std::vector<std::string> sample_ = {"plain", "two\nlines \"quoted\", comma", "caf\u00e9 \u4e2d \U0001f600",
                                            "tab\tend", std::string(3000, 'x')};
};

TEST_F(Prepare, TextFolder) {
  folder_.file("in/b.py", "B");
  folder_.file("in/a/c.py", "C");
  folder_.file("in/data.csv", "a,b\n");  // a folder of text stays one
  folder_.file("in/empty.py", "");
  EXPECT_EQ(prepared(options(folder_ / "in")), (std::vector<std::string>{"C", "B", "a,b\n"}));
}

TEST_F(Prepare, JsonLinesPlainAndCompressed) {
  const std::string lines = json_lines(sample_);
  folder_.file("a.jsonl", lines);
  folder_.file("b.jsonl.gz", gzip(lines.substr(0, 100)) + gzip(lines.substr(100)));  // two members
  folder_.file("c.jsonl.zst", zstd(lines.substr(0, 100)) + zstd(lines.substr(100)));
  folder_.file("d.jsonl",
               "\xef\xbb\xbf\n  \r\n" + lines.substr(0, lines.size() - 1));  // mark, blank lines, no last line end
  for (const char* name : {"a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.jsonl"})
    EXPECT_EQ(prepared(options(folder_ / name, std::string("out-") + name)), sample_) << name;
  folder_.file("text.txt.gz", gzip("one document"));
  EXPECT_EQ(prepared(options(folder_ / "text.txt.gz")), std::vector<std::string>{"one document"});
}

TEST_F(Prepare, ColumnsLimitsAndDuplicates) {
  folder_.file("a.jsonl", json_lines({"a", "b", "a", "c", "b", "d"}, "content"));
  auto o = options(folder_ / "a.jsonl");
  o.column = "content";
  o.row_limit = 5;
  EXPECT_EQ(prepared(o), (std::vector<std::string>{"a", "b", "a", "c", "b"}));
  o.deduplicate = true;
  o.overwrite = true;
  const PrepareProgress p = prepare_store(o);
  EXPECT_EQ(texts(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(p.duplicates, 2u);
  EXPECT_EQ(p.rows, 5u);
}

TEST_F(Prepare, PresetsNameTheirFiles) {
  folder_.file("cp/file-000000000001.json.gz", gzip(json_lines({"x", "y"}, "content")));
  folder_.file("cp/README.md", "no");
  auto o = options(folder_ / "cp");
  o.preset = "codeparrot";
  EXPECT_EQ(prepared(o), (std::vector<std::string>{"x", "y"}));
  folder_.file("arxiv/arxiv-metadata-oai-snapshot.json", json_lines({"An abstract"}, "abstract"));
  o = options(folder_ / "arxiv", "arxiv-out");
  o.preset = "arxiv";
  EXPECT_EQ(prepared(o), std::vector<std::string>{"An abstract"});
  o = options(folder_ / "cp", "other");
  o.preset = "cosmopedia";
  refused(Exit::kBadData, {"cosmopedia", "train-*.parquet"}, o);
  o.preset = "wikipedia";
  refused(Exit::kUsage, {"preset", "wikipedia"}, o);
}

TEST_F(Prepare, Csv) {
  const std::string csv = "id,text\r\n1,plain\r\n2,\"two\nlines \"\"quoted\"\", comma\"\r\n\r\n3,last";
  folder_.file("a.csv", csv);
  EXPECT_EQ(prepared(options(folder_ / "a.csv")),
            (std::vector<std::string>{"plain", "two\nlines \"quoted\", comma", "last"}));
  folder_.file("b.tsv", "text\tid\nwith, comma\t1\n");
  EXPECT_EQ(prepared(options(folder_ / "b.tsv", "tsv")), std::vector<std::string>{"with, comma"});
}

TEST_F(Prepare, SameBytesForAnyThreadsAndBlocks) {
  const auto many = testing::sample_texts(400);
  folder_.file("in/1.jsonl", json_lines(many));
  folder_.file("in/2.jsonl.gz", gzip(json_lines(many)));
  std::string first;
  for (const auto& [threads, block] : {std::pair<int, size_t>{1, 1 << 22}, {4, 1 << 22}, {2, 100}, {3, 5000}}) {
    auto o = options(folder_ / "in");
    o.threads = threads;
    o.block_bytes = block;
    o.overwrite = true;
    prepare_store(o);
    const std::string bytes = read_file(folder_ / "out");
    if (first.empty()) first = bytes;
    EXPECT_EQ(bytes, first) << threads << " threads, blocks of " << block;
  }
}

TEST_F(Prepare, BadJsonLines) {
  file_refused("a.jsonl", "", {"empty file"});
  file_refused("a.jsonl", "\n\n", {"at least one document", "0 rows"});
  file_refused("a.jsonl", "{\"text\":\"ok\"}\nnonsense\n", {"line 2", "offset 14", "JSON object", "nonsense"});
  file_refused("a.jsonl", "{\"text\":\"ok\"}\n{\"text\":\"cut", {"line 2", "JSON object"});
  file_refused("a.jsonl", "{\"text\":\"ok\"} trailing\n", {"line 1", "JSON object"});
  file_refused("a.jsonl", "[1]\n", {"line 1", "JSON object", "another value"});
  file_refused("a.jsonl", "{\"content\":\"x\",\"path\":1}\n", {"line 1", "key \"text\"", "content, path"});
  file_refused("a.jsonl", "{}\n", {"key \"text\"", "none"});
  file_refused("a.jsonl", "{\"text\":null}\n", {"key \"text\"", "a string", "null"});
  file_refused("a.jsonl", "{\"text\":5}\n", {"key \"text\"", "a string"});
  file_refused("a.jsonl", "{\"text\":\"caf\xe9\"}\n", {"line 1", "offset 12 of the line", "UTF-8", "0xe9"});
  file_refused("a.jsonl", "{\"text\":\"a\\u0000b\"}\n", {"line 1", "offset 1", "NUL"});
  file_refused("a.jsonl", "{\"text\":\"\\ud800\"}\n", {"line 1", "JSON object"});
  file_refused("a.jsonl", std::string("{\"text\":\"a\0b\"}\n", 15), {"line 1"});
  file_refused("a.jsonl", "{\"text\":\"\"}\n", {"at least one document", "1 empty or bad"});
}

TEST_F(Prepare, BadRecordsCanBeLeftOut) {
  folder_.file("a.jsonl", "{\"text\":\"1\"}\nnonsense\n{\"text\":null}\n{\"text\":\"\xff\"}\n" +
                              json_lines({std::string(5000, 'y')}) + "{\"text\":\"2\"}\n");
  auto o = options(folder_ / "a.jsonl");
  o.rules = {BadText::kSkip, 1000};
  const PrepareProgress p = prepare_store(o);
  EXPECT_EQ(texts(), (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(p.skipped, 4u);
  EXPECT_EQ(p.rows, 6u);
}

TEST_F(Prepare, LongLines) {
  folder_.file("a.jsonl", json_lines({"short"}) + json_lines({std::string(5000000, 'y')}) + json_lines({"end"}));
  auto o = options(folder_ / "a.jsonl");
  o.rules.max_document_bytes = 1 << 20;
  o.block_bytes = 4096;
  refused(Exit::kBadData, {"line 2", "at most 1048576 bytes"}, o);
  o.rules.bad_text = BadText::kSkip;
  EXPECT_EQ(prepared(o), (std::vector<std::string>{"short", "end"}));
  o = options(folder_ / "a.jsonl", "all");
  EXPECT_EQ(prepared(o).size(), 3u);
}

TEST_F(Prepare, BadText) {
  file_refused("a.txt", "", {"empty file"});
  file_refused("a.txt", "caf\xe9", {"offset 3", "UTF-8"});
  file_refused("a.txt", std::string("a\0b", 3), {"offset 1", "NUL"});
  file_refused("a.txt.gz", gzip("caf\xe9"), {"offset 3", "UTF-8"});
  refused(Exit::kIo, {"absent", "no such file"}, options(folder_ / "absent"));
  auto o = options(folder_.file("a.txt", "caf\xe9"));
  o.rules.bad_text = BadText::kKeep;
  EXPECT_EQ(prepared(o), std::vector<std::string>{"caf\xe9"});
}

TEST_F(Prepare, DamagedCompression) {
  // Texts that do not compress to nothing, so that cuts fall inside the data.
  const std::string lines = json_lines(testing::sample_texts(40));
  for (const auto& [name, packed] :
       {std::pair<std::string, std::string>{"a.jsonl.gz", gzip(lines)}, {"a.jsonl.zst", zstd(lines)}}) {
    for (size_t size = 0; size < packed.size(); size += 1 + packed.size() / 40)
      file_refused(name, packed.substr(0, size), {"truncated"});
    file_refused(name, packed.substr(0, packed.size() - 1), {"truncated"});
    std::string flipped = packed;
    flipped[packed.size() / 2] ^= 0x10;
    file_refused(name, flipped, {"offset"});
    file_refused(name, packed + "garbage", {"offset"});
    file_refused(name, lines, {"offset"});
  }
  folder_.file("a.jsonl.gz", gzip(lines) + std::string(512, '\0'));  // padding of tapes is no garbage
  EXPECT_EQ(prepared(options(folder_ / "a.jsonl.gz")).size(), 40u);
}

TEST_F(Prepare, BadCsv) {
  file_refused("a.csv", "", {"empty file"});
  file_refused("a.csv", "id,content\n1,x\n", {"column \"text\"", "id, content"});
  file_refused("a.csv", "id,text\n1\n", {"line 2", "2 fields", "found 1"});
  file_refused("a.csv", "id,text\n1,x\n2,y,z\n", {"line 3", "2 fields", "found 3"});
  file_refused("a.csv", "id,text\n1,a\"b\n\"\n", {"line 2", "stray quote"});
  file_refused("a.csv", "id,text\n1,\"open\n2,x\n", {"line 2", "closing quote"});
  file_refused("a.csv", "id,text\n1,\"a\"b\n", {"line 2", "stray quote"});
  file_refused("a.csv", "text\n\xff\n", {"line 2", "offset 0", "UTF-8"});
  file_refused("a.csv", "text\n", {"at least one document"});
}

TEST_F(Prepare, Options) {
  const auto input = folder_.file("a.jsonl", json_lines(sample_)).string();
  auto o = options(input);
  o.inputs.clear();
  refused(Exit::kUsage, {"at least one input"}, o);
  prepare_store(options(input));
  const std::string before = read_file(folder_ / "out");
  expect_error(Exit::kUsage, {"found one", "--overwrite"}, [&] { prepare_store(options(input)); });
  EXPECT_EQ(read_file(folder_ / "out"), before);
  expect_error(Exit::kUsage, {"format", "xml"}, [] { parse_input_format("xml"); });
}

TEST_F(Prepare, ReplacingAStoreKeepsTheOldOneWhenItFails) {
  prepare_store(options(folder_.file("a.jsonl", json_lines(sample_))));
  const std::string before = read_file(folder_ / "out");
  auto o = options(folder_.file("b.jsonl", "nonsense"));
  o.overwrite = true;
  expect_error(Exit::kBadData, {"nonsense"}, [&] { prepare_store(o); });
  EXPECT_EQ(read_file(folder_ / "out"), before);
}

// A full disk, as the system reports it to a write: here by the limit on the size of a file.
TEST_F(Prepare, FullDisk) {
  folder_.file("a.jsonl", json_lines(std::vector<std::string>(3000, std::string(1000, 'z'))));
  auto o = options(folder_ / "a.jsonl");
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const rlim_t bytes : {rlim_t{4096}, rlim_t{1 << 20}, rlim_t{6'000'000}}) {
    const rlimit tight{bytes, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
    refused(Exit::kIo, {"cannot write", "File too large"}, o);
    setrlimit(RLIMIT_FSIZE, &old);
  }
  std::signal(SIGXFSZ, handler);
  prepare_store(o);
}

TEST_F(Prepare, SignalStopsAtAResumablePlace) {
  folder_.file("in/1.jsonl", json_lines(testing::sample_texts(300)));
  folder_.file("in/2.jsonl.zst", zstd(json_lines(testing::sample_texts(300))));
  folder_.file("in/3.jsonl", json_lines(testing::sample_texts(310)));
  for (bool dedup : {false, true}) {
    auto o = options(folder_ / "in", dedup ? "whole-dedup" : "whole");
    o.deduplicate = dedup;
    const PrepareProgress whole = prepare_store(o);
    o.output = folder_ / (dedup ? "cut-dedup" : "cut");
    o.block_bytes = 1000;
    std::atomic<int> signal{SIGINT};  // there from the start: every run takes one step, then stops
    o.signal = &signal;
    int stops = 0;
    for (; stops < 2000; ++stops) {
      try {
        const PrepareProgress p = prepare_store(o);
        EXPECT_TRUE(p.resumed);
        EXPECT_EQ(p.documents, whole.documents);
        EXPECT_EQ(p.rows, whole.rows);
        EXPECT_EQ(p.duplicates, whole.duplicates);
        break;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), Exit::kInterrupted) << error.what();
        ASSERT_TRUE(std::filesystem::exists(o.output.string() + ".partial"));
        if (stops == 20) o.signal = nullptr;
      }
    }
    EXPECT_EQ(stops, 21);
    EXPECT_EQ(read_file(o.output), read_file(folder_ / (dedup ? "whole-dedup" : "whole")));
    EXPECT_FALSE(std::filesystem::exists(o.output.string() + ".partial"));
  }
}

TEST_F(Prepare, ResumeRefusesOtherOptionsAndDamage) {
  folder_.file("a.jsonl", json_lines(testing::sample_texts(300)));
  auto o = options(folder_ / "a.jsonl");
  o.block_bytes = 1000;
  const std::atomic<int> signal{SIGTERM};
  o.signal = &signal;
  expect_error(Exit::kTerminated, {"goes on from there"}, [&] { prepare_store(o); });
  auto other = o;
  other.rules.bad_text = BadText::kSkip;
  expect_error(Exit::kUsage, {"other options", "--restart"}, [&] { prepare_store(other); });
  write_file(folder_ / "out.partial/progress.json", "{\"version\":1}");
  expect_error(Exit::kBadData, {"progress.json", "--restart"}, [&] { prepare_store(o); });
  o.signal = nullptr;
  o.restart = true;
  EXPECT_EQ(prepared(o).size(), 300u);
}

// Kills at moments drawn at random, each run going on where the last one was cut off, until enough of them hit.
TEST_F(Prepare, KilledAtAnyMomentGivesTheSameBytes) {
  folder_.file("in/1.jsonl", json_lines(testing::sample_texts(600)));
  folder_.file("in/2.jsonl.gz", gzip(json_lines(testing::sample_texts(600))));
  auto o = options(folder_ / "in", "whole");
  prepare_store(o);
  const std::string whole = read_file(o.output);
  o.block_bytes = 2000;
  o.checkpoint_seconds = 0;  // a durable place after every block
  Random random(1, "kills");
  const int64_t enough = smamba::testing::fuzz_rounds(50);
  int64_t kills = 0, stores = 0;
  for (int64_t round = 0; round < 50 * enough && (kills < enough || stores < 2); ++round) {
    o.output = folder_ / ("killed" + std::to_string(stores));
    const pid_t child = fork();
    if (child == 0) {
      try {
        prepare_store(o);
        _exit(0);
      } catch (...) {
        _exit(1);
      }
    }
    ASSERT_GT(child, 0);
    std::this_thread::sleep_for(std::chrono::microseconds(500 + random.below(40000)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) ++kills;
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
    }
    if (!std::filesystem::exists(o.output)) continue;  // a store appears whole or not at all
    ASSERT_EQ(read_file(o.output), whole);
    ++stores;
  }
  EXPECT_GE(kills, enough);
  EXPECT_GE(stores, 2);
}

TEST_F(Prepare, Reports) {
  folder_.file("a.jsonl", json_lines({"aa", "bbbb", "aa", "c"}));
  prepare_store(options(folder_ / "a.jsonl"));
  const TokenStore store(folder_ / "out");
  const StoreStats s = store_stats(store);
  EXPECT_EQ(s.documents, 4u);
  EXPECT_EQ(s.tokens, 13u);
  EXPECT_EQ(s.bytes, 9u);
  EXPECT_EQ(s.duplicates, 1u);
  EXPECT_EQ(s.shortest, 2u);
  EXPECT_EQ(s.longest, 5u);
  EXPECT_EQ(s.histogram, (std::vector<uint64_t>{0, 3, 1}));
  EXPECT_EQ(nlohmann::json::parse(to_json(store, s))["duplicates"], 1);
  EXPECT_NE(to_text(store, s).find("duplicates       1"), std::string::npos);
  EXPECT_NE(show_document(store, 1, {}).find("bbbb<|endoftext|>"), std::string::npos);
  const std::string fim = show_document(store, 1, {.fim = {.rate = 1}});
  EXPECT_NE(fim.find("<|fim_middle|>"), std::string::npos);
  EXPECT_NE(show_document(store, 1, {.tokens = true, .fim = {}}).find("98  b\n"), std::string::npos);
  expect_error(Exit::kUsage, {"below 4", "9"}, [&] { show_document(store, 9, {}); });
}

}  // namespace
}  // namespace smamba::data
