// What the CUDA kernel programs share: device buffers, random data, comparison with double precision, timing by events.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "smamba/ops/scan_args.h"

namespace harness {

using smamba::ops::DType;
using smamba::ops::Sequence;

inline void cuda_ok(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
  std::exit(1);
}
#define CUDA_OK(x) harness::cuda_ok((x), #x)

/// Device memory, filled with NaN patterns so that an unwritten element shows.
class Buffer {
 public:
  explicit Buffer(int64_t bytes = 0) : bytes_(bytes) {
    if (bytes == 0) return;
    CUDA_OK(cudaMalloc(&data_, bytes));
    poison();
  }
  Buffer(Buffer&& o) noexcept : data_(o.data_), bytes_(o.bytes_) { o.data_ = nullptr; }
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~Buffer() { cudaFree(data_); }
  void poison() { CUDA_OK(cudaMemset(data_, 0xff, bytes_)); }
  void* get() const { return data_; }
  float* f32() const { return static_cast<float*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

inline double round_to(DType type, double x) {
  return type == DType::kFloat32 ? double(float(x)) : double(__bfloat162float(__float2bfloat16_rn(float(x))));
}
inline int64_t size_of(DType type) { return type == DType::kFloat32 ? 4 : 2; }

inline Buffer upload(const std::vector<double>& x, DType type) {
  Buffer b(std::max<int64_t>(1, x.size()) * size_of(type));
  if (type == DType::kFloat32) {
    std::vector<float> f(x.begin(), x.end());
    CUDA_OK(cudaMemcpy(b.get(), f.data(), f.size() * 4, cudaMemcpyHostToDevice));
  } else {
    std::vector<__nv_bfloat16> h;
    for (double v : x) h.push_back(__float2bfloat16_rn(float(v)));
    CUDA_OK(cudaMemcpy(b.get(), h.data(), h.size() * 2, cudaMemcpyHostToDevice));
  }
  return b;
}
inline std::vector<double> download(const void* p, int64_t n, DType type) {
  if (type == DType::kFloat32) {
    std::vector<float> f(n);
    CUDA_OK(cudaMemcpy(f.data(), p, n * 4, cudaMemcpyDeviceToHost));
    return {f.begin(), f.end()};
  }
  std::vector<__nv_bfloat16> h(n);
  CUDA_OK(cudaMemcpy(h.data(), p, n * 2, cudaMemcpyDeviceToHost));
  std::vector<double> r;
  for (auto v : h) r.push_back(__bfloat162float(v));
  return r;
}

/// Fresh numbers on every run unless SMAMBA_SEED is set.
inline std::mt19937_64& generator() {
  static std::mt19937_64 g = [] {
    const char* s = std::getenv("SMAMBA_SEED");
    const uint64_t seed = s ? std::strtoull(s, nullptr, 10) : std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    return std::mt19937_64(seed);
  }();
  return g;
}
inline std::vector<double> normal(int64_t n, double scale = 1, double mean = 0) {
  std::normal_distribution<double> d(mean, scale);
  std::vector<double> r(n);
  for (double& x : r) x = d(generator());
  return r;
}
inline std::vector<double> rounded(std::vector<double> x, DType type) {
  for (double& v : x) v = round_to(type, v);
  return x;
}

/// ‖a − b‖ / max(‖b‖, least); NaN anywhere gives NaN. Of zeros: the norm of a.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b, double least = 0) {
  double d = 0, n = 0;
  for (size_t i = 0; i < b.size(); ++i) d += (a[i] - b[i]) * (a[i] - b[i]), n += b[i] * b[i];
  n = std::max(n, least * least);
  return n == 0 ? std::sqrt(d) : std::sqrt(d / n);
}

struct Checks {
  int failed = 0, done = 0;
  std::string context;
  double worst = 0;
  void expect(const char* what, const std::vector<double>& got, const std::vector<double>& want, double limit,
              double least = 0) {
    const double e = relative_error(got, want, least);
    ++done;
    if (e / limit > worst) worst = e / limit;
    if (e <= limit) return;
    ++failed;
    std::printf("FAILED %s: %s: relative error %.3g > %.3g\n", context.c_str(), what, e, limit);
  }
  void expect(bool ok, const char* what) {
    ++done;
    if (ok) return;
    ++failed;
    std::printf("FAILED %s: %s\n", context.c_str(), what);
  }
};

/// Median milliseconds of one call of f(i), i = 0, 1, …, timed one by one with events after three warm-ups.
inline double median_ms(const std::function<void(int)>& f, int repeats = 15) {
  cudaEvent_t a, b;
  CUDA_OK(cudaEventCreate(&a));
  CUDA_OK(cudaEventCreate(&b));
  std::vector<float> times;
  for (int i = 0; i < repeats + 3; ++i) {
    CUDA_OK(cudaEventRecord(a));
    f(i);
    CUDA_OK(cudaEventRecord(b));
    CUDA_OK(cudaEventSynchronize(b));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, a, b));
    if (i >= 3) times.push_back(ms);
  }
  CUDA_OK(cudaEventDestroy(a));
  CUDA_OK(cudaEventDestroy(b));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace harness
