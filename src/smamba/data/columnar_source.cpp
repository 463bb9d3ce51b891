// Parquet, Arrow IPC, Hugging Face and Lance datasets: read by python/smamba_readers in its own process, because
// libarrow and libtorch do not go into one process. The stream: docs/formats/reader_protocol.md.
#include <simdjson.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/data/block.h"
#include "smamba/data/reader_process.h"

namespace smamba::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kGreeting = "SMREAD1\n";
constexpr uint64_t kMaxFrame = uint64_t{1} << 31;
constexpr uint64_t kMaxTokenDocument = uint64_t{1} << 20;  // a token column without ends of text is cut so

fs::path program_folder() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::string reader_python(const BlockOptions& options) {
  if (!options.reader_python.empty()) return options.reader_python;
  const fs::path own = (program_folder() / "../.venv-columnar/bin/python").lexically_normal();
  std::error_code ignored;
  return fs::exists(own, ignored) ? own.string() : "python3";
}

/// The folder that holds the package smamba_readers.
std::string readers_folder() {
  if (const char* set = std::getenv("SMAMBA_READERS")) return set;
  const fs::path program = program_folder();
  for (const fs::path& candidate : {program / "../python", program / "../share/smamba/python"})
    if (fs::exists(candidate / "smamba_readers")) return candidate.lexically_normal().string();
  fail(Exit::kUsage,
       "cannot find the reader of Parquet, Arrow and Lance: expected python/smamba_readers beside the program, or "
       "SMAMBA_READERS set to its folder");
}

std::vector<std::string> command(const InputUnit& unit, const BlockOptions& options, uint64_t first_row) {
  std::vector<std::string> out = {reader_python(options),
                                  "-m",
                                  "smamba_readers",
                                  "--column",
                                  options.column,
                                  "--split",
                                  options.split,
                                  "--start-row",
                                  std::to_string(first_row),
                                  "--max-bytes",
                                  std::to_string(options.rules.max_document_bytes)};
  out.push_back(unit.path.string());
  return out;
}

class ColumnarSource final : public BlockSource {
 public:
  ColumnarSource(const InputUnit& unit, const BlockOptions& options, InputPosition start)
      : options_(options),
        origin_(unit.path.string()),
        at_(start),
        process_(command(unit, options, start.offset), {"PYTHONPATH=" + readers_folder(), "PYTHONIOENCODING=utf-8"}) {}

  bool next(Block& out) override {
    out = Block{.begin = at_, .end = at_, .origin = origin_};
    if (pending_.empty() && (done_ || !read_frames(out))) return false;
    if (!pending_.empty()) return cut_tokens(out);
    at_.offset += out.lengths.size();
    out.end = at_;
    return true;
  }

 private:
  struct Frame {
    char type;
    uint64_t size;
  };

  /// Reads the next frame of content into `out`; false at the end of the data.
  bool read_frames(Block& out) {
    greet();
    for (;;) {
      const Frame frame = header();
      switch (frame.type) {
        case 'B':
          return read_rows(frame, BlockKind::kTexts, 1, out), true;
        case 'L':
          return read_rows(frame, BlockKind::kTokenRows, 4, out), true;
        case 'T':
          return read_tokens(frame, out), true;
        case 'E':
          refuse(frame);
        case 'Z':
          done_ = true;
          return false;
        default:
          protocol("a known frame type", fmt::format("0x{:02x}", static_cast<unsigned char>(frame.type)));
      }
    }
  }

  void greet() {
    if (std::exchange(greeted_, true)) return;
    char greeting[8];
    receive(greeting, sizeof greeting);
    if (std::string_view(greeting, sizeof greeting) != kGreeting) protocol("its greeting", "something else");
  }

  Frame header() {
    char bytes[9];
    receive(bytes, sizeof bytes);
    Frame frame{bytes[0], 0};
    std::memcpy(&frame.size, bytes + 1, 8);
    if (frame.size > kMaxFrame)
      protocol(fmt::format("a frame of at most {} bytes", kMaxFrame), std::to_string(frame.size));
    return frame;
  }

