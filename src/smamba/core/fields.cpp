#include "smamba/core/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "smamba/core/error.h"

namespace smamba {
namespace {

std::string join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
  return out;
}

std::string type_name(FieldType type) {
  switch (type) {
    case FieldType::kBool:
      return "true or false";
    case FieldType::kInteger:
      return "an integer";
    case FieldType::kFloat:
      return "a number";
    case FieldType::kString:
      return "a string";
  }
  return "";
}

std::string expected_text(const Field& field) {
  std::string out = field.allowed.empty() ? type_name(field.type) : "one of " + join(field.allowed);
  const bool low = std::isfinite(field.range.low), high = std::isfinite(field.range.high);
  if (low && high) out += fmt::format(" from {} to {}", field.range.low, field.range.high);
  if (low && !high) out += fmt::format(" of at least {}", field.range.low);
  if (!low && high) out += fmt::format(" of at most {}", field.range.high);
  if (field.list) return "a list, each item " + out;
  return field.optional ? out + " (or none)" : out;
}

[[noreturn]] void refuse_value(const Field& field, const FieldValue& value, const std::string& where) {
  fail(Exit::kUsage, "{}: key '{}': expected {}, found {}", where, field.key, expected_text(field), field_text(value));
}

std::string quote(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string scalar_text(const FieldScalar& scalar) {
  if (const bool* b = std::get_if<bool>(&scalar)) return *b ? "true" : "false";
  if (const int64_t* i = std::get_if<int64_t>(&scalar)) return std::to_string(*i);
  if (const std::string* s = std::get_if<std::string>(&scalar)) return quote(*s);
  const double x = std::get<double>(scalar);
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x > 0 ? "inf" : "-inf";
  std::string out = fmt::format("{}", x);  // shortest text that reads back to the same double
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

// Brings a scalar to the field's type; false when it does not fit.
bool convert(const Field& field, FieldScalar& scalar) {
  if (field.type == FieldType::kFloat && std::holds_alternative<int64_t>(scalar)) {
    scalar = static_cast<double>(std::get<int64_t>(scalar));
  }
  switch (field.type) {
    case FieldType::kBool:
      return std::holds_alternative<bool>(scalar);
    case FieldType::kInteger: {
      const int64_t* i = std::get_if<int64_t>(&scalar);
      return i && static_cast<double>(*i) >= field.range.low && static_cast<double>(*i) <= field.range.high;
    }
    case FieldType::kFloat: {
      const double* x = std::get_if<double>(&scalar);
      const bool bounded = std::isfinite(field.range.low) || std::isfinite(field.range.high);
      return x && (!bounded || (*x >= field.range.low && *x <= field.range.high));
    }
    case FieldType::kString: {
      const std::string* s = std::get_if<std::string>(&scalar);
      return s && (field.allowed.empty() || std::ranges::find(field.allowed, *s) != field.allowed.end());
    }
  }
  return false;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos ? "" : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

// A scalar from the command line; text that does not parse stays a string, which set_checked then refuses with its own
// words.
FieldScalar parse_scalar(FieldType type, std::string_view text) {
  const bool quoted = text.size() >= 2 && (text[0] == '"' || text[0] == '\'') && text.back() == text[0];
  if (type == FieldType::kString) return std::string(quoted ? text.substr(1, text.size() - 2) : text);
  if (text == "true" || text == "false") return text == "true";
  std::string digits;
  std::ranges::copy_if(text.substr(text.starts_with('+')), std::back_inserter(digits), [](char c) { return c != '_'; });
  const char* end = digits.data() + digits.size();
  int64_t i = 0;
  if (auto r = std::from_chars(digits.data(), end, i); r.ec == std::errc() && r.ptr == end) return i;
  double x = 0;
  if (auto r = std::from_chars(digits.data(), end, x); r.ec == std::errc() && r.ptr == end) return x;
  return std::string(text);
}

FieldValue parse_list(FieldType type, std::string_view text) {
  FieldValue value{FieldValue::Shape::kList, {}};
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = trim(text.substr(1, text.size() - 2));
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    value.items.push_back(parse_scalar(type, trim(text.substr(0, comma))));
    text = trim(text.substr(std::min(comma + 1, text.size())));
  }
  return value;
}

FieldScalar from_json_scalar(const nlohmann::json& json, const Field& field, const std::string& where) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_float()) return json.get<double>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return json.get<double>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (!json.is_string()) {
    fail(Exit::kUsage, "{}: key '{}': expected {}, found {}", where, field.key, expected_text(field), json.type_name());
  }
  const std::string text = json.get<std::string>();
  if (field.type == FieldType::kFloat && (text == "inf" || text == "-inf" || text == "nan")) {
    return text == "nan" ? std::nan("") : (text[0] == '-' ? -1 : 1) * std::numeric_limits<double>::infinity();
  }
  return text;
}

nlohmann::json to_json_scalar(const FieldScalar& scalar) {
  if (const double* x = std::get_if<double>(&scalar); x && !std::isfinite(*x)) return scalar_text(scalar);
  return std::visit([](const auto& v) { return nlohmann::json(v); }, scalar);
}

void walk_json(const FieldList& list, const nlohmann::json& json, const std::string& prefix,
               const std::string& source) {
  if (!json.is_object())
    fail(Exit::kUsage, "{}: key '{}': expected a table, found {}", source, prefix, json.type_name());
  for (const auto& [name, node] : json.items()) {
    const std::string key = prefix.empty() ? name : fmt::format("{}.{}", prefix, name);
    if (list.is_table(key)) {
      walk_json(list, node, key, source);
      continue;
    }
    const Field* field = list.find(key);
    if (!field) refuse_unknown_key(list, key, source);
    FieldValue value;
    if (node.is_array()) {
      value.shape = FieldValue::Shape::kList;
      for (const auto& item : node) value.items.push_back(from_json_scalar(item, *field, source));
    } else if (!node.is_null()) {
      value = {FieldValue::Shape::kScalar, {from_json_scalar(node, *field, source)}};
    }
    set_checked(*field, std::move(value), source);
  }
}

}  // namespace

