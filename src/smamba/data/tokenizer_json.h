// tokenizer.json, the file of Hugging Face tokenizers, for byte-level BPE. docs/formats/tokenizer.md lists what is
// understood.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "smamba/data/bpe_tokenizer.h"

namespace smamba::data {

/// Parses and checks the whole text. Error(kBadData) names `where`, the key, what was expected and what was found, for
/// anything that would change ids and is not understood; warns about parts that are left out (post-processor templates,
/// truncation, padding).
BpeDefinition parse_tokenizer_json(std::string_view text, std::string_view where);

/// The text of a tokenizer.json that Hugging Face tokenizers reads as the same tokenizer; the same definition gives the
/// same bytes.
std::string tokenizer_json(const BpeDefinition& definition);

/// From a file: parse_tokenizer_json and BpeTokenizer's own checks. Error(kIo), Error(kBadData).
std::shared_ptr<const BpeTokenizer> load_bpe(const std::filesystem::path& path);
/// Writes tokenizer_json() atomically. Error(kIo).
void save_bpe(const BpeTokenizer& tokenizer, const std::filesystem::path& path);

/// The character that stands for a byte in the spelling of tokens (GPT-2's table), in UTF-8.
std::string_view spelling_of_byte(uint8_t byte);
/// The bytes of a token spelled in that alphabet; false when a character is outside it.
bool unspell(std::string_view spelling, std::string& bytes);
std::string spell(std::string_view bytes);

}  // namespace smamba::data
