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
// Assumes: K and ROWS multiples of 32. Weights are read once for each tile of their expert.
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
    threadgroup uint4* scale_tile,
    threadgroup uint* sources,
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
    if (thread_index < uint(TILE_ROWS)) {
        sources[thread_index] = first + min(thread_index, pairs - 1);
    }
    float2 sums[TILE_ROWS / 4];
    multiply_tile<T, TILE_ROWS, K, ROWS>(
        inner, sources, pairs, blocks + expert * ROWS * (K / 8), scales + expert * ROWS * (K / 32), row,
        x_tile, scale_tile, sums, thread_index, simdgroup_index, lane
    );
    const Place place = place_of(lane);
    #pragma unroll
    for (uint n = 0; n < 2; n++) {
        const uint even = row + simdgroup_index * SIMDGROUP_COLUMNS + n * 8 + place.column;
        if (even >= uint(ROWS)) {
            continue;
        }
        const float2 biases = float2(float(bias[expert * ROWS + even]), float(bias[expert * ROWS + even + 1]));
        #pragma unroll
        for (uint m = 0; m < TILE_ROWS / 8; m++) {
            const uint pair = m * 8 + place.row;
            if (pair < pairs) {
                vec<T, 2> output;
                output.x = T(sums[2 * m + n].x * WEIGHT_FACTOR + biases.x);
                output.y = T(sums[2 * m + n].y * WEIGHT_FACTOR + biases.y);
                *reinterpret_cast<device vec<T, 2>*>(outputs + (first + pair) * ROWS + even) = output;
            }
        }
    }
}
