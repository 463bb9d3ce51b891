#include <tuple>

#include "smamba/core/error.h"
#include "smamba/models/config.h"

namespace smamba::models {
namespace {

MixerConfig mamba() {
  MixerConfig m;
  m.form = "diagonal";
  m.discretisation = "euler_b";
  return m;
}

// Both projections kept, as in the published parameter counts.
MixerConfig published(const std::string& form) {
  MixerConfig m;
  m.form = form;
  m.input_scale = 0.1;  // 1 to 5 % lower loss than 1 after 300 steps: docs/results/models.md
  return m;
}

// The projection that the canonical form makes redundant is dropped: B of the controllable form, C of the observable
// one.
MixerConfig strict(const std::string& form) {
  MixerConfig m = published(form);
  m.selective = {"delta", form == "controllable" ? "C" : "B"};
  return m;
}

// A shared spectrum makes states cheap: twice the states of Mamba for fewer parameters.
MixerConfig wide(const std::string& form) {
  MixerConfig m = strict(form);
  m.d_state = 32;
  m.spectrum_min = 0.5;
  m.spectrum_max = 16;
  return m;
}

MixerConfig schwarz(MixerConfig m) {
  m.parameterisation = "schwarz";
  m.realisation = "companion";
  m.discretisation = "bilinear";
  return m;
}

// The literal recipe: coefficients drawn uniformly, put into the companion matrix.
MixerConfig literal(const std::string& form) {
  MixerConfig m = published(form);
  m.parameterisation = "coefficients";
  m.input_scale = 1;
  m.realisation = "companion";
  m.discretisation = "bilinear";
  return m;
}

struct Preset {
  PresetInfo info;
  MixerConfig mixer;
};

const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = [] {
    std::vector<Preset> p = {{{"mamba", "Mamba (S6): a diagonal A per channel"}, mamba()}};
    for (const auto& [shortname, form, fixed] :
         {std::tuple{"sc-mamba", "controllable", "B"}, std::tuple{"so-mamba", "observable", "C"}}) {
      const std::string s = shortname;
      p.push_back(
          {{s + "-published", s + " with both projections, as the paper counts its parameters"}, published(form)});
      p.push_back({{s + "-strict", s + " with " + fixed + " fixed by the canonical form"}, strict(form)});
      p.push_back({{s + "-wide", s + "-strict with 32 states"}, wide(form)});
      p.push_back({{s + "-published-schwarz", s + "-published in Schwarz coordinates, bilinear steps"},
                   schwarz(published(form))});
      p.push_back(
          {{s + "-strict-schwarz", s + "-strict in Schwarz coordinates, bilinear steps"}, schwarz(strict(form))});
      p.push_back({{s + "-wide-schwarz", s + "-wide in Schwarz coordinates, bilinear steps"}, schwarz(wide(form))});
      p.push_back(
          {{s + "-literal", s + " by the paper's literal recipe: uniform coefficients; not stable"}, literal(form)});
    }
    return p;
  }();
  return list;
}

struct Size {
  PresetInfo info;
  int64_t d_model, n_layer, d_intermediate, vocab_size;
};

const std::vector<Size>& sizes() {
  static const std::vector<Size> list = {
      {{"paper", "d_model 512, 8 layers, MLP 2048, vocabulary 50280 (Table 3 of the paper)"}, 512, 8, 2048, 50280},
      {{"130m", "d_model 768, 24 layers, no MLP, vocabulary 50280 (the released Mamba 130M)"}, 768, 24, 0, 50280},
      {{"demo", "d_model 256, 4 layers, no MLP, byte vocabulary"}, 256, 4, 0, 264},
      {{"tiny", "d_model 64, 2 layers, no MLP, byte vocabulary"}, 64, 2, 0, 264},
  };
  return list;
}

template <class List>
std::vector<PresetInfo> infos(const List& list) {
  std::vector<PresetInfo> out;
  out.reserve(list.size());
  for (const auto& item : list) out.push_back(item.info);
  return out;
}

template <class List>
const auto& find(const List& list, const std::string& what, const std::string& name) {
  std::string known;
  for (const auto& item : list) {
    if (item.info.name == name) return item;
    known += (known.empty() ? "" : ", ") + item.info.name;
  }
  fail(Exit::kUsage, "{}: expected one of {}, found '{}'", what, known, name);
}

}  // namespace

const std::vector<PresetInfo>& preset_list() {
  static const auto list = infos(presets());
  return list;
}
const std::vector<PresetInfo>& size_list() {
  static const auto list = infos(sizes());
  return list;
}

ModelConfig make_preset(const std::string& preset, const std::string& size) {
  // The short names mean the form whose parameters the paper counts.
  const std::string full = preset == "sc-mamba" || preset == "so-mamba" ? preset + "-published" : preset;
  const Size s = find(sizes(), "size", size);
  ModelConfig c;
  c.mixer = find(presets(), "preset", full).mixer;
  c.d_model = s.d_model;
  c.n_layer = s.n_layer;
  c.d_intermediate = s.d_intermediate;
  c.vocab_size = s.vocab_size;
  return c;
}

}  // namespace smamba::models
