#include "smamba/infer/text_stream.h"

#include <gtest/gtest.h>

namespace smamba::infer {
namespace {

// All that comes out of a stream fed in pieces of `size` bytes.
std::string streamed(std::string_view bytes, size_t size, std::vector<std::string> stop = {}) {
  TextStream stream(std::move(stop));
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += size) out += stream.push(bytes.substr(i, size));
  if (!stream.stopped()) out += stream.finish();
  return out;
}

TEST(TextStream, CharactersComeOutWhole) {
  TextStream stream;
  EXPECT_EQ(stream.push("a\xE2"), "a");
  EXPECT_EQ(stream.push("\x82"), "");
  EXPECT_EQ(stream.push("\xAC!"), "\xE2\x82\xAC!");
}

TEST(TextStream, IllFormedBytesBecomeReplacementCharacters) {
  const std::string r = "\xEF\xBF\xBD";
  // A lone continuation byte, an overlong lead, a surrogate (three ill-formed bytes), a truncated character, a byte
  // above F4.
  for (size_t size = 1; size <= 4; ++size) {
    EXPECT_EQ(streamed("\x80", size), r);
    EXPECT_EQ(streamed("\xC0\xAF", size), r + r);
    EXPECT_EQ(streamed("\xED\xA0\x80", size), r + r + r);
    EXPECT_EQ(streamed("x\xF0\x9F\x98", size), "x" + r);
    EXPECT_EQ(streamed("\xE2\x82y", size), r + "y");
    EXPECT_EQ(streamed("\xFFz", size), r + "z");
  }
}

TEST(TextStream, StopStringIsFoundAcrossPieces) {
  for (size_t size = 1; size <= 12; ++size) {
    EXPECT_EQ(streamed("one\n\ndef two", size, {"\ndef"}), "one\n") << size;
    EXPECT_EQ(streamed("aab", size, {"ab"}), "a") << size;
    EXPECT_EQ(streamed("ababac", size, {"abac"}), "ab") << size;
  }
}

TEST(TextStream, TheEarliestOfSeveralStopStringsCounts) {
  for (size_t size = 1; size <= 8; ++size) EXPECT_EQ(streamed("x<b>y<a>", size, {"<a>", "<b>"}), "x") << size;
}

TEST(TextStream, APartOfAStopStringIsHeldBackThenReleased) {
  TextStream stream({"END"});
  EXPECT_EQ(stream.push("the E"), "the ");
  EXPECT_EQ(stream.push("N"), "");
  EXPECT_EQ(stream.push("D"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more"), "");

  TextStream other({"END"});
  other.push("E");
  EXPECT_EQ(other.finish(), "E");
}

TEST(TextStream, StopStringInsideACharacterOfOtherBytes) {
  // The stop string is a whole character; a different character with the same first byte is none.
  EXPECT_EQ(streamed("\xC3\xA4\xC3\xB6x", 1, {"\xC3\xB6"}), "\xC3\xA4");
}

TEST(TextStream, EmptyStopStringsAreIgnored) { EXPECT_EQ(streamed("text", 1, {""}), "text"); }

}  // namespace
}  // namespace smamba::infer
