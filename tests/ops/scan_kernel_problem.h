// A scan problem with random contents in awkward memory (odd offsets and strides, NaN in all padding), run by the CPU
// kernels and by the double-precision oracle, and compared.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ops/scan_kernel_reference.h"
#include "smamba/ops/cpu/scan.h"

namespace smamba::ops::test {

struct Shape {
  int64_t batch = 2, length = 37, channels = 19, state = 4;
  int64_t pairs = 0;  // of the state: 2 * pairs coordinates
  Transition transition = Transition::kModal;
  Discretization discretization = Discretization::kZoh;
  bool shared_a = true, softplus = true, selective_b = true, selective_c = true;
  bool z = true, gain = true, skip = true, bias = true, initial = true, final_gradient = true, reset = false;
  DType dtype = DType::kFloat32;
  int64_t pad = 3;         // elements between rows
  double delta_mean = -2;  // of the raw delta
  double pole_scale = 1;
};

/// A (B, L, X) array in a buffer of its own, every element outside it NaN.
class Array3 {
 public:
  Array3() = default;
  Array3(int64_t batch, int64_t length, int64_t width, int64_t pad, DType dtype)
      : batch_(batch), length_(length), width_(width), dtype_(dtype) {
    time_stride_ = width + pad;
    batch_stride_ = length * time_stride_ + pad;
    lead_ = pad;
    const int64_t n =
        lead_ + (batch * length > 0 ? (batch - 1) * batch_stride_ + (length - 1) * time_stride_ + width : 0);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    if (dtype == DType::kFloat32) {
      floats_.assign(n, nan);
    } else {
      halves_.assign(n, 0x7FC0);
    }
  }
  bool present() const { return time_stride_ > 0; }
  Sequence view() {
    if (!present()) return {};
    void* p = dtype_ == DType::kFloat32 ? static_cast<void*>(floats_.data() + lead_)
                                        : static_cast<void*>(halves_.data() + lead_);
    return {p, batch_stride_, time_stride_};
  }
  void set(const std::vector<double>& values) {
    each([&](int64_t i, int64_t at) {
      const float x = static_cast<float>(values[i]);
      if (dtype_ == DType::kFloat32) {
        floats_[at] = x;
      } else {
        const auto bits = std::bit_cast<uint32_t>(x);
        halves_[at] = static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
      }
    });
  }
  std::vector<double> values() const {
    std::vector<double> out(batch_ * length_ * width_);
    each([&](int64_t i, int64_t at) { out[i] = value(at); });
    return out;
  }
  /// Padding is still NaN.
  bool padding_untouched() const {
    std::vector<bool> inside(std::max(floats_.size(), halves_.size()));
    each([&](int64_t, int64_t at) { inside[at] = true; });
    for (size_t at = 0; at < inside.size(); ++at) {
      if (!inside[at] && !std::isnan(value(static_cast<int64_t>(at)))) return false;
    }
    return true;
  }

