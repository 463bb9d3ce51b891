#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/data/block.h"
#include "smamba/data/csv.h"

namespace smamba::data {
namespace {

constexpr size_t kRead = size_t{1} << 20;

void append_from(InputStream& in, std::string& bytes, size_t& got, size_t size = kRead) {
  const size_t at = bytes.size();
  bytes.resize(at + size);
  got = in.read(bytes.data() + at, size);
  bytes.resize(at + got);
}

/// memchr beats std::count, which GCC's -O2 leaves a byte at a time.
uint64_t count_lines(std::string_view bytes) {
  uint64_t lines = 0;
  for (size_t at = bytes.find('\n'); at != std::string_view::npos; at = bytes.find('\n', at + 1)) ++lines;
  return lines;
}

void pad(std::string& bytes) { bytes.reserve(bytes.size() + simdjson::SIMDJSON_PADDING); }

/// A whole compressed or piped text as one document.
class OneDocument final : public BlockSource {
 public:
  OneDocument(InputUnit unit, const BlockOptions& options, InputPosition start)
      : unit_(std::move(unit)), rules_(options.rules), at_(start) {}

  bool next(Block& out) override {
    if (done_) return false;
    done_ = true;
    out = Block{.kind = BlockKind::kDocument, .begin = at_, .end = at_, .origin = unit_.name()};
    const auto in = open_input(unit_.path, unit_.compression);
    for (size_t got = 1; got > 0 && out.bytes.size() <= rules_.max_document_bytes;) append_from(*in, out.bytes, got);
    if (out.bytes.empty() && unit_.named) fail(Exit::kBadData, "{}: expected text, found nothing", out.origin);
    out.end = {at_.unit + 1, 0, 0};
    out.input_bytes = in->consumed();
    return true;
  }

 private:
  InputUnit unit_;
  TextRules rules_;
  InputPosition at_;
  bool done_ = false;
};

/// Plain text files, several small ones in a block.
class FileGroups final : public BlockSource {
 public:
  FileGroups(std::span<const InputUnit> units, uint64_t first, size_t block_bytes)
      : units_(units), at_(first), block_bytes_(block_bytes) {}

  bool next(Block& out) override {
    if (at_ == units_.size()) return false;
    out = Block{.kind = BlockKind::kFiles, .begin = {at_, 0, 0}};
    while (at_ < units_.size() && is_plain(units_[at_]) &&
           (out.files.empty() || out.input_bytes + units_[at_].size <= block_bytes_)) {
      out.files.push_back({units_[at_].path, units_[at_].named});
      out.input_bytes += units_[at_++].size;
    }
    out.end = {at_, 0, 0};
    return !out.files.empty();
  }
  uint64_t position() const { return at_; }
  static bool is_plain(const InputUnit& u) {
    // Pipes and devices have no size to go by: they are streams.
    std::error_code ignored;
    return u.format == InputFormat::kText && u.compression == Compression::kNone && u.path != "-" &&
           (u.size > 0 || std::filesystem::is_regular_file(u.path, ignored));
  }

 private:
  std::span<const InputUnit> units_;
  uint64_t at_;
  size_t block_bytes_;
};

/// Lines (JSON) or CSV records in blocks of about block_bytes that end where a record ends.
class RecordBlocks final : public BlockSource {
 public:
  RecordBlocks(InputUnit unit, const BlockOptions& options, InputPosition start)
      : unit_(std::move(unit)),
        options_(options),
        in_(open_input(unit_.path, unit_.compression)),
        csv_(unit_.format == InputFormat::kCsv),
        separator_(unit_.path.string().find(".tsv") != std::string::npos ? '\t' : ',') {
    at_.unit = start.unit;
    if (csv_) read_header();
    if (start.offset > at_.offset) {
      // What was read beyond the header counts.
      const uint64_t gap = start.offset - at_.offset, known = std::min<uint64_t>(gap, rest_.size());
      rest_.erase(0, known);
      in_->skip(gap - known, unit_.path);
      at_ = start;
    }
  }

  bool next(Block& out) override {
    out = Block{.kind = csv_ ? BlockKind::kCsv : BlockKind::kJson, .begin = at_, .end = at_, .origin = unit_.name()};
    out.separator = separator_;
    out.column = column_;
    out.columns = columns_;
    const uint64_t before = in_->consumed();
    out.bytes = std::move(rest_);
    out.bytes.reserve(options_.block_bytes + 2 * kRead);
    rest_.clear();
    const size_t end = fill(out);
    rest_ = out.bytes.substr(end);
    out.bytes.resize(end);
    pad(out.bytes);
    at_.offset += end + dropped_;
    at_.line += count_lines(out.bytes) + out.oversized;
    dropped_ = 0;
    const bool any = end > 0 || out.oversized > 0;
    if (!any && unit_.named && at_.offset == 0)
      fail(Exit::kBadData, "{}: expected records, found an empty file", out.origin);
    out.end = any ? at_ : InputPosition{at_.unit + 1, 0, 0};
    out.input_bytes = in_->consumed() - before;
    return any;
  }

 private:
  /// Reads until block_bytes are there and a record ends; the offset behind the last whole record.
  size_t fill(Block& out) {
    bool quoted = false, ended = false;
    size_t whole = 0, scanned = 0;
    for (;;) {
      scan(out.bytes, scanned, whole, quoted);
      if (whole > 0 && out.bytes.size() >= options_.block_bytes) return whole;
      if (ended) break;
      if (out.bytes.size() - whole > options_.rules.max_document_bytes) {
        if (whole > 0) return whole;
        drop_record(out, quoted);
        scanned = 0;
        quoted = false;
        continue;
      }
      size_t got = 0;
      append_from(*in_, out.bytes, got, std::min(kRead, options_.block_bytes));
      ended = got == 0;
    }
    if (csv_ && quoted)
      fail(Exit::kBadData, "{}: line {}: expected a closing quote, found the end of the file", unit_.name(),
           line_of(out, whole));
    return out.bytes.size();
  }

