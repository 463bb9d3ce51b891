#include "smamba/control/extended.h"

#include <cmath>

#include "smamba/core/error.h"

namespace smamba::control {
namespace {

__extension__ using uint128 = unsigned __int128;
constexpr int kLimbs = Extended::kLimbs;
using Wide = std::array<uint64_t, kLimbs + 1>;  // a significand with a guard limb below

// Shifts right by `count` bits, dropping what falls out.
Wide shift_right(const Wide& in, int64_t count) {
  Wide out{};
  if (count >= 64 * (kLimbs + 1)) return out;
  const int limbs = static_cast<int>(count / 64), bits = static_cast<int>(count % 64);
  for (int i = 0; i + limbs <= kLimbs; ++i) {
    const uint64_t low = in[i + limbs];
    const uint64_t high = i + limbs + 1 <= kLimbs ? in[i + limbs + 1] : 0;
    out[i] = bits == 0 ? low : (low >> bits) | (high << (64 - bits));
  }
  return out;
}

Wide shift_left(const Wide& in, int64_t count) {
  Wide out{};
  const int limbs = static_cast<int>(count / 64), bits = static_cast<int>(count % 64);
  for (int i = kLimbs; i - limbs >= 0; --i) {
    const uint64_t high = in[i - limbs];
    const uint64_t low = i - limbs - 1 >= 0 ? in[i - limbs - 1] : 0;
    out[i] = bits == 0 ? high : (high << bits) | (low >> (64 - bits));
  }
  return out;
}

Wide widen(const std::array<uint64_t, kLimbs>& limb) {
  Wide w{};
  for (int i = 0; i < kLimbs; ++i) w[i + 1] = limb[i];
  return w;
}

int leading_zeros(const Wide& w) {
  for (int i = kLimbs; i >= 0; --i)
    if (w[i] != 0) return 64 * (kLimbs - i) + __builtin_clzll(w[i]);
  return -1;
}

}  // namespace

Extended::Extended(double value) {
  require(std::isfinite(value), "extended precision: expected a finite number, found {}", value);
  if (value == 0) return;
  sign_ = value < 0 ? -1 : 1;
  int e = 0;
  const double m = std::frexp(std::fabs(value), &e);
  limb_[kLimbs - 1] = static_cast<uint64_t>(std::ldexp(m, 64));
  exponent_ = e;
}

double Extended::to_double() const {
  if (sign_ == 0) return 0;
  if (exponent_ > 1100) return sign_ * HUGE_VAL;
  if (exponent_ < -1200) return sign_ * 0.0;
  uint64_t top = limb_[kLimbs - 1];
  for (int i = 0; i < kLimbs - 1; ++i) top |= limb_[i] != 0 ? 1 : 0;  // sticky bit: the conversion rounds to nearest
  return sign_ * std::ldexp(static_cast<double>(top), static_cast<int>(exponent_) - 64);
}

long double Extended::to_long_double() const {
  if (sign_ == 0) return 0;
  if (exponent_ > 16400) return sign_ * HUGE_VALL;
  if (exponent_ < -16600) return sign_ * 0.0L;
  const long double top =
      static_cast<long double>(limb_[kLimbs - 1]) + std::ldexp(static_cast<long double>(limb_[kLimbs - 2]), -64);
  return sign_ * std::ldexp(top, static_cast<int>(exponent_) - 64);
}

Extended Extended::scaled(int64_t k) const {
  Extended out = *this;
  if (sign_ != 0) out.exponent_ += k;
  return out;
}

Extended Extended::operator-() const {
  Extended out = *this;
  out.sign_ = -sign_;
  return out;
}

int Extended::compare_magnitude(const Extended& a, const Extended& b) {
  if (a.sign_ == 0 || b.sign_ == 0) return (a.sign_ != 0) - (b.sign_ != 0);
  if (a.exponent_ != b.exponent_) return a.exponent_ < b.exponent_ ? -1 : 1;
  for (int i = kLimbs - 1; i >= 0; --i)
    if (a.limb_[i] != b.limb_[i]) return a.limb_[i] < b.limb_[i] ? -1 : 1;
  return 0;
}

int compare(const Extended& a, const Extended& b) {
  if (a.sign_ != b.sign_) return a.sign_ < b.sign_ ? -1 : 1;
  return a.sign_ * Extended::compare_magnitude(a, b);
}

Extended Extended::add_magnitude(const Extended& a, const Extended& b) {
  const Extended& large = a.exponent_ >= b.exponent_ ? a : b;
  const Extended& small = a.exponent_ >= b.exponent_ ? b : a;
  const int64_t distance = large.exponent_ - small.exponent_;
  Extended out = large;
  out.sign_ = 1;
  if (distance > kBits) return out;
  const Wide shifted = shift_right(widen(small.limb_), distance);
  uint64_t carry = 0;
  for (int i = 0; i < kLimbs; ++i) {
    const uint128 sum = static_cast<uint128>(large.limb_[i]) + shifted[i + 1] + carry;
    out.limb_[i] = static_cast<uint64_t>(sum);
    carry = static_cast<uint64_t>(sum >> 64);
  }
  if (carry != 0) {
    for (int i = 0; i < kLimbs; ++i)
      out.limb_[i] = (out.limb_[i] >> 1) | (i + 1 < kLimbs ? out.limb_[i + 1] << 63 : uint64_t{1} << 63);
    ++out.exponent_;
  }
  return out;
}

Extended Extended::subtract_magnitude(const Extended& a, const Extended& b) {
  const int64_t distance = a.exponent_ - b.exponent_;
  Extended out = a;
  out.sign_ = 1;
  if (distance > kBits) return out;
  const Wide from = widen(a.limb_), take = shift_right(widen(b.limb_), distance);
  Wide difference{};
  uint64_t borrow = 0;
  for (int i = 0; i <= kLimbs; ++i) {
    const uint128 d = static_cast<uint128>(from[i]) - take[i] - borrow;
    difference[i] = static_cast<uint64_t>(d);
    borrow = (d >> 64) != 0 ? 1 : 0;
  }
  const int zeros = leading_zeros(difference);
  if (zeros < 0) return {};
  const Wide normal = shift_left(difference, zeros);
  for (int i = 0; i < kLimbs; ++i) out.limb_[i] = normal[i + 1];
  out.exponent_ = a.exponent_ - zeros;
  return out;
}

Extended operator+(const Extended& a, const Extended& b) {
  if (a.sign_ == 0) return b;
  if (b.sign_ == 0) return a;
  if (a.sign_ == b.sign_) {
    const Extended sum = Extended::add_magnitude(a, b);
    return a.sign_ > 0 ? sum : -sum;
  }
  const int order = Extended::compare_magnitude(a, b);
  if (order == 0) return {};
  const Extended difference = order > 0 ? Extended::subtract_magnitude(a, b) : Extended::subtract_magnitude(b, a);
  return (order > 0 ? a.sign_ : b.sign_) > 0 ? difference : -difference;
}

Extended operator*(const Extended& a, const Extended& b) {
  if (a.sign_ == 0 || b.sign_ == 0) return {};
  std::array<uint64_t, 2 * kLimbs> product{};
  for (int i = 0; i < kLimbs; ++i) {
    if (a.limb_[i] == 0) continue;  // numbers that came from a double have one limb
    uint64_t carry = 0;
    for (int j = 0; j < kLimbs; ++j) {
      const uint128 t = static_cast<uint128>(a.limb_[i]) * b.limb_[j] + product[i + j] + carry;
      product[i + j] = static_cast<uint64_t>(t);
      carry = static_cast<uint64_t>(t >> 64);
    }
    product[i + kLimbs] = carry;
  }
  Extended out;
  out.sign_ = a.sign_ * b.sign_;
  out.exponent_ = a.exponent_ + b.exponent_;
  const bool normal = (product[2 * kLimbs - 1] >> 63) != 0;
  for (int i = 0; i < kLimbs; ++i)
    out.limb_[i] = normal ? product[i + kLimbs] : (product[i + kLimbs] << 1) | (product[i + kLimbs - 1] >> 63);
  if (!normal) --out.exponent_;
  return out;
}

// Newton's x <- x (2 - d x): 53 correct bits, doubled four times.
Extended Extended::reciprocal() const {
  Extended d = *this;
  d.exponent_ = 0;  // in [1/2, 1)
  d.sign_ = 1;
  Extended x(1.0 / d.to_double());
  for (int i = 0; i < 4; ++i) x += x * (Extended(1) - d * x);
  x.exponent_ -= exponent_;
  x.sign_ = sign_;
  return x;
}

Extended operator/(const Extended& a, const Extended& b) {
  require(b.sign_ != 0, "extended precision: division by zero");
  if (a.sign_ == 0) return {};
  const Extended inverse = b.reciprocal();
  const Extended quotient = a * inverse;
  return quotient + (a - quotient * b) * inverse;
}

Extended abs(const Extended& a) { return a.sign_ < 0 ? -a : a; }

// Newton's y <- y (3 - x y²) / 2 for 1/sqrt(x), then one correction of x y.
Extended sqrt(const Extended& a) {
  require(a.sign_ >= 0, "extended precision: square root of a negative number");
  if (a.sign_ == 0) return {};
  const int64_t half = a.exponent_ >= 0 ? a.exponent_ / 2 : -((1 - a.exponent_) / 2);
  const Extended x = a.scaled(-2 * half);  // in [1/2, 2)
  Extended y(1.0 / std::sqrt(x.to_double()));
  for (int i = 0; i < 4; ++i) y += (y * (Extended(1) - x * y * y)).scaled(-1);
  Extended root = x * y;
  root += ((x - root * root) * y).scaled(-1);
  return root.scaled(half);
}

}  // namespace smamba::control
