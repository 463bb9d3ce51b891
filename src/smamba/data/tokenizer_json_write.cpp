#include <fmt/format.h>

#include <algorithm>

#include "smamba/core/file.h"
#include "smamba/data/tokenizer_json.h"

namespace smamba::data {
namespace {

std::string json_text(std::string_view s) {
  std::string out = "\"";
  for (const char c : s) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<uint8_t>(c) < 0x20)
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else
      out += c;
  }
  return out += '"';
}

const char* boolean(bool b) { return b ? "true" : "false"; }

std::string step_json(const PretokenizerStep& step) {
  switch (step.kind) {
    case PretokenizerStep::Kind::kSplit:
      return fmt::format(R"({{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}})",
                         json_text(pattern_of_rule(step.rule)));
    case PretokenizerStep::Kind::kDigits:
      return fmt::format(R"({{"type":"Digits","individual_digits":{}}})", boolean(step.rule == SplitRule::kDigits));
    case PretokenizerStep::Kind::kByteLevel:
      break;
  }
  return fmt::format(R"({{"type":"ByteLevel","add_prefix_space":{},"trim_offsets":true,"use_regex":{}}})",
                     boolean(step.prefix_space), boolean(step.rule == SplitRule::kGpt2));
}

std::string pretokenizer_json(const std::vector<PretokenizerStep>& steps) {
  if (steps.size() == 1) return step_json(steps[0]);
  std::string out = R"({"type":"Sequence","pretokenizers":[)";
  for (size_t i = 0; i < steps.size(); ++i) out += (i ? "," : "") + step_json(steps[i]);
  return out + "]}";
}

std::string added_json(const std::vector<AddedToken>& added) {
  std::string out = "[";
  for (const AddedToken& t : added)
    out += fmt::format(
        R"({}{{"id":{},"content":{},"single_word":{},"lstrip":{},"rstrip":{},"normalized":{},"special":{}}})",
        out.size() > 1 ? ",\n" : "\n", t.id, json_text(t.content), boolean(t.single_word), boolean(t.lstrip),
        boolean(t.rstrip), boolean(t.normalized), boolean(t.special));
  return out + "]";
}

}  // namespace

std::string tokenizer_json(const BpeDefinition& d) {
  std::vector<std::string> spelled(d.tokens.size());
  for (size_t id = 0; id < spelled.size(); ++id) spelled[id] = spell(d.tokens[id]);
  for (const AddedToken& token : d.added) spelled[static_cast<size_t>(token.id)] = token.content;

  std::string out = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":";
  out += added_json(d.added);
  out += fmt::format(",\n\"normalizer\":{},\n\"pre_tokenizer\":{},\n\"post_processor\":null,\n",
                     d.nfc ? R"({"type":"NFC"})" : "null", pretokenizer_json(d.steps));
  out += R"("decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},)";
  out += fmt::format(
      "\n\"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
      "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":{},\n\"vocab\":{{",
      boolean(d.ignore_merges));
  const char* separator = "\n";
  for (size_t id = 0; id < spelled.size(); ++id) {
    if (!d.in_model[id]) continue;
    out += fmt::format("{}{}:{}", separator, json_text(spelled[id]), id);
    separator = ",\n";
  }
  out += "},\n\"merges\":[";
  separator = "\n";
  for (const BpeMerge& m : d.merges) {
    out += fmt::format("{}[{},{}]", separator, json_text(spelled[static_cast<size_t>(m.left)]),
                       json_text(spelled[static_cast<size_t>(m.right)]));
    separator = ",\n";
  }
  return out + "]}}\n";
}

void save_bpe(const BpeTokenizer& tokenizer, const std::filesystem::path& path) {
  write_file(path, tokenizer_json(tokenizer.definition()));
}

}  // namespace smamba::data
