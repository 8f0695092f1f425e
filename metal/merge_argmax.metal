// The token with the largest logit, from the largest of each threadgroup of norm_argmax.
//
//     best    float32 [COUNT], none of them not a number
//     ids     uint32 [COUNT]
//     token   uint32 [1]
//
// Grid: one threadgroup. Lane: every 256th candidate, then the lanes' by simdgroup, then the simdgroups'.
//
// Assumes nothing of COUNT; best and ids may be in either address space, since there are few of them where the
// vocabulary is small. Numerics: comparisons only; of equal logits the lowest id wins.
#include <metal_stdlib>
using namespace metal;

constant constexpr int THREADS = 256;
constant constexpr int SIMDGROUPS = THREADS / 32;
constant constexpr uint NO_ID = 0xFFFFFFFFu;

template <int COUNT, typename Best, typename Ids>
void merge_argmax(
    Best best,
    Ids ids,
    device uint* token,
    threadgroup float* group_best,
    threadgroup uint* group_ids,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    float top = -INFINITY;
    uint id = NO_ID;
    for (uint i = thread_index; i < COUNT; i += THREADS) {
        if (best[i] > top || (best[i] == top && ids[i] < id)) {
            top = best[i];
            id = ids[i];
        }
    }
    const float simd_top = simd_max(top);
    const uint simd_id = simd_min(top == simd_top ? id : NO_ID);
    if (lane == 0) {
        group_best[simdgroup] = simd_top;
        group_ids[simdgroup] = simd_id;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index == 0) {
        top = group_best[0];
        id = group_ids[0];
        for (int i = 1; i < SIMDGROUPS; i++) {
            if (group_best[i] > top || (group_best[i] == top && group_ids[i] < id)) {
                top = group_best[i];
                id = group_ids[i];
            }
        }
        token[0] = id;
    }
}
