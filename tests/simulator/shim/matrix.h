// simdgroup_matrix: 8 x 8, two neighbouring elements of a row in each lane. Which lane holds which is not documented by
// Apple; this is the layout that MLX's kernels rely on.
//
//     row = 4 * bit 4 of the lane + bits 2..1        column = 4 * bit 3 + 2 * bit 0, and the next
#pragma once
#include "simdgroup.h"

namespace metal {

SHIM constexpr u32 matrix_row(u32 lane) { return (lane >> 4 & 1) * 4 + (lane >> 1 & 3); }
SHIM constexpr u32 matrix_column(u32 lane) { return (lane >> 3 & 1) * 4 + (lane & 1) * 2; }

template <class T, int Columns, int Rows>
struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "simdgroup matrices are 8 x 8");
    static_assert(is_float_type<T>, "simdgroup matrices are of float, half or bfloat");
    using storage_type = vec<T, 2>;
    vec<T, 2> elements;

    simdgroup_matrix() = default;
    SHIM explicit simdgroup_matrix(T diagonal) {
        const u32 row = matrix_row(sim_lane()), column = matrix_column(sim_lane());
        elements[0] = row == column ? diagonal : T(0.0f);
        elements[1] = row == column + 1 ? diagonal : T(0.0f);
    }
    SHIM thread vec<T, 2>& thread_elements() { return elements; }
    SHIM thread const vec<T, 2>& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int Columns, int Rows>
SHIM simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, Columns, Rows> matrix;
    matrix.elements = vec<T, 2>(value);
    return matrix;
}
template <class T, int Columns, int Rows>
SHIM simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(T value) {
    return simdgroup_matrix<T, Columns, Rows>(value);
}

struct Together {
    COMBINE {}
};
SHIM void come_together(Site site) {
    Together operand;
    exchange(operand, site);
}

template <class Pointer>
SHIM Pointer matrix_element(Pointer pointer, u32 k, ulong stride, ulong2 origin, bool transposed) {
    const u32 row = matrix_row(sim_lane()), column = matrix_column(sim_lane()) + k;
    const ulong y = transposed ? column : row, x = transposed ? row : column;
    return pointer + (y + origin[1]) * stride + x + origin[0];
}
template <class T, class Pointer>
SHIM void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& matrix, Pointer from, ulong stride = 8,
                         ulong2 origin = ulong2(0), bool transposed = false, Site site = Site::here()) {
    come_together(site);
    for (u32 k = 0; k < 2; k++) matrix.elements[k] = *matrix_element(from, k, stride, origin, transposed);
}
template <class T, class Pointer>
SHIM void simdgroup_store(simdgroup_matrix<T, 8, 8> matrix, Pointer to, ulong stride = 8, ulong2 origin = ulong2(0),
                          bool transposed = false, Site site = Site::here()) {
    come_together(site);
    for (u32 k = 0; k < 2; k++) *matrix_element(to, k, stride, origin, transposed) = matrix.elements[k];
}

template <class D, class A, class B, class C>
struct MultiplyAccumulate {
    vec<A, 2> a;
    vec<B, 2> b;
    vec<C, 2> c;
    vec<D, 2> result;

    COMBINE {
        if (active != ~0u) return;  // nothing to be said of a matrix that is not whole
        float a[8][8], b[8][8];
        for (u32 lane = 0; lane < SIMD_WIDTH; lane++) {
            const MultiplyAccumulate& operand = *operand_of<MultiplyAccumulate>(operands, lane);
            for (u32 k = 0; k < 2; k++) {
                a[matrix_row(lane)][matrix_column(lane) + k] = (float)operand.a[k];
                b[matrix_row(lane)][matrix_column(lane) + k] = (float)operand.b[k];
            }
        }
        for (u32 lane = 0; lane < SIMD_WIDTH; lane++) {
            MultiplyAccumulate& operand = *operand_of<MultiplyAccumulate>(operands, lane);
            for (u32 k = 0; k < 2; k++) {
                float sum = (float)operand.c[k];
                for (u32 i = 0; i < 8; i++) {
                    sum = __builtin_fmaf(a[matrix_row(lane)][i], b[i][matrix_column(lane) + k], sum);
                }
                operand.result[k] = (D)sum;
            }
        }
    }
};
template <class D, class A, class B, class C>
SHIM void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                        simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c,
                                        Site site = Site::here()) {
    MultiplyAccumulate<D, A, B, C> operand{a.elements, b.elements, c.elements, {}};
    exchange(operand, site, MATRIX_OPERATION);
    d.elements = operand.result;
}
template <class D, class A, class B>
SHIM void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                             simdgroup_matrix<B, 8, 8> b, Site site = Site::here()) {
    MultiplyAccumulate<D, A, B, float> operand{a.elements, b.elements, vec<float, 2>(0.0f), {}};
    exchange(operand, site, MATRIX_OPERATION);
    d.elements = operand.result;
}

}  // namespace metal
