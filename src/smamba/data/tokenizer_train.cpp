#include "smamba/data/tokenizer_train.h"

#include <algorithm>
#include <unordered_set>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/data/bpe_merge_learner.h"
#include "smamba/data/tokenizer_json.h"
#include "smamba/data/unicode_normalize.h"

namespace smamba::data {

BpeTrainer::BpeTrainer(BpeTrainOptions options)
    : options_(std::move(options)), counts_(static_cast<size_t>(num_threads())) {
  const auto fixed = static_cast<int64_t>(options_.special.size()) + 256;
  require(options_.vocab_size >= fixed && options_.vocab_size < (int64_t{1} << 31),
          "tokenizer train: expected a vocabulary size in [{}, 2^31) ({} special tokens and 256 bytes), found {}",
          fixed, options_.special.size(), options_.vocab_size);
  std::unordered_set<std::string> seen;
  for (const auto& name : options_.special)
    require(!name.empty() && seen.insert(name).second,
            "tokenizer train: expected distinct special tokens that are not empty, found \"{}\"{}", name,
            name.empty() ? "" : " twice");
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add_in_lane(size_t lane, std::string_view text) {
  WordCounts& counts = counts_[lane];
  std::string normal;
  if (options_.nfc && may_need_nfc(text)) text = normal = nfc(text);
  pretokenize(text, options_.steps, [&](const uint8_t* p, size_t n) {
    counts.add({reinterpret_cast<const char*>(p), n});
  });
}

void BpeTrainer::add(std::span<const std::string_view> documents) {
  // Long documents are cut, and each lane takes about as many bytes; counts add up the same in any lane.
  std::vector<std::vector<std::string_view>> share(lanes());
  std::vector<size_t> load(lanes());
  for (const std::string_view document : documents)
    for (size_t begin = 0; begin < document.size();) {
      const size_t end = safe_cut(document, begin + (size_t{1} << 20), options_.steps);
      const auto lane = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
      share[lane].push_back(document.substr(begin, end - begin));
      load[lane] += end - begin;
      begin = end;
    }
  parallel_tasks(static_cast<int64_t>(lanes()), [&](int64_t lane) {
    for (const std::string_view text : share[static_cast<size_t>(lane)]) add_in_lane(static_cast<size_t>(lane), text);
  });
}

BpeDefinition BpeTrainer::train(const std::function<void(int64_t)>& progress) {
  WordCounts all;
  for (WordCounts& counts : counts_) {
    all.merge(counts);
    counts = {};
  }
  MergeLearner learner(options_.special, all);
  learner.learn(options_.vocab_size, options_.min_frequency, progress);

  BpeDefinition d;
  d.steps = options_.steps;
  d.nfc = options_.nfc;
  d.merges = learner.merges();
  const auto& spellings = learner.spellings();
  d.in_model.assign(spellings.size(), true);
  for (size_t id = 0; id < spellings.size(); ++id) {
    const bool special = id < options_.special.size();
    d.tokens.emplace_back(spellings[id]);
    if (special)
      d.added.push_back({.id = static_cast<int32_t>(id), .content = spellings[id], .special = true});
    else
      unspell(spellings[id], d.tokens.back());
  }
  return d;
}

}  // namespace smamba::data
