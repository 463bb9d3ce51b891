// The TOML side of fields.h, apart because toml++ is slow to compile.
#include <toml++/toml.h>

#include <algorithm>

#include "smamba/core/error.h"
#include "smamba/core/fields.h"

namespace smamba {
namespace {

std::string where(const std::string& source, const toml::node& node) {
  return fmt::format("{}:{}", source, node.source().begin.line);
}

FieldScalar scalar_of(const toml::node& node, const Field& field, const std::string& source) {
  if (const auto* v = node.as_boolean()) return v->get();
  if (const auto* v = node.as_integer()) return v->get();
  if (const auto* v = node.as_floating_point()) return v->get();
  if (const auto* v = node.as_string()) return v->get();
  std::ostringstream kind;
  kind << node.type();
  fail(Exit::kUsage, "{}: key '{}': expected a value, found {}", where(source, node), field.key, kind.str());
}

void walk(const FieldList& list, const toml::table& table, const std::string& prefix, const std::string& source) {
  for (const auto& [name, node] : table) {
    const std::string key = prefix + std::string(name.str());
    if (list.is_table(key)) {
      if (!node.is_table()) fail(Exit::kUsage, "{}: key '{}': expected a table", where(source, node), key);
      walk(list, *node.as_table(), key + ".", source);
      continue;
    }
    const Field* field = list.find(key);
    if (!field) {
      refuse_unknown_key(list, key, fmt::format("{}:{}", source, name.source().begin.line));
    }
    FieldValue value{FieldValue::Shape::kScalar, {}};
    if (const toml::array* array = node.as_array()) {
      value.shape = FieldValue::Shape::kList;
      for (const auto& item : *array) value.items.push_back(scalar_of(item, *field, source));
    } else {
      value.items.push_back(scalar_of(node, *field, source));
    }
    set_checked(*field, std::move(value), where(source, node));
  }
}

// "" for a key at the top.
std::string table_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? "" : key.substr(0, dot);
}

std::string print_field(const Field& field, const FieldValue& default_value) {
  std::string comment = field.help;
  if (!field.allowed.empty()) {
    std::string names;
    for (const std::string& name : field.allowed) names += (names.empty() ? "" : " | ") + name;
    comment += fmt::format(" ({})", names);
  }
  const FieldValue value = field.get();
  if (value != default_value) comment += fmt::format("; default {}", field_text(default_value));
  const std::string name = field.key.substr(field.key.rfind('.') + 1);
  const bool unset = value.shape == FieldValue::Shape::kUnset;
  return fmt::format("# {}\n{}{} = {}\n", comment, unset ? "# " : "", name, field_text(value));
}

}  // namespace

void apply_toml(const FieldList& list, std::string_view text, const std::string& source) {
  toml::table table;
  try {
    table = toml::parse(text, source);
  } catch (const toml::parse_error& e) {
    fail(Exit::kUsage, "{}:{}: not valid TOML: {}", source, e.source().begin.line, e.description());
  }
  walk(list, table, "", source);
}

std::string print_toml(const FieldList& list, const FieldList& defaults) {
  std::vector<std::string> tables = {""};  // TOML wants a table's own keys before its sub-tables
  for (const Field& field : list.fields()) {
    const std::string table = table_of(field.key);
    if (std::ranges::find(tables, table) == tables.end()) tables.push_back(table);
  }
  std::string out;
  for (const std::string& table : tables) {
    if (!table.empty()) out += fmt::format("\n[{}]\n", table);
    for (size_t i = 0; i < list.fields().size(); ++i) {
      const Field& field = list.fields()[i];
      if (table_of(field.key) == table) out += print_field(field, defaults.fields()[i].get());
    }
  }
  return out;
}

}  // namespace smamba
