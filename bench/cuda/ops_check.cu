// ops_check: the kernels besides the scan's against double precision on fresh random inputs; and bit-equal results over
// repeated runs.
#include <numeric>

#include "harness.h"
#include "smamba/ops/cuda/kernels.h"

using namespace harness;
namespace ops = smamba::ops;

namespace {

Checks checks;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
// Rounding of the output (2^-9) for bfloat16, of sums for float32.
double limit(DType type) { return type == DType::kFloat32 ? 1e-5 : 4e-3; }
using Vector = std::vector<double>;

void check_conv(DType type, int64_t batch, int64_t length, int64_t channels, int64_t width, bool silu, bool extras) {
  checks.context =
      "causal_conv1d K" + std::to_string(width) + " L" + std::to_string(length) + " D" + std::to_string(channels);
  const int64_t n = batch * length * channels;
  const Vector x = rounded(normal(n), type), d_out = rounded(normal(n), type),
               more = extras ? rounded(normal(n), type) : Vector(n),
               w = rounded(normal(channels * width), DType::kFloat32),
               bias = rounded(normal(channels), DType::kFloat32),
               initial = rounded(normal(batch * (width - 1) * channels), type);
  std::vector<uint8_t> reset(batch * length);
  for (auto& r : reset) r = extras && generator()() % 7 == 0;
  Vector out(n), d_x(n), d_w(channels * width), d_b(channels);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t d = 0; d < channels; ++d) {
        double pre = bias[d];
        int64_t first = t - width + 1;  // taps before the last reset read zero
        for (int64_t s = std::max<int64_t>(first, 0); s <= t; ++s)
          if (reset[b * length + s]) first = s;
        auto value = [&](int64_t s) {
          if (s < first) return 0.0;
          if (s >= 0) return x[(b * length + s) * channels + d];
          return extras ? initial[(b * (width - 1) + s + width - 1) * channels + d] : 0.0;
        };
        for (int64_t k = 0; k < width; ++k) pre += w[d * width + k] * value(t - width + 1 + k);
        const int64_t i = (b * length + t) * channels + d;
        const double s = sigmoid(pre), slope = silu ? s * (1 + pre * (1 - s)) : 1;
        out[i] = silu ? pre * s : pre;
        const double g = (d_out[i] + more[i]) * slope;
        d_b[d] += g;
        for (int64_t k = 0; k < width; ++k) {
          const int64_t from = t - width + 1 + k;
          d_w[d * width + k] += g * value(from);
          if (from >= first && from >= 0) d_x[(b * length + from) * channels + d] += g * w[d * width + k];
        }
      }
  const Buffer bx = upload(x, type), bd = upload(d_out, type), bw = upload(w, DType::kFloat32), bm = upload(more, type),
               bb = upload(bias, DType::kFloat32), bi = upload(initial, type), out_b(n * size_of(type)),
               dx_b(n * size_of(type)), dw_b(channels * width * 4), db_b(channels * 4);
  Buffer br(reset.size());
  CUDA_OK(cudaMemcpy(br.get(), reset.data(), reset.size(), cudaMemcpyHostToDevice));
  ops::Conv1dArgs a;
  a.batch = batch, a.length = length, a.channels = channels, a.width = width, a.silu = silu, a.dtype = type;
  a.x = {bx.get(), length * channels, channels};
  if (extras && width > 1) a.initial = {bi.get(), (width - 1) * channels, channels};
  a.weight = bw.f32(), a.bias = bb.f32();
  if (extras) a.reset = static_cast<const uint8_t*>(br.get());
  a.out = {out_b.get(), length * channels, channels};
  ops::Conv1dGradients g{
      {bd.get(), length * channels, channels}, {dx_b.get(), length * channels, channels}, dw_b.f32(), db_b.f32()};
  if (extras) g.d_out_more = {bm.get(), length * channels, channels};
  const Buffer workspace(ops::cuda::conv1d_backward_workspace_bytes(a));
  ops::cuda::conv1d_forward(a, nullptr);
  ops::cuda::conv1d_backward(a, g, workspace.get(), nullptr);
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect("out", download(out_b.get(), n, type), out, limit(type));
  checks.expect("d_x", download(dx_b.get(), n, type), d_x, limit(type));
  checks.expect("d_weight", download(dw_b.get(), channels * width, DType::kFloat32), d_w, 1e-5);
  checks.expect("d_bias", download(db_b.get(), channels, DType::kFloat32), d_b, 1e-5);
}

