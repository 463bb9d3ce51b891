// A scan problem on the device: buffers, the kernels' arguments, one forward and backward pass.
#pragma once
#include "harness.h"
#include "scan_reference.h"
#include "smamba/ops/cuda/kernels.h"

namespace harness {

namespace ops = smamba::ops;

/// Repeats a tile of numbers over an array.
template <class T>
__global__ void repeat_kernel(const T* tile, int64_t tile_size, T* out, int64_t n) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    out[i] = tile[(i + i / 65521) % tile_size];
}

/// Sets *differs where two arrays of bytes differ.
static __global__ void compare_kernel(const uint8_t* a, const uint8_t* b, int64_t n, int* differs) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    if (a[i] != b[i]) *differs = 1;
}

/// Every sequence has `pad` unused elements after each row of time, and starts `pad` elements into its buffer: with pad
/// = 1 nothing is aligned.
class DeviceScan {
 public:
  DeviceScan(const reference::Problem& p, DType type, int64_t pad) : p_(p), type_(type), pad_(pad) {
    const int64_t d = p.channels, s = p.state;
    args.batch = p.batch, args.length = p.length, args.channels = d, args.state = s;
    args.n_real = p.n_real;
    args.transition = p.transition;
    args.discretization = p.discretization;
    args.shared_a = p.shared_a;
    args.softplus = p.softplus;
    args.shift = float(p.shift);
    args.dtype = type;
    args.u = sequence(p.u, d);
    args.delta = sequence(p.delta, d);
    if (!p.z.empty()) args.z = sequence(p.z, d);
    if (p.b_selective) args.b_sel = sequence(p.b, s);
    if (!p.b_selective) args.b_fixed = floats(p.b);
    if (p.c_selective) args.c_sel = sequence(p.c, s);
    if (!p.c_selective) args.c_fixed = floats(p.c);
    args.a = floats(p.a);
    args.gain = floats(p.gain);
    args.skip = floats(p.skip);
    args.delta_bias = floats(p.bias);
    args.initial_state = floats(p.initial);
    if (!p.reset.empty()) {
      keep_.emplace_back(int64_t(p.reset.size()));
      CUDA_OK(cudaMemcpy(keep_.back().get(), p.reset.data(), p.reset.size(), cudaMemcpyHostToDevice));
      args.reset = static_cast<const uint8_t*>(keep_.back().get());
    }
    args.out = sequence({}, d);
    args.final_state = empty(p.batch * d * s);
    args.checkpoints = empty(ops::cuda::scan_checkpoint_floats(args));
    gradients.d_out = sequence(p.d_out, d);
    gradients.d_final_state = floats(p.d_final);
    gradients.d_u = sequence({}, d);
    gradients.d_delta = sequence({}, d);
    if (!p.z.empty()) gradients.d_z = sequence({}, d);
    if (p.b_selective) gradients.d_b_sel = sequence({}, s);
    if (!p.b_selective) gradients.d_b_fixed = empty(s);
    if (p.c_selective) gradients.d_c_sel = sequence({}, s);
    if (!p.c_selective) gradients.d_c_fixed = empty(s);
    gradients.d_a = empty(p.a.size());
    gradients.d_gain = empty(d);
    gradients.d_skip = empty(d);
    gradients.d_delta_bias = empty(d);
    gradients.d_initial_state = empty(p.batch * d * s);
    forward_workspace_ = Buffer(ops::cuda::scan_forward_workspace_bytes(args) + 16);
    backward_workspace_ = Buffer(ops::cuda::scan_backward_workspace_bytes(args) + 16);
  }

  void forward() { ops::cuda::scan_forward(args, forward_workspace_.get(), nullptr); }
  void backward() { ops::cuda::scan_backward(args, gradients, backward_workspace_.get(), nullptr); }

  /// All results, read back; the outputs are poisoned and computed again first.
  reference::Result run() {
    for (Buffer& b : outputs_) b.poison();
    forward_workspace_.poison();
    backward_workspace_.poison();
    forward();
    backward();
    CUDA_OK(cudaDeviceSynchronize());
    const int64_t d = p_.channels, s = p_.state, states = p_.batch * d * s;
    reference::Result r;
    r.out = values(args.out, d);
    r.final_state = download(args.final_state, states, DType::kFloat32);
    r.d_u = values(gradients.d_u, d);
    r.d_delta = values(gradients.d_delta, d);
    if (!p_.z.empty()) r.d_z = values(gradients.d_z, d);
    r.d_b = p_.b_selective ? values(gradients.d_b_sel, s) : download(gradients.d_b_fixed, s, DType::kFloat32);
    r.d_c = p_.c_selective ? values(gradients.d_c_sel, s) : download(gradients.d_c_fixed, s, DType::kFloat32);
    r.d_a = download(gradients.d_a, p_.a.size(), DType::kFloat32);
    r.d_gain = download(gradients.d_gain, d, DType::kFloat32);
    r.d_skip = download(gradients.d_skip, d, DType::kFloat32);
    r.d_bias = download(gradients.d_delta_bias, d, DType::kFloat32);
    r.d_initial = download(gradients.d_initial_state, states, DType::kFloat32);
    return r;
  }

