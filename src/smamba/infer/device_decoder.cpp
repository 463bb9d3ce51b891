#include "smamba/infer/device_decoder.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

#include "smamba/core/error.h"
#include "smamba/ops/decode_step.h"

namespace smamba::infer {
namespace {

using ops::DecodeStepArgs;
using ops::DecodeStepLayer;

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

at::Tensor padded(const at::Tensor& matrix, int64_t row_unit, int64_t column_unit) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  return at::constant_pad_nd(matrix,
                             {0, rounded_up(columns, column_unit) - columns, 0, rounded_up(rows, row_unit) - rows});
}

/// Packed weights on the model's device, kept alive as long as the packer.
class Packer {
 public:
  explicit Packer(const models::LanguageModel& model)
      : type_(model.precision() == models::Precision::kBFloat16 ? at::kBFloat16 : at::kFloat) {
    for (const auto& p : model.parameters()) parameters_.emplace(p.name, p.tensor.detach());
  }

  bool has(const std::string& name) const { return parameters_.contains(name); }
  at::Tensor get(const std::string& name) const { return parameters_.at(name); }

  /// Fragments (decode_step.h) of a matrix whose sides are multiples of 16.
  const void* fragments(const at::Tensor& matrix) {
    const int64_t rows = matrix.size(0) / 16, columns = matrix.size(1) / 16;
    // (row tile, row half, row, column tile, column half, pair, 2) -> lanes (row, pair) of (column half, row half, 2)
    return keep(matrix.to(type_).reshape({rows, 2, 8, columns, 2, 4, 2}).permute({0, 3, 2, 5, 4, 1, 6}).contiguous());
  }
  /// Pieces of 16 bytes of every row, the same piece of all rows side by side.
  const void* pieces(const at::Tensor& matrix) {
    const at::Tensor m = matrix.to(type_);
    const int64_t piece = 16 / m.element_size();
    return keep(m.reshape({m.size(0), m.size(1) / piece, piece}).permute({1, 0, 2}).contiguous());
  }
  const float* floats(const at::Tensor& values) {
    return static_cast<const float*>(keep(values.detach().to(at::kFloat).contiguous()));
  }
  at::Tensor scratch(at::IntArrayRef shape, at::ScalarType type) {
    at::Tensor t = at::zeros(shape, parameters_.begin()->second.options().requires_grad(false).dtype(type));
    kept_.push_back(t);
    return t;
  }
  at::ScalarType type() const { return type_; }

