#include "smamba/models/parameters.h"

#include "smamba/core/parallel.h"
#include "smamba/core/random.h"

namespace smamba::models {
namespace {

// Fills in parallel: value i consumes the counters from i * kDraws on, so the result does not depend on the partition.
constexpr uint64_t kDraws = 2;

template <class Draw>
at::Tensor filled(at::IntArrayRef shape, uint64_t seed, const std::string& name, const Draw& draw) {
  at::Tensor t = at::empty(shape, at::kFloat);
  float* p = t.data_ptr<float>();
  const uint64_t stream = stream_id("init/" + name);
  parallel_for(t.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Random r(seed, stream, static_cast<uint64_t>(i) * kDraws);
      p[i] = static_cast<float>(draw(r));
    }
  });
  return t;
}

}  // namespace

at::Tensor ParameterList::add(const std::string& name, at::Tensor tensor, bool decay) {
  tensor.requires_grad_(true);
  list_.push_back({name, tensor, decay});
  return tensor;
}

template <class Draw>
at::Tensor ParameterList::drawn(const std::string& name, at::IntArrayRef shape, bool decay, const Draw& draw) {
  const bool counted = matrices_ == Matrices::kCountedOnly && shape.size() > 1;
  return add(name,
             counted ? at::empty(shape, at::device(at::kMeta).dtype(at::kFloat)) : filled(shape, seed_, name, draw),
             decay);
}

at::Tensor ParameterList::values(const std::string& name, const at::Tensor& values, bool decay) {
  return add(name, values.to(at::kFloat).clone().contiguous(), decay);
}

at::Tensor ParameterList::uniform(const std::string& name, at::IntArrayRef shape, double low, double high, bool decay) {
  return drawn(name, shape, decay, [&](Random& r) { return r.uniform(low, high); });
}

at::Tensor ParameterList::normal(const std::string& name, at::IntArrayRef shape, double mean, double deviation,
                                 bool decay) {
  return drawn(name, shape, decay, [&](Random& r) { return mean + deviation * r.normal(); });
}

at::Tensor ParameterList::constant(const std::string& name, at::IntArrayRef shape, double value, bool decay) {
  return values(name, at::full(shape, value, at::kFloat), decay);
}

at::Tensor ParameterList::linear(const std::string& name, int64_t out, int64_t in, double scale) {
  const double bound = scale / std::sqrt(static_cast<double>(in));
  return uniform(name, {out, in}, -bound, bound);
}

}  // namespace smamba::models
