#include "smamba/data/evaluation.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/core/random.h"

namespace smamba::data {
namespace {

/// Documents in a fixed random order until they hold max_tokens; then in the order of the store again.
std::vector<uint64_t> limited(const TokenStore& store, std::vector<uint64_t> documents, uint64_t max_tokens) {
  if (max_tokens == 0) return documents;
  std::vector<uint64_t> out;
  uint64_t tokens = 0;
  for (uint64_t i = 0; i < documents.size() && tokens < max_tokens; ++i) {
    out.push_back(documents[permute(i, documents.size(), 0, stream_id("evaluation"))]);
    tokens += store.document(out.back()).tokens();
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

EvaluationLoader::EvaluationLoader(const std::shared_ptr<const TokenStore>& store, std::vector<uint64_t> documents,
                                   const EvaluationOptions& options)
    : options_(options) {
  require(options.batch_size >= 1 && options.length >= 1,
          "evaluation: expected a batch size and a length of at least 1, found {} and {}", options.batch_size,
          options.length);
  require(options.rank >= 0 && options.rank < options.world, "evaluation: rank: expected a number in [0, {}), found {}",
          options.world, options.rank);
  documents = limited(*store, std::move(documents), options.max_tokens);
  documents_ = documents.size();

  // Rows that no document comes to, and what lies beyond the longest row, would be padding alone.
  options_.batch_size = std::min(options.batch_size, std::max<int64_t>(1, static_cast<int64_t>(documents_)));
  const auto rows = static_cast<size_t>(options_.batch_size * options.world);
  std::vector<std::vector<uint64_t>> dealt(rows);
  using Load = std::pair<uint64_t, size_t>;  // tokens, row
  std::priority_queue<Load, std::vector<Load>, std::greater<>> shortest;
  for (size_t r = 0; r < rows; ++r) shortest.emplace(0, r);
  uint64_t longest = 0;
  for (uint64_t i : documents) {
    const DocumentView d = store->document(i);
    const auto [load, row] = shortest.top();
    shortest.pop();
    dealt[row].push_back(i);
    shortest.emplace(load + d.tokens(), row);
    longest = std::max(longest, load + d.tokens());
    tokens_ += d.tokens();
    bytes_ += d.bytes;
  }
  const uint64_t length = std::min(static_cast<uint64_t>(options.length), std::max<uint64_t>(1, longest));
  options_.length = static_cast<int64_t>(length);
  size_ = static_cast<int64_t>((longest + length - 1) / length);
  for (int64_t r = 0; r < options_.batch_size; ++r)
    rows_.emplace_back(store, std::move(dealt[static_cast<size_t>(options.rank * options_.batch_size + r)]));
}

Batch EvaluationLoader::batch(int64_t i) const {
  Batch out;
  out.resize(options_.batch_size, options_.length);
  out.positions.assign(out.inputs.size(), -1);
  const auto length = static_cast<uint64_t>(options_.length);
  for (size_t r = 0; r < rows_.size(); ++r) fill_row(rows_[r], static_cast<uint64_t>(i) * length, r * length, out);
  return out;
}

void EvaluationLoader::fill_row(const DocumentSequence& row, uint64_t begin, size_t start, Batch& batch) const {
  const auto length = static_cast<size_t>(options_.length);
  const auto inputs = batch.inputs.begin() + static_cast<int64_t>(start);
  std::fill_n(inputs, length, rows_.front().store().end_of_text());
  if (begin >= row.tokens()) return;
  if (!options_.carry_state) batch.reset[start] = 1;
  const auto pieces = row.pieces(begin, length);
  inputs[0] = row.token_before(pieces.front());
  for (const auto& piece : pieces) {
    const std::span targets(batch.targets.data() + start + piece.at, piece.size);
    row.store().read(piece.begin, targets);
    std::copy_n(targets.begin(), std::min<size_t>(piece.size, length - piece.at - 1),
                inputs + static_cast<int64_t>(piece.at) + 1);
    const auto positions = batch.positions.begin() + static_cast<int64_t>(start + piece.at);
    std::iota(positions, positions + static_cast<int64_t>(piece.size), static_cast<int64_t>(piece.begin));
    if (piece.first) batch.reset[start + piece.at] = 1;
    batch.scored += static_cast<int64_t>(piece.size);
    batch.bytes += piece.bytes;
  }
}

}  // namespace smamba::data
