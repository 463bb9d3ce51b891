// Stands in for sentencepiece_library.cpp where the library is absent.
#include "smamba/core/error.h"
#include "smamba/data/sentencepiece_tokenizer.h"

namespace smamba::data {

bool has_sentencepiece() { return false; }

std::shared_ptr<const Tokenizer> make_sentencepiece(std::string_view, std::string_view where) {
  fail(Exit::kUsage, "{}: a SentencePiece model; this build has no SentencePiece (libsentencepiece-dev)", where);
}

}  // namespace smamba::data
