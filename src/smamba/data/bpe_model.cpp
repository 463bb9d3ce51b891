#include "smamba/data/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <queue>

namespace smamba::data {
namespace {

constexpr size_t kShort = 96;  // up to here scanning all pairs for the lowest rank beats the queue

}  // namespace

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_ids, std::vector<int32_t> token_sizes,
                   const std::vector<BpeMerge>& merges, std::unordered_map<std::string, int32_t> words)
    : byte_ids_(byte_ids), token_sizes_(std::move(token_sizes)), merges_(merges), words_(std::move(words)) {
  complete_ = std::find(byte_ids_.begin(), byte_ids_.end(), -1) == byte_ids_.end();
  const size_t size = std::bit_ceil(std::max<size_t>(16, 2 * merges.size()));
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
  slots_.assign(size, {kEmpty, kNoRank, -1});
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& m = merges[rank];
    const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(m.left)) << 32 | static_cast<uint32_t>(m.right);
    size_t s = slot_of(pair);
    while (slots_[s].pair != kEmpty) s = (s + 1) & mask_;
    slots_[s] = {pair, static_cast<uint32_t>(rank), m.result};
  }
}

bool BpeModel::lacks_a_byte(const uint8_t* word, size_t n) const {
  return std::any_of(word, word + n, [&](uint8_t b) { return byte_ids_[b] < 0; });
}

void BpeModel::encode_word(const uint8_t* word, size_t n, std::vector<int32_t>& out) const {
  if (n == 0) return;
  if (!complete_ && lacks_a_byte(word, n)) {
    std::string replaced;
    for (size_t i = 0; i < n; ++i)
      byte_ids_[word[i]] < 0 ? replaced.append("\xEF\xBF\xBD") : replaced.append(1, static_cast<char>(word[i]));
    return encode_word(reinterpret_cast<const uint8_t*>(replaced.data()), replaced.size(), out);
  }
  if (n == 1 && words_.empty()) return out.push_back(byte_ids_[word[0]]);
  if (!words_.empty()) {
    const auto found = words_.find(std::string(reinterpret_cast<const char*>(word), n));
    if (found != words_.end()) return out.push_back(found->second);
  }
  n <= kShort ? encode_short(word, n, out) : encode_long(word, n, out);
}

void BpeModel::encode_short(const uint8_t* word, size_t n, std::vector<int32_t>& out) const {
  int32_t ids[kShort];
  Slot pairs[kShort];  // pairs[i] joins ids[i] and ids[i + 1]
  for (size_t i = 0; i < n; ++i) ids[i] = byte_ids_[word[i]];
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = find(ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].result;
    --n;
    std::copy(ids + best + 2, ids + n + 1, ids + best + 1);
    if (n > 1) std::copy(pairs + best + 1, pairs + n, pairs + best);
    if (best > 0) pairs[best - 1] = find(ids[best - 1], ids[best]);
    if (best + 1 < n) pairs[best] = find(ids[best], ids[best + 1]);
  }
  out.insert(out.end(), ids, ids + n);
}

namespace {

constexpr uint32_t kStart = uint32_t{1} << 31;
constexpr uint32_t kInside = kStart - 1;  // neither the first nor the last byte of a token

/// Places waiting for one merge, each once or more: sorted ones from `next` on, then those that came later.
struct Places {
  std::vector<uint32_t> at;
  size_t next = 0, sorted = 0;

  void settle() {
    if (sorted < at.size()) {
      at.erase(at.begin(), at.begin() + static_cast<ptrdiff_t>(next));
      sorted -= next;
      next = 0;
      const auto middle = at.begin() + static_cast<ptrdiff_t>(sorted);
      std::sort(middle, at.end());
      std::inplace_merge(at.begin(), middle, at.end());
      sorted = at.size();
    }
  }
};

}  // namespace

// A token is marked in `cells` at its first byte (id | kStart) and at its last (id), so both neighbours of any place
// are found without links. Places wait in one list per rank; lists are taken by rank, and each is walked from left to
// right.
void BpeModel::encode_long(const uint8_t* word, size_t n, std::vector<int32_t>& out) const {
  std::vector<uint32_t> cells(n);
  for (size_t i = 0; i < n; ++i) cells[i] = static_cast<uint32_t>(byte_ids_[word[i]]) | kStart;
  std::unordered_map<uint32_t, Places> waiting;
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> ranks;
  const auto add = [&](uint32_t rank, size_t place) {
    auto [entry, fresh] = waiting.try_emplace(rank);
    if (fresh) ranks.push(rank);
    entry->second.at.push_back(static_cast<uint32_t>(place));
  };
  const auto id_at = [&](size_t i) { return static_cast<int32_t>(cells[i] & ~kStart); };
  const auto size_of = [&](int32_t id) { return static_cast<size_t>(token_sizes_[static_cast<size_t>(id)]); };
  for (size_t i = 0; i + 1 < n; ++i)
    if (const Slot pair = find(id_at(i), id_at(i + 1)); pair.rank != kNoRank) add(pair.rank, i);

  while (!ranks.empty()) {
    const uint32_t rank = ranks.top();
    Places& places = waiting.at(rank);
    places.settle();
    const BpeMerge& merge = merges_[rank];
    const size_t left_size = size_of(merge.left), right_size = size_of(merge.right);
    const uint32_t left_cell = static_cast<uint32_t>(merge.left) | kStart;
    const uint32_t right_cell = static_cast<uint32_t>(merge.right) | kStart;
    bool lower = false;  // a merge of a lower rank has become possible: it goes first
    while (places.next < places.sorted && !lower) {
      const size_t begin = places.at[places.next++], middle = begin + left_size, end = middle + right_size;
      if (cells[begin] != left_cell || middle >= n || cells[middle] != right_cell) continue;
      cells[middle - 1] = cells[middle] = kInside;
      cells[end - 1] = static_cast<uint32_t>(merge.result);
      cells[begin] = static_cast<uint32_t>(merge.result) | kStart;
      if (begin > 0) {
        const int32_t before = id_at(begin - 1);
        const Slot pair = find(before, merge.result);
        if (pair.rank != kNoRank) add(pair.rank, begin - size_of(before)), lower |= pair.rank < rank;
      }
      if (end < n) {
        const Slot pair = find(merge.result, id_at(end));
        if (pair.rank != kNoRank) add(pair.rank, begin), lower |= pair.rank < rank;
      }
    }
    if (places.next < places.at.size()) continue;
    if (lower) {  // the top of the queue is another rank now
      places = {};
      continue;
    }
    ranks.pop();
    waiting.erase(rank);
  }
  for (size_t i = 0; i < n; i += size_of(out.back())) out.push_back(id_at(i));
}

}  // namespace smamba::data
