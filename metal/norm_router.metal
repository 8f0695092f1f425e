// One token's RMSNorm, and the router's logits for it.
//
//     x            T [K]
//     norm_weight  T [K]
//     weight, scales, offsets, bias    the router [ROWS, K], see projection.h: a row for each expert
//     normed       T [K]
//     logits       float32 [ROWS]
//
// Grid: a threadgroup for each expert. The router is small (184 KB, or 737 KB for 128 experts), so what counts is how
// long one row takes, and how many cores read: the eight simdgroups share a row. Each threadgroup stages the normed x
// for itself; the first one also writes it.
// Lane: every 256th chunk of the row; the simdgroups' sums are added in their order.
//
// Assumes K is a multiple of 32. Numerics: sums are float, and so are the logits: they are not rounded to T.
#include "projection.h"

template <int K, typename T, typename Weights, typename Bias>
void norm_router(
    const device T* x,
    const device T* norm_weight,
    float eps,
    const Weights weights,
    const Bias bias,
    device T* normed,
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

    if (threadgroup_index == 0) {
        for (uint quad = thread_index; quad < K / 4; quad += THREADS) {
            const vec<T, 4> values = planes[plane_index<K, Weights::CHUNK>(quad)];
            reinterpret_cast<device vec<T, 4>*>(normed)[quad] = values;
        }
    }
    const uint row[1] = {threadgroup_index};
    float own[1];
    multiply_rows<1, K, THREADS, T>(weights, row, planes, thread_index, own);
    const float total = sum_of_simdgroups(own[0], partial, lane, simdgroup);
    if (thread_index == 0) {
        logits[row[0]] = total + bias.at(row[0]);
    }
}
