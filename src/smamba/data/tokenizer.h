// Text to token ids and back: the interface that every vocabulary implements.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smamba::data {

/// Ids of the tokens that are no text; -1 where the vocabulary lacks one.
struct SpecialTokens {
  int32_t end_of_text = -1;  // ends every document in a token store, and stands before the first one
  int32_t fim_prefix = -1, fim_middle = -1, fim_suffix = -1;
  int32_t pad = -1;

  bool has_fim() const { return fim_prefix >= 0 && fim_middle >= 0 && fim_suffix >= 0; }
};

/// A vocabulary. Immutable after construction; every const member may be called from many threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Appends the ids of `text` (any bytes) to `out`. The names of special tokens inside `text` are ordinary text here:
  /// data cannot end its own document.
  virtual void encode(std::string_view text, std::vector<int32_t>& out) const = 0;
  /// The same, but the names of special (and added) tokens become their ids, as Hugging Face tokenizers do: for prompts
  /// that a person writes. Vocabularies without named tokens encode as above.
  virtual void encode_with_special(std::string_view text, std::vector<int32_t>& out) const { encode(text, out); }
  std::vector<int32_t> encode(std::string_view text) const {
    std::vector<int32_t> ids;
    encode(text, ids);
    return ids;
  }

  /// The bytes of `ids`; special tokens become their names. decode(encode(x)) == x for every byte string, unless the
  /// vocabulary normalises text and says so. Error(kBadData) for an id outside [0, vocab_size()).
  virtual std::string decode(std::span<const int32_t> ids) const = 0;
  /// Appends the bytes of one token (may be part of a character).
  virtual void append_token(int32_t id, std::string& out) const { out += decode(std::span(&id, 1)); }

  /// Number of ids in use: special tokens included, padding excluded. Ids are 0 … vocab_size() - 1.
  virtual int32_t vocab_size() const = 0;
  /// vocab_size() rounded up to a multiple of 8: the rows of the embedding.
  int32_t padded_vocab_size() const { return (vocab_size() + 7) / 8 * 8; }
  virtual const SpecialTokens& special() const = 0;

  /// JSON text that make_tokenizer() turns into an equal tokenizer: stored in token stores and checkpoints.
  virtual std::string description() const = 0;
  /// A person's name for it: "bytes", "bpe of 8192", …
  virtual std::string name() const = 0;
  /// hash128 of description(), 32 hexadecimal digits: equal fingerprints, equal ids.
  std::string fingerprint() const;
};

/// From a description (JSON with a "type"). `where` names its source in messages. Error(kBadData).
std::shared_ptr<const Tokenizer> make_tokenizer(std::string_view description, std::string_view where);
/// From what a user writes: "bytes", or the path of a tokenizer.json or a SentencePiece .model, or of a folder that
/// holds one (tokenizer.json goes first). Error(kBadData), Error(kIo); Error(kUsage) for a model that this build cannot
/// read.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name_or_path);

}  // namespace smamba::data
