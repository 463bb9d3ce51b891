#pragma once
#include <string>
#include <string_view>

namespace smamba::data {

/// Bytes as a person reads them, on one line: \n and \t for line ends and tabs, \xNN for other control characters and
/// for bytes that are no UTF-8, a backslash before every byte of `marked` (ASCII); the rest as it is.
std::string printable(std::string_view bytes, std::string_view marked = "");

}  // namespace smamba::data
