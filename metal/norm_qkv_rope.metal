// Queries, keys and values of one token: RMSNorm, the product with the stacked q, k and v weights, bias, and the rotary
// turn of each pair (d, d + 32) of a query or key head.
//
//     x            T [K]
//     norm_weight  T [K]
//     weight, scales, offsets, bias    a projection [(QUERY + 2 * KV) * 64, K], see projection.h: heads of queries, of
//                  keys, of values, 64 rows each
//     cosines, sines    float32 [32], YaRN's attention factor included
//     q            T [QUERY, 64]
//     rows         T [2 * KV, 64]: keys first, values after them
//
// Grid: two threadgroups a head. Each stages the normed x for itself (12 KB from the cache cost less than a dispatch).
// Simdgroup: PAIRS pairs of one head, so that rows d and d + 32 end in the same lane and turn without an exchange. Four
// rows share each load of x: two would read twice as many bytes of the staged x as of weights of four bits.
// Lane: every 32nd chunk of each row.
//
// Assumes 64 values a head, K a multiple of 32. Numerics: sums, bias and turn are float; T is rounded to where the norm
// ends and at the end.
#include "projection.h"

constant constexpr int PAIRS = 2;

template <int K, int QUERY, int KV, typename T, typename Weights, typename Bias>
void norm_qkv_rope(
    const device T* x,
    const device T* norm_weight,
    float eps,
    const Weights weights,
    const Bias bias,
    const device float* cosines,
    const device float* sines,
    device T* q,
    device T* rows,
    threadgroup vec<T, 4>* planes,
    threadgroup float* partial,
    uint threadgroup_index,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    stage_normed<K, Weights::CHUNK>(x, norm_weight, eps, planes, partial, thread_index, lane, simdgroup);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    constexpr uint simdgroups_per_head = 32 / PAIRS;
    const uint unit = threadgroup_index * SIMDGROUPS + simdgroup;
    const uint head = unit / simdgroups_per_head;
    const uint first = unit % simdgroups_per_head * PAIRS;
    uint row[2 * PAIRS];
    for (int pair = 0; pair < PAIRS; pair++) {
        row[pair] = head * 64 + first + pair;
        row[PAIRS + pair] = row[pair] + 32;
    }
    float totals[2 * PAIRS];
    multiply_rows<2 * PAIRS, K, 32, T>(weights, row, planes, lane, totals);
    if (lane != 0) {
        return;
    }
    const bool turns = head < QUERY + KV;
    device T* out = head < QUERY ? q + head * 64 : rows + (head - QUERY) * 64;
    for (int pair = 0; pair < PAIRS; pair++) {
        const uint d = first + pair;
        const float low = totals[pair] + bias.at(row[pair]);
        const float high = totals[PAIRS + pair] + bias.at(row[PAIRS + pair]);
        out[d] = T(turns ? low * cosines[d] - high * sines[d] : low);
        out[d + 32] = T(turns ? high * cosines[d] + low * sines[d] : high);
    }
}
