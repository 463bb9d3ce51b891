#include "smamba/infer/decoder.h"

#include <cstring>
#include <unordered_map>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/infer/device_decoder.h"
#include "smamba/infer/weight_arena.h"
#include "smamba/ops/cpu/decode.h"

namespace smamba::infer {
namespace {

using ops::DType;
using ops::cpu::DecodeLayer;
using ops::cpu::DecodeModel;
using ops::cpu::DecodeScratch;
using ops::cpu::PackedMatrix;

// Looks parameters up by name and packs them.
class HostPacker {
 public:
  HostPacker(const models::LanguageModel& model, WeightArena& arena)
      : dtype_(model.precision() == models::Precision::kBFloat16 ? DType::kBFloat16 : DType::kFloat32), arena_(arena) {
    for (const auto& p : model.parameters()) parameters_.emplace(p.name, p.tensor.detach().contiguous());
  }

  bool has(const std::string& name) const { return parameters_.contains(name); }
  at::Tensor get(const std::string& name) const { return parameters_.at(name); }

  PackedMatrix matrix(const at::Tensor& weight) {  // (rows, cols)
    PackedMatrix m{weight.size(0), weight.size(1), dtype_, nullptr};
    void* memory = arena_.allocate(ops::cpu::packed_bytes(m.rows, m.cols, dtype_));
    const at::Tensor rows = weight.contiguous();
    ops::cpu::pack_matrix(rows.const_data_ptr<float>(), m.cols, m.rows, m.cols, dtype_, memory);
    m.data = memory;
    return m;
  }
  /// Float32, as it lies.
  const float* vector(const at::Tensor& values) {
    const at::Tensor v = values.to(at::kFloat).contiguous();
    auto* memory = static_cast<float*>(arena_.allocate(v.numel() * 4));
    std::memcpy(memory, v.const_data_ptr<float>(), static_cast<size_t>(v.numel()) * 4);
    return memory;
  }

