#include "smamba/ops/cpu/decode.h"

#include <omp.h>
#include <sched.h>

#include <cmath>
#include <cstring>

#include "smamba/ops/cpu/decode_barrier.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/decode.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/decode_scan-inl.h"
#include "smamba/ops/cpu/gemv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

using step::Const;
using step::d;
using step::kLanes;
using step::V;

// One thread's share of a token.
class DecodeWorker {
 public:
  DecodeWorker(const DecodeModel& model, std::span<const int32_t> ids, std::span<float* const> states,
               DecodeScratch& scratch, DecodeBarrier& barrier, int thread, int threads)
      : m_(model),
        ids_(ids),
        states_(states),
        s_(scratch),
        barrier_(barrier),
        thread_(thread),
        threads_(threads),
        batch_(static_cast<int64_t>(ids.size())),
        inner_(model.padded_inner()),
        normalised_(scratch.normalised(thread)) {}

  void run(float* logits) {
    embed();
    for (size_t i = 0; i < m_.layers.size(); ++i) {
      const DecodeLayer& layer = m_.layers[i];
      barrier_.wait(threads_);  // the residual is complete
      normalise(layer.norm);
      const auto [begin, end] = share(layer.in_x);
      project_in(layer, i, begin, end);
      barrier_.wait(threads_);  // u is complete
      project_x(layer);
      barrier_.wait(threads_);  // delta, B and C are complete
      scan(layer, i, begin, end);
      barrier_.wait(threads_);  // the gated output is complete
      add_to_residual(layer.out_proj, s_.z, inner_);
      if (layer.norm2 != nullptr) mlp(layer);
    }
    barrier_.wait(threads_);
    normalise(m_.norm_f);
    project(m_.head, normalised_, m_.d_model, [&](int64_t b, int64_t row, int64_t rows, const float* values) {
      copy(values, logits + b * m_.vocab_size + row, std::min(rows, m_.vocab_size - row));
    });
  }

 private:
  std::pair<int64_t, int64_t> share(const PackedMatrix& matrix) const {
    const int64_t panels = matrix.panels();
    return {panels * thread_ / threads_, panels * (thread_ + 1) / threads_};
  }
  template <class Use>
  void project(const PackedMatrix& matrix, const float* x, int64_t stride, Use&& use) {
    const auto [begin, end] = share(matrix);
    ForPanels(matrix, begin, end, x, stride, batch_, use);
  }
  static void copy(const float* from, float* to, int64_t count) {
    std::memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
  }

  void embed() {
    for (int64_t b = thread_; b < batch_; b += threads_)
      unpack_row(m_.embedding, ids_[static_cast<size_t>(b)], s_.residual + b * m_.d_model);
  }

