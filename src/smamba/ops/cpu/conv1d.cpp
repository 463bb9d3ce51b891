// Forward: a row (b, t) of all channels at a time, rows over threads; its K input rows are in the first-level cache.
// Backward: tasks of 256 channels times a segment of one sequence, bounded by the shape only. A task walks through its
// time, keeps the K rows of d_x that are still open in a ring, and recomputes the pre-activation; the K - 1 outputs
// after its segment, which its last inputs reach, it computes once more. Each segment leaves its share of the weights'
// gradient; the shares are added in the order of the segments.
#include "smamba/ops/cpu/conv1d.h"

#include <cstring>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/conv1d.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

constexpr int64_t kMaxWidth = 8;
constexpr int64_t kConvBlock =
    256;  // channels of a backward task: 1 KiB of a row, so that the K rows of all arrays fit the first-level cache

/// The input rows of taps 0 … K-1 for output (b, t), the last being x[t] itself; nullptr where the tap reads zero.
template <class T>
struct Taps {
  const T* row[kMaxWidth];

  Taps(const Conv1dArgs& a, int64_t b, int64_t t) {
    const T* x = static_cast<const T*>(a.x.data) + b * a.x.batch_stride;
    const T* initial = static_cast<const T*>(a.initial.data);
    if (initial) initial += b * a.initial.batch_stride;
    bool visible = true;
    for (int64_t j = 0; j < a.width; ++j) {  // j steps back
      const T* p = nullptr;
      if (visible && t - j >= 0) p = x + (t - j) * a.x.time_stride;
      if (visible && t - j < 0 && initial) p = initial + (a.width - 1 + t - j) * a.initial.time_stride;
      row[a.width - 1 - j] = p;
      if (a.reset && t - j >= 0 && a.reset[b * a.length + t - j]) visible = false;
    }
  }
};

/// The pre-activation of one vector of channels. weights: (K, stride), bias may be null.
template <class T>
HWY_INLINE V convolve(const Taps<T>& taps, const float* weights, int64_t stride, const float* bias, int64_t width,
                      int64_t channel, At at) {
  V sum = bias ? at.load(bias) : hn::Zero(F32());
  for (int64_t k = 0; k < width; ++k) {
    if (taps.row[k]) sum = hn::MulAdd(at.load(weights + k * stride), at.load(taps.row[k] + channel), sum);
  }
  return sum;
}

template <class T>
void conv1d_rows(const Conv1dArgs& a, const float* weights, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = i / a.length, t = i % a.length;
    const Taps<T> taps(a, b, t);
    T* out = static_cast<T*>(a.out.data) + b * a.out.batch_stride + t * a.out.time_stride;
    for_each_vector(a.channels, [&](At at) {
      V y = convolve(taps, weights, a.channels, a.bias, a.width, 0, at);
      if (a.silu) y = hn::Mul(y, Sigmoid(y));
      at.store(y, out);
    });
  }
}

/// The backward pass of channels [first, first + kConvBlock) and inputs [begin, end) of sequence b.
template <class T>
class ConvBackward {
 public:
  ConvBackward(const Conv1dArgs& a, const Conv1dGradients& g, int64_t first, int64_t b)
      : a_(a), g_(g), first_(first), count_(std::min(kConvBlock, a.channels - first)), b_(b) {
    for (int64_t k = 0; k < a.width; ++k) {
      for (int64_t c = 0; c < count_; ++c) weights_[k][c] = a.weight[(first + c) * a.width + k];
    }
  }

  /// sums: (K + 1, D), this segment's share of the gradients of the weights, tap by tap, and of the bias.
  void run(int64_t begin, int64_t end, float* sums) {
    const int64_t reach = a_.width - 1;
    for (int64_t t = begin; t < std::min(end + reach, a_.length); ++t) {
      if (t < end) std::memset(ring_[t % a_.width], 0, sizeof(ring_[0]));
      step(t, begin, end);
      if (t - reach >= begin) finish_row(t - reach);
    }
    for (int64_t t = std::max(begin, a_.length - reach); t < end; ++t) finish_row(t);
    for (int64_t k = 0; k < a_.width; ++k) std::copy_n(d_weight_[k], count_, sums + k * a_.channels + first_);
    std::copy_n(d_bias_, count_, sums + a_.width * a_.channels + first_);
  }