 private:
  DType dtype_;
  WeightArena& arena_;
  std::unordered_map<std::string, at::Tensor> parameters_;
};

at::Tensor padded(const at::Tensor& values, int64_t last) {
  return at::constant_pad_nd(values.detach(), {0, last - values.size(-1)});
}

// (D, S) -> (D'/16, S, 16), and back: channels side by side.
at::Tensor to_blocks(const at::Tensor& x, int64_t inner) {
  return padded(x.detach().t(), inner).reshape({x.size(1), inner / 16, 16}).transpose(0, 1).contiguous();
}
at::Tensor from_blocks(const at::Tensor& blocks, int64_t channels) {
  return blocks.transpose(0, 1).reshape({blocks.size(1), -1}).t().narrow(0, 0, channels).contiguous();
}

DecodeModel make_shape(const models::LanguageModel& model) {
  const auto& c = model.config();
  const auto& options = model.mixer(0).dynamics().options();
  DecodeModel m;
  m.d_model = c.d_model;
  m.d_inner = c.d_inner();
  m.d_state = c.mixer.d_state;
  m.d_conv = c.mixer.d_conv;
  m.dt_rank = c.dt_rank();
  m.d_intermediate = c.d_intermediate;
  m.vocab_size = c.vocab_size;
  m.norm_eps = static_cast<float>(c.norm_eps);
  m.transition = options.transition;
  m.discretization = options.discretization;
  m.n_real = options.n_real < 0 ? m.d_state : options.n_real;
  m.shift = static_cast<float>(options.shift);
  m.selective_b = c.mixer.selects("B");
  m.selective_c = c.mixer.selects("C");
  m.shared_a = model.mixer(0).dynamics().tensors().A.dim() == 1;
  return m;
}

void pack_mixer(DecodeLayer& layer, const DecodeModel& m, const models::Dynamics& dynamics, const std::string& prefix,
                HostPacker& packer) {
  const int64_t d = m.d_inner, inner = m.padded_inner();
  const at::Tensor in = packer.get(prefix + "in_proj.weight");
  layer.in_x = packer.matrix(in.narrow(0, 0, d));
  layer.in_z = packer.matrix(in.narrow(0, d, d));
  layer.conv_weight = packer.vector(padded(packer.get(prefix + "conv1d.weight").squeeze(1).t(), inner));
  const std::string bias = prefix + "conv1d.bias";
  layer.conv_bias = packer.vector(packer.has(bias) ? padded(packer.get(bias), inner) : at::zeros({inner}));
  layer.x_proj = packer.matrix(packer.get(prefix + "x_proj.weight"));
  layer.dt_proj = packer.matrix(packer.get(prefix + "dt_proj.weight"));
  layer.dt_bias = packer.vector(padded(packer.get(prefix + "dt_proj.bias"), inner));
  layer.out_proj = packer.matrix(packer.get(prefix + "out_proj.weight"));

  const models::DynamicsTensors t = dynamics.tensors();
  layer.a = packer.vector(m.shared_a ? t.A : to_blocks(t.A, inner));
  if (t.B0) layer.b_fixed = packer.vector(*t.B0);
  if (t.C0) layer.c_fixed = packer.vector(*t.C0);
  layer.gain = packer.vector(padded(t.gain ? *t.gain : at::ones({d}), inner));
  layer.skip = packer.vector(padded(t.skip, inner));
}

}  // namespace

struct Decoder::Weights {
  WeightArena arena;
  DecodeModel model;
  int64_t bytes_per_token = 0;
  std::unique_ptr<DecodeScratch> scratch;
};

bool Decoder::supports(const models::ModelConfig& config) {
  return config.mixer.realisation == "modal" || config.mixer.discretisation == "bilinear";
}

Decoder::Decoder(const models::LanguageModel& model) : weights_(std::make_unique<Weights>()) {
  require(
      supports(model.config()),
      "decoder: expected modal coordinates or bilinear steps, found mixer.discretisation = {} in canonical coordinates",
      model.config().mixer.discretisation);
  require(model.device().is_cpu(), "decoder: expected a model on the CPU, found {}", model.device().str());
  const at::NoGradGuard no_grad;
  HostPacker packer(model, weights_->arena);
  DecodeModel& m = weights_->model = make_shape(model);
  // In the order of use.
  for (int64_t i = 0; i < model.config().n_layer; ++i) {
    const std::string prefix = fmt::format("backbone.layers.{}.", i);
    DecodeLayer layer;
    layer.norm = packer.vector(packer.get(prefix + "norm.weight"));
    pack_mixer(layer, m, model.mixer(i).dynamics(), prefix + "mixer.", packer);
    if (m.d_intermediate > 0) {
      layer.norm2 = packer.vector(packer.get(prefix + "norm2.weight"));
      const at::Tensor fc1 = packer.get(prefix + "mlp.fc1.weight");
      layer.fc1 = packer.matrix(fc1.narrow(0, 0, m.d_intermediate));
      layer.fc1_gate = packer.matrix(fc1.narrow(0, m.d_intermediate, m.d_intermediate));
      layer.fc2 = packer.matrix(packer.get(prefix + "mlp.fc2.weight"));
    }
    m.layers.push_back(layer);
  }
  m.norm_f = packer.vector(packer.get("backbone.norm_f.weight"));
  const at::Tensor embedding = packer.get("backbone.embedding.weight");
  const bool tied = model.config().tie_embeddings;
  m.head = packer.matrix(tied ? embedding : packer.get("lm_head.weight"));
  weights_->bytes_per_token = weights_->arena.bytes();
  m.embedding = tied ? m.head : packer.matrix(embedding);
}

Decoder::~Decoder() = default;
void Decoder::State::Free::operator()(float* p) const { std::free(p); }

int64_t Decoder::vocab_size() const { return weights_->model.vocab_size; }
int64_t Decoder::bytes_per_token() const { return weights_->bytes_per_token; }

Decoder::State Decoder::make_state() const {
  const size_t bytes = static_cast<size_t>(weights_->model.state_size()) * sizeof(float);
  State state;
  state.data_.reset(static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
  if (!state.data_) throw std::bad_alloc();
  std::memset(state.data_.get(), 0, bytes);
  return state;
}

Decoder::State Decoder::import_state(const models::ModelState& from, int64_t row) const {
  const DecodeModel& m = weights_->model;
  const int64_t inner = m.padded_inner();
  State state = make_state();
  for (size_t i = 0; i < m.layers.size(); ++i) {
    float* conv = state.data() + static_cast<int64_t>(i) * m.layer_state_size();
    const at::Tensor past =
        padded(from.layers.at(i).conv.select(0, row).to(at::kFloat), inner).contiguous();  // (K-1, D')
    const at::Tensor ssm = to_blocks(from.layers.at(i).ssm.select(0, row), inner);
    std::memcpy(conv, past.const_data_ptr<float>(), static_cast<size_t>(past.numel()) * sizeof(float));
    std::memcpy(conv + past.numel(), ssm.const_data_ptr<float>(), static_cast<size_t>(ssm.numel()) * sizeof(float));
  }
  return state;
}

models::ModelState Decoder::export_state(const State& state) const {
  const DecodeModel& m = weights_->model;
  const int64_t inner = m.padded_inner();
  models::ModelState out;
  for (size_t i = 0; i < m.layers.size(); ++i) {
    float* conv = state.data() + static_cast<int64_t>(i) * m.layer_state_size();
    const at::Tensor past = at::from_blob(conv, {m.d_conv - 1, inner}, at::kFloat).narrow(1, 0, m.d_inner);
    const at::Tensor ssm = at::from_blob(conv + (m.d_conv - 1) * inner, {inner / 16, m.d_state, 16}, at::kFloat);
    out.layers.push_back({past.unsqueeze(0).clone(), from_blocks(ssm, m.d_inner).unsqueeze(0)});
  }
  return out;
}

void Decoder::step(std::span<const int32_t> ids, std::span<State* const> states, float* logits) {
  const DecodeModel& m = weights_->model;
  require(ids.size() == states.size(), "decoder: expected a state for each of {} ids, found {}", ids.size(),
          states.size());
  for (int32_t id : ids)
    require(id >= 0 && id < m.vocab_size, "decoder: id: expected one in [0, {}), found {}", m.vocab_size, id);
  if (ids.empty()) return;
  const auto batch = static_cast<int64_t>(ids.size());
  auto& scratch = weights_->scratch;
  // A thread pays where it reads some 256 KB; below, waiting for each other costs more.
  const auto useful = std::max<int64_t>(1, weights_->bytes_per_token >> 18);
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), useful));
  if (!scratch || scratch->batch() < batch || scratch->threads() != threads)
    scratch = std::make_unique<DecodeScratch>(m, batch, threads);
  std::vector<float*> data;
  for (State* s : states) data.push_back(s->data());
  ops::cpu::decode_step(m, ids, data, *scratch, logits);
}

