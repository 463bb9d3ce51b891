// The safetensors format: an 8-byte little-endian header length, a JSON header, raw little-endian tensors
// (docs/formats/safetensors.md).
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/core/file.h"

namespace smamba {

enum class Dtype : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};

/// Bytes of one element.
size_t dtype_size(Dtype dtype);
/// The format's name, "F32".
std::string_view dtype_name(Dtype dtype);

/// One named tensor over memory that somebody else owns.
struct TensorView {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  std::span<const std::byte> data;
};

using Metadata = std::map<std::string, std::string>;

/// What a file holds; the views point into the bytes that were validated.
struct SafetensorsContent {
  std::vector<TensorView> tensors;  // in the order of their data
  Metadata metadata;
};

/// The only way from bytes to views. Refuses with Error(kBadData), one line "source: rule, expected, found", unless:
/// the header is at most 100 MB of strict UTF-8 JSON that begins with '{'; no key appears twice, at any level; every
/// tensor has exactly dtype, shape and data_offsets; no product overflows; every tensor has exactly the bytes of its
/// shape, aligned to its element; and the tensors cover the data from its first to its last byte without hole or
/// overlap. `bytes` is aligned to 8.
SafetensorsContent validate_safetensors(std::span<const std::byte> bytes, const std::string& source);

/// A file, memory-mapped and validated. Views live as long as the object.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::string& source() const { return source_; }
  const std::vector<TensorView>& tensors() const { return content_.tensors; }
  const Metadata& metadata() const { return content_.metadata; }
  const TensorView* find(std::string_view name) const;  // nullptr when absent

 private:
  std::string source_;
  MappedFile file_;
  SafetensorsContent content_;
  std::map<std::string, size_t, std::less<>> index_;
};

/// Writes a file atomically and durably (AtomicFile); the same tensors give the same bytes in whatever order they come:
/// sorted by element size, largest first, then by name; the data starts at a multiple of 64. Error(kUsage) for a
/// duplicate name, invalid UTF-8, or data whose size is not that of its shape; Error(kIo) when the system refuses.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorView> tensors,
                       const Metadata& metadata = {});

}  // namespace smamba
