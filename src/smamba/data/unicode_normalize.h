// Normalisation form C of texts that may hold bytes that are no UTF-8.
#pragma once
#include <string>
#include <string_view>

namespace smamba::data {

/// False when nfc(text) is certainly `text`: no byte of a character from U+0300 on (none below has a class, and none
/// composes or decomposes under form C).
bool may_need_nfc(std::string_view text);

/// Unicode normalisation form C, as Hugging Face tokenizers computes it, of the valid stretches of `text`; other bytes
/// (and characters of class kInert) stay as they are, and separate the stretches.
std::string nfc(std::string_view text);

}  // namespace smamba::data
