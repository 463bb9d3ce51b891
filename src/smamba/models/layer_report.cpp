#include "smamba/models/layer_report.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace smamba::models {
namespace {

// The state matrix in the coordinates of the scan; nothing for companion coordinates and a matrix per channel.
std::optional<control::Matrix> state_matrix(const Dynamics& dynamics, const control::Spectrum& spectrum,
                                            const at::Tensor& a) {
  const ops::ScanOptions& options = dynamics.options();
  if (a.dim() != 1) return {};
  if (options.transition == ops::Transition::kModal) return control::modal_matrix(spectrum);
  if (options.transition != ops::Transition::kSchwarz) return {};
  std::vector<double> numbers = to_vector(a);
  const bool transposed = std::ranges::any_of(numbers, [](double x) { return x < 0; });
  for (double& x : numbers) x = std::abs(x);
  const control::Matrix m = control::schwarz_matrix(control::Schwarz::from_parameters(numbers, options.shift));
  return transposed ? m.transpose() : m;
}

// The system whose margins belong to the poles: modal with unit Gramians, or where those do not exist the companion
// form.
control::StateSpace system_of_poles(const LayerSystem& layer) {
  if (layer.spectrum.is_stable())
    return control::modal_controllable(layer.spectrum, control::modal_input(layer.spectrum));
  return control::controllable_form(layer.coefficients, std::vector<double>(layer.coefficients.size(), 1.0));
}

}  // namespace

LayerReport report_layer(const LanguageModel& model, int64_t layer) {
  const Dynamics& dynamics = model.mixer(layer).dynamics();
  const LayerSystem system = dynamics.system();
  LayerReport r{system.spectrum,
                system.coefficients,
                system.spectrum.is_stable(),
                control::time_constants(system.spectrum),
                {},
                {}};
  const control::StateSpace poles = system_of_poles(system);
  r.controllability.value = control::controllability_margin(poles, system.spectrum);
  r.observability.value = control::observability_margin(poles, system.spectrum);

  const DynamicsTensors tensors = dynamics.tensors();
  const auto a = state_matrix(dynamics, system.spectrum, tensors.A);
  if (!a) return r;
  const MixerConfig& mixer = model.config().mixer;
  const size_t n = a->rows();
  const control::Matrix nothing(1, 1);
  if (tensors.B0 && !mixer.selects("B")) {
    const control::StateSpace own{*a, control::Matrix::column(to_vector(*tensors.B0)), control::Matrix(1, n), nothing};
    r.controllability = {control::controllability_margin(own, system.spectrum), true};
  }
  if (tensors.C0 && !mixer.selects("C")) {
    const control::StateSpace own{*a, control::Matrix(n, 1), control::Matrix::row(to_vector(*tensors.C0)), nothing};
    r.observability = {control::observability_margin(own, system.spectrum), true};
  }
  return r;
}

}  // namespace smamba::models