 private:
  const void* keep(const at::Tensor& t) {
    kept_.push_back(t);
    return t.const_data_ptr();
  }
  at::ScalarType type_;
  std::unordered_map<std::string, at::Tensor> parameters_;
  std::vector<at::Tensor> kept_;
};

DecodeStepLayer pack_layer(const models::LanguageModel& model, int64_t index, Packer& packer) {
  const auto& c = model.config();
  const std::string prefix = fmt::format("backbone.layers.{}.", index), mixer = prefix + "mixer.";
  const int64_t inner = c.d_inner(), hidden = c.d_intermediate;
  DecodeStepLayer layer;
  const at::Tensor in = packer.get(mixer + "in_proj.weight") * packer.get(prefix + "norm.weight");
  layer.in_proj =
      packer.fragments(at::cat({padded(in.narrow(0, 0, inner), 32, 16), padded(in.narrow(0, inner, inner), 32, 16)}));
  layer.conv_weight = packer.floats(packer.get(mixer + "conv1d.weight").squeeze(1).t());
  if (packer.has(mixer + "conv1d.bias")) layer.conv_bias = packer.floats(packer.get(mixer + "conv1d.bias"));
  layer.x_proj = packer.fragments(padded(packer.get(mixer + "x_proj.weight"), 16, 32));
  layer.dt_proj = packer.pieces(padded(packer.get(mixer + "dt_proj.weight"), 1, 8));
  layer.dt_bias = packer.floats(packer.get(mixer + "dt_proj.bias"));
  layer.out_proj = packer.fragments(padded(packer.get(mixer + "out_proj.weight"), 16, 16));
  const models::DynamicsTensors t = model.mixer(index).dynamics().tensors();
  layer.a = packer.floats(t.A.dim() == 1 ? t.A : t.A.t());
  if (t.B0) layer.b_fixed = packer.floats(*t.B0);
  if (t.C0) layer.c_fixed = packer.floats(*t.C0);
  if (t.gain) layer.gain = packer.floats(*t.gain);
  layer.skip = packer.floats(t.skip);
  if (hidden == 0) return layer;
  const at::Tensor fc1 = packer.get(prefix + "mlp.fc1.weight") * packer.get(prefix + "norm2.weight");
  layer.fc1 = packer.fragments(
      at::cat({padded(fc1.narrow(0, 0, hidden), 16, 16), padded(fc1.narrow(0, hidden, hidden), 16, 16)}));
  layer.fc2 = packer.fragments(padded(packer.get(prefix + "mlp.fc2.weight"), 16, 16));
  return layer;
}

int64_t projected(const models::ModelConfig& c) {
  return c.dt_rank() + (c.mixer.selects("B") ? c.mixer.d_state : 0) + (c.mixer.selects("C") ? c.mixer.d_state : 0);
}

DecodeStepArgs pack(const models::LanguageModel& model, Packer& packer) {
  const auto& c = model.config();
  DecodeStepArgs a;
  a.d_model = c.d_model, a.d_inner = c.d_inner(), a.d_state = c.mixer.d_state, a.d_conv = c.mixer.d_conv;
  a.dt_rank = c.dt_rank(), a.d_intermediate = c.d_intermediate, a.vocab_size = c.vocab_size;
  a.norm_eps = static_cast<float>(c.norm_eps);
  a.dtype = packer.type() == at::kBFloat16 ? ops::DType::kBFloat16 : ops::DType::kFloat32;
  a.discretization = model.mixer(0).dynamics().options().discretization;
  a.shared_a = model.mixer(0).dynamics().tensors().A.dim() == 1;
  a.selective_b = c.mixer.selects("B"), a.selective_c = c.mixer.selects("C");
  for (int64_t i = 0; i < c.n_layer; ++i) a.layers.push_back(pack_layer(model, i, packer));
  const at::Tensor embedding = packer.get("backbone.embedding.weight");
  const at::Tensor head = c.tie_embeddings ? embedding : packer.get("lm_head.weight");
  a.embedding = packer.floats(embedding);
  a.head = packer.fragments(padded(head * packer.get("backbone.norm_f.weight"), 32, 16));

  constexpr int64_t kBatch = ops::kMaxDecodeBatch;
  const auto floats = [&](at::IntArrayRef shape) { return packer.scratch(shape, at::kFloat).data_ptr<float>(); };
  const auto fragments = [&](int64_t columns) {
    return packer.scratch({rounded_up(std::max<int64_t>(1, columns), 16), kBatch}, packer.type()).data_ptr();
  };
  a.residual = floats({kBatch, c.d_model});
  a.stream = fragments(c.d_model), a.gated = fragments(rounded_up(c.d_inner(), 32)),
  a.hidden = fragments(c.d_intermediate);
  a.u = floats({kBatch, c.d_inner()}), a.z = floats({kBatch, c.d_inner()});
  a.partial = floats({rounded_up(c.d_inner(), 32) / 32, kBatch, rounded_up(projected(c), 16)});
  a.candidates = packer.scratch({kBatch, ops::kChooseBlocks, 8}, at::kByte).data_ptr();
  return a;
}

class DeviceDecoder final : public Engine {
 public:
  explicit DeviceDecoder(const models::LanguageModel& model)
      : model_(model), packer_(model), result_(model.device().type()), following_(model.device().type()) {
    const at::NoGradGuard no_grad;
    args_ = pack(model, packer_);
  }
  ~DeviceDecoder() override { forget_step_ahead(); }
  DeviceDecoder(const DeviceDecoder&) = delete;
  DeviceDecoder& operator=(const DeviceDecoder&) = delete;
  int64_t vocab_size() const override { return args_.vocab_size; }
  bool serves(const Choice& choice) const override {
    return static_cast<int64_t>(choice.forbidden.size()) <= ops::kMaxForbidden;
  }

  std::span<float> start(std::span<const std::vector<int32_t>> prompts) override {
    const at::NoGradGuard no_grad;
    const auto count = static_cast<int64_t>(prompts.size());
    forget_step_ahead();
    make_room(count);
    alive_.clear();
    std::vector<at::Tensor> rows;
    for (int64_t i = 0; i < count; ++i) {
      models::ModelState state;
      rows.push_back(read_prompt(model_, prompts[static_cast<size_t>(i)], state));
      take_over(state, i);
      alive_.push_back(i);
    }
    if (rows.empty()) return {};
    logits_.narrow(0, 0, count).copy_(at::stack(rows));
    return give_logits(count);
  }

