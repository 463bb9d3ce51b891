#include "smamba/core/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/fuzzing.h"
#include "smamba/core/error.h"
#include "smamba/core/random.h"

namespace smamba {
namespace {
namespace fs = std::filesystem;

std::string file_with(const std::string& header, size_t data_size, std::optional<uint64_t> length = {}) {
  const uint64_t n = length.value_or(header.size());
  std::string out(reinterpret_cast<const char*>(&n), 8);
  return out + header + std::string(data_size, 'd');
}

// Pads the header as a writer does, so that only the rule under test is broken.
std::string padded(std::string header, size_t data_size) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return file_with(header, data_size);
}

SafetensorsContent parse(const std::string& file) {
  return validate_safetensors({reinterpret_cast<const std::byte*>(file.data()), file.size()}, "m.safetensors");
}

std::string refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kBadData);
    const std::string what = e.what();
    EXPECT_TRUE(what.starts_with("m.safetensors: ")) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    return what.substr(15);
  }
  return "accepted";
}

// One tensor "a" of two floats, with a piece of the header replaced.
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
}

TEST(Safetensors, AcceptsTheFormat) {
  EXPECT_EQ(refusal(padded(tensor("\"F32\"", "[2]", "[0,8]"), 8)), "accepted");
  EXPECT_EQ(refusal(padded("{}", 0)), "accepted");
  EXPECT_EQ(refusal(padded(R"({"__metadata__":{"format":"pt"}})", 0)), "accepted");
  EXPECT_EQ(refusal(padded(tensor("\"F32\"", "[]", "[0,4]"), 4)), "accepted") << "a scalar";
  EXPECT_EQ(refusal(padded(tensor("\"F32\"", "[0,18446744073709551]", "[0,0]"), 0)), "accepted") << "an empty tensor";
  EXPECT_EQ(
      refusal(padded(
          R"({"b":{"data_offsets":[4,8],"shape":[1],"dtype":"F32"},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})",
          8)),
      "accepted")
      << "the header's order is free";
  const auto content =
      parse(padded(R"({"__metadata__":{"k":"v"},"b":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}})", 4));
  EXPECT_EQ(content.metadata.at("k"), "v");
  EXPECT_EQ(content.tensors[0].shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(content.tensors[0].dtype, Dtype::kF16);
}

struct Bad {
  std::string file, says;
};

std::vector<Bad> bad_files() {
  const std::string f32 = "\"F32\"", good = tensor(f32, "[2]", "[0,8]");
  const std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":)";
  const auto two = [&](const char* a, const char* b) {
    return R"({"a":)" + entry + a + R"(},"b":)" + entry + b + "}}";
  };
  std::string nul = good + std::string(8, ' ');
  nul[good.size()] = '\0';
  std::string ones;
  for (int i = 0; i < 64; ++i) ones += "1,";
  return {
      // the length and the frame
      {"", "at least 8 bytes, found 0"},
      {"1234567", "at least 8 bytes, found 7"},
      {file_with(good, 8, 0), "does not begin with '{'"},
      {file_with("", 0), "does not begin with '{'"},
      {file_with(good, 0, good.size() + 1), "end of the file"},
      {file_with(good, 8, 100'000'001), "at most 100000000 bytes"},
      {file_with(good, 8, UINT64_MAX), "at most 100000000 bytes"},
      {file_with(good, 8, UINT64_MAX - 7), "at most 100000000 bytes"},
      {file_with(good, 8, uint64_t{1} << 63), "at most 100000000 bytes"},
      {file_with(good, 8, good.size() - 1), "not valid JSON"},
      {file_with(good, 8, good.size() + 2), "not valid JSON"},
      {file_with(" " + good, 8), "does not begin with '{'"},
      {file_with("\xef\xbb\xbf" + good, 8), "does not begin with '{'"},
      {file_with("[]", 0), "does not begin with '{'"},
      {file_with("null", 0), "does not begin with '{'"},
      // the JSON
      {padded("{", 0), "not valid JSON"},
      {padded("{]", 0), "not valid JSON"},
      {padded("{}}", 0), "not valid JSON"},
      {padded("{}x", 0), "not valid JSON"},
      {padded("{} {}", 0), "not valid JSON"},
      {padded("{,}", 0), "not valid JSON"},
      {padded("{'a':1}", 0), "not valid JSON"},
      {padded("{\"a\"}", 0), "not valid JSON"},
      {padded("{/**/}", 0), "not valid JSON"},
      {padded(good.substr(0, good.size() - 1) + ",}", 8), "not valid JSON"},
      {padded(tensor(f32, "[2,]", "[0,8]"), 8), "not valid JSON"},
      {padded(tensor(f32, "[02]", "[0,8]"), 8), "not valid JSON"},
      {padded(tensor(f32, "[+2]", "[0,8]"), 8), "not valid JSON"},
      {padded(tensor(f32, "[0x2]", "[0,8]"), 8), "not valid JSON"},
      {padded(tensor(f32, "[NaN]", "[0,8]"), 8), "not valid JSON"},
      {padded("{\"\xff\":" + entry + "[0,4]}}", 4), "not valid JSON"},
      {padded("{\"\xc0\x80\":" + entry + "[0,4]}}", 4), "not valid JSON"},
      {padded(R"({"\ud800":)" + entry + "[0,4]}}", 4), "not valid JSON"},
      {padded("{\"a\nb\":" + entry + "[0,4]}}", 4), "not valid JSON"},
      {file_with(nul, 8), "zero byte in the header at offset"},
      {padded(std::string(100000, '['), 0), "does not begin with '{'"},
      {padded("{\"a\":" + std::string(100000, '['), 0), "expected an object, found a list"},
      {padded("{\"a\":{\"shape\":" + std::string(100000, '['), 0), "found a list"},
      {padded("{\"a\":{\"b\":{\"c\":{}}}}", 0), "found key \"b\""},
      // the entries
      {padded("{\"a\":1}", 0), "\"a\": expected an object, found 1"},
      {padded("{\"a\":null}", 0), "\"a\": expected an object, found null"},
      {padded("{\"a\":\"x\"}", 0), "\"a\": expected an object, found \"x\""},
      {padded("{\"a\":[]}", 0), "\"a\": expected an object, found a list"},
      {padded("{\"a\":{}}", 0), "no dtype"},
      {padded(R"({"a":{"dtype":"F32","shape":[1]}})", 4), "no data_offsets"},
      {padded(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "no shape"},
      {padded(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4), "no dtype"},
      {padded(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4), "found key \"x\""},
      {padded(tensor("\"F31\"", "[2]", "[0,8]"), 8), "unknown dtype \"F31\""},
      {padded(tensor("\"f32\"", "[2]", "[0,8]"), 8), "unknown dtype"},
      {padded(tensor("\"\"", "[2]", "[0,8]"), 8), "unknown dtype"},
      {padded(tensor("1", "[2]", "[0,8]"), 8), "dtype: expected a string, found 1"},
      {padded(tensor("[\"F32\"]", "[2]", "[0,8]"), 8), "dtype: expected a string, found a list"},
      {padded(tensor("{}", "[2]", "[0,8]"), 8), "dtype: expected a string, found an object"},
      {padded(tensor(f32, "2", "[0,8]"), 8), "shape: expected a list"},
      {padded(tensor(f32, "{}", "[0,8]"), 8), "shape: expected a list"},
      {padded(tensor(f32, "null", "[0,8]"), 8), "shape: expected a list"},
      {padded(tensor(f32, "[-2]", "[0,8]"), 8), "shape: expected a non-negative integer, found -2"},
      {padded(tensor(f32, "[2.0]", "[0,8]"), 8), "found 2.0"},
      {padded(tensor(f32, "[2e0]", "[0,8]"), 8), "found 2e0"},
      {padded(tensor(f32, "[\"2\"]", "[0,8]"), 8), "found \"2\""},
      {padded(tensor(f32, "[[2]]", "[0,8]"), 8), "found a list"},
      {padded(tensor(f32, "[true]", "[0,8]"), 8), "found true"},
      {padded(tensor(f32, "[18446744073709551616]", "[0,8]"), 8), "non-negative integer"},
      {padded(tensor(f32, "[18446744073709551615]", "[0,8]"), 8), "overflows"},
      {padded(tensor(f32, "[4611686018427387905]", "[0,4]"), 4), "overflows"},
      {padded(tensor(f32, "[4294967296,4294967296]", "[0,0]"), 0), "overflows"},
      {padded(tensor(f32, "[3037000500,3037000500,2]", "[0,8]"), 8), "overflows"},
      {padded(tensor(f32, "[" + ones + "1]", "[0,4]"), 4), "more than 64 numbers"},
      {padded(tensor(f32, "[2]", "[0]"), 8), "expected 2 data_offsets, found 1"},
      {padded(tensor(f32, "[2]", "[]"), 8), "expected 2 data_offsets, found 0"},
      {padded(tensor(f32, "[2]", "[0,4,8]"), 8), "expected 2 data_offsets, found 3"},
      {padded(tensor(f32, "[2]", "[8,0]"), 8), "[8, 0] do not lie in the 8 bytes"},
      {padded(tensor(f32, "[2]", "[0,9]"), 8), "do not lie in the 8 bytes"},
      {padded(tensor(f32, "[2]", "[18446744073709551608,18446744073709551615]"), 8), "do not lie"},
      {padded(tensor(f32, "[2]", "[-1,7]"), 8), "found -1"},
      {padded(tensor(f32, "[3]", "[0,8]"), 8), "expected 12 bytes for its shape, found 8"},
      {padded(tensor(f32, "[1]", "[0,8]"), 8), "expected 4 bytes for its shape, found 8"},
      {padded(tensor("\"F64\"", "[2]", "[0,8]"), 8), "expected 16 bytes"},
      {padded(tensor(f32, "[0]", "[0,8]"), 8), "expected 0 bytes"},
      // duplicates
      {padded("{\"a\":" + entry + "[0,4]},\"a\":" + entry + "[0,4]}}", 4), "name \"a\" twice"},
      {padded("{\"a\":" + entry + "[0,4]},\"\\u0061\":" + entry + "[4,8]}}", 8), "name \"a\" twice"},
      {padded(R"({"__metadata__":{},"__metadata__":{}})", 0), "name \"__metadata__\" twice"},
      {padded(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "key \"k\" twice"},
      {padded(R"({"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})", 4), "key \"dtype\" twice"},
      {padded(R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4), "key \"shape\" twice"},
      {padded(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4),
       "key \"data_offsets\" twice"},
      // metadata
      {padded(R"({"__metadata__":1})", 0), "\"__metadata__\": expected an object"},
      {padded(R"({"__metadata__":{"k":1}})", 0), "__metadata__ \"k\": expected a string, found 1"},
      {padded(R"({"__metadata__":{"k":null}})", 0), "expected a string, found null"},
      {padded(R"({"__metadata__":{"k":{}}})", 0), "expected a string, found an object"},
      {padded(R"({"__metadata__":{"k":[]}})", 0), "expected a string, found a list"},
      // cover and alignment
      {padded(good, 9), "the tensors end at data offset 8, the file at 9"},
      {padded("{}", 1), "the tensors end at data offset 0, the file at 1"},
      {padded(two("[0,4]", "[0,4]"), 4), "before the end of the one before"},
      {padded(two("[0,4]", "[2,6]"), 6), "not a multiple"},
      {padded(two("[0,4]", "[8,12]"), 12), "behind the end of the one before"},
      {padded(two("[4,8]", "[8,12]"), 12), "begins at data offset 4"},
      {padded(
           R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
           5),
       "before the end of the one before"},
      {padded(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":)" + entry + "[1,5]}}", 5),
       "not a multiple of its element's 4 bytes"},
      {padded(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
           4),
       "before the end of the one before"},
      {file_with(tensor("\"F64\"", "[1]", "[0,8]") + " ", 8), "not a multiple of its element's 8 bytes"},
  };
}

TEST(Safetensors, RefusesHandcraftedBadFiles) {
  const auto files = bad_files();
  EXPECT_GE(files.size(), 60u);
  for (const Bad& bad : files) {
    const std::string said = refusal(bad.file);
    EXPECT_NE(said.find(bad.says), std::string::npos)
        << "expected \"" << bad.says << "\", got \"" << said << "\" for " << bad.file.substr(0, 300);
  }
}

TEST(Safetensors, RefusesEveryTruncationAndExtension) {
  const std::string file = padded(tensor("\"F32\"", "[2]", "[0,8]"), 8);
  for (size_t n = 0; n < file.size(); ++n) EXPECT_NE(refusal(file.substr(0, n)), "accepted") << n;
  for (size_t n = 1; n < 20; ++n) EXPECT_NE(refusal(file + std::string(n, '\0')), "accepted") << n;
}

// What an accepted file promises, checked independently of the validator's own arithmetic.
void check_promises(const std::string& file, const SafetensorsContent& content) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  std::vector<int> covered(file.size() - 8 - length);
  for (const TensorView& t : content.tensors) {
    const auto begin = reinterpret_cast<const char*>(t.data.data()) - file.data() - 8 - static_cast<int64_t>(length);
    ASSERT_GE(begin, 0);
    ASSERT_LE(begin + t.data.size(), covered.size());
    const double elements = std::accumulate(t.shape.begin(), t.shape.end(), 1.0, std::multiplies<>());
    ASSERT_EQ(elements * static_cast<double>(dtype_size(t.dtype)), static_cast<double>(t.data.size()));
    for (size_t i = 0; i < t.data.size(); ++i) ++covered[begin + i];
  }
  for (const int c : covered) ASSERT_EQ(c, 1);
}

constexpr const char* kHeaderPieces[] = {"0",           "9",
                                         "-",           "18446744073709551615",
                                         "4294967296",  "[",
                                         "]",           "{",
                                         "}",           ",",
                                         ":",           "\"",
                                         "\\u0000",     "\"a\":",
                                         "\"dtype\"",   "\"F64\"",
                                         "\"U8\"",      "null",
                                         "1e9",         " ",
                                         "\xff",        "\"shape\":[]",
                                         "__metadata__"};

std::string mutate(std::string file, Random& random) {
  file = testing::edited(std::move(file), kHeaderPieces, random);
  // Most edits change the header's size; keep its length right half of the time so that the JSON is reached.
  if (file.size() >= 8 && random.below(2)) {
    const uint64_t close = file.rfind('}');
    const uint64_t length = close == std::string::npos || close < 8 ? 0 : (close + 1 - 8 + 7) / 8 * 8;
    file.resize(std::max<size_t>(file.size(), 8 + length), ' ');
    std::memcpy(file.data(), &length, 8);
  }
  return file;
}

TEST(Safetensors, FuzzedFilesAreRefusedOrKeepThePromises) {
  const std::vector<std::string> seeds = {
      padded(tensor("\"F32\"", "[2]", "[0,8]"), 8),
      padded(
          R"({"__metadata__":{"k":"v"},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[2,2],"data_offsets":[8,12]}})",
          12),
      padded(
          R"({"x":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]},"y":{"dtype":"I16","shape":[],"data_offsets":[0,2]}})",
          2)};
  Random random(1, "safetensors-fuzz");
  int64_t accepted = 0;
  for (int64_t i = 0; i < testing::fuzz_rounds(100000); ++i) {
    const std::string file = mutate(seeds[static_cast<size_t>(i) % seeds.size()], random);
    try {
      const auto content = parse(file);
      ++accepted;
      check_promises(file, content);
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), Exit::kBadData) << e.what();
    }
  }
  EXPECT_GT(accepted, 100) << "the fuzzer no longer reaches the accepting paths";
}