  void scan(std::string_view bytes, size_t& scanned, size_t& whole, bool& quoted) const {
    if (!csv_) {
      const size_t last = bytes.substr(scanned).rfind('\n');
      if (last != std::string_view::npos) whole = scanned + last + 1;
      scanned = bytes.size();
      return;
    }
    while (scanned < bytes.size()) {
      const size_t end = csv_record_end(bytes.substr(scanned), quoted);
      if (end == std::string_view::npos) {
        scanned = bytes.size();
      } else {
        scanned += end;
        whole = scanned;
      }
    }
  }

  /// The record at the start of out.bytes is too long: refuses it, or reads to its end and leaves it out.
  void drop_record(Block& out, bool quoted) {
    if (options_.rules.bad_text != BadText::kSkip)
      fail(Exit::kBadData, "{}: line {} (offset {}): expected a record of at most {} bytes, found a longer one{}",
           unit_.name(), line_of(out, 0), at_.offset, options_.rules.max_document_bytes,
           quoted ? " (a quote that is never closed?)" : "");
    ++out.oversized;
    dropped_ += out.bytes.size();
    for (;;) {
      size_t got = 0;
      out.bytes.clear();
      append_from(*in_, out.bytes, got);
      const size_t end = csv_ ? csv_record_end(out.bytes, quoted) : out.bytes.find('\n');
      if (got == 0) return;
      if (end != std::string::npos) {
        const size_t behind = csv_ ? end : end + 1;
        dropped_ += behind;
        out.bytes.erase(0, behind);
        return;
      }
      dropped_ += got;
    }
  }

  uint64_t line_of(const Block& out, size_t offset) const {
    return at_.line + out.oversized + 1 + count_lines(std::string_view(out.bytes).substr(0, offset));
  }

  void read_header() {
    bool quoted = false;
    size_t end = std::string::npos, scanned = 0;
    for (size_t got = 1; got > 0 && end == std::string::npos && rest_.size() <= options_.rules.max_document_bytes;) {
      append_from(*in_, rest_, got);
      end = csv_record_end(std::string_view(rest_).substr(scanned), quoted);
      if (end != std::string::npos) end += scanned;
      scanned = rest_.size();
    }
    if (rest_.empty()) fail(Exit::kBadData, "{}: expected a CSV header, found an empty file", unit_.name());
    if (end == std::string::npos) end = rest_.size();
    std::vector<std::string> names;
    std::string_view header = std::string_view(rest_).substr(0, end);
    if (header.starts_with("\xef\xbb\xbf")) header.remove_prefix(3);
    if (!parse_csv_record(header, separator_, names))
      fail(Exit::kBadData, "{}: line 1: expected a CSV header, found a stray quote", unit_.name());
    const auto found = std::find(names.begin(), names.end(), options_.column);
    if (found == names.end())
      fail(Exit::kBadData, "{}: expected a column \"{}\", found {}", unit_.name(), options_.column,
           fmt::join(names, ", "));
    column_ = static_cast<size_t>(found - names.begin());
    columns_ = names.size();
    at_.offset = end;
    at_.line = count_lines(std::string_view(rest_).substr(0, end));
    rest_.erase(0, end);
  }

  InputUnit unit_;
  BlockOptions options_;
  std::unique_ptr<InputStream> in_;
  bool csv_;
  char separator_;
  size_t column_ = 0, columns_ = 1;
  InputPosition at_;
  std::string rest_;      // read, not yet handed out
  uint64_t dropped_ = 0;  // bytes of oversized records before the block
};

/// All units, one after the other.
class AllBlocks final : public BlockSource {
 public:
  AllBlocks(std::vector<InputUnit> units, BlockOptions options, InputPosition start)
      : units_(std::move(units)), options_(std::move(options)), at_(start) {}

  bool next(Block& out) override {
    while (at_.unit < units_.size()) {
      const InputUnit& unit = units_[at_.unit];
      if (FileGroups::is_plain(unit)) {
        FileGroups group(units_, at_.unit, options_.block_bytes);
        group.next(out);
        at_ = out.end;
        return true;
      }
      if (!current_) current_ = open(unit);
      if (current_->next(out)) {
        at_ = out.end;
        if (at_.unit >= units_.size() || &units_[at_.unit] != &unit) current_.reset();
        return true;
      }
      current_.reset();
      at_ = {at_.unit + 1, 0, 0};
    }
    return false;
  }

 private:
  std::unique_ptr<BlockSource> open(const InputUnit& unit) const {
    if (unit.format == InputFormat::kColumnar) return open_columnar(unit, options_, at_);
    if (unit.format == InputFormat::kText) return std::make_unique<OneDocument>(unit, options_, at_);
    return std::make_unique<RecordBlocks>(unit, options_, at_);
  }

  std::vector<InputUnit> units_;
  BlockOptions options_;
  InputPosition at_;
  std::unique_ptr<BlockSource> current_;
};

}  // namespace

std::unique_ptr<BlockSource> open_blocks(std::vector<InputUnit> units, BlockOptions options, InputPosition start) {
  return std::make_unique<AllBlocks>(std::move(units), std::move(options), start);
}

}  // namespace smamba::data
