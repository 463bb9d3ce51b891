#include "smamba/infer/load.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "smamba/core/error.h"
#include "smamba/core/fields.h"
#include "smamba/core/file.h"
#include "smamba/core/safetensors.h"

namespace smamba::infer {
namespace {

at::ScalarType scalar_type(const TensorView& view, const std::string& source) {
  switch (view.dtype) {
    case Dtype::kF32:
      return at::kFloat;
    case Dtype::kF16:
      return at::kHalf;
    case Dtype::kBF16:
      return at::kBFloat16;
    default:
      fail(Exit::kBadData, "{}: {}: expected F32, F16 or BF16, found {}", source, view.name, dtype_name(view.dtype));
  }
}

void copy_parameter(const TensorView& view, const models::Parameter& parameter, const std::string& source) {
  if (at::IntArrayRef(view.shape) != parameter.tensor.sizes())
    fail(Exit::kBadData, "{}: {}: expected shape ({}), found ({})", source, view.name,
         fmt::join(parameter.tensor.sizes(), ", "), fmt::join(view.shape, ", "));
  const auto type = scalar_type(view, source);
  // from_blob takes no const pointer; the tensor is only read.
  void* data = const_cast<std::byte*>(view.data.data());
  at::Tensor target = parameter.tensor;
  target.copy_(at::from_blob(data, view.shape, at::TensorOptions(type)));
}

const nlohmann::json& member(const nlohmann::json& json, const char* key, const std::string& source) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_object())
    fail(Exit::kBadData, "{}: expected an object with the object \"{}\", found none", source, key);
  return json[key];
}

models::ModelConfig model_config(const nlohmann::json& json, const std::string& source) {
  models::ModelConfig config;
  try {
    from_json_config(config, member(json, "model", source), source);
    config.validate();
  } catch (const Error& e) {
    const std::string what = e.what();
    throw Error(Exit::kBadData, what.starts_with(source) ? what : source + ": " + what);
  }
  return config;
}

double share(const nlohmann::json& json, const char* table, const char* key, const std::string& source) {
  const nlohmann::json& t = member(json, table, source);
  const bool number = t.contains(key) && t[key].is_number();
  const double value = number ? t[key].get<double>() : -1;
  if (!(value >= 0 && value <= 1))
    fail(Exit::kBadData, "{}: {}.{}: expected a number in [0, 1], found {}", source, table, key,
         number ? std::to_string(value) : "none");
  return value;
}

std::optional<FimTraining> fim_training(const nlohmann::json& json, const std::string& source) {
  if (!json.contains("fim")) return {};
  return FimTraining{share(json, "fim", "rate", source), share(json, "fim", "spm_rate", source)};
}

std::optional<TrainingData> training_data(const nlohmann::json& json, const std::string& source) {
  if (!json.contains("data")) return {};
  const double fraction = share(json, "data", "validation_fraction", source);
  const nlohmann::json& data = json["data"];
  if (!data.contains("store") || !data["store"].is_string())
    fail(Exit::kBadData, "{}: data.store: expected the identity of a store, found none", source);
  return TrainingData{data["store"].get<std::string>(), fraction};
}

}  // namespace

void load_parameters(const std::filesystem::path& path, models::LanguageModel& model) {
  const SafetensorsFile file(path);
  at::NoGradGuard no_grad;
  for (const auto& parameter : model.parameters()) {
    const TensorView* view = file.find(parameter.name);
    if (!view) fail(Exit::kBadData, "{}: expected the tensor {}, found none", file.source(), parameter.name);
    copy_parameter(*view, parameter, file.source());
  }
  if (file.tensors().size() == model.parameters().size()) return;
  std::set<std::string> known;
  for (const auto& parameter : model.parameters()) known.insert(parameter.name);
  for (const TensorView& view : file.tensors()) {
    if (!known.contains(view.name))
      fail(Exit::kBadData, "{}: the tensor {} belongs to no parameter of the model", file.source(), view.name);
  }
}

LoadedModel load_model(const std::filesystem::path& folder) {
  const std::string source = (folder / "config.json").string();
  const auto json = nlohmann::json::parse(read_file(source), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) fail(Exit::kBadData, "{}: expected JSON, found something else", source);
  const models::ModelConfig config = model_config(json, source);
  LoadedModel loaded;
  loaded.fim = fim_training(json, source);
  loaded.data = training_data(json, source);
  loaded.tokenizer = data::make_tokenizer(member(json, "tokenizer", source).dump(), source);
  if (loaded.tokenizer->vocab_size() > config.vocab_size)
    fail(Exit::kBadData, "{}: expected a tokenizer of at most model.vocab_size = {} tokens, found {}", source,
         config.vocab_size, loaded.tokenizer->vocab_size());
  loaded.model = std::make_unique<models::LanguageModel>(config, /*seed=*/0);
  load_parameters(folder / "model.safetensors", *loaded.model);
  return loaded;
}

}  // namespace smamba::infer