  /// Rows of `unit` bytes an element: their lengths, then what they hold.
  void read_rows(const Frame& frame, BlockKind kind, uint64_t unit, Block& out) {
    uint64_t count = 0;
    if (frame.size < 8) protocol("a frame of rows", "a short one");
    receive(&count, 8);
    if (count > (frame.size - 8) / 8) protocol("lengths inside the frame", std::to_string(count));
    out.kind = kind;
    out.lengths.resize(count);
    receive(out.lengths.data(), count * 8);
    uint64_t sum = 0;
    const uint64_t left = frame.size - 8 - 8 * count;
    for (uint64_t length : out.lengths) {
      if (length >= kOversizedText) continue;
      if (length > left / unit || length * unit > left - sum)
        protocol("lengths inside the frame", std::to_string(length));
      sum += length * unit;
    }
    if (sum != left) protocol(fmt::format("{} bytes of rows", left), std::to_string(sum));
    out.bytes.reserve(sum + simdjson::SIMDJSON_PADDING);
    out.bytes.resize(sum);
    receive(out.bytes.data(), sum);
    out.input_bytes = sum;
  }

  void read_tokens(const Frame& frame, Block& out) {
    if (frame.size % 4 != 0) protocol("a multiple of 4 bytes", std::to_string(frame.size));
    out.kind = BlockKind::kTokens;
    const size_t had = pending_.size();
    pending_.resize(had + frame.size / 4);
    receive(pending_.data() + had, frame.size);
    out.input_bytes = frame.size;
  }

  /// Hands out whole documents of the token column: up to its last end of text, or a fixed piece, or, at the end, the
  /// rest.
  bool cut_tokens(Block& out) {
    out.kind = BlockKind::kTokens;
    size_t documents_end = 0;
    for (;;) {
      out.lengths.clear();
      documents_end = 0;
      for (size_t i = 0; i < pending_.size(); ++i) {
        if (pending_[i] != options_.end_of_text && i + 1 - documents_end < kMaxTokenDocument) continue;
        out.lengths.push_back(i + 1 - documents_end);
        documents_end = i + 1;
      }
      if (!out.lengths.empty() || done_) break;
      Block more;
      if (read_frames(more)) out.input_bytes += more.input_bytes;
      if (!more.lengths.empty()) protocol("tokens after tokens", "texts");
    }
    if (out.lengths.empty() && !pending_.empty()) {
      out.lengths.push_back(pending_.size());
      documents_end = pending_.size();
    }
    out.bytes.assign(reinterpret_cast<const char*>(pending_.data()), documents_end * 4);
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<int64_t>(documents_end));
    at_.offset += documents_end;
    out.end = at_;
    return true;
  }

  void receive(void* out, size_t size) {
    if (process_.read(out, size)) return;
    fail(Exit::kIo, "{}: its reader ({} -m smamba_readers) ended early, {}", origin_, reader_python(options_),
         process_.last_words());
  }

  /// The helper found the input bad: its code and message become ours.
  [[noreturn]] void refuse(const Frame& frame) {
    std::string payload(frame.size, '\0');
    receive(payload.data(), payload.size());
    const int code = payload.empty() ? 0 : static_cast<unsigned char>(payload[0]);
    std::string message = payload.substr(std::min<size_t>(1, payload.size()));
    std::replace(message.begin(), message.end(), '\n', ' ');
    const Exit exit = code == 2 ? Exit::kUsage : code == 74 ? Exit::kIo : Exit::kBadData;
    fail(exit, "{}: {}", origin_, message);
  }

  [[noreturn]] void protocol(const std::string& expected, const std::string& found) const {
    fail(Exit::kIo, "{}: from its reader ({}): expected {}, found {}", origin_, reader_python(options_), expected,
         found);
  }

  BlockOptions options_;
  std::string origin_;
  InputPosition at_;
  ReaderProcess process_;
  std::vector<int32_t> pending_;  // tokens not yet handed out
  bool greeted_ = false, done_ = false;
};

}  // namespace

std::unique_ptr<BlockSource> open_columnar(const InputUnit& unit, const BlockOptions& options, InputPosition start) {
  return std::make_unique<ColumnarSource>(unit, options, start);
}

}  // namespace smamba::data
