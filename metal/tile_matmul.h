// What both grouped expert products share: a tile of pairs through a tile of one expert's rows.
//
//     sums[pair][row] = 2^-14 * sum over k of x[pair][k] * weight[row][k]
//
// for TILE_ROWS pairs and 64 rows, k in steps of 64.
//
// A threadgroup is four simdgroups. In each step its 128 threads put 64 k of the pairs' activations and of the 64 rows
// into threadgroup memory, the weights decoded once for all pairs; then simdgroup s multiplies all pairs by rows 16 s
// .. 16 s + 15. Eight pairs are one row of 8x8 matrices; those behind the tile's last pair are skipped, so that a tile
// that is not full multiplies no more than its pairs need, rounded up to eight, and all four simdgroups skip alike.
//
// Threadgroup memory
//
//     x_tile        TILE_ROWS rows of 64 values of T, each 8 values longer (144 bytes for T of two bytes):
//                   the eight rows that a simdgroup reads at once begin four banks apart
//     weight_tile   [64 k][32 row pairs] words of two bfloats, row 2 p in the low half and row 2 p + 1 in the high one:
//                   one word is what a lane holds of an 8x8 matrix, and gate (even) and up (odd) of one output.
//                   Each k is 36 words (reads), every 16 k are 8 more (the writes of the four threads of a row pair)
//
// Where a lane's two elements lie in an 8x8 matrix, as MLX's own kernels rely on it:
//
//     row     4 (lane / 16) + lane / 2 % 4
//     column  4 (lane / 8 % 2) + 2 (lane % 2), and the one after it
//
// Numerics. A weight is an E2M1 value (one bit of mantissa) times a power of two, so bfloat holds it exactly, whatever
// T is. The tile's values stay smaller by 2^14, the factor that `code_octet` leaves in: then no scale byte up to 254
// passes bfloat's range, not even 6 * 2^127, and the sums get the factor back at the end (`WEIGHT_FACTOR`). At the
// other end, groups with a scale byte below 16 count as zero, for their values would be subnormal, which GPUs may flush
// anyway: they are at most 6 * 2^-112, so a sum is off by at most 1.2e-33 times the sum of |x|. Products are exact for
// T of bfloat or half, and all sums are float.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
#include "mxfp4.h"
using namespace metal;

constant constexpr int TILE_COLUMNS = 64;   // rows of the expert's matrix
constant constexpr int TILE_K = 64;
constant constexpr int X_STRIDE = 72;       // values of T
constant constexpr int WEIGHT_STRIDE = 36;  // words
constant constexpr int WEIGHT_WORDS = TILE_K * WEIGHT_STRIDE + TILE_K / 16 * 8;
constant constexpr float WEIGHT_FACTOR = 16384.0f;

inline uint weight_word(uint k, uint row_pair) {
    return k * WEIGHT_STRIDE + k / 16 * 8 + row_pair;
}

inline uint lane_row(uint lane) {
    return lane / 16 * 4 + lane / 2 % 4;
}

inline uint lane_column(uint lane) {
    return lane / 8 % 2 * 4 + lane % 2 * 2;
}

// 2^(scale - 127), or 0 where the products would be subnormal.
inline float tile_scale(uchar scale) {
    return scale < 16 ? 0.0f : as_type<float>(uint(scale) << 23);
}

// Two floats that bfloat holds exactly, in one word: their lower halves are zeros.
inline uint bfloat_pair(float low, float high) {
    return (as_type<uint>(low) >> 16) | as_type<uint>(high);
}

// Puts values [k, k + 64) of rows sources[0], sources[1], ... of x into x_tile. A thread takes eight values of rows
// thread / 8 + 16 i; beyond K, and in rows that only fill up the last eight pairs, it puts zeros.
template <typename T, int TILE_ROWS, int K>
void stage_x(
    const device T* x, const thread uint* sources, uint pairs, uint k, threadgroup uint4* x_tile, uint thread_index
) {
    constexpr uint vectors = sizeof(T) / 2;  // of 16 bytes, for eight values
    const uint unit = thread_index % 8;
    const bool inside = k + unit * 8 < uint(K);
    const uint used = (pairs + 7) / 8 * 8;
    #pragma unroll
    for (uint i = 0; i < (TILE_ROWS + 15) / 16; i++) {
        const uint row = thread_index / 8 + 16 * i;
        if (row >= used) {
            continue;
        }
        const device uint4* from = reinterpret_cast<const device uint4*>(x + sources[i] * K + k + unit * 8);
        threadgroup uint4* to = x_tile + (row * X_STRIDE / 8 + unit) * vectors;
        for (uint v = 0; v < vectors; v++) {
            to[v] = inside && row < pairs ? from[v] : uint4(0);
        }
    }
}

