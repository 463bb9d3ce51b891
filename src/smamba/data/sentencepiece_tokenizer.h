// SentencePiece models (.model), through the SentencePiece library where the build has it.
#pragma once
#include <filesystem>
#include <memory>
#include <string_view>

#include "smamba/data/tokenizer.h"

namespace smamba::data {

/// A tokenizer with the ids of the library's EncodeAsIds. Its text is normalised as the model says, so
/// decode(encode(x)) is x only for models that keep all characters; bytes that are no UTF-8 become U+FFFD. `model` is
/// the content of a .model file. Error(kBadData) naming `where` when the library refuses it; Error(kUsage) when smamba
/// was built without the library.
std::shared_ptr<const Tokenizer> make_sentencepiece(std::string_view model, std::string_view where);

/// Whether this build has the library.
bool has_sentencepiece();

}  // namespace smamba::data
