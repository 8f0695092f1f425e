// In place of MLX's, whose constructors are overloaded by address space: the name, for kernels that have no complex
// numbers.
#pragma once
#include "mlx/backend/metal/kernels/bf16.h"

template <typename T>
struct complex_t {
    T real, imag;
    constexpr complex_t(T r, T i) : real(r), imag(i) {}
};
typedef complex_t<float> complex64_t;
