#include "smamba/core/hash.h"

#include <fmt/format.h>

#include <cstring>

#include "smamba/core/random.h"

namespace smamba {
namespace {

constexpr uint64_t kMultiplier[2] = {0x9e3779b97f4a7c15ULL, 0xd1342543de82ef95ULL};

uint64_t fold(uint64_t a, uint64_t b) {
  __extension__ using uint128 = unsigned __int128;
  const uint128 product = static_cast<uint128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t word(const char* p, size_t size) {
  uint64_t w = 0;
  std::memcpy(&w, p, size);
  return w;
}

// A word that equals the chain would send it to zero for good; adding the multiplier leaves the fixed point again.
uint64_t absorb(uint64_t h, uint64_t w, uint64_t multiplier) { return fold(h ^ w, multiplier) + multiplier; }

}  // namespace

Hash128 hash128(std::string_view bytes) {
  uint64_t h0 = mix64(1), h1 = mix64(2);
  const char* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 16; p += 16, left -= 16) {
    h0 = absorb(h0, word(p, 8), kMultiplier[0]);
    h1 = absorb(h1, word(p + 8, 8), kMultiplier[1]);
  }
  h0 = absorb(h0, word(p, left < 8 ? left : 8), kMultiplier[0]);
  h1 = absorb(h1, left > 8 ? word(p + 8, left - 8) : 0, kMultiplier[1]);
  const uint64_t a = mix64(h0 ^ bytes.size()), b = mix64(h1 + a);
  return {mix64(a ^ b), mix64(b + 0x9e3779b97f4a7c15ULL * a)};
}

std::string Hash128::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

}  // namespace smamba
