#include "smamba/data/tokenizer.h"

#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/hash.h"
#include "smamba/data/base64.h"
#include "smamba/data/byte_tokenizer.h"
#include "smamba/data/printable.h"
#include "smamba/data/sentencepiece_tokenizer.h"
#include "smamba/data/tokenizer_json.h"

namespace smamba::data {
namespace {

// As BpeTokenizer::description() begins: taken as it is, without parsing it twice.
constexpr std::string_view kBpePrefix = R"({"type":"bpe","tokenizer":)";

std::shared_ptr<const Tokenizer> make_bpe(std::string_view json, std::string_view where) {
  return std::make_shared<BpeTokenizer>(parse_tokenizer_json(json, where), where);
}

std::string embedded_model(const nlohmann::json& description, std::string_view where) {
  const auto found = description.find("model");
  std::string model;
  if (found == description.end() || !found->is_string() || !unbase64(found->get_ref<const std::string&>(), model))
    fail(Exit::kBadData, "{}: the tokenizer's description: expected a \"model\" in base64, found none", where);
  return model;
}

}  // namespace

std::string Tokenizer::fingerprint() const { return hash128(description()).hex(); }

std::shared_ptr<const Tokenizer> make_tokenizer(std::string_view description, std::string_view where) {
  if (description.starts_with(kBpePrefix) && description.ends_with('}'))
    return make_bpe(description.substr(kBpePrefix.size(), description.size() - kBpePrefix.size() - 1), where);
  const auto json = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) fail(Exit::kBadData, "{}: the tokenizer's description is no JSON object", where);
  const auto type = json.find("type");
  if (type == json.end() || !type->is_string())
    fail(Exit::kBadData, "{}: the tokenizer's description has no \"type\"", where);
  if (*type == "bpe" && json.contains("tokenizer")) return make_bpe(json["tokenizer"].dump(), where);  // rewritten JSON
  if (*type == "bytes") return std::make_shared<ByteTokenizer>();
  if (*type == "sentencepiece") return make_sentencepiece(embedded_model(json, where), where);
  fail(Exit::kBadData, "{}: expected tokenizer type \"bytes\", \"bpe\" or \"sentencepiece\", found \"{}\"", where,
       printable(type->get<std::string>()));
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "bytes") return std::make_shared<ByteTokenizer>();
  std::filesystem::path path = name_or_path;
  if (std::filesystem::is_directory(path)) {
    const bool only_model = !std::filesystem::exists(path / "tokenizer.json");
    path /= only_model && std::filesystem::exists(path / "tokenizer.model") ? "tokenizer.model" : "tokenizer.json";
  }
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored))
    fail(Exit::kBadData, "{}: expected a tokenizer file, found something else", path.string());
  const std::string text = read_file(path);
  if (path.extension() == ".model") return make_sentencepiece(text, path.string());
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("type")) return make_tokenizer(text, path.string());
  return make_bpe(text, path.string());
}

}  // namespace smamba::data
