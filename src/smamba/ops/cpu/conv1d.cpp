// Forward: a row (b, t) of all channels at a time, rows over threads; its K input rows are in the first-level cache.
// Backward: blocks of 64 channels over threads, so that each weight's gradient belongs to one task; a task walks
// through all (b, t), keeps the K rows of d_x that are still open in a ring, and recomputes the pre-activation.
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
constexpr int64_t kConvBlock = 64;   // channels of a backward task
constexpr int64_t kConvFlush = 128;  // steps after which the inner sums of the weight's gradient go to the outer ones

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

/// The backward pass of channels [first, first + count), count <= kConvBlock.
template <class T>
class ConvBackward {
 public:
  ConvBackward(const Conv1dArgs& a, const Conv1dGradients& g, int64_t first)
      : a_(a), g_(g), first_(first), count_(std::min(kConvBlock, a.channels - first)) {
    for (int64_t k = 0; k < a.width; ++k) {
      for (int64_t c = 0; c < count_; ++c) weights_[k][c] = a.weight[(first + c) * a.width + k];
    }
  }

  void run() {
    for (int64_t b = 0; b < a_.batch; ++b) {
      for (int64_t t = 0; t < a_.length; ++t) {
        step(b, t);
        if (t >= a_.width - 1) finish_row(b, t - (a_.width - 1));
        if (t % kConvFlush == kConvFlush - 1) flush();
      }
      flush();
      for (int64_t t = std::max<int64_t>(0, a_.length - (a_.width - 1)); t < a_.length; ++t) finish_row(b, t);
    }
    for (int64_t c = 0; c < count_; ++c) {
      for (int64_t k = 0; k < a_.width; ++k) g_.d_weight[(first_ + c) * a_.width + k] = d_weight_[k][c];
      if (g_.d_bias) g_.d_bias[first_ + c] = d_bias_[c];
    }
  }

 private:
  /// Adds the contributions of output (b, t) to the weights' gradient and to the open rows of d_x.
  void step(int64_t b, int64_t t) {
    const Taps<T> taps(a_, b, t);
    const T* d_out =
        static_cast<const T*>(g_.d_out.data) + b * g_.d_out.batch_stride + t * g_.d_out.time_stride + first_;
    std::memset(ring_[t % kMaxWidth], 0, sizeof(ring_[0]));
    for_each_vector(count_, [&](At at) {
      V gradient = at.load(d_out);
      if (a_.silu) {
        const V pre =
            convolve(taps, weights_[0], kConvBlock, a_.bias ? a_.bias + first_ : nullptr, a_.width, first_, at);
        gradient = hn::Mul(gradient, SiluSlope(pre, Sigmoid(pre)));
      }
      at.store(hn::Add(at.load(inner_bias_), gradient), inner_bias_);
      for (int64_t k = 0; k < a_.width; ++k) {
        if (!taps.row[k]) continue;
        at.store(hn::MulAdd(gradient, at.load(taps.row[k] + first_), at.load(inner_[k])), inner_[k]);
        const int64_t s = t - (a_.width - 1) + k;
        if (s < 0) continue;
        float* open = ring_[s % kMaxWidth];
        at.store(hn::MulAdd(gradient, at.load(weights_[k]), at.load(open)), open);
      }
    });
  }

  void finish_row(int64_t b, int64_t s) {
    T* d_x = static_cast<T*>(g_.d_x.data) + b * g_.d_x.batch_stride + s * g_.d_x.time_stride + first_;
    const float* open = ring_[s % kMaxWidth];
    for_each_vector(count_, [&](At at) { at.store(at.load(open), d_x); });
  }

  void flush() {
    for (int64_t k = 0; k < a_.width; ++k) {
      for (int64_t c = 0; c < kConvBlock; ++c) d_weight_[k][c] += inner_[k][c];
    }
    for (int64_t c = 0; c < kConvBlock; ++c) d_bias_[c] += inner_bias_[c];
    std::memset(inner_, 0, sizeof(inner_));
    std::memset(inner_bias_, 0, sizeof(inner_bias_));
  }

  const Conv1dArgs& a_;
  const Conv1dGradients& g_;
  const int64_t first_, count_;
  float weights_[kMaxWidth][kConvBlock] = {}, ring_[kMaxWidth][kConvBlock] = {};
  float inner_[kMaxWidth][kConvBlock] = {}, inner_bias_[kConvBlock] = {};
  float d_weight_[kMaxWidth][kConvBlock] = {}, d_bias_[kConvBlock] = {};
};

void conv1d_range(const Conv1dArgs& a, const float* weights, int64_t begin, int64_t end) {
  a.dtype == DType::kFloat32 ? conv1d_rows<float>(a, weights, begin, end)
                             : conv1d_rows<uint16_t>(a, weights, begin, end);
}
void conv1d_block_backward(const Conv1dArgs& a, const Conv1dGradients& g, int64_t block) {
  a.dtype == DType::kFloat32 ? ConvBackward<float>(a, g, block * kConvBlock).run()
                             : ConvBackward<uint16_t>(a, g, block * kConvBlock).run();
}
int64_t conv1d_blocks(int64_t channels) { return (channels + kConvBlock - 1) / kConvBlock; }

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(conv1d_range);
HWY_EXPORT(conv1d_block_backward);
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
  parallel_for(HWY_DYNAMIC_DISPATCH(conv1d_blocks)(args.channels), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      HWY_DYNAMIC_DISPATCH(conv1d_block_backward)(args, gradients, block);
    }
  });
}
}  // namespace smamba::ops::cpu
#endif
