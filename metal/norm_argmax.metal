// The largest logits of one token, one for each threadgroup of norm_lm_head: the same product, of which only these are
// written. merge_argmax makes a token of them.
//
//     x            T [K]
//     norm_weight  T [K]
//     weight, scales, offsets, bias    the lm_head [ROWS, K], see projection.h
//     best         float32 [threadgroups]
//     ids          uint32 [threadgroups], each a row of its threadgroup
//
// The split of work is that of lm_head.h. Of equal logits the lowest row wins. A logit that is not a number wins over
// nothing; where no logit wins, a threadgroup names its first row.
//
// Assumes K is a multiple of 32. Numerics: sums are float and not rounded before they are compared.
#include "lm_head.h"

template <int K, int ROWS, typename T, typename Weights, typename Bias>
void norm_argmax(
    const device T* x,
    const device T* norm_weight,
    float eps,
    const Weights weights,
    const Bias bias,
    device float* best,
    device uint* ids,
    threadgroup vec<T, 4>* planes,
    threadgroup float* partial,
    threadgroup float* group_best,
    threadgroup uint* group_ids,
    uint threadgroup_index,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    stage_normed<K, Weights::CHUNK>(x, norm_weight, eps, planes, partial, thread_index, lane, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // Rows rise from tile to tile, so the first of equal logits is the lowest row.
    float top = -INFINITY;
    uint id = first_row(threadgroup_index, 0, simdgroup);
    for (int tile = 0; tile < TILES; tile++) {
        const uint first = first_row(threadgroup_index, tile, simdgroup);
        if (first >= ROWS) {
            break;
        }
        float logits[TILE_ROWS];
        multiply_tile<K, ROWS, T>(weights, bias, first, planes, lane, logits);
        for (int r = 0; r < TILE_ROWS; r++) {
            if (logits[r] > top) {
                top = logits[r];
                id = min(first + r, uint(ROWS - 1));
            }
        }
    }
    if (lane == 0) {
        group_best[simdgroup] = top;
        group_ids[simdgroup] = id;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0) {
        for (int i = 1; i < SIMDGROUPS; i++) {
            if (group_best[i] > top || (group_best[i] == top && group_ids[i] < id)) {
                top = group_best[i];
                id = group_ids[i];
            }
        }
        best[threadgroup_index] = top;
        ids[threadgroup_index] = id;
    }
}
