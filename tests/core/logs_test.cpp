// What a run writes while it goes on: event files, JSON lines, progress; and how it is interrupted.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "smamba/core/append_file.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/json_lines.h"
#include "smamba/core/memory.h"
#include "smamba/core/progress.h"
#include "smamba/core/tfevents.h"

namespace smamba {
namespace {
namespace fs = std::filesystem;

class Logs : public ::testing::Test {
 protected:
  fs::path folder = fs::temp_directory_path() / ("smamba-logs-" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(folder); }
  void TearDown() override { fs::remove_all(folder); }
};

// ---- event files: a decoder written from the protocol, not from the encoder ----

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

struct Decoder {
  std::string_view text;
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(text.at(0));
      text.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  }
  std::string_view take(size_t n) {
    if (n > text.size()) throw std::runtime_error("record too short");
    const auto out = text.substr(0, n);
    text.remove_prefix(n);
    return out;
  }
};

// Field number -> values; integers and fixed-width values as their bytes.
std::multimap<int, std::string> decode(std::string_view message) {
  std::multimap<int, std::string> out;
  Decoder d{message};
  while (!d.text.empty()) {
    const uint64_t key = d.varint();
    switch (key & 7) {
      case 0:
        out.emplace(key >> 3, std::to_string(static_cast<int64_t>(d.varint())));
        break;
      case 1:
        out.emplace(key >> 3, d.take(8));
        break;
      case 2:
        out.emplace(key >> 3, d.take(d.varint()));
        break;
      case 5:
        out.emplace(key >> 3, d.take(4));
        break;
      default:
        throw std::runtime_error("wire type");
    }
  }
  return out;
}

std::string only(const std::multimap<int, std::string>& message, int field) {
  EXPECT_EQ(message.count(field), 1u) << field;
  const auto it = message.find(field);
  return it == message.end() ? "" : it->second;
}

template <class T>
T value(const std::string& bytes) {
  T out{};
  EXPECT_EQ(bytes.size(), sizeof out);
  std::memcpy(&out, bytes.data(), std::min(sizeof out, bytes.size()));
  return out;
}

std::vector<std::multimap<int, std::string>> records(const fs::path& path) {
  const std::string text = read_file(path);
  Decoder d{text};
  std::vector<std::multimap<int, std::string>> out;
  const auto unmask = [](uint32_t masked) {
    const uint32_t rotated = masked - 0xa282ead8u;
    return (rotated >> 17) | (rotated << 15);
  };
  while (!d.text.empty()) {
    const std::string length(d.take(8));
    EXPECT_EQ(unmask(value<uint32_t>(std::string(d.take(4)))), crc32c(length));
    const std::string data(d.take(value<uint64_t>(length)));
    EXPECT_EQ(unmask(value<uint32_t>(std::string(d.take(4)))), crc32c(data));
    out.push_back(decode(data));
  }
  return out;
}

TEST_F(Logs, EventFilesDecode) {
  TfEvents events(folder / "new" / "tb");
  events.scalar("loss/train", 1.25, 7);
  events.scalar("x", -1e-3, int64_t{1} << 40);
  events.text("sample", "def f():\n  é", 300);
  const auto all = records(events.path());
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(only(all[0], 3), "brain.Event:2");
  EXPECT_GT(value<double>(only(all[0], 1)), 1.6e9) << "wall time";
  EXPECT_EQ(only(all[1], 2), "7");
  const auto scalar = decode(only(decode(only(all[1], 5)), 1));
  EXPECT_EQ(only(scalar, 1), "loss/train");
  EXPECT_EQ(value<float>(only(scalar, 2)), 1.25F);
  EXPECT_EQ(only(all[2], 2), std::to_string(int64_t{1} << 40));
  const auto text = decode(only(decode(only(all[3], 5)), 1));
  EXPECT_EQ(only(text, 1), "sample");
  EXPECT_EQ(only(decode(only(decode(only(text, 9)), 1)), 1), "text");
  const auto tensor = decode(only(text, 8));
  EXPECT_EQ(only(tensor, 1), "7");
  EXPECT_EQ(only(tensor, 8), "def f():\n  é");
}

TEST_F(Logs, AResumedRunGetsItsOwnEventFile) {
  const TfEvents first(folder);
  const TfEvents second(folder, 120);
  EXPECT_NE(first.path(), second.path());
  EXPECT_TRUE(second.path().filename().string().starts_with("events.out.tfevents."));
  const auto all = records(second.path());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(only(all[1], 2), "121");
  EXPECT_EQ(only(decode(only(all[1], 7)), 1), "1");
}

// ---- JSON lines ----

std::string resumed(const fs::path& path, const std::string& before, int64_t step) {
  write_file(path, before);
  JsonLines log(path, step);
  return read_file(path);
}

TEST_F(Logs, JsonLinesAppendAndRefuseWhatIsNotOneObject) {
  const fs::path path = folder / "metrics.jsonl";
  {
    JsonLines log(path, -1);
    log.append(R"({"step":1})");
    log.append(R"({"step":2})");
    for (const char* bad : {"", "1", "{\"a\":1}\n", "{\n}", "[]"}) EXPECT_THROW(log.append(bad), Error) << bad;
    log.sync();
  }
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
  { JsonLines log(path, 2); }
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
  { JsonLines log(path, -1); }
  EXPECT_EQ(read_file(path), "") << "a new run starts empty";
}

TEST_F(Logs, JsonLinesGoOnWhereTheRunDoes) {
  const fs::path path = folder / "metrics.jsonl";
  const std::string a = "{\"step\":1}\n", b = "{\"note\":\"x\"}\n", c = "{\"step\":20,\"loss\":1}\n",
                    d = "{\"step\":30}\n";
  EXPECT_EQ(resumed(path, a + b + c + d, 20), a + b + c);
  EXPECT_EQ(resumed(path, a + b + c + d, 19), a + b);
  EXPECT_EQ(resumed(path, a + b + c + d, 0), "");
  EXPECT_EQ(resumed(path, "", 5), "");
  // Every torn tail: cut to the last whole line.
  for (size_t n = 1; n < c.size(); ++n) EXPECT_EQ(resumed(path, a + b + c.substr(0, n), 99), a + b) << n;
  EXPECT_EQ(resumed(path, a + std::string(4096, '\0'), 99), a) << "zeros after a power cut";
  EXPECT_EQ(resumed(path, a + std::string(10, '\0') + "\n" + b, 99), a);
  JsonLines log(path, 99);
  log.append("{}");
  EXPECT_EQ(read_file(path), a + "{}\n");
}

TEST_F(Logs, FullDeviceIsAnIoError) {
  try {
    const int fd = open_append("/dev/full", 0);
    append_all(fd, "/dev/full", "{}");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kIo);
    EXPECT_NE(std::string(e.what()).find("/dev/full"), std::string::npos);
  }
}

