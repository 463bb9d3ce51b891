// progress.json in the work folder of a preparation: what is durable, and which options made it.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "smamba/data/block.h"
#include "smamba/data/prepare.h"
#include "smamba/data/token_store_writer.h"

namespace smamba::data {

struct JournalEntry {
  std::string options;  // hash of everything that decides the output
  InputPosition input;
  StorePosition store;
  PrepareProgress counts;
};

/// Atomic and durable; call after the store's files are synced.
void write_journal(const std::filesystem::path& folder, const JournalEntry& entry);
/// Nothing where there is no journal. Error(kBadData) naming the file when it is damaged.
std::optional<JournalEntry> read_journal(const std::filesystem::path& folder);

}  // namespace smamba::data
