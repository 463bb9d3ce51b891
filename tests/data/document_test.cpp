#include "smamba/data/document.h"

#include "data/data_testing.h"
#include "smamba/data/printable.h"

namespace smamba::data {
namespace {

using testing::expect_error;
using testing::Folder;

std::vector<std::string> read_all(const std::vector<std::string>& inputs, TextRules rules = {},
                                  std::vector<std::string> patterns = {}) {
  TextFiles source(expand_inputs(inputs, patterns), rules);
  std::vector<std::string> out;
  for (Document d; source.next(d);) out.push_back(d.text);
  return out;
}

TEST(Documents, FolderInOrder) {
  Folder folder;
  folder.file("b.txt", "B");
  folder.file("a/z.py", "Z");
  folder.file("a/empty.py", "");
  folder.file(".hidden/x", "no");
  folder.file(".x", "no");
  folder.file("a.txt", "A");
  EXPECT_EQ(read_all({folder.path()}),
            (std::vector<std::string>{"A", "Z", "B"}));  // "a.txt" < "a/z.py" < "b.txt" by bytes
  EXPECT_EQ(read_all({folder.path()}, {}, {"*.txt"}), (std::vector<std::string>{"A", "B"}));
  EXPECT_EQ(read_all({(folder / "*.txt").string()}), (std::vector<std::string>{"A", "B"}));
  EXPECT_EQ(read_all({(folder / "b.txt").string(), folder.path().string()}), (std::vector<std::string>{"B", "A", "Z"}))
      << "each once";
}

TEST(Documents, Refusals) {
  Folder folder;
  expect_error(Exit::kIo, {"absent", "no such file"}, [&] { read_all({folder / "absent"}); });
  expect_error(Exit::kBadData, {"found none"}, [&] { read_all({folder.path()}); });
  expect_error(Exit::kBadData, {"found none"}, [&] { read_all({(folder / "*.txt").string()}); });
  folder.file("empty", "");
  expect_error(Exit::kBadData, {"empty file"}, [&] { read_all({folder / "empty"}); });
  folder.file("latin", "caf\xe9 noir");
  expect_error(Exit::kBadData, {"latin", "offset 3", "UTF-8", "0xe9"}, [&] { read_all({folder / "latin"}); });
  folder.file("nul", std::string("ab\0c", 4));
  expect_error(Exit::kBadData, {"nul", "offset 2", "NUL"}, [&] { read_all({folder / "nul"}); });
  folder.file("long", std::string(101, 'x'));
  expect_error(Exit::kBadData, {"long", "at most 100", "101"}, [&] {
    read_all({folder / "long"}, {BadText::kRefuse, 100});
  });
  EXPECT_EQ(read_all({folder.path()}, {BadText::kSkip, 100}, {"latin", "nul", "long"}).size(), 0u);
  EXPECT_EQ(read_all({folder.path()}, {BadText::kKeep, 101}, {"latin", "nul", "long"}).size(), 3u);
}

TEST(Documents, Utf8Offsets) {
  const auto npos = std::string_view::npos;
  const std::pair<std::string, size_t> cases[] = {
      {"", npos},
      {"plain", npos},
      {"\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", npos},  // ends of every range
      {"\xc1\x81", 0},                                                                     // overlong
      {"a\xe0\x9f\x80", 1},                                                                // overlong
      {"\xed\xa0\x80", 0},                                                                 // surrogate
      {"ab\xf0\x8f\x80\x80", 2},                                                           // overlong
      {"\xf4\x90\x80\x80", 0},                                                             // above U+10FFFF
      {"\xf5\x80\x80\x80", 0},
      {"\x80", 0},
      {"abc\xe2\x82", 3},  // cut off
      {"\xe2\x28\xa1", 0},
  };
  for (const auto& [text, offset] : cases)
    EXPECT_EQ(invalid_utf8_offset(text), offset) << ::testing::PrintToString(text);
}

TEST(Printable, OneLineWhateverTheBytes) {
  EXPECT_EQ(printable("plain caf\u00e9 \U0001f600"), "plain caf\u00e9 \U0001f600");
  EXPECT_EQ(printable("a\nb\tc\x7f"), "a\\nb\\tc\\x7f");
  EXPECT_EQ(printable(std::string("\0\x1b", 2)), "\\x00\\x1b");
  EXPECT_EQ(printable("caf\xe9 \xc3"), "caf\\xe9 \\xc3") << "no UTF-8, and cut off";
  EXPECT_EQ(printable("\u0085"), "\\xc2\\x85") << "a line end in Unicode";
  EXPECT_EQ(printable("a\"b\\", "\"\\"), "a\\\"b\\\\");
  EXPECT_EQ(printable("a\"b\\"), "a\"b\\");
}

}  // namespace
}  // namespace smamba::data