  void normalise(const float* weight) {
    const int64_t width = m_.d_model;
    for (int64_t b = 0; b < batch_; ++b) {
      const float* r = s_.residual + b * width;
      float* y = normalised_ + b * width;
      V squares = hn::Zero(d);
      int64_t i = 0;
      for (; i + kLanes <= width; i += kLanes) squares = hn::MulAdd(hn::LoadU(d, r + i), hn::LoadU(d, r + i), squares);
      float sum = hn::GetLane(hn::SumOfLanes(d, squares));
      for (; i < width; ++i) sum += r[i] * r[i];
      const float inverse = 1 / std::sqrt(sum / static_cast<float>(width) + m_.norm_eps);
      for (i = 0; i + kLanes <= width; i += kLanes)
        hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, r + i), Const(inverse)), hn::LoadU(d, weight + i)), d, y + i);
      for (; i < width; ++i) y[i] = r[i] * inverse * weight[i];
    }
  }

  float* conv_state(int64_t b, size_t layer) const {
    return states_[static_cast<size_t>(b)] + static_cast<int64_t>(layer) * m_.layer_state_size();
  }
  float* ssm_state(int64_t b, size_t layer) const { return conv_state(b, layer) + (m_.d_conv - 1) * inner_; }

  // u = silu(convolution) of this thread's channels, and z.
  void project_in(const DecodeLayer& layer, size_t number, int64_t begin, int64_t end) {
    ForPanels(layer.in_x, begin, end, normalised_, m_.d_model, batch_,
              [&](int64_t b, int64_t row, int64_t rows, const float* values) {
                convolve(layer, conv_state(b, number) + row, row, rows, values, s_.u + b * inner_ + row);
              });
    ForPanels(layer.in_z, begin, end, normalised_, m_.d_model, batch_,
              [&](int64_t b, int64_t row, int64_t rows, const float* values) {
                copy(values, s_.z + b * inner_ + row, rows);
              });
  }

  void convolve(const DecodeLayer& layer, float* past, int64_t row, int64_t rows, const float* now, float* u) const {
    const float* weight = layer.conv_weight + row;
    for (int64_t i = 0; i < rows; i += kLanes) {
      const V x = hn::Load(d, now + i);
      V sum = hn::Load(d, layer.conv_bias + row + i);
      for (int64_t k = 0; k + 1 < m_.d_conv; ++k) {
        const V old = hn::Load(d, past + k * inner_ + i);
        sum = hn::MulAdd(hn::Load(d, weight + k * inner_ + i), old, sum);
        if (k > 0) hn::Store(old, d, past + (k - 1) * inner_ + i);
      }
      sum = hn::MulAdd(hn::Load(d, weight + (m_.d_conv - 1) * inner_ + i), x, sum);
      if (m_.d_conv > 1) hn::Store(x, d, past + (m_.d_conv - 2) * inner_ + i);
      hn::Store(step::Silu(sum).value, d, u + i);
    }
  }

  int64_t projected_width() const { return m_.dt_rank + 2 * m_.d_state; }

  // delta's low-rank part, then B, then C, fixed parts added: always (R + 2S), whatever is selective.
  void project_x(const DecodeLayer& layer) {
    const int64_t rank = m_.dt_rank, n = m_.d_state;
    project(layer.x_proj, s_.u, inner_, [&](int64_t b, int64_t row, int64_t rows, const float* values) {
      float* out = s_.projected + b * projected_width();
      for (int64_t i = 0; i < rows && row + i < layer.x_proj.rows; ++i) {
        const int64_t r = row + i, at = r - rank;  // at: place in [B, C], in C alone when B is fixed
        if (at < 0) {
          out[r] = values[i];
        } else if (m_.selective_b && at < n) {
          out[r] = values[i] + (layer.b_fixed ? layer.b_fixed[at] : 0.0f);
        } else {
          const int64_t k = m_.selective_b ? at - n : at;
          out[rank + n + k] = values[i] + (layer.c_fixed ? layer.c_fixed[k] : 0.0f);
        }
      }
    });
  }

  // The gated output replaces z.
  void scan(const DecodeLayer& layer, size_t number, int64_t begin, int64_t end) {
    const int64_t rank = m_.dt_rank, n = m_.d_state;
    ForPanels(layer.dt_proj, begin, end, s_.projected, projected_width(), batch_,
              [&](int64_t b, int64_t row, int64_t rows, const float* raw) {
                const float* projected = s_.projected + b * projected_width();
                const float* B = m_.selective_b ? projected + rank : layer.b_fixed;
                const float* C = m_.selective_c ? projected + rank + n : layer.c_fixed;
                for (int64_t i = 0; i < rows; i += 16)
                  scan_block(layer, row + i, raw + i, B, C, b, ssm_state(b, number));
              });
  }

  void scan_block(const DecodeLayer& layer, int64_t channel, const float* raw, const float* B, const float* C,
                  int64_t b, float* states) const {
    HWY_ALIGN float delta[16], input[16], y[16];
    const float* u = s_.u + b * inner_ + channel;
    float* z = s_.z + b * inner_ + channel;
    for (int lane = 0; lane < 16; lane += kLanes) {
      const V value = hn::Load(d, u + lane);
      hn::Store(step::Softplus(hn::Add(hn::Load(d, raw + lane), hn::Load(d, layer.dt_bias + channel + lane))).value, d,
                delta + lane);
      hn::Store(hn::Mul(value, hn::Load(d, layer.gain + channel + lane)), d, input + lane);
      hn::Store(hn::Mul(value, hn::Load(d, layer.skip + channel + lane)), d, y + lane);
    }
    const float* a = m_.shared_a ? layer.a : layer.a + channel * m_.d_state;
    step::ScanStep(
        {a, m_.shared_a, m_.d_state, m_.n_real, m_.shift, B, C, states + channel * m_.d_state, delta, input, y},
        m_.transition, m_.discretization);
    for (int lane = 0; lane < 16; lane += kLanes)
      hn::Store(hn::Mul(hn::Load(d, y + lane), step::Silu(hn::Load(d, z + lane)).value), d, z + lane);
  }

  void add_to_residual(const PackedMatrix& matrix, const float* x, int64_t stride) {
    project(matrix, x, stride, [&](int64_t b, int64_t row, int64_t rows, const float* values) {
      float* r = s_.residual + b * m_.d_model + row;
      for (int64_t i = 0; i < std::min(rows, m_.d_model - row); ++i) r[i] += values[i];
    });
  }

  void mlp(const DecodeLayer& layer) {
    const int64_t width = m_.padded_intermediate();
    barrier_.wait(threads_);
    normalise(layer.norm2);
    const auto keep = [&](int64_t b, int64_t row, int64_t rows, const float* values) {
      copy(values, s_.hidden + b * width + row, rows);
    };
    project(layer.fc1, normalised_, m_.d_model, keep);
    project(layer.fc1_gate, normalised_, m_.d_model, [&](int64_t b, int64_t row, int64_t rows, const float* gate) {
      float* h = s_.hidden + b * width + row;
      for (int64_t i = 0; i < rows; i += kLanes)
        hn::Store(hn::Mul(hn::Load(d, h + i), step::Silu(hn::Load(d, gate + i)).value), d, h + i);
    });
    barrier_.wait(threads_);
    add_to_residual(layer.fc2, s_.hidden, width);
  }

  const DecodeModel& m_;
  std::span<const int32_t> ids_;
  std::span<float* const> states_;
  DecodeScratch& s_;
  DecodeBarrier& barrier_;
  int thread_, threads_;
  int64_t batch_, inner_;
  float* normalised_;
};

