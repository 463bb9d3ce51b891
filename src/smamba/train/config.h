// Everything that defines a training run. The resolved configuration is saved with the run and with every checkpoint.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "smamba/core/fields.h"
#include "smamba/models/config.h"

namespace smamba::train {

struct DataConfig {
  std::string store;       // token store that `smamba data` wrote
  std::string validation;  // a second store; empty: the validation part of `store`
  double validation_fraction = 0.02;
  std::string packing = "packed";
  std::string shuffle = "documents";

  template <class V>
  void fields(V& v) {
    v("store", store, "token store written by `smamba data`");
    v("validation", validation, "token store for validation; empty: documents of `store` held out by their hash");
    v("validation_fraction", validation_fraction, "share of documents held out when there is no validation store",
      between(0, 0.9));
    v("packing", packing,
      "packed: windows with the state cleared at every document border; contiguous: windows over the joined documents",
      {"packed", "contiguous"});
    v("shuffle", shuffle,
      "what an epoch permutes: documents (then their windows), windows (of the documents in the store's order), none",
      {"documents", "windows", "none"});
  }
};

struct FimConfig {
  double rate = 0;
  double spm_rate = 0.5;
  std::string level = "characters";
  std::string loss = "all";

  template <class V>
  void fields(V& v) {
    v("rate", rate, "share of samples rearranged for fill-in-the-middle", between(0, 1));
    v("spm_rate", spm_rate, "of those, share in suffix-prefix-middle order (the rest prefix-suffix-middle)",
      between(0, 1));
    v("level", level, "cuts between characters of the text (parts are tokenized anew) or between tokens",
      {"characters", "tokens"});
    v("loss", loss, "all: every token is scored; middle: in rearranged samples only the middle", {"all", "middle"});
  }
};

struct OptimizerConfig {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;
  std::string schedule = "cosine";
  int64_t schedule_steps = 0;
  int64_t warmup = 0;
  double min_lr_ratio = 0.1;
  int64_t restart_period = 0;
  int64_t restart_factor = 1;

  template <class V>
  void fields(V& v) {
    v("lr", lr, "peak learning rate", at_least(0));
    v("beta1", beta1, "AdamW: decay of the first moment", between(0, 1));
    v("beta2", beta2, "AdamW: decay of the second moment", between(0, 1));
    v("eps", eps, "AdamW: epsilon", at_least(0));
    v("weight_decay", weight_decay,
      "AdamW: weight decay (never on A, D, dt bias, norms, the n numbers of a structured layer)", at_least(0));
    v("clip", clip, "largest global gradient norm; 0: no clipping", at_least(0));
    v("schedule", schedule, "learning rate after warm-up: cosine, constant, restarts (cosine with warm restarts)",
      {"cosine", "constant", "restarts"});
    v("schedule_steps", schedule_steps,
      "steps until the schedule's end, after which cosine stays at its lowest; 0: `steps`, as the run began with",
      at_least(0));
    v("warmup", warmup, "steps of linear warm-up", at_least(0));
    v("min_lr_ratio", min_lr_ratio, "the schedule ends at lr * min_lr_ratio", between(0, 1));
    v("restart_period", restart_period, "restarts: steps of the first period; 0: schedule_steps", at_least(0));
    v("restart_factor", restart_factor, "restarts: each period is this many times the last", at_least(1));
  }
};

struct TrainConfig {
  std::string preset = "sc-mamba-wide";
  std::string size = "demo";
  int64_t steps = 1000;
  int64_t batch_size = 8;
  int64_t length = 512;
  int64_t accumulate = 1;
  std::string precision = "fp32";
  std::string device = "cpu";
  int64_t threads = 0;
  int64_t seed = 0;
  double max_seconds = 0;
  int64_t eval_every = 200;
  int64_t eval_tokens = 131072;
  int64_t save_every = 200;
  int64_t keep = 3;
  int64_t sample_every = 0;
  int64_t sample_tokens = 128;
  std::string sample_prompt = "def ";
  int64_t log_every = 10;
  int64_t max_nonfinite = 10;
  models::ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  FimConfig fim;

  /// Refuses combinations that cannot run (Error(kUsage), naming the key).
  void validate() const;

  template <class V>
  void fields(V& v) {
    v("preset", preset, "mixer; `smamba info --presets` lists them");
    v("size", size, "shape of the model: paper, 130m, demo, tiny");
    v("steps", steps, "optimizer steps; a resumed run may go on for more", at_least(0));
    v("batch_size", batch_size, "sequences in one forward pass", at_least(1));
    v("length", length, "tokens in a sequence", at_least(1));
    v("accumulate", accumulate, "forward passes whose gradients are added before a step", at_least(1));
    v("precision", precision, "fp32, or bf16 (activations and products; float32 masters, states and sums)",
      {"fp32", "bf16"});
    v("device", device, "cpu, cuda, cuda:1, …");
    v("threads", threads, "CPU threads; 0: all cores", at_least(0));
    v("seed", seed, "of initial values, order of data and fill-in-the-middle");
    v("max_seconds", max_seconds,
      "stop after this many seconds of training, as if interrupted, and with the schedule following time; 0: no limit",
      at_least(0));
    v("eval_every", eval_every, "steps between validations, each saved where it is the best so far; 0: only at the end",
      at_least(0));
    v("eval_tokens", eval_tokens, "validation tokens scored during training (at the end all of them); 0: all",
      at_least(0));
    v("save_every", save_every, "steps between checkpoints; 0: only at the end, the best before included", at_least(0));
    v("keep", keep, "latest checkpoints kept, besides the best", at_least(1));
    v("sample_every", sample_every, "steps between samples of text; 0: none", at_least(0));
    v("sample_tokens", sample_tokens, "tokens of a sample", at_least(1));
    v("sample_prompt", sample_prompt, "prompt of the samples");
    v("log_every", log_every, "steps between metrics", at_least(1));
    v("max_nonfinite", max_nonfinite, "stop after this many steps in a row with a non-finite loss or gradient",
      at_least(1));
    v.table("model", model);
    v.table("data", data);
    v.table("optimizer", optimizer);
    v.table("fim", fim);
  }
};

/// Defaults, then the preset and size (from the options when not empty, else from --set, else from the file), then the
/// file, then every --set.
TrainConfig resolve_config(const std::filesystem::path& file, const std::vector<std::string>& set,
                           const std::string& preset, const std::string& size);

}  // namespace smamba::train
