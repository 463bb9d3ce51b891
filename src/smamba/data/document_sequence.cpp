#include "smamba/data/document_sequence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/core/random.h"

namespace smamba::data {

Part parse_part(std::string_view text) {
  if (text == "all") return Part::kAll;
  if (text == "train") return Part::kTrain;
  if (text == "validation") return Part::kValidation;
  fail(Exit::kUsage, "part: expected \"all\", \"train\" or \"validation\", found \"{}\"", text);
}

bool Split::is_validation(const Hash128& hash) const {
  const uint64_t bits = mix64(hash.low ^ mix64(seed ^ stream_id("split")));
  return static_cast<double>(bits >> 11) * 0x1.0p-53 < validation;
}

std::vector<uint64_t> select_documents(const TokenStore& store, Part part, const Split& split) {
  require(split.validation >= 0 && split.validation < 1, "split: validation: expected a share in [0, 1), found {}",
          split.validation);
  std::vector<uint64_t> out;
  for (uint64_t i = 0; i < store.document_count(); ++i)
    if (part == Part::kAll || split.is_validation(store.document(i).hash) == (part == Part::kValidation))
      out.push_back(i);
  if (out.empty())
    fail(Exit::kBadData, "{}: expected at least one {}document, found none among {} (validation share {})",
         store.path().string(),
         part == Part::kAll     ? ""
         : part == Part::kTrain ? "training "
                                : "validation ",
         store.document_count(), split.validation);
  return out;
}

DocumentSequence::DocumentSequence(std::shared_ptr<const TokenStore> store, std::vector<uint64_t> documents)
    : store_(std::move(store)), documents_(std::move(documents)) {
  ends_.reserve(documents_.size());
  uint64_t end = 0;
  for (uint64_t i : documents_) {
    const DocumentView d = store_->document(i);
    ends_.push_back(end += d.tokens());
    bytes_ += d.bytes;
  }
}

/// Goes over the documents of an order from the one that holds a position. There is none behind the last.
class DocumentSequence::Walk {
 public:
  Walk(const DocumentSequence& sequence, uint64_t position, Order order) : sequence_(sequence), order_(order) {
    const auto& ends = sequence.ends_;
    at_ = static_cast<uint64_t>(std::upper_bound(ends.begin(), ends.end(), position) - ends.begin());
    if (order_) at_ = at_ / kBlock * kBlock;
    begin_ = at_ == 0 ? 0 : ends[at_ - 1];
    index_ = index();
    while (position >= end()) next();
  }

  uint64_t document() const { return sequence_.documents_[index_]; }
  uint64_t begin() const { return begin_; }
  uint64_t end() const { return begin_ + sequence_.length(index_); }
  void next() {
    begin_ = end();
    ++at_;
    index_ = index();
  }

 private:
  /// Of the at_-th document of the order.
  uint64_t index() const {
    if (!order_) return at_;
    const uint64_t first = at_ / kBlock * kBlock, size = std::min(kBlock, sequence_.documents() - first);
    return first + permute(at_ - first, size, random_bits(*order_, stream_id("block"), first), stream_id("documents"));
  }

  const DocumentSequence& sequence_;
  const Order order_;
  uint64_t at_ = 0, index_ = 0, begin_ = 0;
};

std::vector<DocumentSequence::Piece> DocumentSequence::pieces(uint64_t begin, uint64_t size, Order order) const {
  std::vector<Piece> out;
  const uint64_t end = std::min(tokens(), begin + size);
  if (begin >= end) return out;
  Walk walk(*this, begin, order);
  for (uint64_t p = begin;;) {
    const DocumentView d = store_->document(walk.document());
    const uint64_t offset = p - walk.begin(), n = std::min(walk.end(), end) - p;
    const double share = static_cast<double>(n) / static_cast<double>(d.tokens());
    out.push_back(
        {p - begin, n, d.begin + offset, offset == 0, offset + n == d.tokens(), share * static_cast<double>(d.bytes)});
    p += n;
    if (p == end) return out;
    walk.next();
  }
}

int32_t DocumentSequence::token_before(const Piece& piece) const {
  if (piece.first) return store_->end_of_text();
  int32_t token = 0;
  store_->read(piece.begin - 1, std::span(&token, 1));
  return token;
}

}  // namespace smamba::data
