// A log of JSON objects, one a line, that survives kills and resumes (metrics.jsonl).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace smamba {

class JsonLines {
 public:
  /// Opens for appending, creating the file when absent. An existing file is first cut where this run goes on: before
  /// the first line that is torn (no newline, or not a JSON object; a warning says so) or whose "step" is greater than
  /// `last_step`. A new run passes -1 and starts empty. Lines without "step" stay. Error(kIo).
  JsonLines(const std::filesystem::path& path, int64_t last_step);
  ~JsonLines();
  JsonLines(const JsonLines&) = delete;
  JsonLines& operator=(const JsonLines&) = delete;

  /// Appends one object, given as text without newline: complete, or (Error(kIo)) not at all.
  void append(std::string_view object);
  void sync();  // fsync

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace smamba
