#include "smamba/data/bpe_tokenizer.h"

#include <algorithm>
#include <initializer_list>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/data/tokenizer_json.h"
#include "smamba/data/unicode_normalize.h"

namespace smamba::data {
namespace {

constexpr size_t kParallelFrom = size_t{1} << 20;  // bytes; below, starting threads costs more than it gains
constexpr size_t kPart = size_t{1} << 18;

std::unique_ptr<BpeModel> make_model(const BpeDefinition& d, std::string_view where) {
  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  std::vector<int32_t> sizes;
  std::unordered_map<std::string, int32_t> words;
  for (size_t id = 0; id < d.tokens.size(); ++id) {
    const std::string& bytes = d.tokens[id];
    sizes.push_back(static_cast<int32_t>(bytes.size()));
    if (!d.in_model[id]) continue;
    if (bytes.size() == 1) byte_ids[static_cast<uint8_t>(bytes[0])] = static_cast<int32_t>(id);
    if (d.ignore_merges) words.emplace(bytes, static_cast<int32_t>(id));
  }
  for (int b = 0; b < 256; ++b) {
    const bool never_in_utf8 = b == 0xC0 || b == 0xC1 || b >= 0xF5;  // GPT-NeoX has no tokens for these
    if (byte_ids[static_cast<size_t>(b)] < 0 && !never_in_utf8)
      fail(Exit::kBadData, "{}: model.vocab: expected a token for every byte of UTF-8, found none for byte 0x{:02x}",
           where, b);
  }
  return std::make_unique<BpeModel>(byte_ids, std::move(sizes), d.merges, std::move(words));
}

SpecialTokens find_special(const std::vector<AddedToken>& added) {
  const auto first_of = [&](std::initializer_list<std::string_view> names) {
    for (const auto name : names)
      for (const AddedToken& token : added)
        if (token.content == name) return token.id;
    return -1;
  };
  return {.end_of_text = first_of({"<|endoftext|>", "<|end_of_text|>", "</s>"}),
          .fim_prefix = first_of({"<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>"}),
          .fim_middle = first_of({"<|fim_middle|>", "<fim_middle>", "<fim-middle>"}),
          .fim_suffix = first_of({"<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>"}),
          .pad = first_of({"<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<|padding|>", "<|pad|>"})};
}

}  // namespace

// Word memories are costly to fill, so they outlive a call: one for each thread that is encoding.
class BpeTokenizer::Caches {
 public:
  template <class Use>
  void with(Use&& use) {
    auto cache = take();
    use(*cache);
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(cache));
  }

 private:
  std::unique_ptr<BpeCache> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<BpeCache>();
    auto cache = std::move(idle_.back());
    idle_.pop_back();
    return cache;
  }
  std::mutex mutex_;
  std::vector<std::unique_ptr<BpeCache>> idle_;
};

