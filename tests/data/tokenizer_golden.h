// The file that scripts/generate_tokenizer_golden.py writes: what Hugging Face tokenizers does.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "smamba/core/file.h"
#include "smamba/data/tokenizer_json.h"

namespace smamba::data::testing {

inline const nlohmann::json& golden_tokenizers() {
  static const auto json =
      nlohmann::json::parse(read_file(std::filesystem::path(__FILE__).parent_path() / "golden/tokenizers.json"));
  return json;
}

/// The tokenizer.json of one entry, as text.
inline std::string golden_tokenizer(const std::string& name = "gpt2") {
  return golden_tokenizers()["tokenizers"][name]["tokenizer"].dump();
}

inline std::shared_ptr<const BpeTokenizer> bpe_from(const std::string& json) {
  return std::make_shared<BpeTokenizer>(parse_tokenizer_json(json, "test.json"), "test.json");
}

}  // namespace smamba::data::testing
