#include "smamba/data/unicode_classes.h"

#include <cstring>
#include <iterator>

namespace smamba::data::detail {
namespace {

struct Range {
  uint32_t first, last;
  uint8_t flags;
};
constexpr Range kRanges[] = {
#include "smamba/data/unicode_ranges.inc"
};

// Equal pages are shared: of 4,352 blocks of 256 code points about 100 are distinct.
const ClassTable* build() {
  auto* table = new ClassTable{};
  size_t pages = 0, r = 0;
  for (uint32_t block = 0; block < 0x1100; ++block) {
    uint8_t page[256];
    for (uint32_t i = 0; i < 256; ++i) {
      const uint32_t c = block << 8 | i;
      while (r < std::size(kRanges) && kRanges[r].last < c) ++r;
      page[i] = r < std::size(kRanges) && kRanges[r].first <= c ? kRanges[r].flags : uint8_t{0};
    }
    size_t same = 0;
    while (same < pages && std::memcmp(table->pages[same], page, 256) != 0) ++same;
    if (same == pages) std::memcpy(table->pages[pages++], page, 256);
    table->index[block] = static_cast<uint8_t>(same);
  }
  return table;
}

}  // namespace

const ClassTable& class_table = *build();

}  // namespace smamba::data::detail
