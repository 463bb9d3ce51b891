#include "smamba/core/tfevents.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>

#include "smamba/core/append_file.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"

namespace smamba {
namespace {

constexpr uint32_t kCastagnoli = 0x82f63b78;  // the polynomial, bits reversed

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kCastagnoli : 0);
    table[i] = crc;
  }
  return table;
}
constexpr auto kTable = make_table();

// TFRecord stores its checksums rotated and shifted, so that data holding checksums does not confuse them.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <class T>
std::string raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

// Protocol buffer fields: a key of number and wire type, then the value.
std::string integer(int number, int64_t value) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(static_cast<uint64_t>(value));
}
std::string fixed64(int number, double value) { return varint(static_cast<uint64_t>(number) << 3 | 1) + raw(value); }
std::string fixed32(int number, float value) { return varint(static_cast<uint64_t>(number) << 3 | 5) + raw(value); }
std::string bytes(int number, std::string_view value) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(value.size()) + std::string(value);
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string file_name() {
  static std::atomic<int> count{0};
  char host[256] = "localhost";
  (void)::gethostname(host, sizeof host - 1);
  return fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(wall_time()), host, ::getpid(),
                     count++);
}

}  // namespace

uint32_t crc32c(std::string_view text) {
  uint32_t crc = ~0U;
  for (const char c : text) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

TfEvents::TfEvents(const std::filesystem::path& folder, int64_t last_step) {
  make_directories(folder);
  path_ = folder / file_name();
  fd_ = open_append(path_, O_CREAT | O_EXCL);
  event(0, bytes(3, "brain.Event:2"));                                // Event.file_version
  if (last_step >= 0) event(last_step + 1, bytes(7, integer(1, 1)));  // Event.session_log, status START
}

TfEvents::~TfEvents() {
  if (fd_ >= 0) ::close(fd_);
}

void TfEvents::scalar(std::string_view tag, double value, int64_t step) {
  // Event.summary, Summary.value: tag, simple_value
  event(step, bytes(5, bytes(1, bytes(1, tag) + fixed32(2, static_cast<float>(value)))));
}

void TfEvents::text(std::string_view tag, std::string_view markdown, int64_t step) {
  constexpr int kDtString = 7;
  const std::string shape = bytes(2, bytes(2, integer(1, 1)));  // TensorProto.tensor_shape, dim, size: one string
  const std::string tensor = integer(1, kDtString) + shape + bytes(8, markdown);
  const std::string metadata = bytes(1, bytes(1, "text"));  // SummaryMetadata.plugin_data, plugin_name
  event(step, bytes(5, bytes(1, bytes(1, tag) + bytes(8, tensor) + bytes(9, metadata))));
}

void TfEvents::sync() { sync_file(fd_, path_); }

void TfEvents::event(int64_t step, const std::string& body) {
  const std::string data = fixed64(1, wall_time()) + integer(2, step) + body;
  const std::string length = raw(static_cast<uint64_t>(data.size()));
  append_all(fd_, path_, length + raw(masked_crc(length)) + data + raw(masked_crc(data)));
}

}  // namespace smamba