void check_norm(DType x_type, DType y_type, int64_t rows, int64_t width, bool residual) {
  checks.context = "rms_norm R" + std::to_string(rows) + " M" + std::to_string(width);
  const int64_t n = rows * width;
  const Vector x = rounded(normal(n), x_type), res = rounded(normal(n), DType::kFloat32),
               w = rounded(normal(width), DType::kFloat32), d_y = rounded(normal(n), y_type),
               d_r = rounded(normal(n), DType::kFloat32);
  Vector y(n), r(n), d_x(n), d_w(width);
  const double eps = 1e-5;
  for (int64_t i = 0; i < rows; ++i) {
    double squares = 0, dot = 0;
    for (int64_t c = 0; c < width; ++c) {
      r[i * width + c] = float(x[i * width + c] + (residual ? res[i * width + c] : 0));
      squares += r[i * width + c] * r[i * width + c];
    }
    const double inverse = 1 / std::sqrt(squares / width + eps);
    for (int64_t c = 0; c < width; ++c) dot += d_y[i * width + c] * w[c] * r[i * width + c];
    for (int64_t c = 0; c < width; ++c) {
      const int64_t k = i * width + c;
      y[k] = r[k] * inverse * w[c];
      d_x[k] = d_r[k] + inverse * w[c] * d_y[k] - r[k] * inverse * inverse * inverse / width * dot;
      d_w[c] += d_y[k] * r[k] * inverse;
    }
  }
  const Buffer bx = upload(x, x_type), bres = upload(res, DType::kFloat32), bw = upload(w, DType::kFloat32),
               bdy = upload(d_y, y_type), bdr = upload(d_r, DType::kFloat32), by(n * size_of(y_type)), brr(n * 4),
               inv(rows * 4), bdx(n * size_of(x_type)), bds(n * 4), bdw(width * 4);
  ops::RmsNormArgs a;
  a.rows = rows, a.width = width, a.eps = float(eps), a.x_dtype = x_type, a.y_dtype = y_type, a.x = bx.get(),
  a.x_stride = width;
  a.residual = residual ? bres.f32() : nullptr, a.weight = bw.f32(), a.y = by.get(), a.r = brr.f32(),
  a.inverse_rms = inv.f32();
  ops::RmsNormGradients g{bdy.get(), bdr.f32(), bdx.get(), bds.f32(), bdw.f32()};
  const Buffer workspace(ops::cuda::rms_norm_backward_workspace_bytes(a));
  ops::cuda::rms_norm_forward(a, nullptr);
  ops::cuda::rms_norm_backward(a, g, workspace.get(), nullptr);
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect("y", download(by.get(), n, y_type), y, limit(y_type));
  checks.expect("r", download(brr.get(), n, DType::kFloat32), r, 1e-7);
  checks.expect("d_x", download(bdx.get(), n, x_type), d_x, limit(x_type));
  checks.expect("d_residual", download(bds.get(), n, DType::kFloat32), d_x, 1e-5);
  checks.expect("d_weight", download(bdw.get(), width, DType::kFloat32), d_w, 1e-5);
}

