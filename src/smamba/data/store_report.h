// What a person wants to know about a token store.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "smamba/data/fim.h"
#include "smamba/data/token_store.h"

namespace smamba::data {

struct StoreStats {
  uint64_t documents = 0, tokens = 0, bytes = 0;
  uint64_t duplicates = 0;                         // documents whose text occurred before (equal hash)
  uint64_t shortest = 0, median = 0, longest = 0;  // tokens of a document
  double mean = 0;
  double bytes_per_token = 0;
  std::vector<uint64_t> histogram;  // [k]: documents of 2^k … 2^(k+1) - 1 tokens
};

/// One pass over the document records; 24 bytes a document.
StoreStats store_stats(const TokenStore& store);
/// Lines for a person, with a bar for each length.
std::string to_text(const TokenStore& store, const StoreStats& stats);
std::string to_json(const TokenStore& store, const StoreStats& stats);

struct ShowOptions {
  bool tokens = false;  // ids and pieces instead of running text
  FimOptions fim;
  uint64_t seed = 0;
};
/// One document: a line about it, then its text (special tokens by name), after fill-in-the-middle where that applies.
/// Error(kUsage) when there is no such document.
std::string show_document(const TokenStore& store, uint64_t document, const ShowOptions& options);

}  // namespace smamba::data
