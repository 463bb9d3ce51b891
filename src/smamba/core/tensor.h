// Forward declaration of at::Tensor's header in one place: public headers include this, sources get all of libtorch
// from the precompiled header.
#pragma once
#include <ATen/core/Tensor.h>
