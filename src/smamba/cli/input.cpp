#include <fmt/format.h>

#include <vector>

#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/data/input_stream.h"

namespace smamba::cli {

std::string read_input(const std::string& path) {
  constexpr size_t kMost = size_t{256} << 20, kChunk = size_t{1} << 20;
  const auto in = data::open_input(path, data::Compression::kNone);
  std::string text;
  std::vector<char> chunk(kChunk);
  for (size_t n; (n = in->read(chunk.data(), chunk.size())) > 0;) {
    text.append(chunk.data(), n);
    if (text.size() > kMost)
      fail(Exit::kBadData, "{}: expected at most {} bytes, found more", data::input_name(path), kMost);
  }
  return text;
}

}  // namespace smamba::cli
