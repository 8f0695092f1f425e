// One token through a projection, added to the residual stream.
//
//     x            T [K]
//     weight, scales, offsets, bias    a projection [ROWS, K], see projection.h
//     residual     T [ROWS]
//     out          T [ROWS]
//
// Grid: a threadgroup for every 16 rows; each stages x for itself.
// Simdgroup: PER_SIMDGROUP rows. Two, not more: o_proj's 2880 rows are then 180 threadgroups, enough to fill the cores
// of the largest GPUs evenly, and two rows already halve the reads of the staged x.
// Lane: every 32nd chunk of each row.
//
// Assumes K is a multiple of 32. Numerics: sums are float; T is rounded to once, after the residual.
#include "projection.h"

constant constexpr int PER_SIMDGROUP = 2;

template <int K, int ROWS, typename T, typename Weights, typename Bias>
void linear_residual(
    const device T* x,
    const Weights weights,
    const Bias bias,
    const device T* residual,
    device T* out,
    threadgroup vec<T, 4>* planes,
    uint threadgroup_index,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    stage<K, Weights::CHUNK>(x, planes, thread_index, THREADS);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const uint first = (threadgroup_index * SIMDGROUPS + simdgroup) * PER_SIMDGROUP;
    if (first >= ROWS) {
        return;
    }
    uint row[PER_SIMDGROUP];
    for (int r = 0; r < PER_SIMDGROUP; r++) {
        row[r] = min(first + r, uint(ROWS - 1));
    }
    float totals[PER_SIMDGROUP];
    multiply_rows<PER_SIMDGROUP, K, 32, T>(weights, row, planes, lane, totals);
    if (lane != 0) {
        return;
    }
    for (int r = 0; r < PER_SIMDGROUP; r++) {
        if (first + r < ROWS) {
            out[row[r]] = T(float(residual[row[r]]) + (totals[r] + bias.at(row[r])));
        }
    }
}
