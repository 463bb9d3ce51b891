// One block of channels over one chunk of the sequences: conversion to and from scratch arrays [steps][16], softplus,
// gain, skip, gate.
#if defined(SMAMBA_OPS_CPU_SCAN_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_SCAN_CHUNK_INL_H_
#undef SMAMBA_OPS_CPU_SCAN_CHUNK_INL_H_
#else
#define SMAMBA_OPS_CPU_SCAN_CHUNK_INL_H_
#endif

#include <algorithm>

#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/scan_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// Steps [first, first + steps) of batch entry `batch`, channels [channel, channel + count), count <= 16.
struct Window {
  DType dtype;
  int64_t batch, first, steps, channel, count;
  int64_t offset(const Sequence& s, int64_t t) const {
    return batch * s.batch_stride + (first + t) * s.time_stride + channel;
  }
};

HWY_INLINE void LoadRow(const float* p, float* out) {
  for (int64_t i = 0; i < kBlock; i += kLanes) hn::Store(hn::LoadU(d, p + i), d, out + i);
}
HWY_INLINE void LoadRow(const uint16_t* p, float* out) {
  for (int64_t i = 0; i < kBlock; i += kLanes) hn::Store(LoadBFloat16(p + i), d, out + i);
}
HWY_INLINE void StoreRow(const float* row, float* p) {
  for (int64_t i = 0; i < kBlock; i += kLanes) hn::StoreU(hn::Load(d, row + i), d, p + i);
}
HWY_INLINE void StoreRow(const float* row, uint16_t* p) {
  for (int64_t i = 0; i < kBlock; i += kLanes) StoreBFloat16(hn::Load(d, row + i), p + i);
}

// Whole rows go straight; a ragged end goes through a padded copy, so nothing outside the array is touched.
template <class T>
void LoadWindowOf(const Sequence& s, const Window& w, float* out) {
  const T* data = static_cast<const T*>(s.data);
  if (w.count == kBlock) {
    for (int64_t t = 0; t < w.steps; ++t) LoadRow(data + w.offset(s, t), out + t * kBlock);
    return;
  }
  T padded[kBlock] = {};
  for (int64_t t = 0; t < w.steps; ++t) {
    std::copy_n(data + w.offset(s, t), w.count, padded);
    LoadRow(padded, out + t * kBlock);
  }
}
template <class T>
void StoreWindowOf(const float* in, const Window& w, const Sequence& s) {
  T* data = static_cast<T*>(s.data);
  if (w.count == kBlock) {
    for (int64_t t = 0; t < w.steps; ++t) StoreRow(in + t * kBlock, data + w.offset(s, t));
    return;
  }
  T padded[kBlock];
  for (int64_t t = 0; t < w.steps; ++t) {
    StoreRow(in + t * kBlock, padded);
    std::copy_n(padded, w.count, data + w.offset(s, t));
  }
}
inline void LoadWindow(const Sequence& s, const Window& w, float* out) {
  w.dtype == DType::kFloat32 ? LoadWindowOf<float>(s, w, out) : LoadWindowOf<uint16_t>(s, w, out);
}
inline void StoreWindow(const float* in, const Window& w, const Sequence& s) {
  w.dtype == DType::kFloat32 ? StoreWindowOf<float>(in, w, s) : StoreWindowOf<uint16_t>(in, w, s);
}

// The window that a task handles after `w`: its next block, or its first block of the next chunk (direction 1) or of
// the previous one (-1). No steps when there is none.
inline Window NextWindow(const Plan& plan, Window w, const TaskRange& range, int64_t direction) {
  w.channel += kBlock;
  if (w.channel >= range.last_block * kBlock) {
    w.channel = range.first_block * kBlock;
    w.first += direction * kChunk;
    w.steps = w.first < 0 ? 0 : std::clamp<int64_t>(plan.args.length - w.first, 0, kChunk);
  }
  return w;
}

// The rows of a window that is read or written next: they are pages apart, which hardware does not foresee.
inline void AddWindow(const Sequence& s, const Window& w, Ahead& ahead) {
  if (s.data == nullptr || w.steps == 0) return;
  const int64_t size = w.dtype == DType::kFloat32 ? 4 : 2;
  const char* row = static_cast<const char*>(s.data) + w.offset(s, 0) * size;
  const int64_t stride = s.time_stride * size, last = w.count * size - 1;
  ahead.add(row, stride, w.steps);
  if (reinterpret_cast<uintptr_t>(row) % 64 + last >= 64) ahead.add(row + last, stride, w.steps);
}

// A parameter (D) of one block, padded with zeros; `absent` where not given.
struct ChannelValues {
  alignas(64) float value[kBlock];
  ChannelValues(const float* p, const Window& w, float absent) {
    for (int64_t i = 0; i < kBlock; ++i) value[i] = i >= w.count ? 0.0f : p == nullptr ? absent : p[w.channel + i];
  }
};

// Scratch of one block and chunk.
struct Prepared {
  float *u, *delta, *input, *y;  // [32][16]; delta after softplus, input = gain u, y starts as skip u
  float* slope;                  // softplus', or nullptr where not wanted
  float limit;                   // Block::delta_limit
};

template <bool kSlope>
void PrepareBlock(const ScanArgs& args, const Window& w, Prepared& p) {
  LoadWindow(args.u, w, p.u);
  LoadWindow(args.delta, w, p.delta);
  const ChannelValues bias(args.delta_bias, w, 0), gain(args.gain, w, 1), skip(args.skip, w, 0);
  VI limit = hn::Zero(di);
  for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
    const V bias_v = hn::Load(d, bias.value + lane), gain_v = hn::Load(d, gain.value + lane),
            skip_v = hn::Load(d, skip.value + lane);
    for (int64_t at = lane; at < w.steps * kBlock; at += kBlock) {
      SoftplusTerms delta{hn::Add(hn::Load(d, p.delta + at), bias_v), Const(1.0f)};
      if (args.softplus) delta = Softplus(delta.value);
      if constexpr (kSlope) hn::Store(delta.slope, d, p.slope + at);
      hn::Store(delta.value, d, p.delta + at);
      limit = hn::Max(limit, hn::BitCast(di, hn::Abs(delta.value)));  // as integers: NaN is the largest
      const V u = hn::Load(d, p.u + at);
      hn::Store(hn::Mul(gain_v, u), d, p.input + at);
      hn::Store(hn::Mul(skip_v, u), d, p.y + at);
    }
  }
  p.limit = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, limit)));
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
