// One token's activations inside its experts: choice of experts, MXFP4 product with gate and up, bias, clamped SwiGLU.
//
//     x        T      [IN]                 the normed token
//     logits   float  [EXPERTS]            the router's
//     blocks   uint   [EXPERTS, OUT, IN/8], scales uchar [EXPERTS, OUT, IN/32], bias [EXPERTS, OUT]
//                                          row 2i is the gate of output i, row 2i + 1 its up
//     inner    T      [CHOICES, OUT/2]     of the chosen experts, strongest first
//
// Work: threadgroup (g, c) makes GATE_UP_SIMDGROUPS * GATE_UP_PAIRS outputs of choice c. Its first simdgroup chooses
// the experts anew (a few hundred bytes of logits, against a dispatch of its own), all stage x; then each simdgroup
// computes GATE_UP_PAIRS pairs of rows, four rows that share every load of x; its lane p finishes pair p.
//
// Assumes: IN is a multiple of 32, OUT / 2 of the outputs of a threadgroup; 16-byte aligned rows, as whole groups are.
// Numerics: sums, bias and activation in float; each output is rounded once. NaN passes every clamp.
#include <metal_stdlib>
#include "router_choice.h"
#include "mxfp4_matvec.h"
using namespace metal;

constant constexpr int GATE_UP_SIMDGROUPS = 8;
constant constexpr int GATE_UP_PAIRS = 2;

// gate * sigmoid(alpha * gate) * (up + 1) of the clamped gate and up. exp may overflow: the quotient is then 0, as it
// should be. The clamps are comparisons since min and max would swallow NaN.
inline float clamped_swiglu(float gate, float up, float limit, float alpha) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : (up < -limit ? -limit : up);
    return gate / (1.0f + exp(-alpha * gate)) * (up + 1.0f);
}

template <int EXPERTS, int CHOICES, int IN, int OUT, typename T, typename Logits, typename Bias>
void expert_gate_up(
    const device T* x,
    Logits logits,
    const device uint* blocks,
    const device uchar* scales,
    const device Bias* bias,
    float limit,
    float alpha,
    device T* inner,
    threadgroup vec<T, 4>* planes,      // [IN / 4]
    threadgroup uint* chosen,           // [1]
    uint choice,
    uint threadgroup_index,
    uint simdgroup_index,
    uint lane
) {
    constexpr uint pairs = GATE_UP_PAIRS;
    if (simdgroup_index == 0) {
        const uint expert = choose_expert<EXPERTS, CHOICES>(logits, lane);
        if (lane == choice) {
            chosen[0] = expert;
        }
    }
    stage_groups<IN>(x, planes, simdgroup_index * 32 + lane, GATE_UP_SIMDGROUPS * 32);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const uint output = (threadgroup_index * GATE_UP_SIMDGROUPS + simdgroup_index) * pairs;
    const ulong row = ulong(chosen[0]) * OUT + 2 * output;
    // Lane r brings the bias of row r, all in one load.
    const float own_bias = lane < 2 * pairs ? float(bias[row + lane]) : 0.0f;
    float sums[2 * GATE_UP_PAIRS] = {};
    add_row_products<IN, 2 * GATE_UP_PAIRS, T>(blocks + row * (IN / 8), scales + row * (IN / 32), planes, sums, lane);

    float own_gate = 0.0f;
    float own_up = 0.0f;
    for (uint pair = 0; pair < pairs; pair++) {
        const float gate = simd_sum(sums[2 * pair] + (lane == 2 * pair ? own_bias : 0.0f));
        const float up = simd_sum(sums[2 * pair + 1] + (lane == 2 * pair + 1 ? own_bias : 0.0f));
        own_gate = lane == pair ? gate : own_gate;
        own_up = lane == pair ? up : own_up;
    }
    if (lane < pairs) {
        inner[choice * (OUT / 2) + output + lane] = T(clamped_swiglu(own_gate, own_up, limit, alpha));
    }
}
