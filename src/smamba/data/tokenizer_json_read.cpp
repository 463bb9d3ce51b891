#include <simdjson.h>

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/log.h"
#include "smamba/data/printable.h"
#include "smamba/data/tokenizer_json.h"

namespace smamba::data {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::element_type;
using simdjson::dom::object;

/// A value as a message shows it: its JSON, shortened.
std::string shown(const element& e) {
  std::string text = simdjson::minify(e);
  if (text.size() <= 80) return text;
  size_t n = 77;
  while (n > 0 && (static_cast<uint8_t>(text[n]) & 0xC0) == 0x80) --n;
  return text.substr(0, n) + "...";
}

class Reader {
 public:
  Reader(std::string_view text, std::string_view where) : where_(where) {
    const auto error = parser_.parse(text.data(), text.size()).get(root_);
    if (error) bad("", "JSON", simdjson::error_message(error));
  }

  BpeDefinition read() {
    need_object(root_, "the file");
    for (const char* key : {"truncation", "padding"})
      if (const auto e = find(root_, key)) warn("{}: {} is set; it is left out: texts are encoded whole", where_, key);
    read_normalizer();
    read_pretokenizer();
    read_decoder();
    read_model();
    read_added();
    return std::move(d_);
  }

 private:
  [[noreturn]] void bad(std::string_view key, std::string_view expected, std::string_view found) {
    fail(Exit::kBadData, "{}: {}{}expected {}, found {}", where_, printable(key), key.empty() ? "" : ": ",
         printable(expected), printable(found));
  }
  object need_object(const element& e, std::string_view key) {
    object o;
    if (e.get(o)) bad(key, "an object", shown(e));
    return o;
  }
  /// The value of a key that is there and not null.
  std::optional<element> find(const element& parent, std::string_view key) {
    element e;
    if (parent.get_object().error() || parent.at_key(key).get(e) || e.is_null()) return std::nullopt;
    return e;
  }
  std::string_view text_of(const element& parent, std::string_view key, std::string_view path) {
    const auto e = find(parent, key);
    std::string_view s;
    if (!e || e->get(s)) bad(fmt::format("{}.{}", path, key), "a string", e ? shown(*e) : "none");
    return s;
  }
  bool flag_of(const element& parent, std::string_view key, std::string_view path, bool standard) {
    const auto e = find(parent, key);
    bool b = standard;
    if (e && e->get(b)) bad(fmt::format("{}.{}", path, key), "true or false", shown(*e));
    return b;
  }
  /// An id: a whole number that fits.
  int32_t id_of(const element& e, std::string_view key) {
    int64_t id = -1;
    if (e.get(id) || id < 0 || id >= std::numeric_limits<int32_t>::max()) bad(key, "an id in [0, 2^31 - 1)", shown(e));
    return static_cast<int32_t>(id);
  }

  void read_normalizer() {
    if (const auto e = find(root_, "normalizer")) read_normalizer(*e, "normalizer");
  }
  void read_normalizer(const element& e, const std::string& path) {
    const auto type = text_of(e, "type", path);
    if (type == "NFC") {
      d_.nfc = true;
    } else if (type == "Sequence") {
      read_list(e, "normalizers", path, [&](const element& part, const std::string& p) { read_normalizer(part, p); });
    } else {
      bad(path + ".type", "\"NFC\"", fmt::format("\"{}\"", type));
    }
  }

  template <class Each>
  void read_list(const element& parent, std::string_view key, const std::string& path, Each&& each) {
    const auto list = find(parent, key);
    array items;
    if (!list || list->get(items)) bad(fmt::format("{}.{}", path, key), "an array", list ? shown(*list) : "none");
    size_t i = 0;
    for (const element item : items) each(item, fmt::format("{}.{}[{}]", path, key, i++));
  }

