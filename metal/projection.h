// Weights and bias of a projection as kernels use them, from the arrays that projection.py passes: a number stands
// where a projection has none, for scales and offsets of a dense one, and for a bias.
#include <metal_stdlib>
using namespace metal;

#include "affine.h"
#include "dense.h"
#include "matvec.h"

template <int K, int BITS, int GROUP, typename W>
inline Dense<K, W> weights_of(const device W* weight, float, float) {
    static_assert(BITS == 8 * sizeof(W) && GROUP == 0, "a dense projection");
    return Dense<K, W>{weight};
}

template <int K, int BITS, int GROUP, typename S>
inline Affine<K, BITS, GROUP, S> weights_of(const device uint* codes, const device S* scales, const device S* offsets) {
    return Affine<K, BITS, GROUP, S>{codes, scales, offsets};
}

struct NoBias {
    float at(uint) const {
        return 0.0f;
    }
};

template <typename B>
struct RowBias {
    const device B* values;

    float at(uint row) const {
        return float(values[row]);
    }
};

inline NoBias bias_of(float) {
    return NoBias{};
}

template <typename B>
inline RowBias<B> bias_of(const device B* bias) {
    return RowBias<B>{bias};
}