void check_swiglu(DType type, int64_t rows, int64_t hidden) {
  checks.context = "swiglu R" + std::to_string(rows) + " H" + std::to_string(hidden);
  const Vector x = rounded(normal(rows * 2 * hidden), type), d = rounded(normal(rows * hidden), type);
  Vector out(rows * hidden), d_x(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < hidden; ++c) {
      const double y = x[i * 2 * hidden + c], gate = x[i * 2 * hidden + hidden + c], s = sigmoid(gate),
                   g = d[i * hidden + c];
      out[i * hidden + c] = y * gate * s;
      d_x[i * 2 * hidden + c] = g * gate * s;
      d_x[i * 2 * hidden + hidden + c] = g * y * s * (1 + gate * (1 - s));
    }
  const Buffer bx = upload(x, type), bd = upload(d, type), bo(rows * hidden * size_of(type)),
               bg(rows * 2 * hidden * size_of(type));
  ops::SwigluArgs a{rows, hidden, type, bx.get(), 2 * hidden, bo.get()};
  ops::cuda::swiglu_forward(a, nullptr);
  ops::cuda::swiglu_backward(a, {bd.get(), bg.get()}, nullptr);
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect("out", download(bo.get(), rows * hidden, type), out, limit(type));
  checks.expect("d_x", download(bg.get(), rows * 2 * hidden, type), d_x, limit(type));
}

void check_cross_entropy(int64_t rows, int64_t vocabulary) {
  checks.context = "cross_entropy R" + std::to_string(rows) + " V" + std::to_string(vocabulary);
  const Vector x = rounded(normal(rows * vocabulary, 3), DType::kFloat32);
  std::vector<int64_t> targets(rows);
  for (auto& t : targets) t = generator()() % 5 == 0 ? -1 : int64_t(generator()() % vocabulary);
  Vector nll(rows), gradient(x.size());
  for (int64_t i = 0; i < rows; ++i) {
    if (targets[i] < 0) continue;
    // By the maximum, so that a vocabulary of one has the exact loss 0.
    const double* row = x.data() + i * vocabulary;
    const double maximum = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (int64_t c = 0; c < vocabulary; ++c) sum += std::exp(row[c] - maximum);
    nll[i] = std::log(sum) - (row[targets[i]] - maximum);
    for (int64_t c = 0; c < vocabulary; ++c)
      gradient[i * vocabulary + c] = 0.25 * (std::exp(row[c] - maximum) / sum - (c == targets[i]));
  }
  const Buffer logits = upload(x, DType::kFloat32), out(rows * 4), bt(rows * 8);
  CUDA_OK(cudaMemcpy(bt.get(), targets.data(), rows * 8, cudaMemcpyHostToDevice));
  ops::CrossEntropyArgs a{rows,      vocabulary, logits.f32(), static_cast<const int64_t*>(bt.get()),
                          out.f32(), true,       0.25f};
  ops::cuda::cross_entropy(a, nullptr);
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect("nll", download(out.get(), rows, DType::kFloat32), nll, 1e-6);
  checks.expect("gradient", download(logits.get(), rows * vocabulary, DType::kFloat32), gradient, 1e-5);
}

}  // namespace

int main() {
  for (const DType type : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t width : {1, 2, 3, 4, 5, 8})
      for (const int64_t length : {1, 3, 31, 33, 100})
        for (const int64_t channels : {5, 64}) check_conv(type, 2, length, channels, width, true, length % 2 == 1);
    check_conv(type, 3, 70, 512, 4, false, true);
    for (const int64_t width : {1, 7, 128, 512, 768, 1030, 5000})
      for (const DType y : {DType::kFloat32, DType::kBFloat16}) check_norm(type, y, 37, width, width % 2 == 0);
    check_norm(type, type, 3000, 64, true);
    for (const int64_t hidden : {1, 6, 64, 1000}) check_swiglu(type, 33, hidden);
  }
  for (const int64_t vocabulary : {1, 3, 257, 4096, 50280}) check_cross_entropy(19, vocabulary);
  std::printf("operators: %d comparisons, %d failed, worst at %.2f of its limit\n", checks.done, checks.failed,
              checks.worst);
  return checks.failed != 0;
}
