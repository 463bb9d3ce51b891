// The parameter counts of the design's table come out exactly.
#include <gtest/gtest.h>

#include "smamba/core/error.h"
#include "smamba/models/language_model.h"

namespace smamba::models {
namespace {

struct Row {
  const char* preset;
  int64_t count;
};

class ParameterCount : public testing::TestWithParam<Row> {};

TEST_P(ParameterCount, MatchesTheTable) {
  const LanguageModel model(make_preset(GetParam().preset, "paper"), 0);
  EXPECT_EQ(model.parameter_count(), GetParam().count);
}

INSTANTIATE_TEST_SUITE_P(
    Table, ParameterCount,
    testing::Values(Row{"mamba", 64'475'648}, Row{"sc-mamba-published", 64'344'840}, Row{"sc-mamba", 64'344'840},
                    Row{"so-mamba-published", 64'352'904}, Row{"sc-mamba-strict", 64'213'768},
                    Row{"so-mamba-strict", 64'221'832}, Row{"sc-mamba-wide", 64'345'096},
                    Row{"sc-mamba-published-schwarz", 64'344'840}, Row{"sc-mamba-strict-schwarz", 64'213'768},
                    Row{"so-mamba-published-schwarz", 64'352'904}, Row{"so-mamba-strict-schwarz", 64'221'832},
                    Row{"sc-mamba-wide-schwarz", 64'345'096}),
    [](const auto& info) {
      std::string name = info.param.preset;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST(ModelConfigValidation, RefusesWhatCannotBeBuilt) {
  const auto refuses = [](auto&& change, const std::string& key) {
    ModelConfig c = make_preset("sc-mamba-strict", "tiny");
    change(c);
    try {
      c.validate();
      ADD_FAILURE() << "accepted: " << key;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kUsage);
      EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
    }
  };
  refuses([](ModelConfig& c) { c.mixer.parameterisation = "schwarz"; }, "mixer.realisation");
  refuses([](ModelConfig& c) { c.mixer.d_state = 257; }, "mixer.d_state");
  refuses([](ModelConfig& c) { c.mixer.realisation = "companion", c.mixer.d_state = 65; }, "mixer.d_state");
  refuses([](ModelConfig& c) { c.mixer.selective = {"B"}; }, "delta");
  refuses([](ModelConfig& c) { c.mixer.selective = {"delta", "E"}; }, "'E'");
  refuses([](ModelConfig& c) { c.mixer.selective = {"delta", "C", "C"}; }, "twice");
  refuses([](ModelConfig& c) { c.mixer.form = "diagonal"; }, "mixer.selective");
  refuses([](ModelConfig& c) { c.d_model = 0; }, "d_model");
  refuses([](ModelConfig& c) { c.mixer.d_conv = 9; }, "mixer.d_conv");
  refuses([](ModelConfig& c) { c.mixer.dt_min = 1; }, "dt_min");
  EXPECT_THROW(make_preset("sc-mambo", "tiny"), Error);
  EXPECT_THROW(make_preset("mamba", "huge"), Error);
}

}  // namespace
}  // namespace smamba::models