class SafetensorsFiles : public ::testing::Test {
 protected:
  fs::path folder = fs::temp_directory_path() / ("smamba-safetensors-" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(folder); }
  void TearDown() override { fs::remove_all(folder); }
};

TEST_F(SafetensorsFiles, RoundTripIsExactAndTheBytesDoNotDependOnTheOrder) {
  Random random(2, "round-trip");
  std::vector<std::vector<std::byte>> storage;
  std::vector<TensorView> tensors;
  for (int d = 0; d <= static_cast<int>(Dtype::kU64); ++d) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {3}, {2, 0}, {2, 1, 5}}) {
      const auto n = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      auto& bytes = storage.emplace_back(n * dtype_size(static_cast<Dtype>(d)));
      for (auto& b : bytes) b = static_cast<std::byte>(random.bits());
      tensors.push_back({"t" + std::to_string(tensors.size()) + " \"é\"\n", static_cast<Dtype>(d), shape, {}});
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].data = storage[i];
  const Metadata metadata = {{"format", "pt"}, {"note", "\x01 ü"}};
  write_safetensors(folder / "a", tensors, metadata);
  std::ranges::reverse(tensors);
  write_safetensors(folder / "b", tensors, metadata);
  EXPECT_EQ(read_file(folder / "a"), read_file(folder / "b"));

  const SafetensorsFile file(folder / "a");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorView& t : tensors) {
    const TensorView* back = file.find(t.name);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->dtype, t.dtype);
    EXPECT_EQ(back->shape, t.shape);
    EXPECT_TRUE(std::ranges::equal(back->data, t.data));
  }
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_THROW(SafetensorsFile(folder / "absent"), Error);
}

