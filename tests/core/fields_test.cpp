#include "smamba/core/fields.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "smamba/core/error.h"

namespace smamba {
namespace {

enum class Form { kPoles, kSchwarz };
inline auto field_names(Form) { return field_enum<Form>({{Form::kPoles, "poles"}, {Form::kSchwarz, "schwarz"}}); }

struct Inner {
  int64_t d_state = 16;
  Form form = Form::kPoles;
  std::vector<std::string> selective = {"delta", "C"};
  template <class V>
  void fields(V& v) {
    v("d_state", d_state, "state size", between(1, 256));
    v("form", form, "parameterisation of the state matrix");
    v("selective", selective, "what depends on the input", {"delta", "B", "C"});
  }
};

struct Outer {
  int64_t d_model = 512;
  int workers = 2;
  bool tie = true;
  double lr = 1e-3;
  std::string name = "run";
  std::optional<int64_t> dt_rank;
  std::vector<double> betas = {0.9, 0.95};
  std::vector<int64_t> sizes;
  std::vector<Form> forms;
  Inner mixer;
  template <class V>
  void fields(V& v) {
    v("d_model", d_model, "width of the residual stream", at_least(1));
    v.table("mixer", mixer);
    v("workers", workers, "threads that read");
    v("tie", tie, "share embedding and head");
    v("lr", lr, "peak learning rate");
    v("name", name, "name of the run");
    v("dt_rank", dt_rank, "rank of the step projection");
    v("betas", betas, "AdamW's two decay rates");
    v("sizes", sizes, "some sizes");
    v("forms", forms, "some forms");
  }
};

std::string toml_error(std::string_view text) {
  Outer config;
  try {
    parse_toml(config, text, "run.toml");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kUsage);
    EXPECT_TRUE(differences(config, Outer{}).empty()) << "a refused text changed the configuration";
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    return e.what();
  }
  return "accepted";
}

std::string override_error(std::string_view text) {
  Outer config;
  try {
    set_field(config, text);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Fields, ReadsToml) {
  Outer c;
  parse_toml(c,
             "d_model = 64\nlr = 1\ntie = false\nname = 'x'\ndt_rank = 8\nbetas = [0.5, 1]\n[mixer]\nform = "
             "'schwarz'\nd_state = 4\n"
             "selective = ['delta']\n",
             "run.toml");
  EXPECT_EQ(c.d_model, 64);
  EXPECT_EQ(c.lr, 1.0);
  EXPECT_FALSE(c.tie);
  EXPECT_EQ(c.name, "x");
  EXPECT_EQ(c.dt_rank, 8);
  EXPECT_EQ(c.betas, (std::vector<double>{0.5, 1}));
  EXPECT_EQ(c.mixer.form, Form::kSchwarz);
  EXPECT_EQ(c.mixer.d_state, 4);
  EXPECT_EQ(c.mixer.selective, std::vector<std::string>{"delta"});
}

TEST(Fields, RefusesWithPlaceKeyExpectedFound) {
  EXPECT_EQ(toml_error("tie = true\nd_modle = 3"), "run.toml:2: unknown key 'd_modle'; did you mean 'd_model'?");
  EXPECT_EQ(toml_error("d_state = 3"), "run.toml:1: unknown key 'd_state'; did you mean 'mixer.d_state'?");
  EXPECT_EQ(toml_error("[mixer]\n\nd_sate = 3"),
            "run.toml:3: unknown key 'mixer.d_sate'; did you mean 'mixer.d_state'?");
  EXPECT_EQ(toml_error("zzzzzzzzz = 3"), "run.toml:1: unknown key 'zzzzzzzzz'");
  EXPECT_EQ(toml_error("d_model = 'a'"), "run.toml:1: key 'd_model': expected an integer of at least 1, found \"a\"");
  EXPECT_EQ(toml_error("d_model = 1.5"), "run.toml:1: key 'd_model': expected an integer of at least 1, found 1.5");
  EXPECT_EQ(toml_error("d_model = 0"), "run.toml:1: key 'd_model': expected an integer of at least 1, found 0");
  EXPECT_EQ(toml_error("mixer.d_state = 257"),
            "run.toml:1: key 'mixer.d_state': expected an integer from 1 to 256, found 257");
  EXPECT_EQ(toml_error("mixer.form = 'x'"),
            "run.toml:1: key 'mixer.form': expected one of poles, schwarz, found \"x\"");
  EXPECT_EQ(toml_error("mixer.selective = ['D']"),
            "run.toml:1: key 'mixer.selective': expected a list, each item one of delta, B, C, found [\"D\"]");
  EXPECT_EQ(toml_error("tie = 1"), "run.toml:1: key 'tie': expected true or false, found 1");
  EXPECT_EQ(toml_error("lr = 'x'"), "run.toml:1: key 'lr': expected a number, found \"x\"");
  EXPECT_EQ(toml_error("name = 1"), "run.toml:1: key 'name': expected a string, found 1");
  EXPECT_EQ(toml_error("betas = 1"), "run.toml:1: key 'betas': expected a list, each item a number, found 1");
  EXPECT_EQ(toml_error("lr = [1]"), "run.toml:1: key 'lr': expected a number, found [1]");
  EXPECT_EQ(toml_error("mixer = 1"), "run.toml:1: key 'mixer': expected a table");
  EXPECT_EQ(toml_error("workers = 3000000000"), "run.toml:1: key 'workers': 3000000000 is out of range");
  EXPECT_NE(toml_error("[lr]\nx = 1").find("run.toml:1: key 'lr'"), std::string::npos);
  EXPECT_NE(toml_error("lr = 1979-05-27").find("run.toml:1: key 'lr'"), std::string::npos);
  EXPECT_NE(toml_error("lr = 1\nlr = 2").find("run.toml:2: not valid TOML"), std::string::npos);
  EXPECT_NE(toml_error("x = \"\xff\"").find("run.toml:1: not valid TOML"), std::string::npos);
  EXPECT_NE(toml_error("d_model = 8\nmixer.form = 3").find("run.toml:2"), std::string::npos);
}

TEST(Fields, Overrides) {
  Outer c;
  for (const char* text :
       {"d_model=1_024", "lr=3e-4", "tie=false", "name=a=b", "dt_rank=4", "betas=0.1,0.2", "sizes=[1, 2]",
        "mixer.form=schwarz", "mixer.selective=[\"delta\",'B']", "forms=poles,schwarz", " workers = -1 "}) {
    set_field(c, text);
  }
  EXPECT_EQ(c.d_model, 1024);
  EXPECT_EQ(c.lr, 3e-4);
  EXPECT_FALSE(c.tie);
  EXPECT_EQ(c.name, "a=b");
  EXPECT_EQ(c.dt_rank, 4);
  EXPECT_EQ(c.betas, (std::vector<double>{0.1, 0.2}));
  EXPECT_EQ(c.sizes, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(c.mixer.form, Form::kSchwarz);
  EXPECT_EQ(c.mixer.selective, (std::vector<std::string>{"delta", "B"}));
  EXPECT_EQ(c.forms, (std::vector<Form>{Form::kPoles, Form::kSchwarz}));
  EXPECT_EQ(c.workers, -1);
  set_field(c, "dt_rank=none");
  EXPECT_FALSE(c.dt_rank);
  set_field(c, "sizes=[]");
  EXPECT_TRUE(c.sizes.empty());

  EXPECT_EQ(override_error("d_model"), "--set: expected key=value, found 'd_model'");
  EXPECT_EQ(override_error("d_model=x"), "--set: key 'd_model': expected an integer of at least 1, found \"x\"");
  EXPECT_EQ(override_error("d_model=none"), "--set: key 'd_model': expected an integer of at least 1, found \"none\"");
  EXPECT_EQ(override_error("d_model=99999999999999999999"),
            "--set: key 'd_model': expected an integer of at least 1, found 1e+20");
  EXPECT_EQ(override_error("mixer=1"), "--set: key 'mixer' is a table; set one of its keys, 'mixer.…'");
  EXPECT_EQ(override_error("lrr=1"), "--set: unknown key 'lrr'; did you mean 'lr'?");
  EXPECT_EQ(override_error("tie=yes"), "--set: key 'tie': expected true or false, found \"yes\"");
}

Outer unusual() {
  Outer c;
  c.lr = 0.1 + 0.2;
  c.name = "quote \" back \\ line\n tab\t bell\x07 é";
  c.betas = {1e-300, -0.0, std::numeric_limits<double>::infinity(), 5};
  c.dt_rank = std::numeric_limits<int64_t>::min();
  c.sizes = {std::numeric_limits<int64_t>::max()};
  c.forms = {Form::kSchwarz};
  c.mixer.d_state = 3;
  return c;
}

TEST(Fields, TomlRoundTripIsExact) {
  const Outer c = unusual();
  Outer back;
  parse_toml(back, to_toml(c), "printed");
  EXPECT_TRUE(differences(c, back).empty()) << to_toml(c);
  EXPECT_TRUE(std::signbit(back.betas[1]));
  const std::string text = to_toml(c);
  EXPECT_NE(text.find("# width of the residual stream\nd_model = 512\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n[mixer]\n# state size; default 16\nd_state = 3\n# parameterisation of the state matrix (poles "
                      "| schwarz)\n"),
            std::string::npos)
      << text;
  EXPECT_NE(to_toml(Outer{}).find("# dt_rank = none"), std::string::npos);
}

TEST(Fields, JsonRoundTripIsExact) {
  const Outer c = unusual();
  Outer back;
  const auto json = to_json_config(c);
  EXPECT_EQ(json["mixer"]["d_state"], 3);
  from_json_config(back, nlohmann::json::parse(json.dump()), "state.json");
  EXPECT_TRUE(differences(c, back).empty()) << json.dump(1);
  EXPECT_TRUE(to_json_config(Outer{})["dt_rank"].is_null());
  for (const char* bad : {"[]", R"({"mixer":1})", R"({"d_model":{}})", R"({"d_model":null})", R"({"x":1})",
                          R"({"d_model":1e30})", R"({"d_model":18446744073709551615})", R"({"betas":[[1]]})"}) {
    Outer d;
    EXPECT_THROW(from_json_config(d, nlohmann::json::parse(bad), "state.json"), Error) << bad;
  }
}

TEST(Fields, DifferencesNameKeysAndValues) {
  Outer a, b;
  b.lr = 2;
  b.mixer.form = Form::kSchwarz;
  const auto d = differences(a, b);
  ASSERT_EQ(d.size(), 2u);
  EXPECT_EQ(d[0].key, "mixer.form");
  EXPECT_EQ(d[0].left, "\"poles\"");
  EXPECT_EQ(d[1].right, "2.0");
  a.lr = b.lr = std::nan("");
  EXPECT_EQ(differences(a, b).size(), 1u);
}

TEST(Fields, HelpNamesEveryKey) {
  const std::string help = config_help<Outer>();
  for (const char* key : {"d_model = 512", "mixer.d_state = 16", "dt_rank = none", "one of poles, schwarz"}) {
    EXPECT_NE(help.find(key), std::string::npos) << help;
  }
}

}  // namespace
}  // namespace smamba
