// Configuration structs that name their fields once. Parsing, overrides, printing, comparison and JSON follow from the
// one list:
//
//   struct ModelConfig {
//     int64_t d_model = 512;
//     MixerConfig mixer;
//     template <class V>
//     void fields(V& v) {
//       v("d_model", d_model, "width of the residual stream", at_least(1));
//       v.table("mixer", mixer);
//     }
//   };
//
// A field is a bool, an integer, a float or double, a string, an enum, or a std::optional or std::vector of those. An
// enum spells its values in a function found by argument-dependent lookup:
//
//   enum class Form { kPoles, kSchwarz };
//   inline auto field_names(Form) { return field_enum<Form>({{Form::kPoles, "poles"}, {Form::kSchwarz, "schwarz"}}); }
//
// Every refusal is one line, Error(kUsage): where (file:line, or the option), the key, expected, found. A refused input
// changes nothing.
#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace smamba {

using FieldScalar = std::variant<bool, int64_t, double, std::string>;

/// A field's value without its C++ type: empty (an unset optional), one scalar, or a list.
struct FieldValue {
  enum class Shape { kUnset, kScalar, kList } shape = Shape::kUnset;
  std::vector<FieldScalar> items;
  bool operator==(const FieldValue& other) const;  // NaN equals NaN
};

enum class FieldType { kBool, kInteger, kFloat, kString };

/// Closed interval of allowed numbers.
struct FieldRange {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
};
inline FieldRange at_least(double low) { return {low, std::numeric_limits<double>::infinity()}; }
inline FieldRange between(double low, double high) { return {low, high}; }

struct Field {
  std::string key;   // full dotted name, "mixer.d_state"
  std::string help;  // one line
  FieldType type = FieldType::kString;
  bool optional = false, list = false;
  std::vector<std::string> allowed;  // of strings and enums; empty: any
  FieldRange range;
  std::function<FieldValue()> get;
  /// `value` has this field's type, shape, range and allowed values; set_checked() sees to it.
  std::function<void(const FieldValue&)> set;
};

template <class E>
std::vector<std::pair<E, std::string>> field_enum(std::initializer_list<std::pair<E, std::string>> names) {
  return names;
}

/// The visitor: collects the fields of one struct, which must outlive it.
class FieldList {
 public:
  template <class T>
  void operator()(std::string_view name, T& value, std::string_view help, FieldRange range = {}) {
    add(name, value, help).range = range;
  }
  /// A string (or a list of them) with a closed set of values.
  template <class T>
  void operator()(std::string_view name, T& value, std::string_view help, std::initializer_list<const char*> allowed) {
    add(name, value, help).allowed.assign(allowed.begin(), allowed.end());
  }
  template <class T>
  void table(std::string_view name, T& value) {
    const std::string outer = std::exchange(prefix_, prefix_ + std::string(name) + ".");
    value.fields(*this);
    prefix_ = outer;
  }

  const std::vector<Field>& fields() const { return fields_; }
  const Field* find(std::string_view key) const;
  /// True when some field lies in the table `key`.
  bool is_table(std::string_view key) const;

 private:
  template <class T>
  Field& add(std::string_view name, T& value, std::string_view help);

  std::string prefix_;
  std::vector<Field> fields_;
};

template <class T>
FieldList fields_of(T& config) {
  FieldList list;
  config.fields(list);
  return list;
}

struct FieldDifference {
  std::string key, left, right;
};

// The work, on lists. `where` opens the error line, e.g. "run.toml:3" or "--set".
void set_checked(const Field& field, FieldValue value, const std::string& where);
[[noreturn]] void refuse_unknown_key(const FieldList& list, std::string_view key, const std::string& where);
void apply_override(const FieldList& list, std::string_view assignment, const std::string& where);
void apply_toml(const FieldList& list, std::string_view text, const std::string& source);
void apply_json(const FieldList& list, const nlohmann::json& json, const std::string& source);
std::string print_toml(const FieldList& list, const FieldList& defaults);
std::string print_help(const FieldList& list);
nlohmann::json print_json(const FieldList& list);
std::vector<FieldDifference> compare_fields(const FieldList& left, const FieldList& right);
/// One value as TOML writes it; an unset optional is "none".
std::string field_text(const FieldValue& value);

// The same, on structs.

/// Reads TOML text over the values that `config` has; `source` names it in errors.
template <class T>
void parse_toml(T& config, std::string_view text, const std::string& source) {
  T copy = config;
  apply_toml(fields_of(copy), text, source);
  config = std::move(copy);
}

