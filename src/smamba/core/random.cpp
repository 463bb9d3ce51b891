#include "smamba/core/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "smamba/core/error.h"

namespace smamba {

double Random::normal() {
  const double u = 1.0 - uniform();  // in (0, 1]: the logarithm is finite
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * uniform());
}

uint64_t permute(uint64_t i, uint64_t n, uint64_t seed, uint64_t stream) {
  // The walk below comes back to [0, n) only from inside.
  require(i < n, "permute: expected an item below {}, found {}", n, i);
  if (n == 1) return 0;
  // Two halves of equal width that together cover n; walk the cycle until the value falls inside [0, n): fewer than 4
  // rounds on average.
  const int half = (std::bit_width(n - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (random_bits(seed, stream + round, right) & mask);
      left = right;
      right = next;
    }
    i = (left << half) | right;
  } while (i >= n);
  return i;
}

}  // namespace smamba