void decode_worker(const DecodeModel& model, std::span<const int32_t> ids, std::span<float* const> states,
                   DecodeScratch& scratch, DecodeBarrier& barrier, int thread, int threads, float* logits) {
  DecodeWorker(model, ids, states, scratch, barrier, thread, threads).run(logits);
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(decode_worker);

DecodeScratch::DecodeScratch(const DecodeModel& m, int64_t batch, int threads)
    : batch_(batch), width_(m.d_model), threads_(threads) {
  const auto lines = [](int64_t floats) { return (floats + 15) / 16 * 16; };
  const int64_t sizes[] = {batch * m.d_model,
                           batch * m.padded_inner(),
                           batch * m.padded_inner(),
                           batch * (m.dt_rank + 2 * m.d_state),
                           batch * m.padded_intermediate(),
                           threads * batch * m.d_model};
  float** arrays[] = {&residual, &u, &z, &projected, &hidden, &normalised_};
  int64_t total = 16;
  for (int64_t size : sizes) total += lines(size);
  memory_.assign(static_cast<size_t>(total), 0.0f);
  float* at = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64);
  for (size_t i = 0; i < std::size(sizes); ++i) {
    *arrays[i] = at;
    at += lines(sizes[i]);
  }
}

void decode_step(const DecodeModel& model, std::span<const int32_t> ids, std::span<float* const> states,
                 DecodeScratch& scratch, float* logits) {
  DecodeBarrier barrier;
#pragma omp parallel num_threads(scratch.threads())
  {
    HWY_DYNAMIC_DISPATCH(decode_worker)
    (model, ids, states, scratch, barrier, omp_get_thread_num(), omp_get_num_threads(), logits);
  }
}
}  // namespace smamba::ops::cpu
#endif
