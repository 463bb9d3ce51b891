// ops_bench: the memory-bound kernels of a training step beside the time that their bytes alone take at 3.3 TB/s, at
// the shapes of the 64.5 M model (B32 L512) and of the 130 M model (B8 L2048). Buffers are larger than the caches and
// take turns.
#include "harness.h"
#include "smamba/ops/cuda/kernels.h"

using namespace harness;
namespace ops = smamba::ops;

namespace {

constexpr double kBytesPerMs = 3.3e9;
constexpr int kTurns = 3;

Buffer random_bytes(int64_t elements, DType type) {
  static const std::vector<double> pattern = rounded(normal(1 << 16), DType::kBFloat16);
  const Buffer part = upload(pattern, type);
  Buffer all(elements * size_of(type));
  for (int64_t at = 0; at < all.bytes(); at += part.bytes())
    CUDA_OK(cudaMemcpy(static_cast<char*>(all.get()) + at, part.get(), std::min(part.bytes(), all.bytes() - at),
                       cudaMemcpyDeviceToDevice));
  return all;
}
std::vector<Buffer> turns(int64_t elements, DType type) {
  std::vector<Buffer> all;
  for (int i = 0; i < kTurns; ++i) all.push_back(random_bytes(elements, type));
  return all;
}

void report(const std::string& name, double ms, double bytes) {
  std::printf("%-34s %8.1f us  floor %6.1f us  %.2fx\n", name.c_str(), 1e3 * ms, 1e3 * bytes / kBytesPerMs,
              ms / (bytes / kBytesPerMs));
}

void bench_conv(const std::string& name, int64_t batch, int64_t length, int64_t channels) {
  constexpr DType type = DType::kBFloat16;
  const int64_t n = batch * length * channels;
  // x and its gradient are the first halves of rows twice as wide, as in the model.
  const auto x = turns(2 * n, type), d_x = turns(2 * n, type), out = turns(n, type), d_out = turns(n, type),
             more = turns(n, type);
  const Buffer w = random_bytes(channels * 4, DType::kFloat32), b = random_bytes(channels, DType::kFloat32),
               d_w(channels * 16), d_b(channels * 4);
  ops::Conv1dArgs a;
  a.batch = batch, a.length = length, a.channels = channels, a.width = 4, a.silu = true, a.dtype = type;
  a.weight = w.f32(), a.bias = b.f32();
  const auto wide = [&](const Buffer& of) { return Sequence{of.get(), 2 * length * channels, 2 * channels}; };
  const auto dense = [&](const Buffer& of) { return Sequence{of.get(), length * channels, channels}; };
  const Buffer workspace(ops::cuda::conv1d_backward_workspace_bytes(a));
  const auto at = [&](int i) {
    a.x = wide(x[i % kTurns]), a.out = dense(out[i % kTurns]);
    return i % kTurns;
  };
  report("convolution forward, " + name, median_ms([&](int i) { at(i), ops::cuda::conv1d_forward(a, nullptr); }),
         4. * n);
  for (const bool two : {false, true})
    report(std::string("convolution backward") + (two ? ", two gradients, " : ", ") + name, median_ms([&](int i) {
             const int k = at(i);
             ops::Conv1dGradients g{dense(d_out[k]), wide(d_x[k]), d_w.f32(), d_b.f32(), {}};
             if (two) g.d_out_more = dense(more[k]);
             ops::cuda::conv1d_backward(a, g, workspace.get(), nullptr);
           }),
           (two ? 8. : 6.) * n);
}

void bench_norm(const std::string& name, int64_t rows, int64_t width) {
  constexpr DType type = DType::kBFloat16;
  const int64_t n = rows * width;
  const auto x = turns(n, type), y = turns(n, type), r = turns(n, DType::kFloat32), d_r = turns(n, DType::kFloat32),
             out = turns(n, DType::kFloat32);
  const Buffer w = random_bytes(width, DType::kFloat32), inverse = random_bytes(rows, DType::kFloat32), d_w(width * 4);
  ops::RmsNormArgs a;
  a.rows = rows, a.width = width, a.eps = 1e-5f, a.x_dtype = type, a.y_dtype = type, a.x_stride = width;
  a.weight = w.f32(), a.inverse_rms = inverse.f32();
  const Buffer workspace(ops::cuda::rms_norm_backward_workspace_bytes(a));
  report("norm forward, " + name, median_ms([&](int i) {
           const int k = i % kTurns;
           a.x = x[k].get(), a.residual = d_r[k].f32(), a.y = y[k].get(), a.r = out[k].f32();
           ops::cuda::rms_norm_forward(a, nullptr);
         }),
         12. * n);
  report("norm backward, " + name, median_ms([&](int i) {
           const int k = i % kTurns;
           a.r = r[k].f32();
           const ops::RmsNormGradients g{x[k].get(), d_r[k].f32(), y[k].get(), out[k].f32(), d_w.f32()};
           ops::cuda::rms_norm_backward(a, g, workspace.get(), nullptr);
         }),
         16. * n);
}

}  // namespace

int main() {
  bench_conv("64.5M", 32, 512, 1024);
  bench_conv("130M", 8, 2048, 1536);
  bench_norm("64.5M", 32 * 512, 512);
  bench_norm("130M", 8 * 2048, 768);
  return 0;
}