  void read_pretokenizer() {
    const auto e = find(root_, "pre_tokenizer");
    if (!e) bad("pre_tokenizer", "a ByteLevel step (only byte-level BPE is understood)", "none");
    read_step(*e, "pre_tokenizer");
    const auto is_bytes = [](const auto& s) { return s.kind == PretokenizerStep::Kind::kByteLevel; };
    if (d_.steps.empty() || !is_bytes(d_.steps.back()) ||
        std::count_if(d_.steps.begin(), d_.steps.end(), is_bytes) != 1)
      bad("pre_tokenizer", "exactly one ByteLevel step, the last one", shown(*e));
  }
  void read_step(const element& e, const std::string& path) {
    using Kind = PretokenizerStep::Kind;
    const auto type = text_of(e, "type", path);
    if (type == "Sequence") {
      read_list(e, "pretokenizers", path, [&](const element& part, const std::string& p) { read_step(part, p); });
    } else if (type == "ByteLevel") {
      const bool split = flag_of(e, "use_regex", path, true);
      d_.steps.push_back(
          {Kind::kByteLevel, split ? SplitRule::kGpt2 : SplitRule::kWhole, flag_of(e, "add_prefix_space", path, true)});
    } else if (type == "Digits") {
      const bool single = flag_of(e, "individual_digits", path, false);
      d_.steps.push_back({Kind::kDigits, single ? SplitRule::kDigits : SplitRule::kDigitRuns, false});
    } else if (type == "Split") {
      read_split(e, path);
    } else {
      bad(path + ".type", "\"ByteLevel\", \"Split\", \"Digits\" or \"Sequence\"", fmt::format("\"{}\"", type));
    }
  }
  void read_split(const element& e, const std::string& path) {
    const auto pattern = find(e, "pattern");
    if (!pattern) bad(path + ".pattern", "a regular expression", "none");
    const auto regex = text_of(*pattern, "Regex", path + ".pattern");
    const auto rule = rule_of_pattern(regex);
    if (!rule) bad(path + ".pattern.Regex", "the split pattern of GPT-2, GPT-4 (Llama 3) or Qwen 2", shown(*pattern));
    if (const auto behavior = text_of(e, "behavior", path); behavior != "Isolated" && behavior != "Removed")
      bad(path + ".behavior", "\"Isolated\"", fmt::format("\"{}\"", behavior));
    else if (const bool invert = flag_of(e, "invert", path, false); invert != (behavior == "Removed"))
      bad(path, "behavior \"Isolated\" without invert", fmt::format("behavior \"{}\", invert {}", behavior, invert));
    d_.steps.push_back({PretokenizerStep::Kind::kSplit, *rule, false});
  }

  void read_decoder() {
    const auto e = find(root_, "decoder");
    if (e && text_of(*e, "type", "decoder") != "ByteLevel") bad("decoder.type", "\"ByteLevel\"", shown(*e));
    const auto post = find(root_, "post_processor");
    if (post && text_of(*post, "type", "post_processor") != "ByteLevel")
      warn("{}: post_processor {} is left out: no tokens are added around a text", where_,
           text_of(*post, "type", "post_processor"));
  }

  void read_model() {
    const auto model = find(root_, "model");
    if (!model) bad("model", "a BPE model", "none");
    if (const auto type = find(*model, "type"); type && text_of(*model, "type", "model") != "BPE")
      bad("model.type", "\"BPE\"", shown(*type));
    if (const auto dropout = find(*model, "dropout")) {
      double p = 1;
      if (dropout->get(p) || p != 0) bad("model.dropout", "null (ids must not be random)", shown(*dropout));
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto e = find(*model, key); e && !text_of(*model, key, "model").empty())
        bad(fmt::format("model.{}", key), "null", shown(*e));
    d_.ignore_merges = flag_of(*model, "ignore_merges", "model", false);
    read_vocab(*model);
    read_merges(*model);
  }

  void place(std::string_view spelling, int32_t id, std::string_view key) {
    const auto [other, fresh] = spelling_of_.try_emplace(id, spelling);
    if (!fresh)
      bad(key, "an id of its own",
          fmt::format("id {} of \"{}\", which \"{}\" has already", id, spelling, other->second));
  }

  void read_vocab(const element& model) {
    const auto e = find(model, "vocab");
    if (!e) bad("model.vocab", "an object", "none");
    const object vocab = need_object(*e, "model.vocab");
    for (const auto& [spelling, value] : vocab) {
      const std::string key = fmt::format("model.vocab[\"{}\"]", spelling);
      const int32_t id = id_of(value, key);
      if (!ids_.try_emplace(std::string(spelling), id).second) bad(key, "one entry", "two");
      place(spelling, id, key);
    }
  }

