// Shared by the tests of the data module: a folder that goes away, and stores built from strings.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/data/byte_tokenizer.h"
#include "smamba/data/token_store.h"
#include "smamba/data/token_store_writer.h"

namespace smamba::data::testing {

/// A fresh folder, removed at the end of the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "smamba-data-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;  // many of them: no fsync
    return path_ / name;
  }
  /// Names of what is left, for "nothing half-written".
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) out.push_back(entry.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  std::filesystem::path path_;
};

/// Runs `body`, expects an Error with this code whose message holds every one of `parts`.
inline void expect_error(Exit code, const std::vector<std::string>& parts, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "'" << part << "' not in: " << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "a message is one line";
  }
}

inline std::shared_ptr<const TokenStore> make_store(const std::filesystem::path& path,
                                                    const std::vector<std::string>& texts) {
  TokenStoreWriter writer(path, std::make_shared<ByteTokenizer>());
  for (const auto& text : texts) writer.add_text(text);
  writer.commit();
  return std::make_shared<TokenStore>(path);
}

/// `count` texts of varied lengths, all different.
inline std::vector<std::string> sample_texts(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) {
    std::string text = "document " + std::to_string(i) + ":";
    for (int k = 0; k < (i * 7) % 23; ++k) text += " w" + std::to_string(k * i % 101);
    out.push_back(text);
  }
  return out;
}

}  // namespace smamba::data::testing
