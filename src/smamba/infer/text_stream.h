// From the bytes of tokens to text that can be shown at once: stop strings across token borders, whole UTF-8 characters
// only.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace smamba::infer {

/// Takes bytes in pieces of any size and gives out text: always well-formed UTF-8 (each maximal ill-formed part becomes
/// U+FFFD), and never any part of a stop string. What comes out in all does not depend on how the bytes were cut into
/// pieces.
class TextStream {
 public:
  /// Empty stop strings are ignored.
  explicit TextStream(std::vector<std::string> stop = {});

  /// Adds bytes; returns the text that is certain now. After a stop string was found: nothing.
  std::string push(std::string_view bytes);
  /// Ends the stream; returns what was held back.
  std::string finish();
  /// A stop string was found; it and what follows it is dropped.
  bool stopped() const { return stopped_; }

 private:
  std::string release(size_t count, bool end);

  std::vector<std::string> stop_;
  std::string pending_;  // received, not yet given out
  bool stopped_ = false;
};

}  // namespace smamba::infer
