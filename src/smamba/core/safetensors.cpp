#include "smamba/core/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "smamba/core/error.h"

namespace smamba {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and the data is used in place");

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr uint64_t kPrefix = 8;
constexpr uint64_t kDataAlignment = 64;
constexpr size_t kMaxRank = 64;

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array<DtypeInfo, 15> kDtypes = {{{Dtype::kBool, "BOOL", 1},
                                                {Dtype::kU8, "U8", 1},
                                                {Dtype::kI8, "I8", 1},
                                                {Dtype::kF8E5M2, "F8_E5M2", 1},
                                                {Dtype::kF8E4M3, "F8_E4M3", 1},
                                                {Dtype::kI16, "I16", 2},
                                                {Dtype::kU16, "U16", 2},
                                                {Dtype::kF16, "F16", 2},
                                                {Dtype::kBF16, "BF16", 2},
                                                {Dtype::kI32, "I32", 4},
                                                {Dtype::kU32, "U32", 4},
                                                {Dtype::kF32, "F32", 4},
                                                {Dtype::kF64, "F64", 8},
                                                {Dtype::kI64, "I64", 8},
                                                {Dtype::kU64, "U64", 8}}};

const DtypeInfo& info_of(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)]; }

// A name from a file, on one line and readable.
std::string shown(const std::string& text) {
  using Json = nlohmann::json;
  std::string out = Json(text.substr(0, 200)).dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > 200 ? out + "…" : out;
}

// Bytes of a shape; nothing when it overflows.
std::optional<uint64_t> byte_size(const std::vector<int64_t>& shape, Dtype dtype) {
  uint64_t size = dtype_size(dtype);
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  for (const int64_t n : shape) {
    if (n < 0 || __builtin_mul_overflow(size, static_cast<uint64_t>(n), &size)) return std::nullopt;
  }
  return size;
}

struct Entry {
  std::string name;
  std::optional<Dtype> dtype;
  std::optional<std::vector<uint64_t>> shape, offsets;
};

