// What inputs are: formats by name, folders, presets of known corpora.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/data/input_stream.h"

namespace smamba::data {

enum class InputFormat {
  kAuto,
  kText,       // one document per file
  kJsonLines,  // one JSON object per line
  kCsv,        // RFC 4180 with a header line; tabs in .tsv
  kColumnar,   // Parquet, Arrow IPC, Hugging Face and Lance datasets, read by the helper process
};
InputFormat parse_input_format(std::string_view text);  // auto, text, jsonl, csv, columnar; Error(kUsage)
std::string_view to_string(InputFormat format);

/// One thing that is read from front to back.
struct InputUnit {
  std::filesystem::path path;  // "-": standard input
  InputFormat format = InputFormat::kText;
  Compression compression = Compression::kNone;
  bool named = false;  // by a person, not found in a folder
  uint64_t size = 0;   // bytes on disk, 0 where unknown

  std::string name() const { return input_name(path); }
};

/// A corpus that the paper uses: where its text is and how much of it is taken.
struct CorpusPreset {
  std::string_view name, column, source;       // source: what to download, for the help text
  std::span<const std::string_view> patterns;  // file names it expects
  uint64_t rows;                               // 0: all
};
std::span<const CorpusPreset> corpus_presets();
/// Error(kUsage) naming the known ones.
const CorpusPreset& corpus_preset(std::string_view name);

/// Expands and classifies inputs. With kAuto a file's format follows from its name (anything unknown is text); a folder
/// that holds record files
/// (.jsonl, .ndjson, .parquet, .arrow, also compressed) yields those only, any other folder yields text files, one
/// document each; Hugging Face and Lance dataset folders are one unit. `patterns` filter the names found in folders;
/// with a preset its patterns do, and .json is JSON lines. Errors as expand_inputs().
std::vector<InputUnit> classify_inputs(std::span<const std::string> inputs, InputFormat format,
                                       std::span<const std::string> patterns, const CorpusPreset* preset);

}  // namespace smamba::data
