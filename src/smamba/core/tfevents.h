// TensorBoard event files: TFRecords of hand-encoded protocol buffers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace smamba {

/// CRC-32C (Castagnoli) of `bytes`.
uint32_t crc32c(std::string_view bytes);

/// Writes one event file, readable by TensorBoard while it grows: every call appends one whole record. Errors:
/// Error(kIo).
class TfEvents {
 public:
  /// Creates a new file in `folder` (created when absent); a resumed run gets a file of its own. `last_step` >= 0 tells
  /// TensorBoard to drop what older files hold after that step.
  explicit TfEvents(const std::filesystem::path& folder, int64_t last_step = -1);
  ~TfEvents();
  TfEvents(const TfEvents&) = delete;
  TfEvents& operator=(const TfEvents&) = delete;

  void scalar(std::string_view tag, double value, int64_t step);  // stored as float32
  void text(std::string_view tag, std::string_view markdown, int64_t step);
  void sync();  // fsync
  const std::filesystem::path& path() const { return path_; }

 private:
  void event(int64_t step, const std::string& body);
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace smamba
