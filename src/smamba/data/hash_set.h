// A set of content hashes that takes 16 bytes a slot and no allocation an entry.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "smamba/core/hash.h"

namespace smamba::data {

/// Open addressing with linear probing, at most 7/8 full; doubles when it gets fuller. The hashes are their own hash.
class HashSet {
 public:
  /// False when it was there.
  bool insert(Hash128 hash) {
    if (hash == Hash128{}) hash.low = 1;  // zero marks a free slot
    if ((size_ + 1) * 8 > slots_.size() * 7) grow();
    Hash128& slot = find(hash);
    if (slot == hash) return false;
    slot = hash;
    ++size_;
    return true;
  }
  uint64_t size() const { return size_; }

 private:
  Hash128& find(const Hash128& hash) {
    uint64_t at = hash.low & (slots_.size() - 1);
    while (slots_[at] != Hash128{} && slots_[at] != hash) at = (at + 1) & (slots_.size() - 1);
    return slots_[at];
  }
  void grow() {
    std::vector<Hash128> old(slots_.empty() ? 1024 : slots_.size() * 2);
    std::swap(old, slots_);
    for (const Hash128& hash : old)
      if (hash != Hash128{}) find(hash) = hash;
  }

  std::vector<Hash128> slots_;
  uint64_t size_ = 0;
};

}  // namespace smamba::data
