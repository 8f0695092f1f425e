// One token's way out of its experts: MXFP4 product with down, bias, weighted sum over the experts, residual.
//
//     inner      T      [CHOICES, IN]        activations of the chosen experts, strongest first
//     logits     float  [EXPERTS]            the router's, out of which the choice and its weights are made anew
//     blocks     uint   [EXPERTS, OUT, IN/8], scales uchar [EXPERTS, OUT, IN/32], bias [EXPERTS, OUT]
//     residual   T      [OUT]
//     out        T      [OUT]                residual + sum over choices of weight * (down of the expert + bias)
//
// Work: a threadgroup owns DOWN_SIMDGROUPS * DOWN_ROWS rows for all chosen experts, so that nothing has to be added up
// between threadgroups; a simdgroup computes DOWN_ROWS rows, which share every load of the activations. The experts
// come one after the other: while one is multiplied, the next one's activations are staged in the other half of the
// planes, so an expert costs one barrier, and memory for two (23,040 bytes in float32, 11,520 in 16 bits for IN = 2880)
// rather than for all. Lanes keep their shares apart until all experts are in: one simd_sum a row.
//
// Assumes: IN is a multiple of 32, OUT of the rows of a threadgroup; 16-byte aligned rows, as whole groups are.
// Numerics: all sums in float, experts in the order of the choice; each output is rounded once.
#include <metal_stdlib>
#include "router_choice.h"
#include "mxfp4_matvec.h"
using namespace metal;

constant constexpr int DOWN_SIMDGROUPS = 8;
constant constexpr int DOWN_ROWS = 2;

template <int EXPERTS, int CHOICES, int IN, int OUT, typename T, typename Logits, typename Bias>
void expert_down(
    const device T* inner,
    Logits logits,
    const device uint* blocks,
    const device uchar* scales,
    const device Bias* bias,
    const device T* residual,
    device T* out,
    threadgroup vec<T, 4>* planes,      // [2, IN / 4]
    threadgroup uint* chosen,           // [CHOICES]
    threadgroup float* weights,         // [CHOICES]
    uint threadgroup_index,
    uint simdgroup_index,
    uint lane
) {
    constexpr uint threads = DOWN_SIMDGROUPS * 32;
    constexpr uint choices = CHOICES;
    constexpr uint rows = DOWN_ROWS;
    static_assert(CHOICES * DOWN_ROWS <= 32, "a lane for each bias");
    const uint thread_index = simdgroup_index * 32 + lane;
    if (simdgroup_index == 0) {
        const uint expert = choose_expert<EXPERTS, CHOICES>(logits, lane);
        const float weight = choice_weight<CHOICES>(logits, expert, lane);
        if (lane < choices) {
            chosen[lane] = expert;
            weights[lane] = weight;
        }
    }
    stage_groups<IN>(inner, planes, thread_index, threads);

    const uint first_row = (threadgroup_index * DOWN_SIMDGROUPS + simdgroup_index) * rows;
    float totals[DOWN_ROWS] = {};
    for (uint choice = 0; choice < choices; choice++) {
        // This choice's activations are staged, and nobody reads the other half, the previous choice's, any more.
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (choice + 1 < choices) {
            stage_groups<IN>(inner + (choice + 1) * IN, planes + ((choice + 1) % 2) * (IN / 4), thread_index, threads);
        }
        const ulong row = ulong(chosen[choice]) * OUT + first_row;
        float sums[DOWN_ROWS] = {};
        add_row_products<IN, DOWN_ROWS, T>(
            blocks + row * (IN / 8), scales + row * (IN / 32), planes + (choice % 2) * (IN / 4), sums, lane);
        for (uint i = 0; i < rows; i++) {
            totals[i] += weights[choice] * sums[i];
        }
    }

    // Lane c * rows + i brings row i's bias in choice c, all in one load.
    float own_bias = 0.0f;
    if (lane < choices * rows) {
        const uint choice = lane / rows;
        own_bias = weights[choice] * float(bias[ulong(chosen[choice]) * OUT + first_row + lane % rows]);
    }
    float own_total = 0.0f;
    for (uint i = 0; i < rows; i++) {
        const float total = simd_sum(totals[i] + (lane % rows == i ? own_bias : 0.0f));
        own_total = lane == i ? total : own_total;
    }
    if (lane < rows) {
        out[first_row + lane] = T(float(residual[first_row + lane]) + own_total);
    }
}