// ---- progress ----

struct FakeProgress {
  double now = 0;
  std::string text;
  ProgressOptions options(bool terminal) {
    ProgressOptions o;
    o.terminal = terminal;
    o.width = 100;
    o.clock = [this] { return now; };
    o.write = [this](const std::string& s) { text += s; };
    return o;
  }
};

TEST(Progress, PlainLinesEveryFewSeconds) {
  FakeProgress fake;
  {
    Progress p(100, "step", 0, fake.options(false));
    for (int i = 1; i <= 12; ++i) fake.now = i, p.update(i, i * 1000, 2.5);
    EXPECT_NEAR(p.tokens_per_second(), 1000, 1e-9);
  }
  EXPECT_EQ(
      fake.text,
      "step 5/100 | loss 2.5000 | 1.00k tok/s | 1m35s left\nstep 10/100 | loss 2.5000 | 1.00k tok/s | 1m30s left\n"
      "step 12/100 | loss 2.5000 | 1.00k tok/s | 1m28s left\n");
}

TEST(Progress, OneLineOnATerminal) {
  FakeProgress fake;
  Progress p(4, "step", 2, fake.options(true));
  fake.now = 1;
  p.update(3, 10);
  EXPECT_EQ(fake.text, "\r[##################......] step 3/4 | 10 tok/s | 1s left\x1b[K");
  fake.text.clear();
  p.message("saved");
  EXPECT_TRUE(fake.text.starts_with("\r\x1b[Ksaved\n\r[")) << fake.text;
  fake.now = 2;
  p.update(4, 20);
  fake.text.clear();
  p.finish();
  p.finish();
  EXPECT_EQ(fake.text, "\r[########################] step 4/4 | 10 tok/s\x1b[K\n");
}

TEST(Progress, QuietSaysNothingAndShortScreensAreNotWrapped) {
  FakeProgress fake;
  auto options = fake.options(true);
  options.width = 20;
  {
    Progress p(4, "step", 0, options);
    fake.now = 9;
    p.update(1, 1);
  }
  EXPECT_EQ(fake.text.substr(1, fake.text.find('\x1b') - 1).size(), 19u);
  fake.text.clear();
  options.quiet = true;
  Progress p(4, "step", 0, options);
  fake.now = 99;
  p.update(1, 1);
  p.message("x");
  p.finish();
  EXPECT_EQ(fake.text, "");
}

TEST(Progress, Numbers) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(999), "999");
  EXPECT_EQ(short_number(1500), "1.50k");
  EXPECT_EQ(short_number(999.7), "1.00k");
  EXPECT_EQ(short_number(12345678), "12.3M");
  EXPECT_EQ(short_duration(41.6), "42s");
  EXPECT_EQ(short_duration(192), "3m12s");
  EXPECT_EQ(short_duration(7500), "2h05m");
  EXPECT_EQ(short_duration(4 * 86400 + 3 * 3600), "4d03h");
  EXPECT_EQ(short_duration(std::nan("")), "?");
}

// ---- interrupts and memory ----

TEST(Interrupt, FirstSignalSetsTheFlag) {
  const InterruptGuard guard;
  EXPECT_EQ(interrupt_signal(), 0);
  ::raise(SIGTERM);
  EXPECT_EQ(interrupt_signal(), SIGTERM);
  EXPECT_EQ(interrupt_exit_code(), static_cast<int>(Exit::kTerminated));
}

TEST(Interrupt, SecondSignalEndsTheProcess) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const InterruptGuard guard;
    ::raise(SIGTERM);
    ::raise(SIGINT);
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(Exit::kInterrupted));
}

TEST(Memory, PeakCountsTouchedPages) {
  const int64_t before = minor_page_faults();
  std::string block(64 << 20, 'x');
  EXPECT_GE(rss_bytes(), int64_t{64} << 20);
  EXPECT_GE(peak_rss_bytes(), int64_t{64} << 20);
  EXPECT_GE(minor_page_faults(), before);
}

TEST(Memory, TunedAllocatorDoesNotFaultAgain) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer has an allocator of its own";
#endif
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    tune_allocator();
    const auto touch = [] {
      void* volatile p = std::malloc(40 << 20);
      std::memset(p, 1, 40 << 20);
      std::free(p);
    };
    touch();
    const int64_t before = minor_page_faults();
    for (int i = 0; i < 3; ++i) touch();
    // 40 MiB are 10240 pages of 4 KiB; untuned, each pass faults them all in.
    ::_exit(minor_page_faults() - before < 1000 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace smamba
