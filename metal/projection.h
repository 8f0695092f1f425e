// The weights of a projection as kernels multiply them, from the arrays that projection.py passes: a dense one comes with
// numbers in place of scales and offsets.
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
