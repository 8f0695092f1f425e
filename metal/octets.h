// Octets, eight neighbouring values in memory, and the elements of 8x8 matrices that are made of them.
//
// A lane holds two neighbouring elements of an 8x8 matrix. Which ones, Apple does not say; MLX's own kernels rely on
//
//     lane bits 43210     row = 4 * bit4 + 2 * bit2 + bit1     column = 4 * bit3 + 2 * bit0, and the next one
//
//     row 0     lane   0   0   1   1   8   8   9   9
//     row 1            2   2   3   3  10  10  11  11
//     row 2            4   4   5   5  12  12  13  13
//     row 3            6   6   7   7  14  14  15  15
//     row 4           16  16  17  17  24  24  25  25
//     ...
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

// Eight neighbouring values as they lie in memory.
template <typename T>
struct Octet {
    uint4 words[sizeof(T) / 2];
};

// Value f of an octet.
inline float value_of(thread const Octet<half>& octet, uint f) {
    const half2 pair = as_type<half2>(octet.words[0][f / 2]);
    return float(pair[f % 2]);
}

inline float value_of(thread const Octet<bfloat16_t>& octet, uint f) {
    const uint word = octet.words[0][f / 2];
    return as_type<float>(f % 2 == 0 ? word << 16 : word & 0xffff0000u);
}

inline float value_of(thread const Octet<float>& octet, uint f) {
    return as_type<float>(octet.words[f / 4][f % 4]);
}

// Where a lane's two elements of an 8x8 matrix lie: (row, column) and (row, column + 1).
struct Place {
    uint row;
    uint column;
};

inline Place place_of(uint lane) {
    Place place;
    place.row = (lane >> 2 & 4) + (lane >> 1 & 3);
    place.column = (lane >> 1 & 4) + (lane & 1) * 2;
    return place;
}

// The lane whose elements are (row, column) and its neighbour in the pair.
inline uint lane_at(uint row, uint column) {
    return (row & 4) << 2 | (row & 3) << 1 | (column & 4) << 1 | (column >> 1 & 1);
}

// a * b + c, each argument a lane's two elements of an 8x8 matrix.
inline float2 multiply_add(float2 a, float2 b, float2 c) {
    simdgroup_float8x8 left, right, sum;
    left.thread_elements()[0] = a.x;
    left.thread_elements()[1] = a.y;
    right.thread_elements()[0] = b.x;
    right.thread_elements()[1] = b.y;
    sum.thread_elements()[0] = c.x;
    sum.thread_elements()[1] = c.y;
    simdgroup_multiply_accumulate(sum, left, right, sum);
    return float2(sum.thread_elements()[0], sum.thread_elements()[1]);
}
