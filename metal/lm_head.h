// How the rows of the lm_head are shared out, for every kernel that multiplies with it.
//
// Grid: a threadgroup for every TILES * 32 rows. It is by far the largest projection: so many rows repay the staging of
// x, which 6,284 threadgroups of one tile would repeat for a fifth of the bytes of four-bit weights, and still leave
// several hundred threadgroups for the cores to share evenly.
// Simdgroup: TILE_ROWS rows of each tile, which share the loads of the staged x.
// Lane: every 32nd chunk of each row.
//
//     row = (threadgroup * TILES + tile) * 32 + simdgroup * TILE_ROWS + r
#include "projection.h"

constant constexpr int TILES = 8;
constant constexpr int TILE_ROWS = 4;

inline uint first_row(uint threadgroup_index, int tile, uint simdgroup) {
    return ((threadgroup_index * TILES + tile) * SIMDGROUPS + simdgroup) * TILE_ROWS;
}

// Logits of the rows from `first` on, the same in every lane. Beyond the last row stands that row's logit again.
template <int K, int ROWS, typename T, typename Weights, typename Bias>
void multiply_tile(
    const Weights weights,
    const Bias bias,
    uint first,
    const threadgroup vec<T, 4>* planes,
    uint lane,
    thread float* logits
) {
    uint row[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) {
        row[r] = min(first + r, uint(ROWS - 1));
    }
    multiply_rows<TILE_ROWS, K, 32, T>(weights, row, planes, lane, logits);
    for (int r = 0; r < TILE_ROWS; r++) {
        logits[r] += bias.at(row[r]);
    }
}
