#include "smamba/data/input_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "smamba/core/error.h"
#include "smamba/data/document.h"

namespace smamba::data {
namespace fs = std::filesystem;
namespace {

constexpr std::array<std::pair<std::string_view, InputFormat>, 5> kFormats = {{{"auto", InputFormat::kAuto},
                                                                               {"text", InputFormat::kText},
                                                                               {"jsonl", InputFormat::kJsonLines},
                                                                               {"csv", InputFormat::kCsv},
                                                                               {"columnar", InputFormat::kColumnar}}};

using namespace std::string_view_literals;
constexpr std::array kCodeparrotFiles = {"file-*.json.gz"sv, "*.jsonl*"sv, "*.parquet"sv};
constexpr std::array kOpenWebTextFiles = {"*.parquet"sv, "*.jsonl*"sv, "*.arrow"sv};
constexpr std::array kArxivFiles = {"arxiv-metadata-oai-snapshot.json*"sv};
constexpr std::array kCosmopediaFiles = {"train-*.parquet"sv, "*.jsonl*"sv};
constexpr std::array<CorpusPreset, 4> kPresets = {
    {{"codeparrot", "content", "Hugging Face codeparrot/codeparrot-clean", kCodeparrotFiles, 1'000'000},
     {"openwebtext", "text", "Hugging Face Skylion007/openwebtext", kOpenWebTextFiles, 1'000'000},
     {"arxiv", "abstract", "Kaggle Cornell-University/arxiv (metadata)", kArxivFiles, 0},
     {"cosmopedia", "text", "Hugging Face HuggingFaceTB/cosmopedia-100k", kCosmopediaFiles, 100'000}}};

/// The ending that says the format: that before .gz or .zst.
std::string format_extension(const fs::path& path) {
  return compression_of(path) == Compression::kNone ? path.extension().string() : path.stem().extension().string();
}

InputFormat format_of(const fs::path& path, bool json_is_lines) {
  static const std::map<std::string, InputFormat> kByExtension = {
      {".jsonl", InputFormat::kJsonLines},  {".ndjson", InputFormat::kJsonLines}, {".csv", InputFormat::kCsv},
      {".tsv", InputFormat::kCsv},          {".parquet", InputFormat::kColumnar}, {".arrow", InputFormat::kColumnar},
      {".feather", InputFormat::kColumnar}, {".ipc", InputFormat::kColumnar}};
  const std::string extension = format_extension(path);
  if (extension == ".json" && json_is_lines) return InputFormat::kJsonLines;
  const auto found = kByExtension.find(extension);
  return found == kByExtension.end() ? InputFormat::kText : found->second;
}

bool is_dataset_folder(const fs::path& path) {
  return fs::is_directory(path) && (path.extension() == ".lance" || fs::exists(path / "dataset_dict.json") ||
                                    (fs::exists(path / "state.json") && fs::exists(path / "dataset_info.json")) ||
                                    fs::exists(path / "_versions"));
}

InputUnit unit(const InputFile& file, InputFormat format) {
  std::error_code ignored;
  const auto size = fs::file_size(file.path, ignored);
  return {file.path, format, compression_of(file.path), file.named, ignored ? 0 : static_cast<uint64_t>(size)};
}

/// Formats of what one input yielded.
void add_files(const std::vector<InputFile>& files, InputFormat format, bool json_is_lines,
               std::vector<InputUnit>& out) {
  const auto of = [&](const InputFile& f) { return format_of(f.path, json_is_lines); };
  const auto is_records = [&](const InputFile& f) {
    return of(f) == InputFormat::kJsonLines || of(f) == InputFormat::kColumnar;
  };
  const bool named = files.size() == 1 && files.front().named;
  const bool records = std::any_of(files.begin(), files.end(), is_records);
  for (const InputFile& f : files) {
    if (format != InputFormat::kAuto)
      out.push_back(unit(f, format));
    else if (named)
      out.push_back(unit(f, of(f)));
    else if (!records)
      out.push_back(unit(f, InputFormat::kText));
    else if (is_records(f))
      out.push_back(unit(f, of(f)));
  }
}

}  // namespace

InputFormat parse_input_format(std::string_view text) {
  for (const auto& [name, format] : kFormats)
    if (name == text) return format;
  fail(Exit::kUsage, "format: expected auto, text, jsonl, csv or columnar, found \"{}\"", text);
}

std::string_view to_string(InputFormat format) {
  return std::find_if(kFormats.begin(), kFormats.end(), [&](const auto& f) { return f.second == format; })->first;
}

std::span<const CorpusPreset> corpus_presets() { return kPresets; }

const CorpusPreset& corpus_preset(std::string_view name) {
  for (const CorpusPreset& p : kPresets)
    if (p.name == name) return p;
  fail(Exit::kUsage, "preset: expected codeparrot, openwebtext, arxiv or cosmopedia, found \"{}\"", name);
}

std::vector<InputUnit> classify_inputs(std::span<const std::string> inputs, InputFormat format,
                                       std::span<const std::string> patterns, const CorpusPreset* preset) {
  std::vector<std::string> wanted(patterns.begin(), patterns.end());
  if (preset && wanted.empty()) wanted.assign(preset->patterns.begin(), preset->patterns.end());
  std::vector<InputUnit> out;
  for (const std::string& input : inputs) {
    if (input == "-") {
      out.push_back(
          {"-", format == InputFormat::kAuto ? InputFormat::kJsonLines : format, Compression::kNone, true, 0});
    } else if (format != InputFormat::kText && is_dataset_folder(input)) {
      out.push_back({input, InputFormat::kColumnar, Compression::kNone, true, 0});
    } else {
      try {
        add_files(expand_inputs(std::span(&input, 1), wanted), format, preset != nullptr, out);
      } catch (const Error& error) {
        if (!preset || error.code() != Exit::kBadData) throw;
        fail(Exit::kBadData, "{} (preset {} expects files named {} from {})", error.what(), preset->name,
             fmt::join(wanted, ", "), preset->source);
      }
    }
  }
  return out;
}

}  // namespace smamba::data
