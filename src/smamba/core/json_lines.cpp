#include "smamba/core/json_lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "smamba/core/append_file.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/log.h"

namespace smamba {
namespace {

using Json = nlohmann::json;

// Bytes of the leading lines that stay.
size_t length_to_keep(std::string_view text, int64_t last_step, const std::filesystem::path& path) {
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = text.find('\n', begin);
    Json json;
    if (end != std::string_view::npos) json = Json::parse(text.substr(begin, end - begin), nullptr, false);
    if (!json.is_object()) {
      warn("{}:{}: cut off here: not a complete JSON object", path.string(), line);
      return begin;
    }
    if (json.contains("step") && json["step"].is_number() &&
        json["step"].get<double>() > static_cast<double>(last_step))
      return begin;
    begin = end + 1;
  }
  return begin;
}

}  // namespace

JsonLines::JsonLines(const std::filesystem::path& path, int64_t last_step)
    : path_(path), fd_(open_append(path, O_CREAT)) {
  try {
    const std::string text = read_file(path);
    const size_t keep = last_step < 0 ? 0 : length_to_keep(text, last_step, path);
    if (keep < text.size() && ::ftruncate(fd_, static_cast<off_t>(keep)) != 0) {
      fail(Exit::kIo, "{}: cannot cut: {}", path.string(), std::strerror(errno));
    }
    sync();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

JsonLines::~JsonLines() { ::close(fd_); }

void JsonLines::append(std::string_view object) {
  require(object.starts_with('{') && object.ends_with('}') && object.find('\n') == std::string_view::npos,
          "{}: expected one JSON object on one line", path_.string());
  append_all(fd_, path_, std::string(object) + "\n");
}

void JsonLines::sync() { sync_file(fd_, path_); }

}  // namespace smamba
