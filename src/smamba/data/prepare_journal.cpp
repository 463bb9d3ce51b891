#include "smamba/data/prepare_journal.h"

#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/file.h"

namespace smamba::data {
namespace {

using Json = nlohmann::json;

/// Applies `field` to every number, in one place for reading and writing.
template <class Entry, class Field>
void visit(Entry& e, const Field& field) {
  field("unit", e.input.unit);
  field("offset", e.input.offset);
  field("line", e.input.line);
  field("tokens", e.store.tokens);
  field("documents", e.store.documents);
  field("text_bytes", e.store.text_bytes);
  field("tokens_crc", e.store.tokens_crc);
  field("documents_crc", e.store.documents_crc);
  field("rows", e.counts.rows);
  field("skipped", e.counts.skipped);
  field("duplicates", e.counts.duplicates);
  field("input_bytes", e.counts.input_bytes);
}

}  // namespace

void write_journal(const std::filesystem::path& folder, const JournalEntry& entry) {
  Json json = {{"version", 1}, {"options", entry.options}};
  visit(entry, [&](const char* name, const auto& value) { json[name] = value; });
  write_file(folder / "progress.json", json.dump(1) + "\n");
}

std::optional<JournalEntry> read_journal(const std::filesystem::path& folder) {
  const auto path = folder / "progress.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json json = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  const auto bad = [&](const std::string& what) {
    fail(Exit::kBadData, "{}: {} (--restart begins anew)", path.string(), what);
  };
  if (!json.is_object() || !json.contains("version") || json["version"] != 1 || !json.contains("options") ||
      !json["options"].is_string())
    bad("expected progress of version 1, found something else");
  JournalEntry entry;
  entry.options = json["options"].get<std::string>();
  visit(entry, [&](const char* name, auto& value) {
    if (!json.contains(name) || !json[name].is_number_unsigned())
      bad(fmt::format("expected a number \"{}\", found none", name));
    value = json[name].get<std::remove_reference_t<decltype(value)>>();
  });
  return entry;
}

}  // namespace smamba::data
