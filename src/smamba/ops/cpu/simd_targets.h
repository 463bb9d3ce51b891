// Included before hwy/foreach_target.h by every kernel file: the instruction sets compiled are the compiler's baseline,
// AVX2 and AVX-512; none whose vectors have a width known only at run time.
#pragma once
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
