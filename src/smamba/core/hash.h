// Content hashes: fixed functions of the bytes, the same on every machine and in every version (stored in files, used
// for splits).
#pragma once
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace smamba {

struct Hash128 {
  uint64_t low = 0, high = 0;
  auto operator<=>(const Hash128&) const = default;
  /// 32 hexadecimal digits, high word first.
  std::string hex() const;
};

/// 128 bits of the content of `bytes`, not cryptographic. Two chains over little-endian 64-bit words w_i (the last one
/// zero-padded): h <- fold((h ^ w_i) * K) with fold(x) = low 64 bits ^ high 64 bits of the 128-bit product, chain 0
/// over even and chain 1 over odd words, closed with the length (docs/formats/token_store.md).
Hash128 hash128(std::string_view bytes);

}  // namespace smamba

template <>
struct std::hash<smamba::Hash128> {
  size_t operator()(const smamba::Hash128& h) const { return h.low; }
};
