#include "smamba/models/config.h"

#include <algorithm>
#include <set>

#include "smamba/core/error.h"

namespace smamba::models {

bool MixerConfig::selects(const std::string& what) const {
  return std::find(selective.begin(), selective.end(), what) != selective.end();
}

namespace {

void check_range(const char* key, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, "{}: expected {}..{}, found {}", key, low, high, value);
}

void check_selective(const MixerConfig& m) {
  const std::set<std::string> known = {"delta", "B", "C"};
  std::set<std::string> seen;
  for (const auto& s : m.selective) {
    require(known.contains(s), "mixer.selective: expected a subset of delta, B, C, found '{}'", s);
    require(seen.insert(s).second, "mixer.selective: '{}' is listed twice", s);
  }
  require(seen.contains("delta"), "mixer.selective: delta is always selective and must be listed");
  require(m.form != "diagonal" || (seen.contains("B") && seen.contains("C")),
          "mixer.selective: form = diagonal (Mamba) needs delta, B and C; fixed B or C exist for controllable and "
          "observable");
}

void check_structure(const MixerConfig& m) {
  if (m.form == "diagonal") {
    require(m.realisation == "modal", "mixer.realisation: form = diagonal has only modal coordinates, found '{}'",
            m.realisation);
    return;
  }
  require(m.parameterisation == "poles" || m.realisation == "companion",
          "mixer.realisation: parameterisation = {} needs realisation = companion (modal coordinates need the poles), "
          "found '{}'",
          m.parameterisation, m.realisation);
}

}  // namespace

void ModelConfig::validate() const {
  check_range("d_model", d_model, 1, 1 << 20);
  check_range("n_layer", n_layer, 1, 4096);
  check_range("vocab_size", vocab_size, 2, 1 << 24);
  check_range("d_intermediate", d_intermediate, 0, 1 << 22);
  check_range("mixer.d_conv", mixer.d_conv, 1, 8);
  check_range("mixer.expand", mixer.expand, 1, 64);
  check_range("mixer.dt_rank", mixer.dt_rank, 0, d_inner());
  if (mixer.realisation == "modal")
    check_range("mixer.d_state", mixer.d_state, 1, 256);
  else
    check_range("mixer.d_state (canonical coordinates)", mixer.d_state, 2, 64);
  require(norm_eps > 0, "norm_eps: expected a positive number, found {}", norm_eps);
  require(mixer.dt_min > 0 && mixer.dt_max >= mixer.dt_min,
          "mixer.dt_min, mixer.dt_max: expected 0 < dt_min <= dt_max, found {}, {}", mixer.dt_min, mixer.dt_max);
  require(mixer.pole_floor >= 0, "mixer.pole_floor: expected >= 0, found {}", mixer.pole_floor);
  require(mixer.input_scale > 0, "mixer.input_scale: expected > 0, found {}", mixer.input_scale);
  require(mixer.schwarz_shift >= 0, "mixer.schwarz_shift: expected >= 0, found {}", mixer.schwarz_shift);
  require(mixer.coefficient_high > mixer.coefficient_low,
          "mixer.coefficient_low, coefficient_high: expected low < high, found {}, {}", mixer.coefficient_low,
          mixer.coefficient_high);
  require(mixer.spectrum_min >= 0 && (mixer.spectrum_max == 0 || mixer.spectrum_max > mixer.spectrum_min),
          "mixer.spectrum_min, spectrum_max: expected 0 <= min < max, found {}, {}", mixer.spectrum_min,
          mixer.spectrum_max);
  require(mixer.spectrum_max == 0 || mixer.spectrum_min > 0,
          "mixer.spectrum_min: expected a positive number with spectrum_max = {}, found {}", mixer.spectrum_max,
          mixer.spectrum_min);
  check_selective(mixer);
  check_structure(mixer);
}

}  // namespace smamba::models