bool FieldValue::operator==(const FieldValue& other) const {
  const auto same = [](const FieldScalar& a, const FieldScalar& b) {
    const double *x = std::get_if<double>(&a), *y = std::get_if<double>(&b);
    return a == b || (x && y && std::isnan(*x) && std::isnan(*y));
  };
  return shape == other.shape && std::ranges::equal(items, other.items, same);
}

const Field* FieldList::find(std::string_view key) const {
  const auto it = std::ranges::find(fields_, key, &Field::key);
  return it == fields_.end() ? nullptr : &*it;
}

bool FieldList::is_table(std::string_view key) const {
  return std::ranges::any_of(fields_, [&](const Field& f) {
    return f.key.size() > key.size() && f.key.starts_with(key) && f.key[key.size()] == '.';
  });
}

std::string field_text(const FieldValue& value) {
  if (value.shape == FieldValue::Shape::kUnset) return "none";
  if (value.shape == FieldValue::Shape::kScalar) return scalar_text(value.items[0]);
  std::vector<std::string> parts;
  parts.reserve(value.items.size());
  for (const FieldScalar& item : value.items) parts.push_back(scalar_text(item));
  return "[" + join(parts) + "]";
}

void set_checked(const Field& field, FieldValue value, const std::string& where) {
  using Shape = FieldValue::Shape;
  const Shape shape = field.list ? Shape::kList : Shape::kScalar;
  if (value.shape != shape && !(field.optional && value.shape == Shape::kUnset)) refuse_value(field, value, where);
  for (FieldScalar& item : value.items) {
    if (!convert(field, item)) refuse_value(field, value, where);
  }
  field.set(value);
  // A narrower C++ type (int, float) must hold the number that was written.
  if (field.type == FieldType::kInteger && field.get() != value) {
    fail(Exit::kUsage, "{}: key '{}': {} is out of range", where, field.key, field_text(value));
  }
}

void refuse_unknown_key(const FieldList& list, std::string_view key, const std::string& where) {
  const Field* best = nullptr;
  size_t distance = 0;
  for (const Field& field : list.fields()) {
    // Also a right name in the wrong table.
    const bool misplaced = last_part(field.key) == last_part(key);
    const size_t d =
        misplaced ? 1 : std::min(edit_distance(field.key, key), 1 + edit_distance(last_part(field.key), key));
    if (!best || d < distance) best = &field, distance = d;
  }
  if (best && distance <= std::max<size_t>(2, key.size() / 3)) {
    fail(Exit::kUsage, "{}: unknown key '{}'; did you mean '{}'?", where, key, best->key);
  }
  fail(Exit::kUsage, "{}: unknown key '{}'", where, key);
}

void apply_override(const FieldList& list, std::string_view assignment, const std::string& where) {
  const size_t equals = assignment.find('=');
  require(equals != std::string_view::npos, "{}: expected key=value, found '{}'", where, assignment);
  const std::string_view key = trim(assignment.substr(0, equals)), text = trim(assignment.substr(equals + 1));
  const Field* field = list.find(key);
  if (!field && list.is_table(key))
    fail(Exit::kUsage, "{}: key '{}' is a table; set one of its keys, '{}.…'", where, key, key);
  if (!field) refuse_unknown_key(list, key, where);
  FieldValue value;
  if (field->list) {
    value = parse_list(field->type, text);
  } else if (!field->optional || text != "none") {
    value = {FieldValue::Shape::kScalar, {parse_scalar(field->type, text)}};
  }
  set_checked(*field, std::move(value), where);
}

void apply_json(const FieldList& list, const nlohmann::json& json, const std::string& source) {
  walk_json(list, json, "", source);
}

nlohmann::json print_json(const FieldList& list) {
  nlohmann::json out = nlohmann::json::object();
  for (const Field& field : list.fields()) {
    std::string pointer = "/" + field.key;
    std::ranges::replace(pointer, '.', '/');
    nlohmann::json& node = out[nlohmann::json::json_pointer(pointer)];
    const FieldValue value = field.get();
    node = nullptr;
    if (value.shape == FieldValue::Shape::kList) node = nlohmann::json::array();
    for (const FieldScalar& item : value.items) {
      if (field.list) {
        node.push_back(to_json_scalar(item));
      } else {
        node = to_json_scalar(item);
      }
    }
  }
  return out;
}

std::string print_help(const FieldList& list) {
  std::string out;
  for (const Field& field : list.fields()) {
    out += fmt::format("{} = {}\n    {} [{}]\n", field.key, field_text(field.get()), field.help, expected_text(field));
  }
  return out;
}

std::vector<FieldDifference> compare_fields(const FieldList& left, const FieldList& right) {
  std::vector<FieldDifference> out;
  for (size_t i = 0; i < left.fields().size(); ++i) {
    const FieldValue a = left.fields()[i].get(), b = right.fields()[i].get();
    if (a != b) out.push_back({left.fields()[i].key, field_text(a), field_text(b)});
  }
  return out;
}

}  // namespace smamba
