#include "smamba/train/config.h"

#include <cmath>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/data/token_store.h"

namespace smamba::train {
namespace {

void require_finite(TrainConfig config) {
  const FieldList list = fields_of(config);
  for (const Field& field : list.fields()) {
    if (field.type != FieldType::kFloat) continue;
    const FieldValue value = field.get();
    for (const FieldScalar& item : value.items)
      require(std::isfinite(std::get<double>(item)), "{}: expected a finite number, found {}", field.key,
              std::get<double>(item));
  }
}

}  // namespace

void TrainConfig::validate() const {
  require_finite(*this);
  model.validate();
  require(optimizer.beta1 < 1, "optimizer.beta1: expected a number below 1, found {}", optimizer.beta1);
  require(optimizer.beta2 < 1, "optimizer.beta2: expected a number below 1, found {}", optimizer.beta2);
  require(!data.store.empty(),
          "data.store: expected the path of a token store, found none; `smamba data prepare` writes one");
  require(data.validation_fraction > 0 || !data.validation.empty() || (eval_every == 0),
          "data.validation_fraction: expected a positive share or data.validation, found 0 with eval_every = {}",
          eval_every);
}

TrainConfig resolve_config(const std::filesystem::path& file, const std::vector<std::string>& set,
                           const std::string& preset, const std::string& size) {
  require(file.empty() || !data::is_token_store(file),
          "{}: expected a TOML configuration, found a token store; `smamba data stats` describes one", file.string());
  constexpr uint64_t kMostConfiguration = uint64_t{16} << 20;
  const std::string text = file.empty() ? "" : read_file(file, kMostConfiguration);
  const auto apply = [&](TrainConfig& c) {
    if (!file.empty()) parse_toml(c, text, file.string());
    for (const std::string& assignment : set) set_field(c, assignment);
    if (!preset.empty()) c.preset = preset;
    if (!size.empty()) c.size = size;
  };
  // Once to learn the preset, then again over the preset's model.
  TrainConfig first;
  apply(first);
  TrainConfig config;
  config.model = models::make_preset(first.preset, first.size);
  apply(config);
  return config;
}

}  // namespace smamba::train
