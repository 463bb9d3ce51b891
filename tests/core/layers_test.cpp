// Includes go only downwards in the ordered list of layers.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>

namespace {
namespace fs = std::filesystem;

// Which layers a layer may include, besides itself.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"core", {}},
    {"control", {"core"}},
    {"ops", {"core", "control"}},
    {"data", {"core"}},
    {"models", {"core", "control", "ops"}},
    {"train", {"core", "control", "ops", "models", "data", "infer"}},
    {"infer", {"core", "control", "ops", "models", "data"}},
    {"cli", {"core", "control", "ops", "models", "data", "train", "infer"}},
};

TEST(Layers, IncludesGoDownwards) {
  const fs::path root = fs::path(SMAMBA_SOURCE_DIR) / "src/smamba";
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const auto extension = entry.path().extension();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    const std::string layer = fs::relative(entry.path(), root).begin()->string();
    ASSERT_TRUE(kAllowed.contains(layer)) << entry.path() << ": layer '" << layer << "' is not in the list";
    ++files;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      const std::string key = "#include \"smamba/";
      if (!line.starts_with(key)) continue;
      const std::string other = line.substr(key.size(), line.find('/', key.size()) - key.size());
      EXPECT_TRUE(other == layer || kAllowed.at(layer).contains(other))
          << entry.path() << " includes upwards: " << line;
    }
  }
  EXPECT_GT(files, 10);
}

}  // namespace