// Receives the JSON event by event: nlohmann's document would keep one of two equal keys and hide the other.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  Metadata metadata;
  std::string error;

  bool key(string_t& name) override {
    if (depth_ == 1) return tensor_or_metadata(name);
    key_ = name;
    if (in_metadata_) return metadata.emplace(name, "").second || refuse("key {} twice in __metadata__", shown(name));
    const Entry& e = entries.back();
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return refuse("tensor {}: expected dtype, shape and data_offsets, found key {}", shown(e.name), shown(name));
    }
    const bool twice = name == "dtype"   ? e.dtype.has_value()
                       : name == "shape" ? e.shape.has_value()
                                         : e.offsets.has_value();
    return !twice || refuse("tensor {}: key {} twice", shown(e.name), shown(name));
  }
  bool start_object(size_t) override {
    if (array_ || depth_ >= 2) return wrong("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ != 1 || in_metadata_) return true;
    const Entry& e = entries.back();
    const char* missing = !e.dtype ? "dtype" : !e.shape ? "shape" : !e.offsets ? "data_offsets" : nullptr;
    return !missing || refuse("tensor {}: no {}", shown(e.name), missing);
  }
  bool start_array(size_t) override {
    if (array_ || depth_ != 2 || in_metadata_ || key_ == "dtype") return wrong("a list");
    array_ = &(key_ == "shape" ? entries.back().shape : entries.back().offsets).emplace();
    return true;
  }
  bool end_array() override {
    array_ = nullptr;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!array_) return wrong(std::to_string(value));
    if (array_->size() == kMaxRank)
      return refuse("tensor {}: {} has more than {} numbers", shown(entries.back().name), key_, kMaxRank);
    array_->push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      metadata[key_] = value;
      return true;
    }
    if (depth_ != 2 || array_ || key_ != "dtype") return wrong(shown(value));
    const auto it = std::ranges::find(kDtypes, value, &DtypeInfo::name);
    if (it == kDtypes.end()) return refuse("tensor {}: unknown dtype {}", shown(entries.back().name), shown(value));
    entries.back().dtype = it->dtype;
    return true;
  }
  bool null() override { return wrong("null"); }
  bool boolean(bool value) override { return wrong(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return wrong(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return wrong(text.substr(0, 40)); }
  bool binary(binary_t&) override { return wrong("binary"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return refuse("the header is not valid JSON at offset {}", kPrefix + position);
  }

 private:
  template <class... Args>
  bool refuse(fmt::format_string<Args...> format, Args&&... args) {
    if (error.empty()) error = fmt::format(format, std::forward<Args>(args)...);
    return false;
  }
  bool wrong(const std::string& found) {
    if (depth_ == 0) return refuse("expected the header to be an object, found {}", found);
    if (depth_ == 1)
      return refuse("{}: expected an object, found {}", shown(in_metadata_ ? "__metadata__" : entries.back().name),
                    found);
    if (in_metadata_) return refuse("__metadata__ {}: expected a string, found {}", shown(key_), found);
    const char* expected = key_ == "dtype" ? "a string"
                           : array_        ? "a non-negative integer"
                                           : "a list of non-negative integers";
    return refuse("tensor {}: {}: expected {}, found {}", shown(entries.back().name), key_, expected, found);
  }
  bool tensor_or_metadata(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (!names_.emplace(name, 0).second) return refuse("name {} twice", shown(name));
    if (!in_metadata_) entries.push_back({name, {}, {}, {}});
    return true;
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::string key_;
  std::vector<uint64_t>* array_ = nullptr;
  std::map<std::string, int> names_;
};

HeaderReader read_header(std::span<const std::byte> header, const std::string& source) {
  const char* text = reinterpret_cast<const char*>(header.data());
  if (header.empty() || text[0] != '{')
    fail(Exit::kBadData, "{}: the header at offset 8 does not begin with '{{'", source);
  // nlohmann takes a zero byte for the end of its input.
  if (const void* zero = std::memchr(text, 0, header.size())) {
    fail(Exit::kBadData, "{}: zero byte in the header at offset {}", source,
         kPrefix + (static_cast<const char*>(zero) - text));
  }
  HeaderReader reader;
  const bool ok = nlohmann::json::sax_parse(text, text + header.size(), &reader);
  if (!ok) fail(Exit::kBadData, "{}: {}", source, reader.error);
  return reader;
}

TensorView view_of(const Entry& entry, std::span<const std::byte> bytes, uint64_t data_start,
                   const std::string& source) {
  const std::string name = shown(entry.name);
  const uint64_t data_size = bytes.size() - data_start;
  if (entry.offsets->size() != 2) {
    fail(Exit::kBadData, "{}: tensor {}: expected 2 data_offsets, found {}", source, name, entry.offsets->size());
  }
  const uint64_t begin = (*entry.offsets)[0], end = (*entry.offsets)[1];
  if (begin > end || end > data_size) {
    fail(Exit::kBadData, "{}: tensor {}: data_offsets [{}, {}] do not lie in the {} bytes of data", source, name, begin,
         end, data_size);
  }
  TensorView view{entry.name, *entry.dtype, {}, bytes.subspan(data_start + begin, end - begin)};
  for (const uint64_t n : *entry.shape) {
    if (n > static_cast<uint64_t>(INT64_MAX)) fail(Exit::kBadData, "{}: tensor {}: the shape overflows", source, name);
    view.shape.push_back(static_cast<int64_t>(n));
  }
  const std::optional<uint64_t> expected = byte_size(view.shape, view.dtype);
  if (!expected) fail(Exit::kBadData, "{}: tensor {}: the shape overflows", source, name);
  if (*expected != end - begin) {
    fail(Exit::kBadData, "{}: tensor {}: expected {} bytes for its shape, found {}", source, name, *expected,
         end - begin);
  }
  if ((data_start + begin) % dtype_size(view.dtype) != 0) {
    fail(Exit::kBadData, "{}: tensor {}: offset {} is not a multiple of its element's {} bytes", source, name,
         data_start + begin, dtype_size(view.dtype));
  }
  return view;
}

// Offsets are compared as pointers into the one buffer.
void require_full_cover(std::vector<TensorView>& tensors, std::span<const std::byte> data, const std::string& source) {
  std::ranges::sort(tensors, [](const TensorView& a, const TensorView& b) {
    return std::make_tuple(a.data.data(), a.data.size(), std::cref(a.name)) <
           std::make_tuple(b.data.data(), b.data.size(), std::cref(b.name));
  });
  uint64_t at = 0;
  for (const TensorView& t : tensors) {
    const uint64_t begin = static_cast<uint64_t>(t.data.data() - data.data());
    if (begin != at) {
      fail(Exit::kBadData, "{}: tensor {}: begins at data offset {}, which is {} the end of the one before, {}", source,
           shown(t.name), begin, begin < at ? "before" : "behind", at);
    }
    at = begin + t.data.size();
  }
  if (at != data.size())
    fail(Exit::kBadData, "{}: the tensors end at data offset {}, the file at {}", source, at, data.size());
}

std::string header_text(const std::vector<TensorView>& tensors, const Metadata& metadata) {
  const auto text = [](const std::string& s) {
    try {
      return nlohmann::json(s).dump();
    } catch (const nlohmann::json::exception&) {
      fail(Exit::kUsage, "safetensors: name or metadata is not UTF-8: {}", shown(s));
    }
  };
  std::string out = "{";
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) out += (out.back() == '{' ? "" : ",") + text(key) + ":" + text(value);
    out += "}";
  }
  uint64_t at = 0;
  for (const TensorView& t : tensors) {
    out += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", out.size() > 1 ? "," : "",
                       text(t.name), dtype_name(t.dtype), fmt::join(t.shape, ","), at, at + t.data.size());
    at += t.data.size();
  }
  out += "}";
  out.resize((kPrefix + out.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment - kPrefix, ' ');
  return out;
}

void check_and_sort(std::vector<TensorView>& tensors) {
  std::ranges::sort(tensors, [](const TensorView& a, const TensorView& b) {
    const size_t x = dtype_size(a.dtype), y = dtype_size(b.dtype);
    return x != y ? x > y : a.name < b.name;
  });
  std::map<std::string_view, int> names;
  for (const TensorView& t : tensors) {
    require(t.name != "__metadata__" && names.emplace(t.name, 0).second, "safetensors: name {} twice or reserved",
            shown(t.name));
    const std::optional<uint64_t> size = byte_size(t.shape, t.dtype);
    require(size && *size == t.data.size(), "safetensors: tensor {}: expected the {} bytes of its shape, found {}",
            shown(t.name), size.value_or(0), t.data.size());
    require(t.shape.size() <= kMaxRank, "safetensors: tensor {}: expected at most {} dimensions, found {}",
            shown(t.name), kMaxRank, t.shape.size());
  }
}

}  // namespace

