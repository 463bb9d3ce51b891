#include "smamba/data/tokenizer_train_corpus.h"

#include <csignal>
#include <deque>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/data/block_encoder.h"
#include "smamba/data/byte_tokenizer.h"

namespace smamba::data {
namespace {

/// Stands where `data prepare` has a tokenizer: it counts the words of each document and yields no tokens.
class CountingTokenizer final : public Tokenizer {
 public:
  CountingTokenizer(BpeTrainer& trainer, size_t lane) : trainer_(trainer), lane_(lane) {}

  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>&) const override { trainer_.add_in_lane(lane_, text); }
  std::string decode(std::span<const int32_t> ids) const override { return bytes_.decode(ids); }
  int32_t vocab_size() const override { return bytes_.vocab_size(); }
  const SpecialTokens& special() const override { return bytes_.special(); }
  std::string description() const override { return bytes_.description(); }
  std::string name() const override { return "counts of words"; }

 private:
  BpeTrainer& trainer_;
  size_t lane_;
  ByteTokenizer bytes_;
};

void stop_on_signal(const std::atomic<int>* signal) {
  const int received = signal ? signal->load() : 0;
  if (received)
    fail(received == SIGINT ? Exit::kInterrupted : Exit::kTerminated, "tokenizer train: stopped; nothing is written");
}

}  // namespace

CorpusCounts count_corpus(const TrainCorpus& corpus, BpeTrainer& trainer,
                          const std::function<void(const CorpusCounts&)>& progress) {
  const BlockOptions options{.column = corpus.column, .rules = corpus.rules, .reader_python = corpus.reader_python};
  const auto source = open_blocks(classify_inputs(corpus.inputs, corpus.format, corpus.patterns, nullptr), options, {});
  std::deque<BlockEncoder> encoders;  // they stay in place
  for (size_t lane = 0; lane < trainer.lanes(); ++lane)
    encoders.emplace_back(std::make_shared<CountingTokenizer>(trainer, lane), corpus.column, corpus.rules);

  CorpusCounts counts;
  for (bool more = true; more && (corpus.max_text_bytes == 0 || counts.text_bytes < corpus.max_text_bytes);) {
    stop_on_signal(corpus.signal);
    std::vector<Block> blocks;
    while (blocks.size() < trainer.lanes() && (more = source->next(blocks.emplace_back()))) {
    }
    if (!more) blocks.pop_back();
    std::vector<EncodedBlock> done(blocks.size());
    parallel_tasks(static_cast<int64_t>(blocks.size()), [&](int64_t task) {
      const auto i = static_cast<size_t>(task);
      done[i] = encoders[i].encode(std::move(blocks[i]));
    });
    for (const EncodedBlock& block : done) {
      if (block.error) throw *block.error;
      counts.documents += block.documents.size();
      counts.skipped += block.skipped;
      for (const EncodedDocument& document : block.documents) counts.text_bytes += document.bytes;
    }
    if (progress) progress(counts);
  }
  if (counts.text_bytes == 0)
    fail(Exit::kBadData, "tokenizer train: expected text, found none in {} input(s)", corpus.inputs.size());
  return counts;
}

}  // namespace smamba::data
