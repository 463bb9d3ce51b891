#include <sentencepiece_processor.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "smamba/core/error.h"
#include "smamba/data/base64.h"
#include "smamba/data/sentencepiece_tokenizer.h"

namespace smamba::data {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581 stands for a space in pieces

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model, std::string_view where) : model_(model) {
    // The library takes an empty model, and aborts later.
    if (model.empty()) fail(Exit::kBadData, "{}: expected a SentencePiece model, found nothing", where);
    const auto status = processor_.LoadFromSerializedProto(model_);
    if (!status.ok() || processor_.GetPieceSize() <= 0) {
      std::string reason = status.ok() ? "no pieces" : status.ToString();
      std::replace(reason.begin(), reason.end(), '\n', ' ');
      fail(Exit::kBadData, "{}: expected a SentencePiece model, found {}", where, reason);
    }
    special_ = {.end_of_text = first_of({"<|endoftext|>", "</s>"}),
                .fim_prefix = first_of({"<|fim_prefix|>", "<fim_prefix>"}),
                .fim_middle = first_of({"<|fim_middle|>", "<fim_middle>"}),
                .fim_suffix = first_of({"<|fim_suffix|>", "<fim_suffix>"}),
                .pad = first_of({"<|fim_pad|>", "<fim_pad>", "<pad>"})};
    if (special_.end_of_text < 0) special_.end_of_text = processor_.eos_id();
    const auto probe = processor_.EncodeAsIds("a");
    adds_space_ = !probe.empty() && std::string_view(processor_.IdToPiece(probe[0])).starts_with(kSpaceMark);
  }

  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    if (text.size() > std::numeric_limits<int>::max())
      fail(Exit::kBadData, "SentencePiece: a text of {} bytes; texts are limited to 2^31 - 1", text.size());
    const auto ids = processor_.EncodeAsIds(text);
    out.insert(out.end(), ids.begin(), ids.end());
  }

  void append_token(int32_t id, std::string& out) const override {
    if (id < 0 || id >= vocab_size())
      fail(Exit::kBadData, "SentencePiece tokenizer: expected a token id in [0, {}), found {}", vocab_size(), id);
    std::string_view piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // spelled <0x41>
      out += static_cast<char>(std::stoi(std::string(piece.substr(3, 2)), nullptr, 16));
      return;
    }
    if (processor_.IsUnknown(id)) {
      out += "\xEF\xBF\xBD";
      return;
    }
    for (size_t at; (at = piece.find(kSpaceMark)) != std::string_view::npos;
         piece.remove_prefix(at + kSpaceMark.size()))
      out.append(piece.substr(0, at)).push_back(' ');
    out += piece;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    std::string out;
    for (const int32_t id : ids) append_token(id, out);
    if (adds_space_ && out.starts_with(' ')) out.erase(0, 1);
    return out;
  }

  int32_t vocab_size() const override { return processor_.GetPieceSize(); }
  const SpecialTokens& special() const override { return special_; }
  std::string description() const override {
    return fmt::format(R"({{"type":"sentencepiece","model":"{}"}})", base64(model_));
  }
  std::string name() const override { return fmt::format("sentencepiece of {}", vocab_size()); }

 private:
  int32_t first_of(std::initializer_list<std::string_view> names) const {
    for (const auto name : names)
      for (int32_t id = 0; id < processor_.GetPieceSize(); ++id)
        if (processor_.IdToPiece(id) == name) return id;
    return -1;
  }

  std::string model_;
  sentencepiece::SentencePieceProcessor processor_;
  SpecialTokens special_;
  bool adds_space_ = false;
};

}  // namespace

bool has_sentencepiece() { return true; }

std::shared_ptr<const Tokenizer> make_sentencepiece(std::string_view model, std::string_view where) {
  return std::make_shared<SentencePieceTokenizer>(model, where);
}

}  // namespace smamba::data
