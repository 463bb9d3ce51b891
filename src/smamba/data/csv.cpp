#include "smamba/data/csv.h"

#include <algorithm>

namespace smamba::data {

size_t csv_record_end(std::string_view bytes, bool& quoted) {
  for (size_t at = 0;;) {
    at = bytes.find_first_of(quoted ? std::string_view("\"") : std::string_view("\"\n"), at);
    if (at == std::string_view::npos) return at;
    if (bytes[at] == '\n') return at + 1;
    quoted = !quoted;
    ++at;
  }
}

bool parse_csv_record(std::string_view record, char separator, std::vector<std::string>& fields) {
  fields.clear();
  if (record.ends_with('\n')) record.remove_suffix(1);
  if (record.ends_with('\r')) record.remove_suffix(1);
  for (size_t at = 0;; ++at) {
    std::string& field = fields.emplace_back();
    if (at < record.size() && record[at] == '"') {
      for (++at;;) {
        const size_t quote = record.find('"', at);
        if (quote == std::string_view::npos) return false;
        field += record.substr(at, quote - at);
        at = quote + 1;
        if (at >= record.size() || record[at] != '"') break;
        field += '"';
        ++at;
      }
    } else {
      const size_t end = std::min(record.find(separator, at), record.size());
      field = record.substr(at, end - at);
      if (field.find('"') != std::string::npos) return false;
      at = end;
    }
    if (at >= record.size()) return true;
    if (record[at] != separator) return false;
  }
}

}  // namespace smamba::data
