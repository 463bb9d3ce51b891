// One layer as control theory sees it: what `smamba info` prints.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "smamba/control/analysis.h"
#include "smamba/models/language_model.h"

namespace smamba::models {

/// A Popov-Belevitch-Hautus margin (control/analysis.h) and what it is the margin of.
struct Margin {
  double value = 0;
  /// True: of the vector B (or C) that the layer has, in the layer's coordinates. False: of its poles alone, in modal
  /// coordinates with a B (or C) that gives every mode unit Gramian, since the layer's own depends on the input
  /// (selective), differs by channel (diagonal), or stands in companion coordinates, where margins say nothing. An
  /// unstable system has no Gramian: then of the companion form, with e_n and ones.
  bool own = false;
};

struct LayerReport {
  control::Spectrum spectrum;        // of channel 0 for a diagonal layer
  std::vector<double> coefficients;  // a_0 … a_{n-1}; empty for a diagonal layer and where one overflows double
  bool hurwitz = false;
  control::TimeConstants time{};  // in units of 1/delta
  Margin controllability, observability;
};

LayerReport report_layer(const LanguageModel& model, int64_t layer);

}  // namespace smamba::models