TEST_F(SafetensorsFiles, TheBytesAreTheDocumentedOnes) {
  const float value = 1.5F;
  write_safetensors(folder / "a", {{"w", Dtype::kF32, {1}, std::as_bytes(std::span(&value, 1))}});
  std::string expected = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expected.resize(56, ' ');
  expected = std::string("\x38\0\0\0\0\0\0\0", 8) + expected + std::string("\0\0\xc0\x3f", 4);
  EXPECT_EQ(read_file(folder / "a"), expected);
}

TEST_F(SafetensorsFiles, WriterRefusesAndWritesNothing) {
  const float value = 1;
  const auto bytes = std::as_bytes(std::span(&value, 1));
  const TensorView good{"w", Dtype::kF32, {1}, bytes};
  EXPECT_THROW(write_safetensors(folder / "a", {good, good}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"w", Dtype::kF32, {2}, bytes}}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"w", Dtype::kF32, {-1}, bytes}}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"__metadata__", Dtype::kF32, {1}, bytes}}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {{"\xff", Dtype::kF32, {1}, bytes}}), Error);
  EXPECT_THROW(write_safetensors(folder / "a", {good}, {{"k", "\xff"}}), Error);
  EXPECT_TRUE(fs::is_empty(folder));
}

}  // namespace
}  // namespace smamba
