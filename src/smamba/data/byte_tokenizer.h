// Bytes as tokens: no training, no unknown text, 256 + 5 ids.
#pragma once
#include "smamba/data/tokenizer.h"

namespace smamba::data {

/// Ids 0 … 255 are the bytes; then <|endoftext|> 256, <|fim_prefix|> 257, <|fim_middle|> 258, <|fim_suffix|> 259,
/// <|fim_pad|> 260.
class ByteTokenizer final : public Tokenizer {
 public:
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>& out) const override;
  void encode_with_special(std::string_view text, std::vector<int32_t>& out) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  void append_token(int32_t id, std::string& out) const override;
  int32_t vocab_size() const override { return 261; }
  const SpecialTokens& special() const override;
  std::string description() const override;
  std::string name() const override { return "bytes"; }
};

}  // namespace smamba::data
