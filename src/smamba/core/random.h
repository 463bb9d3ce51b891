// Random numbers as pure functions of (seed, stream, counter): nothing to save, the same on every machine and for every
// number of threads.
#pragma once
#include <cstdint>
#include <string_view>

namespace smamba {

/// 64 random bits from a 64-bit value (the finaliser of SplitMix64, Steele, Lea and Flood 2014): a bijection with full
/// avalanche.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// A stream's number from its name ("fim", "shuffle", "init/layers.0"): FNV-1a.
constexpr uint64_t stream_id(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

/// The counter-th 64 bits of a stream.
constexpr uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t counter) {
  return mix64(mix64(mix64(seed) ^ stream) + counter * 0x9e3779b97f4a7c15ULL);
}

/// A generator over one stream; its whole state is (seed, stream, counter).
class Random {
 public:
  Random(uint64_t seed, uint64_t stream, uint64_t counter = 0) : seed_(seed), stream_(stream), counter_(counter) {}
  Random(uint64_t seed, std::string_view stream) : Random(seed, stream_id(stream)) {}

  uint64_t bits() { return random_bits(seed_, stream_, counter_++); }
  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform in [0, n); n > 0. Bias below 2^-64 n (multiply-high).
  uint64_t below(uint64_t n) {
    __extension__ using uint128 = unsigned __int128;
    return static_cast<uint64_t>((static_cast<uint128>(bits()) * n) >> 64);
  }
  /// Standard normal (Box-Muller, one value a call).
  double normal();
  uint64_t counter() const { return counter_; }

 private:
  uint64_t seed_, stream_, counter_;
};

/// Position of item i under the pseudo-random permutation of [0, n) chosen by (seed, stream): a four-round Feistel
/// network with cycle walking. Stateless: any element of a shuffle in O(1), nothing materialised.
/// Error unless i < n.
uint64_t permute(uint64_t i, uint64_t n, uint64_t seed, uint64_t stream);

}  // namespace smamba
