// A selection of a store's documents as one long sequence of (input, target) pairs.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "smamba/data/token_store.h"

namespace smamba::data {

/// Which documents of a store.
enum class Part { kAll, kTrain, kValidation };
Part parse_part(std::string_view text);  // "all", "train", "validation"; Error(kUsage)

/// Splits by the hash of a document's text: a document stays on its side when others are added, and equal documents are
/// on the same side.
struct Split {
  double validation = 0.0;  // share of the documents, in [0, 1)
  uint64_t seed = 0;
  bool is_validation(const Hash128& hash) const;
};

/// The indices of the documents of a part, ascending. Error(kBadData) when there is none.
std::vector<uint64_t> select_documents(const TokenStore& store, Part part, const Split& split);

/// The documents, one after the other: position p pairs target S[p] with input S[p - 1], where S is their tokens and
/// S[-1] is end_of_text. Documents end with end_of_text, so every document is entered through one.
///
/// An order permutes the documents inside each block of kBlock consecutive ones, by the stateless permutation of
/// (order, block): a block keeps its tokens' range, so a position is found without going over the documents before its
/// block, and no order is ever stored. Immutable; 16 bytes a document.
class DocumentSequence {
 public:
  static constexpr uint64_t kBlock = 256;
  using Order = std::optional<uint64_t>;  // none: as they were given

  DocumentSequence(std::shared_ptr<const TokenStore> store, std::vector<uint64_t> documents);

  uint64_t tokens() const { return ends_.empty() ? 0 : ends_.back(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t documents() const { return documents_.size(); }
  const TokenStore& store() const { return *store_; }

  /// One run of targets inside a document.
  struct Piece {
    uint64_t at;       // first target, counted from the start of the range
    uint64_t size;     // targets
    uint64_t begin;    // their place in the store
    bool first, last;  // holds the document's first / last (end_of_text) target
    double bytes;      // pro rata
  };
  /// The pieces of positions [begin, begin + size), cut at the end of the sequence. O(log documents + pieces), and with
  /// an order kBlock more.
  std::vector<Piece> pieces(uint64_t begin, uint64_t size, Order order = std::nullopt) const;
  /// The token before the first target of a piece: the input that predicts it.
  int32_t token_before(const Piece& piece) const;

 private:
  class Walk;

  uint64_t length(uint64_t i) const { return ends_[i] - (i == 0 ? 0 : ends_[i - 1]); }

  std::shared_ptr<const TokenStore> store_;
  std::vector<uint64_t> documents_, ends_;
  uint64_t bytes_ = 0;
};

}  // namespace smamba::data