namespace {

class DecoderEngine final : public Engine {
 public:
  explicit DecoderEngine(const models::LanguageModel& model) : model_(model), decoder_(model) {}
  int64_t vocab_size() const override { return decoder_.vocab_size(); }

  std::span<float> start(std::span<const std::vector<int32_t>> prompts) override {
    const auto vocabulary = static_cast<size_t>(vocab_size());
    states_.clear();
    logits_.resize(prompts.size() * vocabulary);
    for (size_t i = 0; i < prompts.size(); ++i) {
      models::ModelState state;
      const at::Tensor row = read_prompt(model_, prompts[i], state);
      std::memcpy(logits_.data() + i * vocabulary, row.const_data_ptr<float>(), vocabulary * sizeof(float));
      states_.push_back(decoder_.import_state(state, 0));
    }
    return logits_;
  }

  std::span<float> step(std::span<const int64_t> sequences, std::span<const int32_t> ids) override {
    std::vector<Decoder::State*> states;
    for (int64_t s : sequences) states.push_back(&states_.at(static_cast<size_t>(s)));
    decoder_.step(ids, states, logits_.data());
    return std::span(logits_).first(sequences.size() * static_cast<size_t>(vocab_size()));
  }

 private:
  const models::LanguageModel& model_;
  Decoder decoder_;
  std::vector<Decoder::State> states_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Engine> make_decoder_engine(const models::LanguageModel& model) {
  return std::make_unique<DecoderEngine>(model);
}

std::unique_ptr<Engine> make_engine(const models::LanguageModel& model) {
  if (model.device().is_cpu() && Decoder::supports(model.config())) return make_decoder_engine(model);
  if (model.device().is_cuda() && device_decoder_serves(model)) return make_device_decoder_engine(model);
  return make_model_engine(model);
}

}  // namespace smamba::infer