  std::span<float> step(std::span<const int64_t> sequences, std::span<const int32_t> ids) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(model_.device());
    check(sequences, ids);
    require(!ahead_, "generate: expected the ids that were chosen to be fed greedily, or a new start");
    keep(sequences);
    std::ranges::copy(ids, tokens(side_));
    launch(static_cast<int64_t>(ids.size()), /*choose=*/false);
    return give_logits(static_cast<int64_t>(ids.size()));
  }

  // The device finds the ids of a step where the step in front has put them, so the next one begins before the host has
  // seen what was chosen.
  std::span<const int32_t> step_greedy(std::span<const int64_t> sequences, std::span<const int32_t> ids,
                                       const Choice& choice) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(model_.device());
    check(sequences, ids);
    if (ids.empty()) return {};
    if (ahead_)
      check_step_ahead(sequences, ids, choice);
    else
      begin(sequences, ids, choice);
    // Here the step that feeds `ids` to the sequences of alive_ is under way.
    const bool all_stay = std::ranges::equal(sequences, alive_);
    std::swap(result_, following_);
    if (all_stay) begin_next();
    result_.synchronize();
    int32_t* chosen = tokens(1 - side_);
    if (!all_stay) {
      for (size_t i = 0; i < sequences.size(); ++i) chosen[i] = chosen[row_of(sequences[i])];
      keep(sequences);
      begin_next();
    }
    side_ = 1 - side_;
    const std::span<const int32_t> out(chosen, ids.size());
    for (int32_t id : out) {
      if (id < 0) fail(Exit::kBadData, "sampling: expected finite logits, found one that is not a number or infinite");
    }
    return out;
  }

 private:
  /// Buffers for `count` sequences. Recorded steps hold their addresses.
  void make_room(int64_t count) {
    if (count <= capacity_) return;
    const auto& c = model_.config();
    const auto floats = at::TensorOptions(model_.device()).dtype(at::kFloat);
    const auto pinned = at::TensorOptions().pinned_memory(true);
    steps_.clear();
    conv_ = at::zeros({c.n_layer, count, c.mixer.d_conv - 1, c.d_inner()}, floats);
    ssm_ = at::zeros({c.n_layer, count, c.mixer.d_state, c.d_inner()}, floats);
    logits_ = at::empty({count, c.vocab_size}, floats);
    host_logits_ = at::empty({count, c.vocab_size}, pinned.dtype(at::kFloat));
    tokens_ = at::zeros({2, count}, pinned.dtype(at::kInt));
    capacity_ = count;
  }

  void take_over(const models::ModelState& state, int64_t row) {
    for (size_t i = 0; i < state.layers.size(); ++i) {
      conv_.select(0, static_cast<int64_t>(i)).select(0, row).copy_(state.layers[i].conv.select(0, 0));
      ssm_.select(0, static_cast<int64_t>(i)).select(0, row).copy_(state.layers[i].ssm.select(0, 0).t());
    }
  }

  /// Moves the states of the sequences that stay to the front.
  void keep(std::span<const int64_t> sequences) {
    if (std::equal(sequences.begin(), sequences.end(), alive_.begin(), alive_.end())) return;
    std::vector<int64_t> rows;
    for (int64_t s : sequences) rows.push_back(std::lower_bound(alive_.begin(), alive_.end(), s) - alive_.begin());
    const at::Tensor index = at::tensor(rows, at::kLong).to(model_.device());
    const auto count = static_cast<int64_t>(rows.size());
    for (const at::Tensor& states : {conv_, ssm_}) states.narrow(1, 0, count).copy_(states.index_select(1, index));
    alive_.assign(sequences.begin(), sequences.end());
  }

  void check(std::span<const int64_t> sequences, std::span<const int32_t> ids) const {
    require(ids.size() == sequences.size() && ids.size() <= static_cast<size_t>(capacity_),
            "generate: expected one of the started sequences for each of {} ids, found {}", ids.size(),
            sequences.size());
    for (int32_t id : ids)
      require(id >= 0 && id < args_.vocab_size, "generate: id: expected one in [0, {}), found {}", args_.vocab_size,
              id);
  }

  size_t row_of(int64_t sequence) const {
    return static_cast<size_t>(std::ranges::lower_bound(alive_, sequence) - alive_.begin());
  }
  int32_t* tokens(int side) const { return tokens_.data_ptr<int32_t>() + side * capacity_; }

  void begin(std::span<const int64_t> sequences, std::span<const int32_t> ids, const Choice& choice) {
    keep(sequences);
    if (!(choice == choice_)) {
      choice_ = choice;
      std::erase_if(steps_, [](const auto& entry) { return std::get<2>(entry.first); });
    }
    std::ranges::copy(ids, tokens(side_));
    launch(static_cast<int64_t>(ids.size()), /*choose=*/true);
    record(following_);
  }

  /// The step that feeds what the one under way chooses.
  void begin_next() {
    side_ = 1 - side_;
    launch(static_cast<int64_t>(alive_.size()), /*choose=*/true);
    side_ = 1 - side_;
    record(following_);
    ahead_ = true;
  }

  void check_step_ahead(std::span<const int64_t> sequences, std::span<const int32_t> ids, const Choice& choice) const {
    bool same = choice == choice_;
    for (size_t i = 0; same && i < ids.size(); ++i) {
      const size_t row = row_of(sequences[i]);
      same = row < alive_.size() && alive_[row] == sequences[i] && tokens(side_)[row] == ids[i];
    }
    require(same, "generate: expected the ids that were chosen to be fed to their sequences, with the same choice");
  }

  /// Its buffers are free afterwards. What it left in the states is of no more use.
  void forget_step_ahead() {
    if (ahead_) following_.synchronize();
    ahead_ = false;
  }

  void record(c10::Event& event) const {
    event.record(c10::impl::VirtualGuardImpl(model_.device().type()).getStream(model_.device()));
  }

  /// One step of the first `count` rows, with the ids of tokens(side_).
  void launch(int64_t count, bool choose) {
    for (int64_t first = 0; first < count; first += ops::kMaxDecodeBatch)
      step_of(first, std::min(ops::kMaxDecodeBatch, count - first), choose).launch();
  }

  /// The recorded step of rows [first, first + batch).
  ops::DecodeStep& step_of(int64_t first, int64_t batch, bool choose) {
    auto& step = steps_[{first, batch, choose, side_}];
    if (step) return *step;
    DecodeStepArgs a = args_;
    a.batch = batch;
    a.ids = tokens(side_) + first;
    a.logits = logits_.data_ptr<float>() + first * a.vocab_size;
    if (choose) {
      a.chosen = tokens(1 - side_) + first;
      a.usable = choice_.usable, a.forbidden = choice_.forbidden;
    }
    for (size_t i = 0; i < a.layers.size(); ++i) {
      const auto layer = static_cast<int64_t>(i);
      a.layers[i].conv_state = conv_.select(0, layer).data_ptr<float>() + first * conv_.stride(1);
      a.layers[i].ssm_state = ssm_.select(0, layer).data_ptr<float>() + first * ssm_.stride(1);
    }
    step = ops::record_decode_step(a);
    return *step;
  }

  std::span<float> give_logits(int64_t count) {
    host_logits_.narrow(0, 0, count).copy_(logits_.narrow(0, 0, count));  // waits
    return {host_logits_.data_ptr<float>(), static_cast<size_t>(count * args_.vocab_size)};
  }

  const models::LanguageModel& model_;
  Packer packer_;
  DecodeStepArgs args_;
  int64_t capacity_ = 0;
  at::Tensor conv_, ssm_;          // (layers, capacity, K-1 or S, D); rows: the sequences of alive_
  at::Tensor logits_;              // (capacity, V)
  at::Tensor host_logits_;         // page-locked
  at::Tensor tokens_;              // (2, capacity), page-locked: ids on one side, what is chosen on the other
  int side_ = 0;                   // of the ids of the step under way, or of the next one
  bool ahead_ = false;             // a step has begun that feeds tokens(side_) to the sequences of alive_
  c10::Event result_, following_;  // end of the step that is asked for, and of the one begun last
  std::vector<int64_t> alive_;     // ascending
  Choice choice_;
  std::map<std::tuple<int64_t, int64_t, bool, int>, std::unique_ptr<ops::DecodeStep>> steps_;  // see step_of
};

}  // namespace

bool device_decoder_serves(const models::LanguageModel& model) {
  const auto& c = model.config();
  const auto& options = model.mixer(0).dynamics().options();
  return model.precision() != models::Precision::kFloat64 && options.transition == ops::Transition::kModal &&
         (options.n_real < 0 || options.n_real == c.mixer.d_state) && projected(c) <= 512 &&
         c.mixer.d_state <= ops::kMaxDecodeStates;
}

std::unique_ptr<Engine> make_device_decoder_engine(const models::LanguageModel& model) {
  require(device_decoder_serves(model),
          "GPU decoder: expected float32 or bfloat16 and modal coordinates with real poles, found another model");
  return std::make_unique<DeviceDecoder>(model);
}

}  // namespace smamba::infer
