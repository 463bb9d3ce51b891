// A block of input becomes tokens: the work that threads share.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "smamba/core/error.h"
#include "smamba/core/hash.h"
#include "smamba/data/block.h"
#include "smamba/data/token_store_writer.h"
#include "smamba/data/tokenizer.h"

namespace smamba::data {

struct EncodedDocument {
  uint64_t token_end = 0;  // within the block; its end_of_text included
  uint64_t bytes = 0;
  Hash128 hash;
  uint64_t row = 0;  // which row of the block it was
};

/// What became of a block. `error` is about row `error_row`: what stands before it is good.
struct EncodedBlock {
  PackedTokens tokens;
  std::vector<EncodedDocument> documents;
  uint64_t rows = 0;     // records seen, those left out included
  uint64_t skipped = 0;  // of them left out: empty or (BadText::kSkip) bad
  std::optional<Error> error;
  uint64_t error_row = 0;
  InputPosition end;
  uint64_t input_bytes = 0;
};

/// One per thread: keeps its buffers. The result depends on the block alone.
class BlockEncoder {
 public:
  BlockEncoder(std::shared_ptr<const Tokenizer> tokenizer, std::string column, TextRules rules);
  ~BlockEncoder();

  EncodedBlock encode(Block&& block);

 private:
  struct Json;  // simdjson's parser, kept out of this header
  void encode_files(const Block& block);
  void encode_document(const Block& block);
  void encode_json(Block& block);
  void encode_csv(const Block& block);
  void encode_texts(const Block& block);
  void encode_tokens(const Block& block);
  bool json_text(std::string_view line, std::string_view& text, std::string& defect);
  /// One record: tokenizes it, leaves it out, or refuses it with "where: defect".
  template <class Where>
  void take(std::string_view text, const Where& where);
  template <class Where>
  void take_ids(const Where& where);
  template <class Where>
  void bad_record(const std::string& defect, const Where& where);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string column_;
  TextRules rules_;
  std::unique_ptr<Json> json_;
  std::vector<int32_t> ids_;
  EncodedBlock out_;
};

}  // namespace smamba::data
