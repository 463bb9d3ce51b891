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

std::vector<DocumentSequence::Piece> DocumentSequence::pieces(uint64_t begin, uint64_t size) const {
  std::vector<Piece> out;
  const uint64_t end = std::min(tokens(), begin + size);
  auto i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), begin) - ends_.begin());
  for (uint64_t p = begin; p < end; ++i) {
    const DocumentView d = store_->document(documents_[i]);
    const uint64_t offset = p - (ends_[i] - d.tokens()), n = std::min(ends_[i], end) - p;
    const double share = static_cast<double>(n) / static_cast<double>(d.tokens());
    out.push_back(
        {p - begin, n, d.begin + offset, offset == 0, p + n == ends_[i], share * static_cast<double>(d.bytes)});
    p += n;
  }
  return out;
}

int32_t DocumentSequence::token_before(uint64_t position) const {
  const auto i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), position) - ends_.begin());
  const DocumentView d = store_->document(documents_[i]);
  const uint64_t offset = position - (ends_[i] - d.tokens());
  if (offset == 0) return store_->end_of_text();
  int32_t token = 0;
  store_->read(d.begin + offset - 1, std::span(&token, 1));
  return token;
}

}  // namespace smamba::data