/// `key=value`, the value read by the field's type: 3, 1e-3, true, text (quotes optional), [1, 2] or 1,2 for lists,
/// none for an unset optional.
template <class T>
void set_field(T& config, std::string_view assignment, const std::string& where = "--set") {
  T copy = config;
  apply_override(fields_of(copy), assignment, where);
  config = std::move(copy);
}

/// Reads nested JSON objects over the values that `config` has. Non-finite numbers are the strings "inf", "-inf",
/// "nan".
template <class T>
void from_json_config(T& config, const nlohmann::json& json, const std::string& source) {
  T copy = config;
  apply_json(fields_of(copy), json, source);
  config = std::move(copy);
}

/// Commented TOML that parse_toml reads back to the same values, bit for bit.
template <class T>
std::string to_toml(T config) {
  T defaults{};
  return print_toml(fields_of(config), fields_of(defaults));
}
/// One line a field: key, type or allowed values, default, help.
template <class T>
std::string config_help() {
  T defaults{};
  return print_help(fields_of(defaults));
}
/// Nested objects; an unset optional is null. The caller includes <nlohmann/json.hpp>.
template <class T, class Json = nlohmann::json>
Json to_json_config(T config) {
  return print_json(fields_of(config));
}

/// The fields in which two configurations differ, in the order of the list.
template <class T>
std::vector<FieldDifference> differences(T left, T right) {
  return compare_fields(fields_of(left), fields_of(right));
}

// ---- conversions between C++ types and FieldValue ----

namespace field_detail {
template <class T>
struct Inner {
  using type = T;
  static constexpr bool optional = false, list = false;
};
template <class T>
struct Inner<std::optional<T>> {
  using type = T;
  static constexpr bool optional = true, list = false;
};
template <class T>
struct Inner<std::vector<T>> {
  using type = T;
  static constexpr bool optional = false, list = true;
};

template <class T>
constexpr FieldType type_of() {
  if constexpr (std::is_same_v<T, bool>) return FieldType::kBool;
  if constexpr (std::is_integral_v<T>) return FieldType::kInteger;
  if constexpr (std::is_floating_point_v<T>) return FieldType::kFloat;
  return FieldType::kString;
}

template <class T>
FieldScalar to_scalar(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [e, name] : field_names(value)) {
      if (e == value) return name;
    }
    return std::string("?");
  } else if constexpr (std::is_same_v<T, bool>) {
    return value;
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<int64_t>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(value);
  } else {
    return std::string(value);
  }
}

template <class T>
T from_scalar(const FieldScalar& scalar) {
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [e, name] : field_names(T{})) {
      if (name == std::get<std::string>(scalar)) return e;
    }
    return T{};
  } else if constexpr (std::is_same_v<T, bool>) {
    return std::get<bool>(scalar);
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(std::get<int64_t>(scalar));
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::get<double>(scalar));
  } else {
    return T(std::get<std::string>(scalar));
  }
}
}  // namespace field_detail

template <class T>
Field& FieldList::add(std::string_view name, T& value, std::string_view help) {
  using Inner = field_detail::Inner<T>;
  using S = typename Inner::type;
  Field field;
  field.key = prefix_ + std::string(name);
  field.help = help;
  field.type = field_detail::type_of<S>();
  field.optional = Inner::optional;
  field.list = Inner::list;
  if constexpr (std::is_enum_v<S>) {
    for (const auto& entry : field_names(S{})) field.allowed.push_back(entry.second);
  }
  T* p = &value;
  field.get = [p] {
    FieldValue out;
    if constexpr (Inner::list) {
      out.shape = FieldValue::Shape::kList;
      for (const S& item : *p) out.items.push_back(field_detail::to_scalar<S>(item));
    } else if constexpr (Inner::optional) {
      if (*p) out = {FieldValue::Shape::kScalar, {field_detail::to_scalar<S>(**p)}};
    } else {
      out = {FieldValue::Shape::kScalar, {field_detail::to_scalar<S>(*p)}};
    }
    return out;
  };
  field.set = [p](const FieldValue& in) {
    if constexpr (Inner::list) {
      p->clear();
      for (const FieldScalar& item : in.items) p->push_back(field_detail::from_scalar<S>(item));
    } else if constexpr (Inner::optional) {
      *p = in.items.empty() ? T{} : T{field_detail::from_scalar<S>(in.items[0])};
    } else {
      *p = field_detail::from_scalar<S>(in.items[0]);
    }
  };
  fields_.push_back(std::move(field));
  return fields_.back();
}

}  // namespace smamba
