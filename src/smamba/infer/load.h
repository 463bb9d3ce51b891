// From a checkpoint folder (docs/formats/checkpoint.md) to a model that is ready to run.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "smamba/data/tokenizer.h"
#include "smamba/models/language_model.h"

namespace smamba::infer {

/// How a run rearranged its samples for fill-in-the-middle (train/config.h, fim).
struct FimTraining {
  double rate = 0, spm_rate = 0;
};

/// What a run learned from (docs/formats/checkpoint.md).
struct TrainingData {
  std::string store;               // TokenStore::identity()
  double validation_fraction = 0;  // of that store's documents; 0: the run validated on another store
};

struct LoadedModel {
  std::unique_ptr<models::LanguageModel> model;
  std::shared_ptr<const data::Tokenizer> tokenizer;
  std::optional<FimTraining> fim;  // absent where config.json does not say, as is `data`
  std::optional<TrainingData> data;
};

/// Reads `config.json` ("model": the fields of ModelConfig, "tokenizer": a tokenizer's description) and
/// `model.safetensors` (every parameter by name; float32, float16 or bfloat16). Errors: Error(kIo) when a file cannot
/// be read; Error(kBadData), one line with file and key, when a key or tensor is missing, unknown or of the wrong
/// shape, or the tokenizer has more tokens than the model.
LoadedModel load_model(const std::filesystem::path& folder);

/// Copies the tensors of a safetensors file into the model's parameters; errors as above.
void load_parameters(const std::filesystem::path& file, models::LanguageModel& model);

}  // namespace smamba::infer
