// Gate and up projections of many (token, expert) pairs, and the clamped SwiGLU of their sums.
//
//     both     = W[expert] x[token] + bias[expert]       even rows gate, odd rows up
//     inner[p] = g * sigmoid(alpha * g) * (u + 1)        g = min(gate, limit), u = clamp(up, -limit, limit)
//
//     x        [tokens, K]             T
//     order    [pairs]                 uint32: pair (token * CHOICES + choice) at each place of the order by expert
//     tiles    [tiles, 3]              uint32: expert, first place, pairs (at most TILE_ROWS; 0: nothing to do)
//     blocks   [experts, ROWS, K / 8]  uint32, MXFP4 codes
//     scales   [experts, ROWS, K / 32] uint8, MXFP4 scales
//     bias     [experts, ROWS]         any float
//     limit, alpha                     float32 without dimensions
//     inner    [pairs, ROWS / 2]       T, in the order by expert
//
// Grid: one threadgroup of 128 threads for 64 rows (x) of one tile (y). Row tiles run fastest: those of one tile share
// its activations. tile_matmul.h says how a threadgroup multiplies. A lane holds gate and up of an output side by side.
//
// Assumes: K and ROWS multiples of 32. Weights are read once for each tile of their expert.
// Numerics: float sums (see tile_matmul.h); bias and activation in float, one rounding to T.
#include "tile_matmul.h"

template <typename T, int TILE_ROWS, int CHOICES, int K, int ROWS, typename Order, typename Tiles, typename Bias>
void grouped_gate_up(
    const device T* x,
    Order order,
    Tiles tiles,
    const device uint* blocks,
    const device uchar* scales,
    const device Bias* bias,
    float limit,
    float alpha,
    device T* inner,
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
        sources[thread_index] = order[first + min(thread_index, pairs - 1)] / CHOICES;
    }
    float2 sums[TILE_ROWS / 4];
    multiply_tile<T, TILE_ROWS, K, ROWS>(
        x, sources, pairs, blocks + expert * ROWS * (K / 8), scales + expert * ROWS * (K / 32), row,
        x_tile, scale_tile, sums, thread_index, simdgroup_index, lane
    );
    const Place place = place_of(lane);
    #pragma unroll
    for (uint n = 0; n < 2; n++) {
        const uint even = row + simdgroup_index * SIMDGROUP_COLUMNS + n * 8 + place.column;
        if (even >= uint(ROWS)) {
            continue;
        }
        const float gate_bias = float(bias[expert * ROWS + even]), up_bias = float(bias[expert * ROWS + even + 1]);
        #pragma unroll
        for (uint m = 0; m < TILE_ROWS / 8; m++) {
            const uint pair = m * 8 + place.row;
            if (pair < pairs) {
                const float both[2] = {
                    sums[2 * m + n].x * WEIGHT_FACTOR + gate_bias,
                    sums[2 * m + n].y * WEIGHT_FACTOR + up_bias,
                };
                const float gate = min(both[0], limit), up = clamp(both[1], -limit, limit);
                // exp may be infinite: then the sigmoid is 0, as it should be.
                const float sigmoid = 1.0f / (1.0f + metal::exp(-alpha * gate));
                inner[(first + pair) * (ROWS / 2) + even / 2] = T(gate * sigmoid * (up + 1.0f));
            }
        }
    }
}
