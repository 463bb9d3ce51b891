// Shapes and choices of a language model: typed fields with help texts, read from and written to TOML and JSON
// (core/fields.h).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace smamba::models {

/// One selective state-space layer. The mathematics: docs/math/README.md.
struct MixerConfig {
  std::string form = "controllable";       // diagonal | controllable | observable
  std::string parameterisation = "poles";  // poles | schwarz | coefficients (controllable and observable only)
  std::string realisation = "modal";       // modal | companion
  std::string discretisation = "zoh";      // zoh | euler_b | bilinear
  std::vector<std::string> selective = {"delta", "B", "C"};
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;
  int64_t dt_rank = 0;  // 0: ceil(d_model / 16)
  double dt_min = 1e-3;
  double dt_max = 1e-1;
  double dt_init_floor = 1e-4;
  bool conv_bias = true;
  std::string spectrum = "real";  // real | lin | mixed | butterworth
  double spectrum_min = 0;        // with real: poles evenly spaced over [-max, -min]; 0, 0: -1 … -n
  double spectrum_max = 0;
  double input_scale = 1;  // on the fixed vector of the canonical form
  double pole_floor = 1e-4;
  double schwarz_shift = 1e-3;
  double coefficient_low = 0;  // coefficients: drawn uniformly from [low, high), the paper's recipe
  double coefficient_high = 1;

  bool selects(const std::string& what) const;

  template <class V>
  void fields(V& v) {
    v("form", form, "state matrix: diagonal (Mamba), controllable (SC-Mamba), observable (SO-Mamba)",
      {"diagonal", "controllable", "observable"});
    v("parameterisation", parameterisation,
      "the n numbers of a structured layer: poles (stable), schwarz (stable, O(n) steps), coefficients (the paper's "
      "literal recipe)",
      {"poles", "schwarz", "coefficients"});
    v("realisation", realisation,
      "coordinates of the state: modal (diagonal, poles only) or companion (canonical coordinates)",
      {"modal", "companion"});
    v("discretisation", discretisation, "zoh, euler_b (Mamba's own rule for B) or bilinear",
      {"zoh", "euler_b", "bilinear"});
    v("selective", selective, "what depends on the input: delta always; B and C as listed");
    v("d_state", d_state, "state size n: 1..256 modal, 2..64 in canonical coordinates");
    v("d_conv", d_conv, "width of the causal convolution, 1..8");
    v("expand", expand, "d_inner = expand * d_model");
    v("dt_rank", dt_rank, "rank of the projection to delta; 0: ceil(d_model / 16)");
    v("dt_min", dt_min, "smallest initial step size");
    v("dt_max", dt_max, "largest initial step size");
    v("dt_init_floor", dt_init_floor, "initial step sizes are at least this");
    v("conv_bias", conv_bias, "bias in the convolution");
    v("spectrum", spectrum, "initial poles: real (-1..-n), lin (-1/2 +- i pi (k + 1/2)), mixed, butterworth",
      {"real", "lin", "mixed", "butterworth"});
    v("spectrum_min", spectrum_min, "with spectrum = real: poles evenly spaced from -min to -max; 0 and 0: -1..-n");
    v("spectrum_max", spectrum_max, "see spectrum_min");
    v("input_scale", input_scale,
      "factor on the vector that the canonical form fixes (B controllable, C observable): a change of basis that sets "
      "how large the state's share of the output is at the start");
    v("pole_floor", pole_floor, "poles stay left of -pole_floor");
    v("schwarz_shift", schwarz_shift, "alpha of the Schwarz form: A - alpha I");
    v("coefficient_low", coefficient_low, "parameterisation = coefficients: lower end of the uniform initialisation");
    v("coefficient_high", coefficient_high, "parameterisation = coefficients: upper end of the uniform initialisation");
  }
};

struct ModelConfig {
  int64_t d_model = 512;
  int64_t n_layer = 8;
  int64_t vocab_size = 264;
  int64_t d_intermediate = 0;
  bool tie_embeddings = true;
  double norm_eps = 1e-5;
  MixerConfig mixer;

  int64_t d_inner() const { return mixer.expand * d_model; }
  int64_t dt_rank() const { return mixer.dt_rank > 0 ? mixer.dt_rank : (d_model + 15) / 16; }

  /// Refuses (Error(kUsage), naming the key) what no model can be built from, e.g. schwarz with modal coordinates.
  void validate() const;

  template <class V>
  void fields(V& v) {
    v("d_model", d_model, "width of the residual stream");
    v("n_layer", n_layer, "number of blocks");
    v("vocab_size", vocab_size, "tokens in the vocabulary, padding included; set from the token store when training");
    v("d_intermediate", d_intermediate, "hidden width of the gated MLP after each mixer; 0: no MLP");
    v("tie_embeddings", tie_embeddings, "the output projection is the embedding");
    v("norm_eps", norm_eps, "epsilon of RMSNorm");
    v.table("mixer", mixer);
  }
};

/// Preset names, e.g. "sc-mamba-wide", with one line each on what they are.
struct PresetInfo {
  std::string name, help;
};
const std::vector<PresetInfo>& preset_list();
const std::vector<PresetInfo>& size_list();
/// The configuration of a preset (mixer) at a size ("paper", "130m", "demo", "tiny"). Error(kUsage) listing the known
/// names otherwise.
ModelConfig make_preset(const std::string& preset, const std::string& size);

}  // namespace smamba::models
