// Spectra: the poles of one layer, real ones and conjugate pairs, and the named ones that a layer can start from.
#pragma once
#include <complex>
#include <string>
#include <string_view>
#include <vector>

namespace smamba::control {

/// n = real.size() + 2 pairs.size() poles. A pair is given by one of its two members; its mirror image is implied.
/// Order of the n real parameters everywhere (as in ops/scan_args.h, kModal): the real poles, then Re, Im of each pair.
struct Spectrum {
  std::vector<double> real;
  std::vector<std::complex<double>> pairs;

  size_t size() const { return real.size() + 2 * pairs.size(); }
  /// All n poles: the real ones, then every pair as (λ, conj λ).
  std::vector<std::complex<double>> poles() const;
  /// The n real parameters in the order above, and back. n_real <= parameters.size(), the rest even in number; else
  /// Error(kUsage).
  std::vector<double> parameters() const;
  static Spectrum from_parameters(const std::vector<double>& parameters, size_t n_real);
  /// Largest real part: negative for a stable spectrum. -infinity for none.
  double abscissa() const;
  bool is_stable() const { return abscissa() < 0; }
  /// Every pole times `factor`, or plus `offset`.
  Spectrum scaled(double factor) const;
  Spectrum shifted(double offset) const;
  /// Throws Error(kUsage), naming the pole, unless all are finite and in the open left half plane. `what` opens the
  /// message.
  void require_stable(std::string_view what) const;
};

/// -1, -2, … -n.
Spectrum real_spectrum(int n);
/// n real poles, evenly spaced from -low to -high, both included (n = 1: -low). 0 < low < high.
Spectrum real_spectrum(int n, double low, double high);
/// -1/2 ± iπ(k + 1/2), k = 0 … n/2 - 1 (S4D-Lin). n even.
Spectrum lin_spectrum(int n);
/// Half of each: n/2 poles of lin (rounded down to an even number, at least a pair where n >= 2), the others real -1,
/// -2, …. So an odd n gets its odd pole from the real half: 2m pair poles with 2m <= max(n/2, 2), n - 2m real ones. n
/// >= 2.
Spectrum mixed_spectrum(int n);
/// The left half of 2n points evenly spaced on the circle of radius `cutoff`. Any n; odd n has the real pole -cutoff.
Spectrum butterworth_spectrum(int n, double cutoff = 1);

/// By name: "real" (evenly spaced from -low to -high where high > 0), "lin", "mixed", "butterworth" (cutoff = high
/// where high > 0). low and high must be 0 for lin and mixed. Throws Error(kUsage): unknown name, n outside 1 … 256,
/// odd n for lin, bad interval.
Spectrum make_spectrum(std::string_view name, int n, double low = 0, double high = 0);
const std::vector<std::string>& spectrum_names();

}  // namespace smamba::control