 private:
  /// Adds the contributions of output t to the weights' gradient, where t is the segment's own, and to its open rows of
  /// d_x.
  void step(int64_t t, int64_t begin, int64_t end) {
    const Taps<T> taps(a_, b_, t);
    const T* d_out =
        static_cast<const T*>(g_.d_out.data) + b_ * g_.d_out.batch_stride + t * g_.d_out.time_stride + first_;
    const float* bias = a_.bias ? a_.bias + first_ : nullptr;
    for_each_vector(count_, [&](At at) {
      V gradient = at.load(d_out);
      if (a_.silu) {
        const V pre = convolve(taps, weights_[0], kConvBlock, bias, a_.width, first_, at);
        gradient = hn::Mul(gradient, SiluSlope(pre, Sigmoid(pre)));
      }
      if (t < end) at.store(hn::Add(at.load(d_bias_), gradient), d_bias_);
      for (int64_t k = 0; k < a_.width; ++k) {
        if (!taps.row[k]) continue;
        const int64_t s = t - (a_.width - 1) + k;
        if (t < end) at.store(hn::MulAdd(gradient, at.load(taps.row[k] + first_), at.load(d_weight_[k])), d_weight_[k]);
        if (s < begin || s >= end) continue;
        float* open = ring_[s % a_.width];
        at.store(hn::MulAdd(gradient, at.load(weights_[k]), at.load(open)), open);
      }
    });
  }

  void finish_row(int64_t s) {
    T* d_x = static_cast<T*>(g_.d_x.data) + b_ * g_.d_x.batch_stride + s * g_.d_x.time_stride + first_;
    const float* open = ring_[s % a_.width];
    for_each_vector(count_, [&](At at) { at.store(at.load(open), d_x); });
  }

  const Conv1dArgs& a_;
  const Conv1dGradients& g_;
  const int64_t first_, count_, b_;
  float weights_[kMaxWidth][kConvBlock] = {}, ring_[kMaxWidth][kConvBlock] = {};
  float d_weight_[kMaxWidth][kConvBlock] = {}, d_bias_[kConvBlock] = {};
};

void conv1d_range(const Conv1dArgs& a, const float* weights, int64_t begin, int64_t end) {
  a.dtype == DType::kFloat32 ? conv1d_rows<float>(a, weights, begin, end)
                             : conv1d_rows<uint16_t>(a, weights, begin, end);
}
void conv1d_task_backward(const Conv1dArgs& a, const Conv1dGradients& g, int64_t block, int64_t b, int64_t begin,
                          int64_t end, float* sums) {
  a.dtype == DType::kFloat32 ? ConvBackward<float>(a, g, block * kConvBlock, b).run(begin, end, sums)
                             : ConvBackward<uint16_t>(a, g, block * kConvBlock, b).run(begin, end, sums);
}
int64_t conv1d_blocks(int64_t channels) { return (channels + kConvBlock - 1) / kConvBlock; }

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(conv1d_range);
HWY_EXPORT(conv1d_task_backward);
HWY_EXPORT(conv1d_blocks);

void conv1d_forward(const Conv1dArgs& args) {
  std::vector<float> weights(args.width * args.channels);  // (K, D): a tap's weights side by side
  for (int64_t d = 0; d < args.channels; ++d) {
    for (int64_t k = 0; k < args.width; ++k) weights[k * args.channels + d] = args.weight[d * args.width + k];
  }
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.channels));
  parallel_for(args.batch * args.length, grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(conv1d_range)(args, weights.data(), begin, end);
  });
}

void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients) {
  // About 64 segments of at least 64 steps.
  const int64_t step = std::max<int64_t>(64, (args.batch * args.length + 63) / 64);
  const int64_t segments = (args.length + step - 1) / step, blocks = HWY_DYNAMIC_DISPATCH(conv1d_blocks)(args.channels);
  const int64_t share = (args.width + 1) * args.channels;
  std::vector<float> sums(args.batch * segments * share);
  const int64_t grain = std::max<int64_t>(1, 8192 / (std::max<int64_t>(1, std::min(step, args.length)) * 256));
  parallel_for(args.batch * segments * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks, b = part / segments, t = part % segments * step;
      HWY_DYNAMIC_DISPATCH(conv1d_task_backward)
      (args, gradients, task % blocks, b, t, std::min(args.length, t + step), sums.data() + part * share);
    }
  });
  std::vector<double> total(share);
  for (int64_t part = 0; part < args.batch * segments; ++part) {
    for (int64_t i = 0; i < share; ++i) total[i] += sums[part * share + i];
  }
  for (int64_t d = 0; d < args.channels; ++d) {
    for (int64_t k = 0; k < args.width; ++k) {
      gradients.d_weight[d * args.width + k] = static_cast<float>(total[k * args.channels + d]);
    }
    if (gradients.d_bias) gradients.d_bias[d] = static_cast<float>(total[args.width * args.channels + d]);
  }
}
}  // namespace smamba::ops::cpu
#endif
