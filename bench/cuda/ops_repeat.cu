// ops_repeat [runs]: the gradients of convolution, norm, gated activation and cross-entropy at small sizes, `runs`
// times each (10,000 when none are named) on fresh NaN-filled outputs: every run must give the bits of the first.
#include "harness.h"
#include "smamba/ops/cuda/kernels.h"

using namespace harness;
namespace ops = smamba::ops;

namespace {

__global__ void differences(const uint32_t* a, const uint32_t* b, int64_t n, int* count) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    if (a[i] != b[i]) atomicAdd(count, 1);
}

int failed = 0;

/// `run` writes every byte of `outputs`.
void repeat(const std::string& name, int runs, const std::vector<const Buffer*>& outputs,
            const std::function<void()>& run) {
  std::vector<Buffer> first;
  Buffer count(4);
  CUDA_OK(cudaMemset(count.get(), 0, 4));
  for (int i = 0; i < runs; ++i) {
    for (const Buffer* o : outputs) CUDA_OK(cudaMemsetAsync(o->get(), 0xff, o->bytes()));
    run();
    for (size_t k = 0; k < outputs.size(); ++k) {
      const Buffer& o = *outputs[k];
      if (i == 0) {
        first.emplace_back(o.bytes());
        CUDA_OK(cudaMemcpy(first[k].get(), o.get(), o.bytes(), cudaMemcpyDeviceToDevice));
      } else {
        differences<<<1, 256>>>(static_cast<const uint32_t*>(first[k].get()), static_cast<const uint32_t*>(o.get()),
                                o.bytes() / 4, static_cast<int*>(count.get()));
      }
    }
  }
  int found = 0;
  CUDA_OK(cudaMemcpy(&found, count.get(), 4, cudaMemcpyDeviceToHost));
  std::printf("%-40s %d runs, %s\n", name.c_str(), runs, found == 0 ? "bit-equal" : "DIFFERENT");
  failed += found != 0;
}

void repeat_type(DType type, int runs) {
  const std::string suffix = type == DType::kFloat32 ? ", float32" : ", bfloat16";
  {
    constexpr int64_t kBatch = 3, kLength = 300, kChannels = 520, kWidth = 4, n = kBatch * kLength * kChannels;
    const Buffer x = upload(normal(n), type), d = upload(normal(n), type),
                 w = upload(normal(kChannels * kWidth), DType::kFloat32),
                 b = upload(normal(kChannels), DType::kFloat32), d_x(n * size_of(type)), d_w(kChannels * kWidth * 4),
                 d_b(kChannels * 4);
    const auto sequence = [](const Buffer& of) { return Sequence{of.get(), kLength * kChannels, kChannels}; };
    ops::Conv1dArgs a;
    a.batch = kBatch, a.length = kLength, a.channels = kChannels, a.width = kWidth, a.silu = true, a.dtype = type;
    a.x = sequence(x), a.weight = w.f32(), a.bias = b.f32();
    const ops::Conv1dGradients g{sequence(d), sequence(d_x), d_w.f32(), d_b.f32(), {}};
    const Buffer workspace(ops::cuda::conv1d_backward_workspace_bytes(a));
    repeat("convolution" + suffix, runs, {&d_x, &d_w, &d_b},
           [&] { ops::cuda::conv1d_backward(a, g, workspace.get(), nullptr); });
  }
  for (const int64_t width : {256, 1280}) {
    const int64_t rows = 600, n = rows * width;
    const Buffer r = upload(normal(n), DType::kFloat32), d_y = upload(normal(n), type),
                 d_r = upload(normal(n), DType::kFloat32), w = upload(normal(width), DType::kFloat32),
                 inverse = upload(normal(rows), DType::kFloat32), d_x(n * size_of(type)), d_s(n * 4), d_w(width * 4);
    ops::RmsNormArgs a;
    a.rows = rows, a.width = width, a.x_dtype = a.y_dtype = type, a.r = r.f32(), a.weight = w.f32();
    a.inverse_rms = inverse.f32();
    const ops::RmsNormGradients g{d_y.get(), d_r.f32(), d_x.get(), d_s.f32(), d_w.f32()};
    const Buffer workspace(ops::cuda::rms_norm_backward_workspace_bytes(a));
    repeat("norm, width " + std::to_string(width) + suffix, runs, {&d_x, &d_s, &d_w},
           [&] { ops::cuda::rms_norm_backward(a, g, workspace.get(), nullptr); });
  }
  {
    constexpr int64_t kRows = 200, kHidden = 520;
    const Buffer x = upload(normal(kRows * 2 * kHidden), type), d = upload(normal(kRows * kHidden), type),
                 d_x(kRows * 2 * kHidden * size_of(type));
    const ops::SwigluArgs a{kRows, kHidden, type, x.get(), 2 * kHidden, nullptr};
    repeat("gated activation" + suffix, runs, {&d_x}, [&] {
      ops::cuda::swiglu_backward(a, {d.get(), d_x.get()}, nullptr);
    });
  }
  {
    constexpr int64_t kRows = 40, kVocabulary = 5000;
    const Buffer x = upload(normal(kRows * kVocabulary, 3), type), logits(x.bytes()), nll(kRows * 4);
    Buffer targets(kRows * 8);
    std::vector<int64_t> ids(kRows);
    for (int64_t i = 0; i < kRows; ++i) ids[i] = i * 97;
    CUDA_OK(cudaMemcpy(targets.get(), ids.data(), kRows * 8, cudaMemcpyHostToDevice));
    ops::CrossEntropyArgs a{kRows,     kVocabulary, logits.f32(), static_cast<const int64_t*>(targets.get()),
                            nll.f32(), true,        0.25f};
    if (type == DType::kBFloat16) a.logits = nullptr, a.bfloat16_logits = logits.get();
    repeat("cross-entropy" + suffix, runs, {&logits, &nll}, [&] {
      CUDA_OK(cudaMemcpyAsync(logits.get(), x.get(), x.bytes(), cudaMemcpyDeviceToDevice));
      ops::cuda::cross_entropy(a, nullptr);
    });
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int runs = count > 1 ? std::atoi(arguments[1]) : 10000;
  for (const DType type : {DType::kFloat32, DType::kBFloat16}) repeat_type(type, runs);
  return failed != 0;
}
