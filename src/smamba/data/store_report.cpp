#include "smamba/data/store_report.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>

#include "smamba/core/error.h"
#include "smamba/core/random.h"
#include "smamba/data/printable.h"

namespace smamba::data {
namespace {

std::string fingerprint_text(const TokenStore& store) { return std::string(store.fingerprint()); }

std::string token_lines(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::string out;
  for (const int32_t id : ids) {
    std::string piece;
    tokenizer.append_token(id, piece);
    out += fmt::format("{:>8}  {}\n", id, printable(piece));
  }
  return out;
}

}  // namespace

StoreStats store_stats(const TokenStore& store) {
  StoreStats s;
  s.documents = store.document_count();
  s.tokens = store.token_count();
  s.bytes = store.text_bytes();
  std::vector<uint64_t> lengths;
  std::vector<Hash128> hashes;
  for (uint64_t i = 0; i < s.documents; ++i) {
    const DocumentView d = store.document(i);
    lengths.push_back(d.tokens());
    hashes.push_back(d.hash);
    const auto bucket = static_cast<size_t>(std::bit_width(d.tokens()) - 1);
    if (s.histogram.size() <= bucket) s.histogram.resize(bucket + 1);
    ++s.histogram[bucket];
  }
  std::sort(hashes.begin(), hashes.end());
  s.duplicates = static_cast<uint64_t>(hashes.end() - std::unique(hashes.begin(), hashes.end()));
  if (s.documents == 0) return s;
  std::sort(lengths.begin(), lengths.end());
  s.shortest = lengths.front();
  s.median = lengths[lengths.size() / 2];
  s.longest = lengths.back();
  s.mean = static_cast<double>(s.tokens) / static_cast<double>(s.documents);
  s.bytes_per_token = static_cast<double>(s.bytes) / static_cast<double>(s.tokens);
  return s;
}

std::string to_text(const TokenStore& store, const StoreStats& s) {
  std::string out = fmt::format(
      "{}\n  documents        {}\n  tokens           {} (an end of text each)\n  bytes of text    {}\n  bytes per "
      "token  {:.4f}\n"
      "  duplicates       {}\n  tokenizer        {}, {} ids, fingerprint {}\n"
      "  tokens of a document: shortest {}, median {}, mean {:.1f}, longest {}\n",
      store.path().string(), s.documents, s.tokens, s.bytes, s.bytes_per_token, s.duplicates, store.tokenizer()->name(),
      store.vocab_size(), fingerprint_text(store), s.shortest, s.median, s.mean, s.longest);
  const uint64_t most = s.histogram.empty() ? 1 : *std::max_element(s.histogram.begin(), s.histogram.end());
  for (size_t k = 0; k < s.histogram.size(); ++k) {
    if (s.histogram[k] == 0) continue;
    const auto bar = std::max<uint64_t>(1, 50 * s.histogram[k] / most);
    out += fmt::format("  {:>10} - {:<10} {:>10}  {}\n", uint64_t{1} << k, (uint64_t{2} << k) - 1, s.histogram[k],
                       std::string(bar, '#'));
  }
  return out;
}

std::string to_json(const TokenStore& store, const StoreStats& s) {
  const nlohmann::ordered_json json = {{"path", store.path().string()},
                                       {"documents", s.documents},
                                       {"tokens", s.tokens},
                                       {"bytes", s.bytes},
                                       {"bytes_per_token", s.bytes_per_token},
                                       {"duplicates", s.duplicates},
                                       {"tokenizer", store.tokenizer()->name()},
                                       {"vocab_size", store.vocab_size()},
                                       {"fingerprint", fingerprint_text(store)},
                                       {"shortest", s.shortest},
                                       {"median", s.median},
                                       {"mean", s.mean},
                                       {"longest", s.longest},
                                       {"histogram", s.histogram}};
  // A path need not be UTF-8.
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string show_document(const TokenStore& store, uint64_t document, const ShowOptions& options) {
  require(document < store.document_count(), "{}: expected a document below {}, found {}", store.path().string(),
          store.document_count(), document);
  const Tokenizer& tokenizer = *store.tokenizer();
  options.fim.check(tokenizer);
  const DocumentView d = store.document(document);
  std::vector<int32_t> ids(d.tokens());
  store.read(d.begin, ids);
  std::string note;
  Random random(random_bits(options.seed, stream_id("fim"), document), "fim");
  if (options.fim.rate > 0 && random.uniform() < options.fim.rate) {
    FimResult result;
    const size_t text = ids.size() - 1;
    if (fim_transform(std::span(ids).first(text), options.fim, tokenizer, random, text + 64, result)) {
      ids = std::move(result.tokens);
      ids.push_back(store.end_of_text());
      note = ", fill-in-the-middle";
    }
  }
  return fmt::format("document {}: {} tokens, {} bytes, hash {}{}\n{}\n", document, d.tokens(), d.bytes, d.hash.hex(),
                     note, options.tokens ? token_lines(tokenizer, ids) : tokenizer.decode(ids));
}

}  // namespace smamba::data
