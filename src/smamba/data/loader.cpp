#include "smamba/data/loader.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "smamba/core/error.h"

namespace smamba::data {

void Batch::resize(int64_t rows, int64_t row_length) {
  batch = rows;
  length = row_length;
  const auto n = static_cast<size_t>(rows * row_length);
  inputs.assign(n, 0);
  targets.assign(n, kIgnored);
  reset.assign(n, 0);
}

Packing parse_packing(std::string_view text) {
  require(text == "packed" || text == "contiguous", "packing: expected \"packed\" or \"contiguous\", found \"{}\"",
          text);
  return text == "packed" ? Packing::kPacked : Packing::kContiguous;
}

Shuffle parse_shuffle(std::string_view text) {
  if (text == "none") return Shuffle::kNone;
  if (text == "windows") return Shuffle::kWindows;
  require(text == "documents", "shuffle: expected \"none\", \"windows\" or \"documents\", found \"{}\"", text);
  return Shuffle::kDocuments;
}

namespace {

// Far above what any machine takes; the numbers of samples stay exact.
constexpr int64_t kMostTokensOfAStep = int64_t{1} << 50;

/// The documents in the seed's order, so that blocks of neighbours come from everywhere in the store.
std::vector<uint64_t> ordered(std::vector<uint64_t> documents, const LoaderOptions& options) {
  if (options.shuffle != Shuffle::kDocuments) return documents;
  std::vector<uint64_t> out(documents.size());
  for (uint64_t i = 0; i < out.size(); ++i)
    out[i] = documents[permute(i, out.size(), options.seed, stream_id("documents"))];
  return out;
}

}  // namespace

Loader::Loader(std::shared_ptr<const TokenStore> store, std::vector<uint64_t> documents, const LoaderOptions& options)
    : options_(options), sequence_(std::move(store), ordered(std::move(documents), options)) {
  const auto positive = [](int64_t value, std::string_view name) {
    require(value >= 1, "loader: {}: expected at least 1, found {}", name, value);
  };
  positive(options.batch_size, "batch_size");
  positive(options.length, "length");
  positive(options.accumulation, "accumulation");
  positive(options.world, "world");
  int64_t tokens = 1;
  for (const int64_t factor : {options.batch_size, options.length, options.accumulation, options.world})
    require(!__builtin_mul_overflow(tokens, factor, &tokens) && tokens <= kMostTokensOfAStep,
            "batch_size, length, accumulate: expected at most {} tokens in a step of all processes, found {} x {} x {}",
            kMostTokensOfAStep, options.batch_size, options.length, options.accumulation);
  require(options.rank >= 0 && options.rank < options.world, "loader: rank: expected a number in [0, {}), found {}",
          options.world, options.rank);
  options.fim.check(*sequence_.store().tokenizer());
  windows_ = static_cast<int64_t>(sequence_.tokens() / static_cast<uint64_t>(options.length));
  if (windows_ == 0)
    fail(Exit::kBadData, "{}: expected at least {} tokens (one window of length {}), found {} in {} documents",
         sequence_.store().path().string(), options.length, options.length, sequence_.tokens(), sequence_.documents());
}

double Loader::epoch(int64_t step) const {
  return static_cast<double>(step) * static_cast<double>(samples_per_step()) / static_cast<double>(windows_);
}

Batch Loader::batch(int64_t step, int64_t micro) const {
  Batch out;
  out.resize(options_.batch_size, options_.length);
  const int64_t first = ((step * options_.accumulation + micro) * options_.world + options_.rank) * options_.batch_size;
  for (int64_t r = 0; r < options_.batch_size; ++r) fill_row(first + r, r, out);
  out.scored = out.batch * out.length - std::count(out.targets.begin(), out.targets.end(), kIgnored);
  return out;
}

void Loader::fill_row(int64_t sample, int64_t row, Batch& batch) const {
  const auto n = static_cast<uint64_t>(windows_), epoch = static_cast<uint64_t>(sample) / n;
  uint64_t window = static_cast<uint64_t>(sample) % n;
  const uint64_t key = random_bits(options_.seed, stream_id("epoch"), epoch);
  if (options_.shuffle != Shuffle::kNone) window = permute(window, n, key, stream_id("shuffle"));
  const DocumentSequence::Order order =
      options_.shuffle == Shuffle::kDocuments ? DocumentSequence::Order(key) : std::nullopt;

  const auto length = static_cast<uint64_t>(options_.length);
  const size_t start = static_cast<size_t>(row) * length;
  Random random(random_bits(options_.seed, stream_id("fim"), static_cast<uint64_t>(sample)), "fim");
  const auto pieces = sequence_.pieces(window * length, length, order);
  batch.inputs[start] = sequence_.token_before(pieces.front());
  for (const auto& piece : pieces) {
    const std::span targets(batch.targets.data() + start + piece.at, piece.size);
    sequence_.store().read(piece.begin, targets);
    std::copy_n(targets.begin(), std::min(piece.size, length - piece.at - 1),
                batch.inputs.begin() + static_cast<int64_t>(start + piece.at) + 1);
    if (piece.first && options_.packing == Packing::kPacked) batch.reset[start + piece.at] = 1;
    batch.bytes += piece.bytes;
    if (options_.fim.rate > 0 && random.uniform() < options_.fim.rate) apply_fim(piece, random, row, batch);
  }
}

void Loader::apply_fim(const DocumentSequence::Piece& piece, Random& random, int64_t row, Batch& batch) const {
  const Tokenizer& tokenizer = *sequence_.store().tokenizer();
  const uint64_t text = piece.size - (piece.last ? 1 : 0);
  const auto length = static_cast<uint64_t>(options_.length);
  const size_t start = static_cast<size_t>(row) * length, at = start + piece.at;
  FimResult result;
  if (!fim_transform(std::span(batch.targets.data() + at, text), options_.fim, tokenizer, random, text, result)) return;

  // The piece is a document of its own now: it is entered through an end of text, even where the window cut the
  // original.
  batch.inputs[at] = tokenizer.special().end_of_text;
  if (options_.packing == Packing::kPacked) batch.reset[at] = 1;
  const auto filled = result.tokens.size();
  for (size_t i = 0; i < text; ++i) {
    const bool scored = i < filled && (options_.fim.loss == FimLoss::kAll || i >= result.middle_begin);
    const int32_t id = i < filled ? result.tokens[i] : tokenizer.special().end_of_text;
    batch.targets[at + i] = scored ? id : kIgnored;
    if (at + i + 1 < start + length) batch.inputs[at + i + 1] = id;
  }
  // Tokenizing anew may have made it shorter: the end of text follows the middle at once, and the rest is not scored.
  if (piece.last && filled < text) {
    batch.targets[at + filled] = tokenizer.special().end_of_text;
    batch.targets[at + text] = kIgnored;
  }
}

Prefetcher::Prefetcher(std::shared_ptr<const Loader> loader, int64_t first_step, int64_t depth)
    : loader_(std::move(loader)),
      depth_(static_cast<size_t>(std::max<int64_t>(1, depth))),
      thread_([this, first_step] { work(first_step); }) {}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::work(int64_t step) {
  try {
    for (;; ++step) {
      for (int64_t micro = 0; micro < loader_->options().accumulation; ++micro) {
        Batch batch = loader_->batch(step, micro);
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || ready_.size() < depth_; });
        if (stop_) return;
        ready_.push_back(std::move(batch));
        changed_.notify_all();
      }
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch Prefetcher::next() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || error_; });
  if (!std::exchange(first_, false))
    waiting_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (ready_.empty()) std::rethrow_exception(error_);
  Batch out = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return out;
}

}  // namespace smamba::data
