#include <cerrno>
#include <cstdio>
#include <cstring>

#include "smamba/cli/commands.h"
#include "smamba/core/error.h"

namespace smamba::cli {

void write_output(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) != bytes.size() || std::fflush(stdout) != 0)
    fail(Exit::kIo, "standard output: cannot write: {}", std::strerror(errno));
}

}  // namespace smamba::cli
