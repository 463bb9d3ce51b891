// Documents: pieces of text with an origin, read from files and folders in a fixed order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smamba::data {

/// What happens to a document that is not clean UTF-8 text.
enum class BadText {
  kRefuse,  // Error(kBadData) naming the origin, the offset, the rule and what was found
  kSkip,    // left out and counted
  kKeep,    // taken as it is (any bytes)
};

/// What a document may be.
struct TextRules {
  BadText bad_text = BadText::kRefuse;
  uint64_t max_document_bytes = uint64_t{64} << 20;
};

/// Why a text is refused; empty when it is clean. Names the offset, the rule and what was found.
std::string text_defect(std::string_view text, const TextRules& rules);
/// Offset of the first byte that does not begin or continue a well-formed UTF-8 sequence (Unicode 15, table 3-7); npos
/// when there is none.
size_t invalid_utf8_offset(std::string_view text);

/// An input file, and whether a person named it or a folder or pattern yielded it: an empty file is an error only when
/// named.
struct InputFile {
  std::filesystem::path path;
  bool named = false;
};

/// Files, folders (recursively, those whose name matches one of `patterns`; all when there are none; hidden ones left
/// out) and globs, expanded, sorted by the bytes of the path within each input, each once. Error(kIo) for what is not
/// there or cannot be read, Error(kBadData) when an input yields no file.
std::vector<InputFile> expand_inputs(std::span<const std::string> inputs, std::span<const std::string> patterns = {});

struct Document {
  std::string text;
  std::string origin;  // file, or file and record, for messages
};

/// A stream of documents in a fixed order.
class DocumentSource {
 public:
  virtual ~DocumentSource() = default;
  /// False at the end. Errors: Error(kIo), Error(kBadData).
  virtual bool next(Document& out) = 0;
};

/// One document per file. Empty files are left out, unless named: Error(kBadData).
class TextFiles final : public DocumentSource {
 public:
  TextFiles(std::vector<InputFile> files, TextRules rules) : files_(std::move(files)), rules_(rules) {}
  bool next(Document& out) override;
  /// Documents left out so far: empty ones and (kSkip) bad ones.
  uint64_t skipped() const { return skipped_; }

 private:
  std::vector<InputFile> files_;
  TextRules rules_;
  size_t at_ = 0;
  uint64_t skipped_ = 0;
};

/// Reads one text file under the rules. False when it is to be left out.
bool read_document(const InputFile& file, const TextRules& rules, std::string& text);

}  // namespace smamba::data