  /// Runs forward and backward `times` times, everything poisoned before each: whether all runs leave the same bytes.
  bool repeats(int times) {
    std::vector<Buffer> first;
    Buffer differs(sizeof(int));
    CUDA_OK(cudaMemset(differs.get(), 0, sizeof(int)));
    for (int run = 0; run < times; ++run) {
      for (Buffer& b : outputs_) b.poison();
      forward_workspace_.poison();
      backward_workspace_.poison();
      forward();
      backward();
      for (size_t i = 0; i < outputs_.size(); ++i) {
        if (run == 0) {
          first.emplace_back(outputs_[i].bytes());
          CUDA_OK(cudaMemcpy(first[i].get(), outputs_[i].get(), first[i].bytes(), cudaMemcpyDeviceToDevice));
        } else {
          compare_kernel<<<264, 256>>>(static_cast<const uint8_t*>(first[i].get()),
                                       static_cast<const uint8_t*>(outputs_[i].get()), first[i].bytes(),
                                       static_cast<int*>(differs.get()));
        }
      }
    }
    int result = 1;
    CUDA_OK(cudaMemcpy(&result, differs.get(), sizeof(int), cudaMemcpyDeviceToHost));
    return result == 0;
  }

  ops::ScanArgs args;
  ops::ScanGradients gradients;

 private:
  Sequence sequence(const std::vector<double>& x, int64_t width) {
    const int64_t rows = p_.batch * p_.length, stride = width + pad_;
    std::vector<Buffer>& owner = x.empty() ? outputs_ : keep_;
    if (x.empty()) {
      owner.emplace_back((rows * stride + pad_) * size_of(type_));
    } else if (int64_t(x.size()) != rows * width) {
      // For timing: a short tile, repeated on the device.
      const Buffer tile = upload(x, type_);
      owner.emplace_back(rows * stride * size_of(type_));
      if (type_ == DType::kFloat32)
        repeat_kernel<<<1024, 256>>>(tile.f32(), x.size(), owner.back().f32(), rows * stride);
      else
        repeat_kernel<<<1024, 256>>>(static_cast<const __nv_bfloat16*>(tile.get()), x.size(),
                                     static_cast<__nv_bfloat16*>(owner.back().get()), rows * stride);
      CUDA_OK(cudaDeviceSynchronize());
      return {owner.back().get(), p_.length * stride, stride};
    } else {
      std::vector<double> padded(rows * stride + pad_, std::nan(""));
      for (int64_t r = 0; r < rows; ++r) std::copy_n(&x[r * width], width, &padded[pad_ + r * stride]);
      owner.push_back(upload(padded, type_));
    }
    return {static_cast<char*>(owner.back().get()) + pad_ * size_of(type_), p_.length * stride, stride};
  }
  std::vector<double> values(const Sequence& s, int64_t width) const {
    const int64_t rows = p_.batch * p_.length;
    const std::vector<double> all = download(s.data, rows * s.time_stride - pad_, type_);
    std::vector<double> r(rows * width);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(&all[i * s.time_stride], width, &r[i * width]);
    return r;
  }
  const float* floats(const std::vector<double>& x) {
    if (x.empty()) return nullptr;
    keep_.push_back(upload(x, DType::kFloat32));
    return keep_.back().f32();
  }
  float* empty(int64_t n) {
    outputs_.emplace_back(std::max<int64_t>(1, n) * 4);
    return outputs_.back().f32();
  }

  reference::Problem p_;
  DType type_;
  int64_t pad_;
  std::vector<Buffer> keep_, outputs_;
  Buffer forward_workspace_, backward_workspace_;
};

struct ScanShape {
  int64_t batch, length, channels, state;
};

/// A random problem whose numbers are those of a trained layer: poles 1…n, delta of 0.01 to 0.5, everything else of
/// unit scale.
inline reference::Problem random_scan(ScanShape shape, DType type, ops::Transition transition,
                                      ops::Discretization discretization) {
  reference::Problem p;
  p.batch = shape.batch, p.length = shape.length, p.channels = shape.channels, p.state = shape.state;
  p.n_real = transition == ops::Transition::kModal ? shape.state : 0;
  p.transition = transition;
  p.discretization = discretization;
  const int64_t n = shape.batch * shape.length * shape.channels, rows = shape.batch * shape.length * shape.state;
  p.u = rounded(normal(n), type);
  p.delta = rounded(normal(n, 1, -2.5), type);
  p.z = rounded(normal(n), type);
  p.d_out = rounded(normal(n), type);
  p.b = rounded(normal(rows), type);
  p.c = rounded(normal(rows), type);
  p.skip = rounded(normal(shape.channels), DType::kFloat32);
  p.bias = rounded(normal(shape.channels, 0.3), DType::kFloat32);
  p.a.resize(shape.state);
  for (int64_t k = 0; k < shape.state; ++k) p.a[k] = float(-(k + 0.5) * (1 + 0.02 * normal(1)[0]));
  return p;
}

}  // namespace harness
