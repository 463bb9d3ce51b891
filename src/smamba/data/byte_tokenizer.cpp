#include "smamba/data/byte_tokenizer.h"

#include <array>
#include <cstring>

#include "smamba/core/error.h"

namespace smamba::data {
namespace {

constexpr int32_t kFirstSpecial = 256;
constexpr std::array<std::string_view, 5> kNames = {"<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>",
                                                    "<|fim_suffix|>", "<|fim_pad|>"};

}  // namespace

void ByteTokenizer::encode(std::string_view text, std::vector<int32_t>& out) const {
  const size_t at = out.size();
  out.resize(at + text.size());
  int32_t* to = out.data() + at;
  constexpr size_t kBlock = 16;  // fixed, because GCC's -O2 turns only such loops into vector instructions
  size_t i = 0;
  for (; i + kBlock <= text.size(); i += kBlock) {
    std::array<unsigned char, kBlock> block;
    std::memcpy(block.data(), text.data() + i, kBlock);
    for (size_t k = 0; k < kBlock; ++k) to[i + k] = block[k];
  }
  for (; i < text.size(); ++i) to[i] = static_cast<unsigned char>(text[i]);
}

void ByteTokenizer::encode_with_special(std::string_view text, std::vector<int32_t>& out) const {
  size_t plain = 0;  // start of the text not yet encoded
  for (size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    for (size_t k = 0; k < kNames.size(); ++k) {
      if (!text.substr(at).starts_with(kNames[k])) continue;
      encode(text.substr(plain, at - plain), out);
      out.push_back(kFirstSpecial + static_cast<int32_t>(k));
      plain = at + kNames[k].size();
      at = plain - 1;
      break;
    }
  }
  encode(text.substr(plain), out);
}

void ByteTokenizer::append_token(int32_t id, std::string& out) const {
  if (id < 0 || id >= vocab_size())
    fail(Exit::kBadData, "byte tokenizer: expected a token id in [0, {}), found {}", vocab_size(), id);
  if (id < kFirstSpecial)
    out.push_back(static_cast<char>(id));
  else
    out += kNames[static_cast<size_t>(id - kFirstSpecial)];
}

std::string ByteTokenizer::decode(std::span<const int32_t> ids) const {
  std::string out;
  out.reserve(ids.size());
  for (int32_t id : ids) append_token(id, out);
  return out;
}

const SpecialTokens& ByteTokenizer::special() const {
  static constexpr SpecialTokens kSpecial{256, 257, 258, 259, 260};
  return kSpecial;
}

std::string ByteTokenizer::description() const { return R"({"type":"bytes","special":5})"; }

}  // namespace smamba::data
