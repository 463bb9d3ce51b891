// Pieces of input, cut between records, that threads tokenize on their own.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/data/document.h"
#include "smamba/data/input_format.h"

namespace smamba::data {

/// Where reading stands: enough to go on. Units before `unit` are done; of that one, `offset` decompressed bytes (rows
/// for columnar input) and `line` lines are.
struct InputPosition {
  uint64_t unit = 0, offset = 0, line = 0;
};

enum class BlockKind {
  kFiles,      // `files`, one document each
  kDocument,   // `bytes` is one document
  kJson,       // `bytes` are lines, each a JSON object or blank
  kCsv,        // `bytes` are CSV records
  kTexts,      // `bytes` are texts one after the other, `lengths` long each
  kTokens,     // `bytes` are little-endian 32-bit token ids of `lengths` documents
  kTokenRows,  // the same of `lengths` rows, in which ends of text end documents
};

inline constexpr uint64_t kNullText = ~uint64_t{0};  // in `lengths`: the row holds no text
inline constexpr uint64_t kOversizedText =
    ~uint64_t{0} - 1;  // in `lengths`: the row's text is longer than allowed and was not sent

struct Block {
  BlockKind kind = BlockKind::kFiles;
  InputPosition begin = {}, end = {};
  std::string origin = {};  // for messages
  std::string bytes = {};   // SIMD padding beyond size() is in its capacity
  std::vector<InputFile> files = {};
  std::vector<uint64_t> lengths = {};
  uint64_t oversized = 0;  // records left out because they are too long
  char separator = ',';
  size_t column = 0, columns = 1;  // CSV
  uint64_t input_bytes = 0;        // taken from disk for it: progress
};

struct BlockOptions {
  std::string column = "text";
  TextRules rules;
  uint64_t row_limit = 0;       // 0: none; a hint to the helper process
  std::string split = "train";  // of Hugging Face dataset folders
  std::string reader_python;    // empty: the one that scripts/setup --columnar made beside the program, or python3
  int32_t end_of_text = -1;     // ends documents of token columns
  size_t block_bytes = size_t{4} << 20;
};

/// Yields the blocks of all units in order, from a position on. Not thread-safe. Errors: Error(kIo), Error(kBadData).
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  virtual bool next(Block& out) = 0;
};

std::unique_ptr<BlockSource> open_blocks(std::vector<InputUnit> units, BlockOptions options, InputPosition start);

/// The source of one columnar unit (helper process, docs/formats/reader_protocol.md), from row `start.offset` on.
std::unique_ptr<BlockSource> open_columnar(const InputUnit& unit, const BlockOptions& options, InputPosition start);

}  // namespace smamba::data
