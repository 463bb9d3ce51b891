// Included before hwy/foreach_target.h by every kernel file: the instruction sets compiled are the compiler's baseline,
// AVX2 and AVX-512.
#pragma once
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
