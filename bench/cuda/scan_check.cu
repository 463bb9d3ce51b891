// scan_check [quick | general | repeats [count] | offsets]: holds the scan kernels to double precision on fresh random
// inputs: every transition and step rule, both element types, ragged lengths, padded and unaligned views, resets,
// initial and final states, long sequences cut into segments; bit-equal gradients over 1000 runs, or `count`; arrays of
// more than 2^31 elements.
#include <numeric>

#include "scan_device.h"

using namespace harness;
using ops::Discretization;
using ops::Transition;
using reference::Problem;
using reference::Result;

namespace {

Checks checks;

// Relative L2 errors. float32: rounding errors of n · memory operations of unit roundoff 6e-8, several times over.
// bfloat16: the inputs are exact, the outputs rounded to 2^-9, and the sums of float32 outputs are taken in tf32
// operands, 2^-11 each. The norm that a gradient's error is held against is at least what it would be if its terms had
// random signs: one number of a sum may be far below them, and its error is not.
double limit(DType type, bool rounded_output) { return type == DType::kFloat32 ? 2e-5 : rounded_output ? 4e-3 : 3e-3; }

double norm(const std::vector<double>& squares) {
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

void compare(const Result& got, const Result& want, const Problem& p, DType type) {
  checks.expect("out", got.out, want.out, limit(type, true));
  checks.expect("final_state", got.final_state, want.final_state, type == DType::kFloat32 ? 2e-5 : 1e-4);
  checks.expect("d_u", got.d_u, want.d_u, limit(type, true));
  checks.expect("d_delta", got.d_delta, want.d_delta, limit(type, true));
  if (!p.z.empty()) checks.expect("d_z", got.d_z, want.d_z, limit(type, true));
  checks.expect("d_B", got.d_b, want.d_b, limit(type, true), norm(want.squares.b));
  checks.expect("d_C", got.d_c, want.d_c, limit(type, true), norm(want.squares.c));
  checks.expect("d_A", got.d_a, want.d_a, limit(type, false), norm(want.squares.a));
  checks.expect("d_gain", got.d_gain, want.d_gain, limit(type, false), norm(want.squares.gain));
  checks.expect("d_skip", got.d_skip, want.d_skip, limit(type, false), norm(want.squares.skip));
  checks.expect("d_delta_bias", got.d_bias, want.d_bias, limit(type, false), norm(want.squares.bias));
  checks.expect("d_initial", got.d_initial, want.d_initial, type == DType::kFloat32 ? 2e-5 : 1e-3);
}

void check(const Problem& p, DType type, int64_t pad, const std::string& name) {
  checks.context = name + (type == DType::kFloat32 ? " float32" : " bfloat16") + " B" + std::to_string(p.batch) + " L" +
                   std::to_string(p.length) + " D" + std::to_string(p.channels) + " S" + std::to_string(p.state) +
                   " pad" + std::to_string(pad);
  DeviceScan scan(p, type, pad);
  const Result first = scan.run(), second = scan.run();
  compare(first, reference::scan(p), p, type);
  for (auto member :
       {&Result::out, &Result::final_state, &Result::d_u, &Result::d_delta, &Result::d_z, &Result::d_b, &Result::d_c,
        &Result::d_a, &Result::d_gain, &Result::d_skip, &Result::d_bias, &Result::d_initial})
    checks.expect(std::equal((first.*member).begin(), (first.*member).end(), (second.*member).begin()),
                  "two runs differ");
}

/// Everything optional present.
Problem with_everything(Problem p) {
  const int64_t states = p.batch * p.channels * p.state;
  p.gain = rounded(normal(p.channels), DType::kFloat32);
  p.initial = rounded(normal(states), DType::kFloat32);
  p.d_final = rounded(normal(states), DType::kFloat32);
  p.reset.resize(p.batch * p.length);
  for (size_t i = 0; i < p.reset.size(); ++i) p.reset[i] = generator()() % 23 == 0;
  return p;
}

Problem with_fixed(Problem p, bool b, bool c) {
  if (b) p.b_selective = false, p.b = rounded(normal(p.state), DType::kFloat32);
  if (c) p.c_selective = false, p.c = rounded(normal(p.state), DType::kFloat32);
  return p;
}

Problem with_poles_per_channel(Problem p) {
  p.shared_a = false;
  std::vector<double> a;
  for (int64_t d = 0; d < p.channels; ++d)
    for (int64_t k = 0; k < p.state; ++k) a.push_back(float(-(k + 1) * (1 + 0.05 * normal(1)[0])));
  p.a = a;
  return p;
}

void check_modal(DType type) {
  const auto zoh = Discretization::kZoh, euler = Discretization::kEulerB;
  const auto modal = Transition::kModal;
  for (const auto kind : {zoh, euler}) {
    const std::string name = kind == zoh ? "zoh" : "euler";
    for (const ScanShape shape : {ScanShape{2, 1, 32, 16},
                                  {1, 15, 40, 16},
                                  {2, 65, 32, 16},
                                  {1, 200, 36, 8},
                                  {1, 131, 33, 5},
                                  {2, 97, 32, 32},
                                  {1, 70, 32, 64},
                                  {1, 34, 20, 48}})
      check(random_scan(shape, type, modal, kind), type, 0, name);
    check(with_everything(random_scan({2, 150, 40, 16}, type, modal, kind)), type, 0, name + " everything");
    check(with_everything(random_scan({2, 150, 40, 16}, type, modal, kind)), type, 1, name + " everything");
    check(with_everything(with_fixed(random_scan({2, 90, 40, 32}, type, modal, kind), true, false)), type, 4,
          name + " fixed B everything");
    check(with_fixed(random_scan({2, 150, 40, 16}, type, modal, kind), true, false), type, 0, name + " fixed B");
    check(with_fixed(random_scan({2, 150, 40, 16}, type, modal, kind), false, true), type, 0, name + " fixed C");
    check(with_fixed(random_scan({1, 50, 40, 64}, type, modal, kind), true, true), type, 0, name + " fixed B, C");
    check(with_everything(with_poles_per_channel(random_scan({2, 150, 40, 16}, type, modal, kind))), type, 0,
          name + " poles per channel");
    check(with_fixed(with_poles_per_channel(random_scan({2, 150, 40, 16}, type, modal, kind)), true, false), type, 0,
          name + " fixed B, poles per channel");
    Problem zeros = with_everything(with_fixed(random_scan({1, 700, 24, 16}, type, modal, kind), true, false));
    zeros.b[3] = zeros.b[15] = 0;
    check(zeros, type, 0, name + " fixed B with zeros, segments everything");
    check(random_scan({1, 1100, 32, 16}, type, modal, kind), type, 0, name + " segments");
    // Segments of more than one range of the closing sums, the last one shorter.
    check(random_scan({1, 1650, 1024, 4}, type, modal, kind), type, 0, name + " uneven segments");
    Problem p = with_everything(random_scan({1, 700, 16, 16}, type, modal, kind));
    for (size_t i = 0; i < p.reset.size(); ++i) p.reset[i] = i == 300;
    check(p, type, 0, name + " segments everything");
  }
}

void check_general(DType type) {
  for (const auto kind : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear})
    for (const int64_t real : {0, 3, 8}) {
      Problem p = with_everything(random_scan({2, 45, 40, 8 + real % 2}, type, Transition::kModal, kind));
      p.n_real = real;
      for (int64_t k = real; k < p.state; k += 2) p.a[k] = float(-0.5 - 0.1 * k), p.a[k + 1] = float(0.7 * k + 1);
      if (real == 8 && kind != Discretization::kBilinear) continue;
      check(p, type, 1, "modal, pairs");
    }
  for (const auto transition : {Transition::kCompanion, Transition::kCompanionTransposed, Transition::kSchwarz}) {
    for (const ScanShape shape : {ScanShape{2, 45, 40, 4},
                                  {1, 33, 33, 1},
                                  {1, 270, 32, 16},
                                  {1, 90, 32, 32},
                                  {1, 20, 40, 7},
                                  {1, 20, 40, 36}}) {
      const bool schwarz = transition == Transition::kSchwarz;
      if (!schwarz && shape.state > 8) continue;
      Problem p = with_everything(random_scan(shape, type, transition, Discretization::kBilinear));
      p.shift = schwarz ? 0.01 : 0;
      for (double& a : p.a) a = float(0.3 + 0.5 * std::abs(normal(1)[0]));
      check(p, type, 0, schwarz ? "schwarz" : "companion");
      check(with_fixed(p, true, false), type, 1, schwarz ? "schwarz fixed B" : "companion fixed B");
    }
  }
}

/// A problem of timing size: its sequences are one tile of numbers, repeated.
Problem large(ScanShape shape, ops::Transition transition, Discretization kind, bool fixed_b) {
  Problem p = random_scan({1, 1, shape.channels, shape.state}, DType::kBFloat16, transition, kind);
  p.batch = shape.batch, p.length = shape.length;
  for (auto* x : {&p.u, &p.z, &p.d_out, &p.b, &p.c}) *x = normal(65537);
  p.delta = normal(65537, 1, -3);
  if (fixed_b) p.b_selective = false, p.b = normal(shape.state);
  if (transition == Transition::kSchwarz)
    for (double& a : p.a) a = float(1 + std::abs(a) / 4);
  return p;
}

struct Family {
  const char* name;
  Transition transition;
  Discretization kind;
  bool fixed_b;
};
constexpr Family kFamilies[] = {{"mamba", Transition::kModal, Discretization::kEulerB, false},
                                {"strict", Transition::kModal, Discretization::kZoh, true},
                                {"schwarz", Transition::kSchwarz, Discretization::kBilinear, true}};

/// The last batch row of arrays of more than 2^31 elements, against the same row as a problem of its own.
void check_offsets() {
  const ScanShape shape{257, 4096, 2048, 16};
  for (const Family& f : kFamilies) {
    checks.context = std::string("offsets beyond 2^31, ") + f.name;
    const Problem p = large(shape, f.transition, f.kind, f.fixed_b);
    Problem one = p;
    one.batch = 1;
    DeviceScan all(p, DType::kBFloat16, 0), row(one, DType::kBFloat16, 0);
    auto last = [](const Sequence& s) {
      return Sequence{static_cast<char*>(s.data) + 2 * (257 - 1) * s.batch_stride, s.batch_stride, s.time_stride};
    };
    row.args.u = last(all.args.u), row.args.delta = last(all.args.delta), row.args.z = last(all.args.z);
    if (!f.fixed_b) row.args.b_sel = last(all.args.b_sel);
    row.args.c_sel = last(all.args.c_sel);
    row.args.a = all.args.a, row.args.b_fixed = all.args.b_fixed;
    row.args.skip = all.args.skip, row.args.delta_bias = all.args.delta_bias;
    row.gradients.d_out = last(all.gradients.d_out);
    for (DeviceScan* s : {&all, &row}) s->forward(), s->backward();
    CUDA_OK(cudaDeviceSynchronize());
    auto same = [&](const char* what, const Sequence& big, const Sequence& small, int64_t width) {
      const int64_t n = shape.length * width;
      // Segments of time differ: equal to the rounding of the outputs.
      checks.expect(what, download(last(big).data, n, DType::kBFloat16), download(small.data, n, DType::kBFloat16),
                    4e-3);
    };
    same("out", all.args.out, row.args.out, shape.channels);
    same("d_u", all.gradients.d_u, row.gradients.d_u, shape.channels);
    same("d_delta", all.gradients.d_delta, row.gradients.d_delta, shape.channels);
    same("d_z", all.gradients.d_z, row.gradients.d_z, shape.channels);
    same("d_C", all.gradients.d_c_sel, row.gradients.d_c_sel, shape.state);
    if (!f.fixed_b) same("d_B", all.gradients.d_b_sel, row.gradients.d_b_sel, shape.state);
  }
}

/// Gradients to the last bit, run after run.
void check_repeats(int runs) {
  for (const Family& f : kFamilies)
    for (const ScanShape shape : {ScanShape{2, 77, 40, 16}, {4, 512, 1024, 16}, {2, 77, 40, 32}, {4, 512, 1024, 32}}) {
      checks.context = std::to_string(runs) + " runs, " + f.name + " L" + std::to_string(shape.length) + " S" +
                       std::to_string(shape.state);
      DeviceScan scan(large(shape, f.transition, f.kind, f.fixed_b), DType::kBFloat16, 0);
      checks.expect(scan.repeats(runs), "all the same");
    }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  const bool all = what == "all";
  const int runs = argc > 2 ? std::atoi(argv[2]) : 1000;
  if ((!all && what != "quick" && what != "general" && what != "repeats" && what != "offsets") || runs < 2) {
    std::fprintf(stderr,
                 "scan_check: expected quick, general, repeats [count > 1], offsets or nothing, found '%s %s'\n",
                 what.c_str(), argc > 2 ? argv[2] : "");
    return 2;
  }
  for (const DType type : {DType::kFloat32, DType::kBFloat16}) {
    if (all || what == "quick") check_modal(type);
    if (all || what == "general") check_general(type);
  }
  if (all || what == "repeats") check_repeats(runs);
  if (all || what == "offsets") check_offsets();
  std::printf("scan: %d comparisons, %d failed, worst at %.2f of its limit\n", checks.done, checks.failed,
              checks.worst);
  return checks.failed != 0;
}
