#include "smamba/data/tokenizer.h"

#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/hash.h"
#include "smamba/data/byte_tokenizer.h"

namespace smamba::data {

std::string Tokenizer::fingerprint() const { return hash128(description()).hex(); }

std::shared_ptr<const Tokenizer> make_tokenizer(std::string_view description, std::string_view where) {
  const auto json = nlohmann::json::parse(description, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) fail(Exit::kBadData, "{}: the tokenizer's description is no JSON object", where);
  const auto type = json.find("type");
  if (type == json.end() || !type->is_string())
    fail(Exit::kBadData, "{}: the tokenizer's description has no \"type\"", where);
  if (*type == "bytes") return std::make_shared<ByteTokenizer>();
  fail(Exit::kBadData, "{}: expected tokenizer type \"bytes\", found \"{}\"", where, type->get<std::string>());
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "bytes") return std::make_shared<ByteTokenizer>();
  return make_tokenizer(read_file(name_or_path), name_or_path);
}

}  // namespace smamba::data
