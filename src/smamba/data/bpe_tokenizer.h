// Byte-level byte-pair encoding: the tokenizers of GPT-2, GPT-NeoX and their kin, with the ids of Hugging Face
// tokenizers.
#pragma once
#include <filesystem>
#include <mutex>

#include "smamba/data/bpe_added_tokens.h"
#include "smamba/data/bpe_cache.h"
#include "smamba/data/bpe_model.h"
#include "smamba/data/pretokenizer.h"
#include "smamba/data/tokenizer.h"

namespace smamba::data {

/// All that tokenizer.json says that matters to ids.
struct BpeDefinition {
  std::vector<std::string> tokens;      // the bytes of each id; of an added token, its content
  std::vector<bool> in_model;           // whether the id is in the merging vocabulary; same size
  std::vector<BpeMerge> merges;         // by rank; distinct pairs of the merging vocabulary
  std::vector<AddedToken> added;        // by id
  std::vector<PretokenizerStep> steps;  // the last one is a kByteLevel
  bool nfc = false;                     // text is put into normalisation form C first
  bool ignore_merges = false;           // a word of the vocabulary is one token, whatever the merges say
};

/// Ids are those of Hugging Face's encode(text, add_special_tokens=False), for any valid UTF-8. Bytes that are no UTF-8
/// count as symbols, neither letter, number nor space. decode(encode(x)) == x unless the definition normalises (nfc),
/// adds a prefix space, has added tokens that strip white space, or has no tokens for bytes that never occur in UTF-8
/// (they become U+FFFD).
class BpeTokenizer final : public Tokenizer {
 public:
  /// Error(kBadData), naming `where`, when a byte that occurs in UTF-8 has no token.
  BpeTokenizer(BpeDefinition definition, std::string_view where);
  ~BpeTokenizer() override;

  using Tokenizer::encode;
  /// Texts above a MiB are cut where that cannot change the ids and encoded by all threads.
  void encode(std::string_view text, std::vector<int32_t>& out) const override;
  void encode_with_special(std::string_view text, std::vector<int32_t>& out) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  void append_token(int32_t id, std::string& out) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(definition_.tokens.size()); }
  const SpecialTokens& special() const override { return special_; }
  std::string description() const override;
  std::string name() const override;

  const BpeDefinition& definition() const { return definition_; }

 private:
  class Caches;
  void encode_any(std::string_view text, bool skip_special, std::vector<int32_t>& out) const;
  void encode_parallel(std::string_view text, bool skip_special, std::vector<int32_t>& out) const;
  void encode_serial(std::string_view text, bool skip_special, BpeCache& cache, std::vector<int32_t>& out) const;
  void encode_raw(std::string_view text, bool skip_special, BpeCache& cache, std::vector<int32_t>& out) const;
  void encode_words(std::string_view text, BpeCache& cache, std::vector<int32_t>& out) const;

  BpeDefinition definition_;
  SpecialTokens special_;
  std::unique_ptr<BpeModel> model_;
  AddedTokenMatcher raw_tokens_, normalized_tokens_;
  std::unique_ptr<Caches> caches_;
  bool allows_cuts_ = false;
};

/// The ids of each text, encode()d by all threads.
std::vector<std::vector<int32_t>> encode_batch(const Tokenizer& tokenizer, std::span<const std::string_view> texts);

}  // namespace smamba::data