 private:
  double value(int64_t at) const {
    return dtype_ == DType::kFloat32 ? floats_[at] : std::bit_cast<float>(static_cast<uint32_t>(halves_[at]) << 16);
  }
  template <class Body>
  void each(Body&& body) const {
    int64_t i = 0;
    for (int64_t b = 0; b < batch_; ++b) {
      for (int64_t t = 0; t < length_; ++t) {
        for (int64_t x = 0; x < width_; ++x) body(i++, lead_ + b * batch_stride_ + t * time_stride_ + x);
      }
    }
  }
  int64_t batch_ = 0, length_ = 0, width_ = 0, batch_stride_ = 0, time_stride_ = 0, lead_ = 0;
  DType dtype_ = DType::kFloat32;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

/// Everything that a run writes, as plain numbers.
struct Results {
  std::vector<std::pair<std::string, std::vector<double>>> items;
  bool padding_untouched = true;
};

class Problem {
 public:
  explicit Problem(const Shape& shape, uint32_t seed = 1) : s(shape), random_(seed) {
    const int64_t B = s.batch, L = s.length, D = s.channels, S = s.state;
    u = sequence(D, normal(B * L * D, 0, 1));
    delta = sequence(D, s.softplus ? normal(B * L * D, s.delta_mean, 1.2) : uniform(B * L * D, 0.001, 0.4));
    if (s.z) z = sequence(D, normal(B * L * D, 0, 1.5));
    d_out = sequence(D, normal(B * L * D, 0, 1));
    if (s.selective_b) b_sel = sequence(S, normal(B * L * S, 0, 1));
    if (s.selective_c) c_sel = sequence(S, normal(B * L * S, 0, 1));
    b_fixed = floats(normal(S, 0, 1)), c_fixed = floats(normal(S, 0, 1));
    a = make_a();
    gain = floats(uniform(D, 0.5, 1.5)), skip = floats(normal(D, 0, 1)),
    bias = floats(s.softplus ? normal(D, 0, 0.3) : uniform(D, 0, 0.05));
    initial = floats(normal(B * D * S, 0, 1)), d_final = floats(normal(B * D * S, 0, 1));
    reset.assign(B * L, 0);
    for (auto& r : reset) r = uniform(1, 0, 1)[0] < 0.12;
    if (!reset.empty()) reset[0] = 1;
  }

  ScanArgs args() {
    ScanArgs x;
    x.batch = s.batch, x.length = s.length, x.channels = s.channels, x.state = s.state;
    x.n_real = s.transition == Transition::kModal ? s.state - 2 * s.pairs : 0;
    x.transition = s.transition, x.discretization = s.discretization;
    x.shared_a = s.shared_a, x.softplus = s.softplus, x.dtype = s.dtype;
    x.shift = kShift;
    x.u = u.view(), x.delta = delta.view(), x.z = z.view(), x.b_sel = b_sel.view(), x.c_sel = c_sel.view();
    if (!s.selective_b) x.b_fixed = b_fixed.data();
    if (!s.selective_c) x.c_fixed = c_fixed.data();
    x.a = a.data();
    if (s.gain) x.gain = gain.data();
    if (s.skip) x.skip = skip.data();
    if (s.bias) x.delta_bias = bias.data();
    if (s.reset) x.reset = reset.data();
    if (s.initial) x.initial_state = initial.data();
    return x;
  }

  Results run() {
    const int64_t B = s.batch, D = s.channels, S = s.state;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    ScanArgs x = args();
    Array3 out = sequence(D), d_u = sequence(D), d_delta = sequence(D), d_z = sequence(D), d_b = sequence(S),
           d_c = sequence(S);
    std::vector<float> final_state(B * D * S, nan), checkpoints(cpu::scan_checkpoint_floats(x));
    x.out = out.view(), x.final_state = final_state.data(), x.checkpoints = checkpoints.data();
    cpu::scan_forward(x);

    ScanGradients g;
    std::vector<float> d_a(a.size(), nan), d_gain(D, nan), d_skip(D, nan), d_bias(D, nan), d_bf(S, nan), d_cf(S, nan),
        d_initial(B * D * S, nan);
    g.d_out = d_out.view();
    if (s.final_gradient) g.d_final_state = d_final.data();
    g.d_u = d_u.view(), g.d_delta = d_delta.view();
    if (s.z) g.d_z = d_z.view();
    if (s.selective_b) g.d_b_sel = d_b.view();
    if (s.selective_c) g.d_c_sel = d_c.view();
    if (!s.selective_b) g.d_b_fixed = d_bf.data();
    if (!s.selective_c) g.d_c_fixed = d_cf.data();
    g.d_a = d_a.data();
    if (s.gain) g.d_gain = d_gain.data();
    if (s.skip) g.d_skip = d_skip.data();
    if (s.bias) g.d_delta_bias = d_bias.data();
    if (s.initial) g.d_initial_state = d_initial.data();
    x.out = {};
    cpu::scan_backward(x, g);

    Results r;
    const auto add_array = [&](const char* name, const Array3& array) {
      r.items.emplace_back(name, array.values());
      r.padding_untouched = r.padding_untouched && array.padding_untouched();
    };
    const auto add = [&](const char* name, const std::vector<float>& v) {
      r.items.emplace_back(name, std::vector<double>(v.begin(), v.end()));
    };
    add_array("out", out), add("final_state", final_state), add_array("d_u", d_u), add_array("d_delta", d_delta);
    s.selective_b ? add_array("d_B", d_b) : add("d_B", d_bf);
    s.selective_c ? add_array("d_C", d_c) : add("d_C", d_cf);
    add("d_A", d_a);
    if (s.z) add_array("d_z", d_z);
    if (s.gain) add("d_gain", d_gain);
    if (s.skip) add("d_skip", d_skip);
    if (s.bias) add("d_delta_bias", d_bias);
    if (s.initial) add("d_initial_state", d_initial);
    return r;
  }

