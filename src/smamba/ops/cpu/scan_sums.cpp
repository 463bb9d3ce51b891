#include "smamba/ops/cpu/scan_sums.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "smamba/core/parallel.h"

namespace smamba::ops::cpu::scan {
namespace {

constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of B and of C each

uint16_t to_bfloat16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace

void Sums::Coefficients::resize(bool is_selective, int64_t groups, int64_t segment_steps, int64_t states) {
  selective = is_selective;
  state = states;
  steps = selective ? segment_steps : 1;
  partial.resize(groups * steps * state);
  if (!selective) total.resize(groups * state);
}

void Sums::Coefficients::keep(int64_t group) {
  for (int64_t n = 0; n < state; ++n) total[group * state + n] += partial[group * state + n];
}

Sums::Sums(const Plan& plan, const ScanGradients& grad) : plan_(plan) {
  const ScanArgs& args = plan.args;
  const int64_t groups = args.batch * plan.groups;
  const int64_t chunk_floats = std::max<int64_t>(1, groups * kChunk * args.state);
  segment_chunks_ = std::clamp<int64_t>(kPartialFloats / chunk_floats, 1, std::max<int64_t>(1, plan.chunks));
  const int64_t places = args.batch * plan.blocks;
  d_state_.resize(places * args.state);
  d_a_.resize(places * args.state);
  channels_.resize(places);
  b_.resize(args.b_sel.data != nullptr, groups, segment_chunks_ * kChunk, args.state);
  c_.resize(args.c_sel.data != nullptr, groups, segment_chunks_ * kChunk, args.state);
  for (int64_t place = 0; place < places; ++place) {
    plan.load_state(grad.d_final_state, place / plan.blocks, place % plan.blocks, d_state(place));
  }
}

void Sums::write_rows(const Segment& segment, const ScanGradients& grad) const {
  if (b_.selective && grad.d_b_sel.data != nullptr) write_selective(segment, b_, true, grad.d_b_sel);
  if (c_.selective && grad.d_c_sel.data != nullptr) write_selective(segment, c_, false, grad.d_c_sel);
}

void Sums::write_selective(const Segment& segment, const Coefficients& from, bool is_b, const Sequence& to) const {
  const ScanArgs& args = plan_.args;
  const int64_t first = segment.first_chunk * kChunk,
                steps = std::min(segment.last_chunk * kChunk, args.length) - first;
  parallel_for(args.batch * steps, 256, [&](int64_t begin, int64_t end) {
    std::vector<float> row(args.state);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / steps, t = i % steps;
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t group = 0; group < plan_.groups; ++group) {
        const float* p = from.partial.data() + ((batch * plan_.groups + group) * from.steps + t) * args.state;
        for (int64_t n = 0; n < args.state; ++n) row[n] += p[n];
      }
      if (is_b) plan_.divide_by_pole(row.data(), true);
      const int64_t offset = batch * to.batch_stride + (first + t) * to.time_stride;
      if (args.dtype == DType::kFloat32) {
        std::copy(row.begin(), row.end(), static_cast<float*>(to.data) + offset);
      } else {
        std::transform(row.begin(), row.end(), static_cast<uint16_t*>(to.data) + offset, to_bfloat16);
      }
    }
  });
}

void Sums::write_fixed(const Coefficients& from, bool is_b, float* to) const {
  const int64_t state = plan_.args.state;
  for (int64_t n = 0; n < state; ++n) {
    double sum = 0;
    for (int64_t group = 0; group < plan_.args.batch * plan_.groups; ++group) sum += from.total[group * state + n];
    to[n] = static_cast<float>(sum);
  }
  if (is_b) plan_.divide_by_pole(to, true);
}

void Sums::write_a(float* to) const {
  const ScanArgs& args = plan_.args;
  const int64_t places = args.batch * plan_.blocks;
  if (args.shared_a) {
    parallel_for(args.state, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        double sum = 0;
        for (int64_t place = 0; place < places; ++place) {
          for (int64_t i = 0; i < kBlock; ++i) sum += d_a_[place * args.state + n].lane[i];
        }
        to[n] = static_cast<float>(sum);
      }
    });
    return;
  }
  parallel_for(args.channels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t n = 0; n < args.state; ++n) {
        float sum = 0;
        for (int64_t b = 0; b < args.batch; ++b) {
          sum += d_a_[(b * plan_.blocks + i / kBlock) * args.state + n].lane[i % kBlock];
        }
        to[i * args.state + n] = sum;
      }
    }
  });
}

void Sums::write_parameters(const ScanGradients& grad) const {
  const ScanArgs& args = plan_.args;
  if (!b_.selective && grad.d_b_fixed != nullptr) write_fixed(b_, true, grad.d_b_fixed);
  if (!c_.selective && grad.d_c_fixed != nullptr) write_fixed(c_, false, grad.d_c_fixed);
  if (grad.d_a != nullptr) write_a(grad.d_a);
  const auto write_channels = [&](float(ChannelSums::*from)[kBlock], float* to) {
    for (int64_t i = 0; to != nullptr && i < args.channels; ++i) {
      float sum = 0;
      for (int64_t b = 0; b < args.batch; ++b) sum += (channels_[b * plan_.blocks + i / kBlock].*from)[i % kBlock];
      to[i] = sum;
    }
  };
  write_channels(&ChannelSums::gain, grad.d_gain);
  write_channels(&ChannelSums::skip, grad.d_skip);
  write_channels(&ChannelSums::bias, grad.d_delta_bias);
  if (grad.d_initial_state == nullptr) return;
  for (int64_t place = 0; place < args.batch * plan_.blocks; ++place) {
    plan_.store_state(d_state_[place * args.state].lane, place / plan_.blocks, place % plan_.blocks,
                      grad.d_initial_state);
  }
}

}  // namespace smamba::ops::cpu::scan
