// Logits of one token: RMSNorm and the product with the lm_head.
//
//     x            T [K]
//     norm_weight  T [K]
//     weight, scales, offsets, bias    the lm_head [ROWS, K], see projection.h
//     logits       float32 [ROWS]
//
// The split of work, and what it rests on, is that of lm_head.h.
//
// Assumes K is a multiple of 32. Numerics: sums are float, and so are the logits: they are not rounded to T.
#include "lm_head.h"

template <int K, int ROWS, typename T, typename Weights, typename Bias>
void norm_lm_head(
    const device T* x,
    const device T* norm_weight,
    float eps,
    const Weights weights,
    const Bias bias,
    device float* logits,
    threadgroup vec<T, 4>* planes,
    threadgroup float* partial,
    uint threadgroup_index,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    stage_normed<K, Weights::CHUNK>(x, norm_weight, eps, planes, partial, thread_index, lane, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int tile = 0; tile < TILES; tile++) {
        const uint first = first_row(threadgroup_index, tile, simdgroup);
        if (first >= ROWS) {
            return;
        }
        float tile_logits[TILE_ROWS];
        multiply_tile<K, ROWS, T>(weights, bias, first, planes, lane, tile_logits);
        for (int r = 0; r < TILE_ROWS; r++) {
            if (lane == 0 && first + r < ROWS) {
                logits[first + r] = tile_logits[r];
            }
        }
    }
}
