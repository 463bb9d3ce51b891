#include "smamba/train/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "smamba/core/error.h"

namespace smamba::train {
namespace {

constexpr std::array<std::pair<Dtype, at::ScalarType>, 15> kTypes = {{{Dtype::kBool, at::kBool},
                                                                      {Dtype::kU8, at::kByte},
                                                                      {Dtype::kI8, at::kChar},
                                                                      {Dtype::kF8E5M2, at::kFloat8_e5m2},
                                                                      {Dtype::kF8E4M3, at::kFloat8_e4m3fn},
                                                                      {Dtype::kI16, at::kShort},
                                                                      {Dtype::kU16, at::kUInt16},
                                                                      {Dtype::kF16, at::kHalf},
                                                                      {Dtype::kBF16, at::kBFloat16},
                                                                      {Dtype::kI32, at::kInt},
                                                                      {Dtype::kU32, at::kUInt32},
                                                                      {Dtype::kF32, at::kFloat},
                                                                      {Dtype::kF64, at::kDouble},
                                                                      {Dtype::kI64, at::kLong},
                                                                      {Dtype::kU64, at::kUInt64}}};

at::ScalarType torch_type(Dtype dtype) { return kTypes[static_cast<size_t>(dtype)].second; }

Dtype file_type(const std::string& name, at::ScalarType type) {
  const auto it = std::ranges::find(kTypes, type, &std::pair<Dtype, at::ScalarType>::second);
  require(it != kTypes.end(), "write_tensors: '{}': dtype {} has no place in a safetensors file", name,
          c10::toString(type));
  return it->first;
}

// A tensor over the file's memory, only to copy from.
at::Tensor borrowed(const TensorView& view) {
  return at::from_blob(const_cast<std::byte*>(view.data.data()), view.shape,
                       at::TensorOptions().dtype(torch_type(view.dtype)));
}

std::string first_few(const std::vector<std::string>& items) {
  constexpr size_t kShown = 5;
  std::string out = fmt::format("{}", fmt::join(items.begin(), items.begin() + std::min(kShown, items.size()), ", "));
  return items.size() > kShown ? fmt::format("{}, … ({} in all)", out, items.size()) : out;
}

bool dtype_fits(at::ScalarType target, at::ScalarType found, bool convert) {
  return target == found || (convert && at::isFloatingType(target) && at::isFloatingType(found));
}

std::string mismatch(const std::string& name, const at::Tensor& target, const TensorView& found, bool convert) {
  if (target.sizes() == at::IntArrayRef(found.shape) &&
      dtype_fits(target.scalar_type(), torch_type(found.dtype), convert))
    return "";
  return fmt::format("{} (expected {} [{}], found {} [{}])", name, dtype_name(file_type(name, target.scalar_type())),
                     fmt::join(target.sizes(), ", "), dtype_name(found.dtype), fmt::join(found.shape, ", "));
}

}  // namespace

void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors, const Metadata& metadata) {
  std::vector<at::Tensor> plain;  // keeps copies alive until they are written
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor& t = plain.emplace_back(tensor.detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous());
    views.push_back({name,
                     file_type(name, t.scalar_type()),
                     t.sizes().vec(),
                     {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
  }
  write_safetensors(path, std::move(views), metadata);
}

NamedTensors read_tensors(const SafetensorsFile& file) {
  NamedTensors out;
  for (const TensorView& view : file.tensors()) out.emplace_back(view.name, borrowed(view).clone());
  return out;
}

void check_tensors(const SafetensorsFile& file, const NamedTensors& targets, const LoadOptions& options) {
  std::vector<std::string> missing, unexpected, wrong, problems;
  std::set<std::string, std::less<>> wanted(options.ignore.begin(), options.ignore.end());
  for (const auto& [name, target] : targets) {
    wanted.insert(name);
    const TensorView* view = file.find(name);
    if (!view) {
      missing.push_back(name);
    } else if (const std::string text = mismatch(name, target, *view, options.convert); !text.empty()) {
      wrong.push_back(text);
    }
  }
  for (const TensorView& view : file.tensors()) {
    if (!wanted.contains(view.name)) unexpected.push_back(view.name);
  }
  if (!missing.empty()) problems.push_back("missing: " + first_few(missing));
  if (!unexpected.empty()) problems.push_back("unexpected: " + first_few(unexpected));
  if (!wrong.empty()) problems.push_back("another shape or dtype: " + first_few(wrong));
  if (!problems.empty()) fail(Exit::kBadData, "{}: does not fit: {}", file.source(), fmt::join(problems, "; "));
}

void load_tensors(const SafetensorsFile& file, const NamedTensors& targets, const LoadOptions& options) {
  check_tensors(file, targets, options);
  for (const auto& [name, target] : targets) target.detach().copy_(borrowed(*file.find(name)));
}

}  // namespace smamba::train
