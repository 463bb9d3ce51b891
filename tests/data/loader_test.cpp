#include "smamba/data/loader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "data/data_testing.h"
#include "smamba/data/evaluation.h"

namespace smamba::data {
namespace {

using testing::expect_error;
using testing::Folder;

class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() : store_(testing::make_store(folder_ / "s", testing::sample_texts(60))) {}
  Loader make(LoaderOptions options) const { return Loader(store_, all(), options); }
  std::vector<uint64_t> all() const { return select_documents(*store_, Part::kAll, {}); }
  std::vector<int32_t> stream() const {
    std::vector<int32_t> ids(store_->token_count());
    store_->read(0, ids);
    return ids;
  }
  Folder folder_;
  std::shared_ptr<const TokenStore> store_;
};

TEST_F(LoaderTest, WindowsInOrderAreTheStream) {
  const auto ids = stream();
  const int64_t length = 37;
  const Loader loader =
      make({.batch_size = 1, .length = length, .packing = Packing::kContiguous, .shuffle = Shuffle::kNone});
  ASSERT_EQ(loader.windows(), static_cast<int64_t>(ids.size()) / length);
  int32_t before = store_->end_of_text();
  size_t at = 0;
  for (int64_t step = 0; step < loader.windows(); ++step) {
    const Batch b = loader.batch(step);
    EXPECT_EQ(b.scored, length);
    for (int64_t t = 0; t < length; ++t, ++at) {
      const auto i = static_cast<size_t>(t);
      EXPECT_EQ(b.inputs[i], before);
      EXPECT_EQ(b.targets[i], ids[at]);
      EXPECT_EQ(b.reset[i], 0);
      before = ids[at];
    }
  }
}

TEST_F(LoaderTest, PackedWindowsResetWhereDocumentsStart) {
  const auto ids = stream();
  const Loader loader = make({.batch_size = 1, .length = 37, .shuffle = Shuffle::kNone});
  std::set<size_t> starts;
  for (uint64_t i = 0; i < store_->document_count(); ++i) starts.insert(store_->document(i).begin);
  size_t at = 0;
  for (int64_t step = 0; step < loader.windows(); ++step) {
    const Batch b = loader.batch(step);
    for (size_t t = 0; t < 37; ++t, ++at) {
      EXPECT_EQ(b.reset[t] != 0, starts.contains(at)) << at;
      if (b.reset[t]) {
        EXPECT_EQ(b.inputs[t], store_->end_of_text());
      }
    }
  }
}

TEST_F(LoaderTest, EveryWindowOncePerEpochAndOrdersDiffer) {
  const Loader loader = make({.batch_size = 1, .length = 16, .shuffle = Shuffle::kWindows});
  std::multiset<std::vector<int32_t>> epochs[2];
  std::vector<std::vector<int32_t>> order[2];
  for (int64_t s = 0; s < 2 * loader.windows(); ++s) {
    const auto targets = loader.batch(s).targets;
    epochs[s / loader.windows()].insert(targets);
    order[s / loader.windows()].push_back(targets);
  }
  EXPECT_EQ(epochs[0], epochs[1]);
  EXPECT_NE(order[0], order[1]);
  EXPECT_DOUBLE_EQ(loader.epoch(loader.windows()), 1.0);
  const Loader other = make({.batch_size = 1, .length = 16, .shuffle = Shuffle::kWindows, .seed = 1});
  EXPECT_NE(other.batch(0).targets, loader.batch(0).targets);
}

/// The documents of a sequence in an order, as places in the store.
std::vector<uint64_t> walk(const DocumentSequence& sequence, DocumentSequence::Order order) {
  std::vector<uint64_t> out;
  for (const auto& piece : sequence.pieces(0, sequence.tokens(), order)) {
    EXPECT_TRUE(piece.first && piece.last);
    out.push_back(piece.begin);
  }
  return out;
}

// More documents than two blocks, so that the last one is not full.
TEST_F(LoaderTest, OrdersPermuteTheDocumentsOfEveryBlock) {
  const auto store = testing::make_store(folder_ / "many", testing::sample_texts(600));
  const DocumentSequence sequence(store, select_documents(*store, Part::kAll, {}));
  const auto plain = walk(sequence, std::nullopt), one = walk(sequence, 1), two = walk(sequence, 2);
  ASSERT_EQ(plain.size(), 600u);
  EXPECT_NE(one, plain);
  EXPECT_NE(one, two);
  for (const auto& order : {one, two})
    for (size_t first = 0; first < 600; first += DocumentSequence::kBlock) {
      const size_t size = std::min<size_t>(600 - first, DocumentSequence::kBlock);
      const auto block = [&](const std::vector<uint64_t>& all) {
        return std::set<uint64_t>(all.begin() + static_cast<int64_t>(first),
                                  all.begin() + static_cast<int64_t>(first + size));
      };
      EXPECT_EQ(block(order), block(plain));
    }
  // Any range is cut out of the whole, wherever it begins.
  std::vector<uint64_t> tokens;
  for (const auto& piece : sequence.pieces(0, sequence.tokens(), 1))
    for (uint64_t i = 0; i < piece.size; ++i) tokens.push_back(piece.begin + i);
  for (uint64_t begin = 0; begin < sequence.tokens(); begin += 977) {
    std::vector<uint64_t> range;
    for (const auto& piece : sequence.pieces(begin, 301, 1)) {
      EXPECT_EQ(piece.at, range.size());
      for (uint64_t i = 0; i < piece.size; ++i) range.push_back(piece.begin + i);
    }
    const auto end = std::min<uint64_t>(begin + 301, tokens.size());
    EXPECT_EQ(range, std::vector<uint64_t>(tokens.begin() + static_cast<int64_t>(begin),
                                           tokens.begin() + static_cast<int64_t>(end)));
  }
}

TEST_F(LoaderTest, EveryOrderOfFewDocumentsEnds) {
  // Numbers of documents on both sides of the powers of four at which the permutation's range grows.
  for (const int documents : {1, 2, 3, 4, 5, 16, 17, 30}) {
    const auto store = testing::make_store(folder_ / std::to_string(documents), testing::sample_texts(documents));
    const DocumentSequence sequence(store, select_documents(*store, Part::kAll, {}));
    for (uint64_t order = 0; order < 300; ++order) {
      uint64_t tokens = 0;
      for (const auto& piece : sequence.pieces(0, sequence.tokens(), order)) tokens += piece.size;
      ASSERT_EQ(tokens, sequence.tokens()) << documents << " documents, order " << order;
    }
  }
}

TEST_F(LoaderTest, EveryEpochHasEveryDocumentInAnotherOrder) {
  const auto store = testing::make_store(folder_ / "many", testing::sample_texts(600));
  const auto documents = select_documents(*store, Part::kAll, {});
  // Length 1: the windows cover every token, and the epoch's order shows in which document follows which.
  const Loader loader(store, documents, {.batch_size = 1, .length = 1});
  std::multiset<int32_t> epochs[2];
  for (int64_t s = 0; s < 2 * loader.windows(); ++s) epochs[s / loader.windows()].insert(loader.batch(s).targets[0]);
  EXPECT_EQ(epochs[0], epochs[1]);
  std::multiset<int32_t> all;
  std::vector<int32_t> ids(store->token_count());
  store->read(0, ids);
  EXPECT_EQ(epochs[0], std::multiset<int32_t>(ids.begin(), ids.end()));

  // Another epoch, another seed: other neighbours. A window is known by its targets.
  const auto windows = [&](uint64_t seed, int64_t epoch) {
    const Loader l(store, documents, {.batch_size = 1, .length = 64, .seed = seed});
    std::set<std::vector<int32_t>> out;
    for (int64_t w = 0; w < l.windows(); ++w) out.insert(l.batch(epoch * l.windows() + w).targets);
    return out;
  };
  const auto first = windows(0, 0);
  for (const auto& other : {windows(0, 1), windows(1, 0)}) {
    size_t same = 0;
    for (const auto& w : other) same += first.contains(w);
    EXPECT_LT(same, first.size() / 4) << "windows are cut from documents in another order";
  }
  EXPECT_EQ(windows(0, 1), windows(0, 1));
}

// The global sequence of samples, put together from the ranks' batches, is the same whatever the number of processes,
// the accumulation, and the step at which a new process begins.
TEST_F(LoaderTest, SameSequenceForAnyWorldAndAnyResume) {
  constexpr int64_t kRows = 24, kLength = 24;  // samples of a step
  using Sample = std::pair<std::vector<int32_t>, std::vector<int32_t>>;
  const auto sequence = [&](int64_t world, int64_t accumulation, int64_t from, int64_t to, Shuffle shuffle) {
    std::vector<Sample> out;
    const int64_t batch = kRows / world / accumulation;
    for (int64_t step = from; step < to; ++step)
      for (int64_t m = 0; m < accumulation; ++m)
        for (int64_t rank = 0; rank < world; ++rank) {
          // A loader of its own for every batch: nothing may be carried from one to the next.
          const Loader loader = make({.batch_size = batch,
                                      .length = kLength,
                                      .accumulation = accumulation,
                                      .world = world,
                                      .rank = rank,
                                      .shuffle = shuffle,
                                      .seed = 3,
                                      .fim = {.rate = 0.5}});
          EXPECT_EQ(loader.samples_per_step(), kRows);
          const Batch b = loader.batch(step, m);
          for (int64_t r = 0; r < batch; ++r)
            out.push_back({{b.inputs.begin() + r * kLength, b.inputs.begin() + (r + 1) * kLength},
                           {b.targets.begin() + r * kLength, b.targets.begin() + (r + 1) * kLength}});
        }
    return out;
  };
  for (const Shuffle shuffle : {Shuffle::kNone, Shuffle::kWindows, Shuffle::kDocuments}) {
    const auto whole = sequence(1, 1, 0, 15, shuffle);  // more than two epochs
    for (const auto& [world, accumulation] :
         {std::pair<int64_t, int64_t>{1, 4}, {2, 1}, {2, 3}, {3, 1}, {3, 2}, {8, 1}, {8, 3}})
      EXPECT_EQ(sequence(world, accumulation, 0, 15, shuffle), whole) << world << " processes";
    for (int64_t step = 0; step < 15; ++step) {
      const auto rest = sequence(step % 2 ? 3 : 8, 1, step, 15, shuffle);
      EXPECT_EQ(rest, std::vector<Sample>(whole.begin() + step * kRows, whole.end())) << "resumed at " << step;
    }
  }
}

TEST_F(LoaderTest, FimKeepsLengthAndStreamsAgree) {
  const auto fim_rows = [&](FimLoss loss) {
    const Loader loader = make({.batch_size = 4, .length = 64, .fim = {.rate = 1, .loss = loss}});
    int64_t sentinels = 0, ignored = 0;
    for (int64_t s = 0; s < 20; ++s) {
      const Batch b = loader.batch(s);
      for (size_t i = 0; i < b.targets.size(); ++i) {
        // An input is the target before it, except where a document begins (and that input is an end of text).
        if (i % 64 != 0 && !b.reset[i] && b.targets[i - 1] != kIgnored) {
          EXPECT_EQ(b.inputs[i], b.targets[i - 1]);
        }
        if (b.reset[i]) {
          EXPECT_EQ(b.inputs[i], store_->end_of_text());
        }
        sentinels += b.targets[i] > 256;
        ignored += b.targets[i] == kIgnored;
        EXPECT_GE(b.inputs[i], 0);
      }
      EXPECT_EQ(b.scored + std::count(b.targets.begin(), b.targets.end(), kIgnored), 4 * 64);
    }
    return std::pair(sentinels, ignored);
  };
  const auto [sentinels, none] = fim_rows(FimLoss::kAll);
  EXPECT_GT(sentinels, 60);
  EXPECT_EQ(none, 0) << "bytes tokenize to the same length";
  const auto [scored_sentinels, ignored] = fim_rows(FimLoss::kMiddle);
  EXPECT_EQ(scored_sentinels, 0) << "sentinels are no part of the middle";
  EXPECT_GT(ignored, 1000);
}

TEST_F(LoaderTest, BytesAreExactOverAnEpochOfWholeDocuments) {
  // Length 1: the windows cover every token, so the shares add up to the bytes of the store.
  const Loader loader = make({.batch_size = 1, .length = 1});
  double bytes = 0;
  for (int64_t s = 0; s < loader.windows(); ++s) bytes += loader.batch(s).bytes;
  EXPECT_NEAR(bytes, static_cast<double>(store_->text_bytes()), 1e-6);
}

TEST_F(LoaderTest, PrefetcherGivesTheSameBatches) {
  const auto loader =
      std::make_shared<Loader>(store_, all(), LoaderOptions{.batch_size = 2, .length = 16, .accumulation = 2});
  Prefetcher prefetcher(loader, 7);
  for (int64_t step = 7; step < 12; ++step) {
    for (int64_t micro = 0; micro < 2; ++micro) EXPECT_EQ(prefetcher.next().inputs, loader->batch(step, micro).inputs);
  }
  EXPECT_GE(prefetcher.waiting_seconds(), 0.0);
}

TEST_F(LoaderTest, PrefetcherPassesErrorsOn) {
  // A token outside the vocabulary is found while a batch is made.
  std::string bytes = read_file(folder_ / "s");
  bytes[kStoreHeaderSize + 1] = '\x7f';
  write_file(folder_ / "bad", bytes);
  const auto store = std::make_shared<TokenStore>(folder_ / "bad");
  const auto loader = std::make_shared<Loader>(store, all(), LoaderOptions{.length = 16, .shuffle = Shuffle::kNone});
  Prefetcher prefetcher(loader, 0);
  expect_error(Exit::kBadData, {"token 0"}, [&] { prefetcher.next(); });
}

TEST_F(LoaderTest, Refusals) {
  expect_error(Exit::kUsage, {"batch_size", "0"}, [&] { make({.batch_size = 0}); });
  expect_error(Exit::kUsage, {"rank", "[0, 2)"}, [&] { make({.world = 2, .rank = 2}); });
  expect_error(Exit::kBadData, {"at least 100000 tokens"}, [&] { make({.length = 100000}); });
  expect_error(Exit::kUsage, {"fim", "rate"}, [&] { make({.fim = {.rate = 2}}); });
  expect_error(Exit::kUsage, {"packing", "loose"}, [] { parse_packing("loose"); });
  expect_error(Exit::kUsage, {"shuffle", "words"}, [] { parse_shuffle("words"); });
  expect_error(Exit::kUsage, {"part", "half"}, [] { parse_part("half"); });
}

TEST_F(LoaderTest, SplitIsAPartitionAndStable) {
  const Split split{.validation = 0.3, .seed = 5};
  const auto train = select_documents(*store_, Part::kTrain, split),
             validation = select_documents(*store_, Part::kValidation, split);
  std::vector<uint64_t> joined;
  std::merge(train.begin(), train.end(), validation.begin(), validation.end(), std::back_inserter(joined));
  EXPECT_EQ(joined, all());
  // 60 draws of chance 0.3: mean 18, standard deviation 3.5; four of them.
  EXPECT_NEAR(static_cast<double>(validation.size()), 18, 14);

  // More documents, in another order: each old one stays on its side.
  auto texts = testing::sample_texts(90);
  std::reverse(texts.begin(), texts.end());
  const auto larger = testing::make_store(folder_ / "larger", texts);
  std::map<Hash128, bool> side;
  for (uint64_t i : select_documents(*larger, Part::kTrain, split)) side[larger->document(i).hash] = false;
  for (uint64_t i : select_documents(*larger, Part::kValidation, split)) side[larger->document(i).hash] = true;
  for (uint64_t i : train) EXPECT_FALSE(side.at(store_->document(i).hash));
  for (uint64_t i : validation) EXPECT_TRUE(side.at(store_->document(i).hash));

  expect_error(Exit::kBadData, {"validation document", "60"},
               [&] { select_documents(*store_, Part::kValidation, {}); });
  expect_error(Exit::kUsage, {"validation", "1.5"},
               [&] { select_documents(*store_, Part::kTrain, {.validation = 1.5}); });
}

TEST_F(LoaderTest, EvaluationScoresEveryTokenOnce) {
  const auto ids = stream();
  for (const auto& [world, batch, length] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 16},
                                             {1, 4, 16},
                                             {2, 3, 7},
                                             {1, 100, 512},
                                             {2, INT64_MAX, INT64_MAX}}) {
    for (bool carry : {true, false}) {
      std::vector<int> scored(ids.size(), 0);
      for (int64_t rank = 0; rank < world; ++rank) {
        const EvaluationLoader loader(
            store_, all(), {.batch_size = batch, .length = length, .world = world, .rank = rank, .carry_state = carry});
        EXPECT_EQ(loader.tokens(), ids.size());
        EXPECT_EQ(loader.bytes(), store_->text_bytes());
        EXPECT_EQ(loader.documents(), store_->document_count());
        EXPECT_LE(loader.options().batch_size, static_cast<int64_t>(store_->document_count()));
        EXPECT_LE(loader.options().length, static_cast<int64_t>(ids.size()));
        const auto width = static_cast<size_t>(loader.options().length);
        std::vector<int64_t> last(static_cast<size_t>(loader.options().batch_size), -1);  // last position of each row
        for (int64_t i = 0; i < loader.size(); ++i) {
          const Batch b = loader.batch(i);
          EXPECT_EQ(b.scored,
                    std::count_if(b.targets.begin(), b.targets.end(), [](int32_t t) { return t != kIgnored; }));
          for (size_t k = 0; k < b.targets.size(); ++k) {
            const int64_t p = b.positions[k];
            auto& previous = last[k / width];
            ASSERT_EQ(p < 0, b.targets[k] == kIgnored);
            if (p < 0) continue;
            ++scored[static_cast<size_t>(p)];
            EXPECT_EQ(b.targets[k], ids[static_cast<size_t>(p)]);
            const bool start =
                store_->document(store_->document_of(static_cast<uint64_t>(p))).begin == static_cast<uint64_t>(p);
            EXPECT_EQ(b.inputs[k], start ? store_->end_of_text() : ids[static_cast<size_t>(p - 1)]);
            EXPECT_EQ(b.reset[k] != 0, start || (!carry && k % width == 0));
            if (!start) {
              EXPECT_EQ(p, previous + 1) << "a row goes on where it ended";
            }
            previous = p;
          }
        }
      }
      EXPECT_EQ(std::count(scored.begin(), scored.end(), 1), static_cast<int64_t>(ids.size()));
    }
  }
}

TEST_F(LoaderTest, EvaluationOfAPart) {
  const EvaluationLoader loader(store_, all(), {.batch_size = 2, .length = 16, .max_tokens = 500});
  EXPECT_GE(loader.tokens(), 500u);
  EXPECT_LT(loader.tokens(), 700u) << "one document more than needed at most";
  EXPECT_LT(loader.documents(), store_->document_count());
}

}  // namespace
}  // namespace smamba::data