  Results reference() {
    Var::tape.clear();
    ReferenceInputs in;
    in.batch = s.batch, in.length = s.length, in.channels = s.channels, in.state = s.state, in.n_real = args().n_real;
    in.transition = s.transition, in.discretization = s.discretization, in.shift = kShift;
    in.shared_a = s.shared_a, in.softplus = s.softplus, in.selective_b = s.selective_b, in.selective_c = s.selective_c;
    in.u = vars(u.values()), in.delta = vars(delta.values()), in.z = vars(z.values());
    in.b = s.selective_b ? vars(b_sel.values()) : vars(b_fixed);
    in.c = s.selective_c ? vars(c_sel.values()) : vars(c_fixed);
    in.a = vars(a);
    if (s.gain) in.gain = vars(gain);
    if (s.skip) in.skip = vars(skip);
    if (s.bias) in.delta_bias = vars(bias);
    if (s.initial) in.initial_state = vars(initial);
    if (s.reset) in.reset = reset;
    const ReferenceOutputs out = reference_scan(in);
    std::vector<std::pair<Var, double>> roots;
    const std::vector<double> seed = d_out.values();
    for (size_t i = 0; i < seed.size(); ++i) roots.emplace_back(out.out[i], seed[i]);
    for (size_t i = 0; i < out.final_state.size() && s.final_gradient; ++i)
      roots.emplace_back(out.final_state[i], d_final[i]);
    const std::vector<double> g = Var::gradients(roots);

    Results r;
    const auto value = [&](const char* name, const std::vector<Var>& v) {
      std::vector<double> x;
      for (const Var& e : v) x.push_back(e.v);
      r.items.emplace_back(name, x);
    };
    const auto gradient = [&](const char* name, const std::vector<Var>& v) {
      std::vector<double> x;
      for (const Var& e : v) x.push_back(g[e.id]);
      r.items.emplace_back(name, x);
    };
    value("out", out.out), value("final_state", out.final_state), gradient("d_u", in.u), gradient("d_delta", in.delta);
    gradient("d_B", in.b), gradient("d_C", in.c), gradient("d_A", in.a);
    if (s.z) gradient("d_z", in.z);
    if (s.gain) gradient("d_gain", in.gain);
    if (s.skip) gradient("d_skip", in.skip);
    if (s.bias) gradient("d_delta_bias", in.delta_bias);
    if (s.initial) gradient("d_initial_state", in.initial_state);
    return r;
  }

  std::string name() const {
    static const char* kMethods[] = {"zoh", "euler_b", "bilinear"};
    static const char* kForms[] = {"modal", "companion", "companion transposed", "schwarz"};
    return std::string(kForms[static_cast<int>(s.transition)]) + " " + kMethods[static_cast<int>(s.discretization)] +
           " B" + std::to_string(s.batch) + " L" + std::to_string(s.length) + " D" + std::to_string(s.channels) + " S" +
           std::to_string(s.state) + " pairs" + std::to_string(s.pairs) + (s.shared_a ? " shared" : " per channel") +
           (s.selective_b ? " B" : " b") + (s.selective_c ? " C" : " c") + (s.reset ? " reset" : "") +
           (s.dtype == DType::kFloat32 ? " f32" : " bf16");
  }