// Puts k .. k + 63 of the expert's rows [row, row + 64) into weight_tile. A thread takes two neighbouring rows and 16
// k: four threads read 32 consecutive bytes of each. Codes are read once, a scale by the two threads of its group.
// Beyond K, and beyond `rows`, the values are zeros.
template <int K>
void stage_weights(
    const device uint* blocks,
    const device uchar* scales,
    uint row,
    uint rows,
    uint k,
    threadgroup uint* weight_tile,
    uint thread_index
) {
    const uint row_pair = thread_index / 4;
    const uint own_k = thread_index % 4 * 16;
    const uint even = row + row_pair * 2;
    uint2 even_codes = uint2(0), odd_codes = uint2(0);
    float even_scale = 0.0f, odd_scale = 0.0f;
    if (even < rows && k + own_k < uint(K)) {
        const device uint* from = blocks + even * (K / 8) + (k + own_k) / 8;
        even_codes = *reinterpret_cast<const device uint2*>(from);
        odd_codes = *reinterpret_cast<const device uint2*>(from + K / 8);
        const device uchar* group = scales + even * (K / 32) + (k + own_k) / 32;
        even_scale = tile_scale(group[0]);
        odd_scale = tile_scale(group[K / 32]);
    }
    threadgroup uint* to = weight_tile + weight_word(own_k, row_pair);
    #pragma unroll
    for (uint octet = 0; octet < 2; octet++) {
        const CodeOctet a = code_octet(even_codes[octet]);
        const CodeOctet b = code_octet(odd_codes[octet]);
        #pragma unroll
        for (uint i = 0; i < 4; i++) {
            to[(octet * 8 + i) * WEIGHT_STRIDE] = bfloat_pair(a.low[i] * even_scale, b.low[i] * odd_scale);
            to[(octet * 8 + i + 4) * WEIGHT_STRIDE] = bfloat_pair(a.high[i] * even_scale, b.high[i] * odd_scale);
        }
    }
}

// Adds the products of one step to sums[2 m + n]: pairs 8 m .. 8 m + 7, columns 8 n .. 8 n + 7 of the simdgroup's 16.
template <typename T, int TILE_ROWS>
void multiply_step(
    const threadgroup uint4* x_tile,
    const threadgroup uint* weight_tile,
    uint pairs,
    thread simdgroup_float8x8* sums,
    uint simdgroup_index,
    uint lane
) {
    const uint row = lane_row(lane), column = lane_column(lane);
    const threadgroup T* own_x = reinterpret_cast<const threadgroup T*>(x_tile) + row * X_STRIDE + column;
    for (uint k = 0; k < TILE_K; k += 8) {
        simdgroup_float8x8 weights[2];
        #pragma unroll
        for (uint n = 0; n < 2; n++) {
            const uint word = weight_tile[weight_word(k + row, simdgroup_index * 8 + n * 4 + column / 2)];
            weights[n].thread_elements()[0] = as_type<float>(word << 16);
            weights[n].thread_elements()[1] = as_type<float>(word & 0xffff0000u);
        }
        #pragma unroll
        for (uint m = 0; m < TILE_ROWS / 8; m++) {
            if (m * 8 < pairs) {
                const vec<T, 2> values = *reinterpret_cast<const threadgroup vec<T, 2>*>(own_x + m * 8 * X_STRIDE + k);
                simdgroup_float8x8 inputs;
                inputs.thread_elements()[0] = float(values.x);
                inputs.thread_elements()[1] = float(values.y);
                simdgroup_multiply_accumulate(sums[2 * m], inputs, weights[0], sums[2 * m]);
                simdgroup_multiply_accumulate(sums[2 * m + 1], inputs, weights[1], sums[2 * m + 1]);
            }
        }
    }
}

// The whole product of a tile. `sources` are the rows of x that the thread stages (see stage_x), `blocks` and `scales`
// those of the expert, `row` the first of the 64 columns. sums[2 m + n] must be given back 2^14 (WEIGHT_FACTOR).
template <typename T, int TILE_ROWS, int K>
void multiply_tile(
    const device T* x,
    const thread uint* sources,
    uint pairs,
    const device uint* blocks,
    const device uchar* scales,
    uint row,
    uint rows,
    threadgroup uint4* x_tile,
    threadgroup uint* weight_tile,
    thread simdgroup_float8x8* sums,
    uint thread_index,
    uint simdgroup_index,
    uint lane
) {
    static_assert(K % 32 == 0 && TILE_ROWS % 8 == 0, "whole groups of 32 weights, whole 8x8 matrices");
    #pragma unroll
    for (uint i = 0; i < TILE_ROWS / 4; i++) {
        sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    for (uint k = 0; k < uint(K); k += TILE_K) {
        stage_x<T, TILE_ROWS, K>(x, sources, pairs, k, x_tile, thread_index);
        stage_weights<K>(blocks, scales, row, rows, k, weight_tile, thread_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        multiply_step<T, TILE_ROWS>(x_tile, weight_tile, pairs, sums, simdgroup_index, lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}