  void read_merges(const element& model) {
    std::unordered_map<uint64_t, size_t> ranks;
    size_t line = 0;
    read_list(model, "merges", "model", [&](const element& item, const std::string& key) {
      ++line;
      std::string_view left, right, joined;
      array pair;
      if (!item.get(joined)) {
        if (joined.starts_with("#version")) return;
        const size_t space = joined.find(' ');
        if (space == std::string_view::npos || joined.find(' ', space + 1) != std::string_view::npos)
          bad(key, "two tokens with a space between", shown(item));
        left = joined.substr(0, space), right = joined.substr(space + 1);
      } else if (item.get(pair) || pair.size() != 2 || pair.at(0).get(left) || pair.at(1).get(right)) {
        bad(key, "two tokens", shown(item));
      }
      const BpeMerge merge{known(left, key), known(right, key), known(std::string(left) + std::string(right), key)};
      const uint64_t code =
          static_cast<uint64_t>(static_cast<uint32_t>(merge.left)) << 32 | static_cast<uint32_t>(merge.right);
      if (const auto [first, fresh] = ranks.try_emplace(code, line - 1); !fresh)
        bad(key, "a merge of its own", fmt::format("{}, which is merge {} already", shown(item), first->second));
      d_.merges.push_back(merge);
    });
  }
  int32_t known(std::string_view token, std::string_view key) {
    const auto found = ids_.find(std::string(token));
    if (found == ids_.end()) bad(key, "tokens of model.vocab", fmt::format("unknown token \"{}\"", token));
    return found->second;
  }

  void read_added() {
    if (find(root_, "added_tokens"))
      read_list(root_, "added_tokens", "file", [&](const element& item, const std::string& path) {
        const std::string key = path.substr(path.find('.') + 1);
        AddedToken token;
        const auto id = find(item, "id");
        if (!id) bad(key + ".id", "an id", "none");
        token.id = id_of(*id, key + ".id");
        token.content = text_of(item, "content", key);
        if (token.content.empty()) bad(key + ".content", "a text", "an empty string");
        token.special = flag_of(item, "special", key, false);
        token.normalized = flag_of(item, "normalized", key, !token.special);
        token.single_word = flag_of(item, "single_word", key, false);
        token.lstrip = flag_of(item, "lstrip", key, false);
        token.rstrip = flag_of(item, "rstrip", key, false);
        const auto in_model = ids_.find(token.content);
        if (in_model == ids_.end())
          place(token.content, token.id, key);
        else if (in_model->second != token.id)
          bad(key + ".id", fmt::format("{}, the id of \"{}\" in model.vocab", in_model->second, token.content),
              std::to_string(token.id));
        if (!added_.insert(token.content).second)
          bad(key + ".content", "one entry", fmt::format("a second \"{}\"", token.content));
        d_.added.push_back(std::move(token));
      });
    std::sort(d_.added.begin(), d_.added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    fill_tokens();
  }

  void fill_tokens() {
    const auto n = static_cast<int32_t>(spelling_of_.size());
    d_.tokens.resize(spelling_of_.size());
    d_.in_model.resize(spelling_of_.size());
    for (int32_t id = 0; id < n; ++id)
      if (!spelling_of_.contains(id))
        bad("ids", fmt::format("{} tokens with ids 0 to {}", n, n - 1), fmt::format("no token of id {}", id));
    for (const AddedToken& token : d_.added) d_.tokens[static_cast<size_t>(token.id)] = token.content;
    for (const auto& [spelling, id] : ids_) {
      auto& bytes = d_.tokens[static_cast<size_t>(id)];
      d_.in_model[static_cast<size_t>(id)] = true;
      if (bytes.empty() && (spelling.empty() || !unspell(spelling, bytes)))
        bad("model.vocab", "tokens spelled in the byte-level alphabet", fmt::format("\"{}\"", spelling));
    }
    for (const BpeMerge& m : d_.merges)
      for (const int32_t part : {m.left, m.right, m.result})
        if (spell(d_.tokens[static_cast<size_t>(part)]) != spelling_of_[part])
          bad("model.merges", "tokens spelled in the byte-level alphabet", fmt::format("\"{}\"", spelling_of_[part]));
  }

  std::string where_;
  simdjson::dom::parser parser_;
  element root_;
  BpeDefinition d_;
  std::unordered_map<std::string, int32_t> ids_;  // model.vocab
  std::unordered_map<int32_t, std::string> spelling_of_;
  std::unordered_set<std::string> added_;  // contents
};

}  // namespace

BpeDefinition parse_tokenizer_json(std::string_view text, std::string_view where) { return Reader(text, where).read(); }

std::shared_ptr<const BpeTokenizer> load_bpe(const std::filesystem::path& path) {
  return std::make_shared<BpeTokenizer>(parse_tokenizer_json(read_file(path), path.string()), path.string());
}

}  // namespace smamba::data