BpeTokenizer::BpeTokenizer(BpeDefinition definition, std::string_view where)
    : definition_(std::move(definition)),
      special_(find_special(definition_.added)),
      model_(make_model(definition_, where)),
      caches_(std::make_unique<Caches>()) {
  std::vector<AddedToken> raw, normalized;
  for (const AddedToken& token : definition_.added) {
    auto& list = token.normalized ? normalized : raw;
    list.push_back(token);
    if (token.normalized && definition_.nfc) list.back().content = nfc(token.content);
  }
  raw_tokens_ = AddedTokenMatcher(std::move(raw));
  normalized_tokens_ = AddedTokenMatcher(std::move(normalized));
  allows_cuts_ = raw_tokens_.allows_cuts() && normalized_tokens_.allows_cuts();
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::encode(std::string_view text, std::vector<int32_t>& out) const { encode_any(text, true, out); }

void BpeTokenizer::encode_with_special(std::string_view text, std::vector<int32_t>& out) const {
  encode_any(text, false, out);
}

void BpeTokenizer::encode_any(std::string_view text, bool skip_special, std::vector<int32_t>& out) const {
  if (text.size() >= kParallelFrom && allows_cuts_ && num_threads() > 1)
    return encode_parallel(text, skip_special, out);
  caches_->with([&](BpeCache& cache) { encode_serial(text, skip_special, cache, out); });
}

void BpeTokenizer::encode_parallel(std::string_view text, bool skip_special, std::vector<int32_t>& out) const {
  std::vector<size_t> cuts{0};
  while (cuts.back() < text.size()) cuts.push_back(safe_cut(text, cuts.back() + kPart, definition_.steps));
  const auto parts = static_cast<int64_t>(cuts.size()) - 1;
  std::vector<std::vector<int32_t>> ids(static_cast<size_t>(parts));
  parallel_tasks(parts, [&](int64_t task) {
    const auto i = static_cast<size_t>(task);
    caches_->with([&](BpeCache& cache) {
      encode_serial(text.substr(cuts[i], cuts[i + 1] - cuts[i]), skip_special, cache, ids[i]);
    });
  });
  size_t total = out.size();
  for (const auto& part : ids) total += part.size();
  out.reserve(total);
  for (const auto& part : ids) out.insert(out.end(), part.begin(), part.end());
}

void BpeTokenizer::encode_serial(std::string_view text, bool skip_special, BpeCache& cache,
                                 std::vector<int32_t>& out) const {
  if (raw_tokens_.idle(skip_special)) return encode_raw(text, skip_special, cache, out);
  std::vector<TextPiece> pieces;
  raw_tokens_.split(text, skip_special, pieces);
  for (const TextPiece& piece : pieces)
    piece.id >= 0 ? out.push_back(piece.id) : encode_raw(piece.text, skip_special, cache, out);
}

void BpeTokenizer::encode_raw(std::string_view text, bool skip_special, BpeCache& cache,
                              std::vector<int32_t>& out) const {
  std::string normal;
  if (definition_.nfc && may_need_nfc(text)) text = normal = nfc(text);
  if (normalized_tokens_.idle(skip_special)) return encode_words(text, cache, out);
  std::vector<TextPiece> pieces;
  normalized_tokens_.split(text, skip_special, pieces);
  for (const TextPiece& piece : pieces) piece.id >= 0 ? out.push_back(piece.id) : encode_words(piece.text, cache, out);
}

void BpeTokenizer::encode_words(std::string_view text, BpeCache& cache, std::vector<int32_t>& out) const {
  const auto* end = reinterpret_cast<const uint8_t*>(text.data()) + text.size();
  const auto* begin = end - text.size();
  pretokenize(text, definition_.steps, [&](const uint8_t* p, size_t n) {
    // A word may lie in a copy (after a prefix space) whose end is unknown here.
    const size_t readable = p >= begin && p < end ? static_cast<size_t>(end - p) : n;
    cache.encode_word(*model_, p, n, readable, out);
  });
}

void BpeTokenizer::append_token(int32_t id, std::string& out) const {
  if (id < 0 || id >= vocab_size())
    fail(Exit::kBadData, "BPE tokenizer: expected a token id in [0, {}), found {}", vocab_size(), id);
  out += definition_.tokens[static_cast<size_t>(id)];
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids) const {
  std::string out;
  out.reserve(ids.size() * 4);
  for (int32_t id : ids) append_token(id, out);
  return out;
}

std::string BpeTokenizer::description() const {
  return fmt::format(R"({{"type":"bpe","tokenizer":{}}})", tokenizer_json(definition_));
}

std::string BpeTokenizer::name() const { return fmt::format("bpe of {}", vocab_size()); }

std::vector<std::vector<int32_t>> encode_batch(const Tokenizer& tokenizer, std::span<const std::string_view> texts) {
  std::vector<std::vector<int32_t>> ids(texts.size());
  constexpr int64_t kGroup = 16;  // texts may be tiny
  const auto n = static_cast<int64_t>(texts.size());
  parallel_tasks((n + kGroup - 1) / kGroup, [&](int64_t group) {
    for (int64_t i = group * kGroup; i < std::min(n, (group + 1) * kGroup); ++i)
      tokenizer.encode(texts[static_cast<size_t>(i)], ids[static_cast<size_t>(i)]);
  });
  return ids;
}

}  // namespace smamba::data