size_t dtype_size(Dtype dtype) { return info_of(dtype).size; }
std::string_view dtype_name(Dtype dtype) { return info_of(dtype).name; }

SafetensorsContent validate_safetensors(std::span<const std::byte> bytes, const std::string& source) {
  if (bytes.size() < kPrefix) fail(Exit::kBadData, "{}: expected at least 8 bytes, found {}", source, bytes.size());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kPrefix);
  if (length > kMaxHeader)
    fail(Exit::kBadData, "{}: expected a header of at most {} bytes, found {}", source, kMaxHeader, length);
  if (length > bytes.size() - kPrefix) {
    fail(Exit::kBadData, "{}: expected a header of {} bytes at offset 8, found the end of the file after {}", source,
         length, bytes.size() - kPrefix);
  }
  HeaderReader header = read_header(bytes.subspan(kPrefix, length), source);
  SafetensorsContent content;
  content.metadata = std::move(header.metadata);
  content.tensors.reserve(header.entries.size());
  for (const Entry& entry : header.entries) content.tensors.push_back(view_of(entry, bytes, kPrefix + length, source));
  require_full_cover(content.tensors, bytes.subspan(kPrefix + length), source);
  return content;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : source_(path.string()), file_(path), content_(validate_safetensors(file_.bytes(), source_)) {
  for (size_t i = 0; i < content_.tensors.size(); ++i) index_.emplace(content_.tensors[i].name, i);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &content_.tensors[it->second];
}

void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors, const Metadata& metadata) {
  check_and_sort(tensors);
  const std::string header = header_text(tensors, metadata);
  require(header.size() <= kMaxHeader, "safetensors: the header has {} bytes, more than the format's {}", header.size(),
          kMaxHeader);
  const uint64_t length = header.size();
  AtomicFile file(path);
  file.write(&length, kPrefix);
  file.write(header);
  for (const TensorView& t : tensors) file.write(t.data.data(), t.data.size());
  file.commit();
}

}  // namespace smamba