  Shape s;
  Array3 u, delta, z, d_out, b_sel, c_sel;
  std::vector<float> b_fixed, c_fixed, a, gain, skip, bias, initial, d_final;
  std::vector<uint8_t> reset;
  static constexpr float kShift = 1.0f / 1024;

 private:
  static std::vector<float> floats(const std::vector<double>& v) { return {v.begin(), v.end()}; }
  template <class T>
  static std::vector<Var> vars(const std::vector<T>& v) {
    std::vector<Var> out;
    for (const T x : v) out.push_back(Var::input(x));
    return out;
  }
  std::vector<double> normal(int64_t n, double mean, double deviation) {
    std::normal_distribution<double> law(mean, deviation);
    std::vector<double> v(n);
    for (double& x : v) x = law(random_);
    return v;
  }
  std::vector<double> uniform(int64_t n, double low, double high) {
    std::uniform_real_distribution<double> law(low, high);
    std::vector<double> v(n);
    for (double& x : v) x = law(random_);
    return v;
  }
  Array3 sequence(int64_t width) const { return Array3(s.batch, s.length, width, s.pad, s.dtype); }
  Array3 sequence(int64_t width, const std::vector<double>& values) const {
    Array3 array = sequence(width);
    array.set(values);
    return array;
  }
  std::vector<float> make_a() {
    std::vector<float> v((s.shared_a ? 1 : s.channels) * s.state);
    const int64_t n_real = s.state - 2 * s.pairs;
    for (size_t i = 0; i < v.size(); ++i) {
      const int64_t n = static_cast<int64_t>(i) % s.state;
      if (s.transition == Transition::kSchwarz) {
        v[i] = static_cast<float>(uniform(1, 0.5, 2)[0]);
      } else if (s.transition != Transition::kModal) {
        v[i] = static_cast<float>(uniform(1, 0.1, 0.6)[0]);
      } else if (n < n_real) {
        v[i] = static_cast<float>(-s.pole_scale * (n + uniform(1, 0.2, 1.2)[0]));
      } else if ((n - n_real) % 2 == 0) {
        v[i] = static_cast<float>(-s.pole_scale * uniform(1, 0.3, 0.7)[0]);
      } else {
        v[i] = static_cast<float>(s.pole_scale * 3.14159265 * ((n - n_real) / 2 + 0.5));
      }
    }
    return v;
  }
  std::mt19937 random_;
};

/// |got - want| <= tolerance (|want| + max(max|want|, least)): sums round at the size of their largest terms, which is
/// that of the largest results, or of the inputs (1) where all results are small by cancellation.
inline void expect_close(const Results& got, const Results& want, double tolerance, const std::string& label,
                         double least = 0) {
  ASSERT_EQ(got.items.size(), want.items.size());
  for (size_t i = 0; i < got.items.size(); ++i) {
    const auto& [name, g] = got.items[i];
    const auto& w = want.items[i].second;
    ASSERT_EQ(name, want.items[i].first);
    ASSERT_EQ(g.size(), w.size()) << label << ": " << name;
    double scale = least, worst = 0;
    size_t at = 0;
    for (const double x : w) scale = std::max(scale, std::abs(x));
    for (size_t k = 0; k < g.size(); ++k) {
      const double ratio = std::abs(g[k] - w[k]) / (tolerance * (std::abs(w[k]) + scale) + 1e-30);
      if (!(ratio <= worst)) worst = std::isnan(ratio) ? 1e9 : ratio, at = k;
    }
    EXPECT_LE(worst, 1) << label << ": " << name << "[" << at << "] got " << g[at] << ", expected " << w[at]
                        << ", largest " << scale;
  }
  EXPECT_TRUE(got.padding_untouched) << label;
}

}  // namespace smamba::ops::test
