// Down projection of many (token, expert) pairs.
//
//     outputs[p] = W[expert of p] inner[p] + bias[expert of p]
//
//     inner    [pairs, K]              T, in the order by expert
//     tiles    [tiles, 3]              uint32: expert, first place, pairs (at most TILE_ROWS; 0: nothing to do)
//     blocks   [experts, ROWS, K / 8]  uint32, MXFP4 codes
//     scales   [experts, ROWS, K / 32] uint8, MXFP4 scales
//     bias     [experts, ROWS]         any float
//     outputs  [pairs, ROWS]           T, in the order by expert
//
// Grid: one threadgroup of 128 threads for 64 rows (x) of one tile (y). Row tiles run fastest: those of one tile share
// its activations. tile_matmul.h says how a threadgroup multiplies.
//
// Assumes: K a multiple of 32, ROWS even. Weights are read once for each tile of their expert.
// Numerics: float sums (see tile_matmul.h), one rounding to T.
#include "tile_matmul.h"

template <typename T, int TILE_ROWS, int K, int ROWS, typename Tiles, typename Bias>
void grouped_down(
    const device T* inner,
    Tiles tiles,
    const device uint* blocks,
    const device uchar* scales,
    const device Bias* bias,
    device T* outputs,
    threadgroup uint4* x_tile,
    threadgroup uint* weight_tile,
    uint2 position,
    uint thread_index,
    uint simdgroup_index,
    uint lane
) {
    const uint expert = tiles[position.y * 3], first = tiles[position.y * 3 + 1], pairs = tiles[position.y * 3 + 2];
    if (pairs == 0) {
        return;
    }
    const uint row = position.x * TILE_COLUMNS;
    uint sources[(TILE_ROWS + 15) / 16];
    #pragma unroll
    for (uint i = 0; i < (TILE_ROWS + 15) / 16; i++) {
        sources[i] = first + min(thread_index / 8 + 16 * i, pairs - 1);
    }
    simdgroup_float8x8 sums[TILE_ROWS / 4];
    multiply_tile<T, TILE_ROWS, K>(
        inner, sources, pairs, blocks + expert * ROWS * (K / 8), scales + expert * ROWS * (K / 32), row, ROWS,
        x_tile, weight_tile, sums, thread_index, simdgroup_index, lane
    );
    #pragma unroll
    for (uint n = 0; n < 2; n++) {
        const uint even = row + simdgroup_index * 16 + n * 8 + lane_column(lane);
        if (even >= uint(ROWS)) {
            continue;
        }
        const float2 biases = float2(float(bias[expert * ROWS + even]), float(bias[expert * ROWS + even + 1]));
        #pragma unroll
        for (uint m = 0; m < TILE_ROWS / 8; m++) {
            const uint pair = m * 8 + lane_row(lane);
            if (pair < pairs) {
                vec<T, 2> output;
                output.x = T(sums[2 * m + n].thread_elements()[0] * WEIGHT_FACTOR + biases.x);
                output.y = T(sums[2 * m + n].thread_elements()[1] * WEIGHT_FACTOR + biases.y);
                *reinterpret_cast<device vec<T, 2>*>(outputs + (first + pair) * ROWS + even) = output;
            }
        }
    }
}
