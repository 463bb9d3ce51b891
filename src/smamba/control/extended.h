// A floating-point number with a 512-bit significand (154 decimal digits), for the few places where double is not
// enough: polynomials of degree 64 and their roots, the continued fraction behind the Schwarz form, and the oracles of
// the tests.
//
// Every operation has a relative error below 2^-508 (results are truncated, not rounded to nearest). The exponent has
// 64 bits: it neither overflows nor underflows in practice. There is no infinity and no NaN: what would make one throws
// Error(kUsage).
#pragma once
#include <array>
#include <complex>
#include <cstdint>

namespace smamba::control {

class Extended {
 public:
  static constexpr int kLimbs = 8;
  static constexpr int kBits = 64 * kLimbs;

  Extended() = default;
  /// Exact. Throws Error(kUsage) for NaN and infinities.
  Extended(double value);  // NOLINT(google-explicit-constructor): mixes with double as double does with float
  Extended(int value) : Extended(static_cast<double>(value)) {}  // NOLINT(google-explicit-constructor)

  /// Nearest double; overflows to +-infinity, underflows to (sub)normals.
  double to_double() const;
  /// Nearest long double (range 1e+-4932).
  long double to_long_double() const;
  /// -1, 0 or 1.
  int sign() const { return sign_; }
  /// e with 2^(e-1) <= |x| < 2^e; 0 for zero.
  int64_t exponent() const { return exponent_; }
  /// x · 2^k, exact.
  Extended scaled(int64_t k) const;

  Extended operator-() const;
  friend Extended operator+(const Extended& a, const Extended& b);
  friend Extended operator-(const Extended& a, const Extended& b) { return a + (-b); }
  friend Extended operator*(const Extended& a, const Extended& b);
  /// Throws Error(kUsage) for b = 0.
  friend Extended operator/(const Extended& a, const Extended& b);
  Extended& operator+=(const Extended& o) { return *this = *this + o; }
  Extended& operator-=(const Extended& o) { return *this = *this - o; }
  Extended& operator*=(const Extended& o) { return *this = *this * o; }
  Extended& operator/=(const Extended& o) { return *this = *this / o; }

  /// -1, 0, 1 for a < b, a = b, a > b.
  friend int compare(const Extended& a, const Extended& b);
  friend bool operator==(const Extended& a, const Extended& b) { return compare(a, b) == 0; }
  friend bool operator!=(const Extended& a, const Extended& b) { return compare(a, b) != 0; }
  friend bool operator<(const Extended& a, const Extended& b) { return compare(a, b) < 0; }
  friend bool operator>(const Extended& a, const Extended& b) { return compare(a, b) > 0; }
  friend bool operator<=(const Extended& a, const Extended& b) { return compare(a, b) <= 0; }
  friend bool operator>=(const Extended& a, const Extended& b) { return compare(a, b) >= 0; }

  friend Extended abs(const Extended& a);
  /// Throws Error(kUsage) for a < 0.
  friend Extended sqrt(const Extended& a);

 private:
  // |x| = (Σ limb[i] 2^(64 i)) · 2^(exponent - 512), with the top bit of the last limb set.
  std::array<uint64_t, kLimbs> limb_{};
  int64_t exponent_ = 0;
  int sign_ = 0;

  static int compare_magnitude(const Extended& a, const Extended& b);
  static Extended add_magnitude(const Extended& a, const Extended& b);       // |a| + |b|
  static Extended subtract_magnitude(const Extended& a, const Extended& b);  // |a| - |b|, for |a| >= |b|
  Extended reciprocal() const;
};

/// A complex number of Extended parts.
struct ExtendedComplex {
  Extended re, im;

  ExtendedComplex() = default;
  ExtendedComplex(Extended real, Extended imag = {}) : re(real), im(imag) {}  // NOLINT(google-explicit-constructor)
  ExtendedComplex(double real) : re(real) {}                                  // NOLINT(google-explicit-constructor)
  ExtendedComplex(std::complex<double> z) : re(z.real()), im(z.imag()) {}     // NOLINT(google-explicit-constructor)
  std::complex<double> to_double() const { return {re.to_double(), im.to_double()}; }
  std::complex<long double> to_long_double() const { return {re.to_long_double(), im.to_long_double()}; }

  ExtendedComplex operator-() const { return {-re, -im}; }
  friend ExtendedComplex operator+(const ExtendedComplex& a, const ExtendedComplex& b) {
    return {a.re + b.re, a.im + b.im};
  }
  friend ExtendedComplex operator-(const ExtendedComplex& a, const ExtendedComplex& b) {
    return {a.re - b.re, a.im - b.im};
  }
  friend ExtendedComplex operator*(const ExtendedComplex& a, const ExtendedComplex& b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
  friend ExtendedComplex operator/(const ExtendedComplex& a, const ExtendedComplex& b) {
    const Extended scale = Extended(1) / (b.re * b.re + b.im * b.im);
    return {(a.re * b.re + a.im * b.im) * scale, (a.im * b.re - a.re * b.im) * scale};
  }
  ExtendedComplex& operator+=(const ExtendedComplex& o) { return *this = *this + o; }
  ExtendedComplex& operator*=(const ExtendedComplex& o) { return *this = *this * o; }
};

}  // namespace smamba::control
