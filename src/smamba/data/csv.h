// RFC 4180: fields between separators, quotes around fields that hold separators, quotes or line ends.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace smamba::data {

/// Offset behind the end of the first whole record of `bytes` (its line end included); npos when there is no line end
/// outside quotes. `quoted` is the state at the start and is updated to the state at the end: an unfinished scan goes
/// on with the next bytes.
size_t csv_record_end(std::string_view bytes, bool& quoted);

/// The fields of one record (its line end may be there). False when a quote stands where none may be.
bool parse_csv_record(std::string_view record, char separator, std::vector<std::string>& fields);

}  // namespace smamba::data
