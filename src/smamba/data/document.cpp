#include "smamba/data/document.h"

#include <fnmatch.h>
#include <glob.h>
#include <simdjson.h>

#include <algorithm>
#include <set>

#include "smamba/core/error.h"
#include "smamba/core/file.h"

namespace smamba::data {
namespace fs = std::filesystem;
namespace {

/// Length of the well-formed sequence at p, 0 when there is none (Unicode, table 3-7).
size_t sequence_length(const unsigned char* p, size_t left) {
  const unsigned char a = p[0];
  if (a < 0x80) return 1;
  const size_t length = a >= 0xc2 && a <= 0xdf ? 2 : (a & 0xf0) == 0xe0 ? 3 : a >= 0xf0 && a <= 0xf4 ? 4 : 0;
  if (length == 0 || length > left) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((p[i] & 0xc0) != 0x80) return 0;
  const unsigned char b = p[1];
  if ((a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f)) return 0;  // overlong; surrogates
  if ((a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f)) return 0;  // overlong; above U+10FFFF
  return length;
}

bool hidden(const fs::path& path) { return path.filename().native().starts_with('.'); }

bool matches(const fs::path& path, std::span<const std::string> patterns) {
  if (patterns.empty()) return true;
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return fnmatch(p.c_str(), path.filename().c_str(), 0) == 0; });
}

void add_folder(const fs::path& folder, std::span<const std::string> patterns, std::vector<fs::path>& out) {
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error), end;
  for (; !error && at != end; at.increment(error)) {
    if (hidden(at->path())) {
      at.disable_recursion_pending();
      continue;
    }
    if (at->is_regular_file(error) && matches(at->path(), patterns)) out.push_back(at->path());
  }
  if (error) fail(Exit::kIo, "{}: cannot read folder: {}", folder.string(), error.message());
}

bool add_glob(const std::string& pattern, std::vector<fs::path>& out) {
  if (pattern.find_first_of("*?[") == std::string::npos) return false;
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i)
      if (fs::is_regular_file(found.gl_pathv[i])) out.emplace_back(found.gl_pathv[i]);
  globfree(&found);
  return true;
}

}  // namespace

size_t invalid_utf8_offset(std::string_view text) {
  if (simdjson::validate_utf8(text.data(), text.size())) return std::string_view::npos;
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t at = 0; at < text.size();) {
    const size_t length = sequence_length(p + at, text.size() - at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

std::string text_defect(std::string_view text, const TextRules& rules) {
  if (text.size() > rules.max_document_bytes)
    return fmt::format("expected a document of at most {} bytes, found {}", rules.max_document_bytes, text.size());
  if (rules.bad_text == BadText::kKeep) return {};
  if (const size_t at = text.find('\0'); at != std::string_view::npos)
    return fmt::format("offset {}: expected text, found a NUL byte", at);
  if (const size_t at = invalid_utf8_offset(text); at != std::string_view::npos)
    return fmt::format("offset {}: expected UTF-8, found byte 0x{:02x}", at, static_cast<unsigned char>(text[at]));
  return {};
}

std::vector<InputFile> expand_inputs(std::span<const std::string> inputs, std::span<const std::string> patterns) {
  std::vector<InputFile> files;
  std::set<fs::path> seen;
  for (const std::string& input : inputs) {
    std::vector<fs::path> found;
    bool named = false;
    if (fs::is_directory(input)) {
      add_folder(input, patterns, found);
    } else if (fs::exists(input)) {
      found.emplace_back(input);
      named = true;
    } else if (!add_glob(input, found)) {
      fail(Exit::kIo, "{}: no such file or folder", input);
    }
    if (found.empty()) fail(Exit::kBadData, "{}: expected at least one file, found none that matches", input);
    std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
    for (fs::path& path : found)
      if (seen.insert(path.lexically_normal()).second) files.push_back({std::move(path), named});
  }
  return files;
}

bool read_document(const InputFile& file, const TextRules& rules, std::string& text) {
  std::error_code error;
  const auto size = fs::file_size(file.path, error);
  std::string defect;
  if (!error && size > rules.max_document_bytes) {
    defect = fmt::format("expected a document of at most {} bytes, found {}", rules.max_document_bytes, size);
  } else {
    text = read_file(file.path, rules.max_document_bytes);
    if (text.empty()) {
      if (file.named) fail(Exit::kBadData, "{}: expected text, found an empty file", file.path.string());
      return false;
    }
    defect = text_defect(text, rules);
  }
  if (defect.empty()) return true;
  if (rules.bad_text != BadText::kSkip) fail(Exit::kBadData, "{}: {}", file.path.string(), defect);
  return false;
}

bool TextFiles::next(Document& out) {
  while (at_ < files_.size()) {
    const InputFile& file = files_[at_++];
    out.origin = file.path.string();
    if (read_document(file, rules_, out.text)) return true;
    ++skipped_;
  }
  return false;
}

}  // namespace smamba::data
