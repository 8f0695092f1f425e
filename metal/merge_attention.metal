// Attention that was split over the keys, merged, and its sinks added.
//
//     partial     float32 [batch, seq, query_heads, splits, 68]    what a split left (attention.h)
//     sinks       [query_heads], any floating type
//     attended    T [batch, seq, query_heads * 64]
//
// A simdgroup takes one query head of one position: grid (32, query_heads, batch * seq). Lane s weighs split s; then
// each lane adds up two dims over the splits in order.
//
// Assumes at most 32 splits; some may be empty. Numerics: float throughout, one rounding to T; exp2 as in attention.h.
#include "attention.h"

template <typename T, typename Sinks>
void merge_attention(
    const device float* partial,
    Sinks sinks,
    device T* attended,
    uint splits,
    uint head,
    uint heads,
    uint token,
    uint lane) {
    const ulong row = ulong(token) * heads + head;
    constexpr uint pairs = PARTIAL_FLOATS / 2;
    const device float2* own = (const device float2*)(partial) + row * splits * pairs;
    float2 state = float2(LOWEST, 0.0f);
    if (lane < splits) {
        state = own[lane * pairs + HEAD_DIM / 2];
    }
    const float peak = simd_max(state.x);
    const float weight = exp2(state.x - peak);
    const float total = simd_sum(state.y * weight);
    float2 sums = float2(0.0f);
    for (uint s = 0; s < splits; s++) {
        sums += simd_shuffle(weight, ushort(s)) * own[s * pairs + lane];
    }
    const float2 result = sums * share(peak, total, float(sinks[head]));
    attended[row * HEAD_DIM + 2 * lane] = T(result.x);
    attended[row * HEAD_DIM + 2 * lane + 1] = T(result.y);
}
