// Bytes as text: how a SentencePiece model stands in a tokenizer's description.
#pragma once
#include <string>
#include <string_view>

namespace smamba::data {

/// The standard alphabet of RFC 4648 with padding.
std::string base64(std::string_view bytes);
/// The bytes of such a text; false when it is none.
bool unbase64(std::string_view text, std::string& bytes);

}  // namespace smamba::data
