// The experts' outputs of each token, weighted and added to the residual stream.
//
//     combined[t] = residual[t] + sum over c of weights[t][c] * outputs[places[t][c]]
//
//     outputs   [pairs, HIDDEN]    T, in the order by expert
//     places    [tokens, CHOICES]  uint32: where in that order a pair lies
//     weights   [tokens, CHOICES]  float32
//     residual  [tokens, HIDDEN]   T
//     combined  [tokens, HIDDEN]   T
//
// Grid: HIDDEN / 4 threads (x) for each token (y); a thread gives four neighbouring values. Every input is read once.
//
// Assumes: HIDDEN a multiple of 4. Numerics: float sums, the choices in their order, one rounding to T.
#include <metal_stdlib>
using namespace metal;

template <typename T, int HIDDEN, int CHOICES, typename Places, typename Weights>
void combine_experts(
    const device T* outputs,
    Places places,
    Weights weights,
    const device T* residual,
    device T* combined,
    uint2 position
) {
    using Quad = vec<T, 4>;
    const uint token = position.y, quad = position.x;
    float4 sum = float4(0.0f);
    #pragma unroll
    for (uint choice = 0; choice < CHOICES; choice++) {
        const uint pair = token * CHOICES + choice;
        const Quad output = reinterpret_cast<const device Quad*>(outputs + places[pair] * HIDDEN)[quad];
        sum += weights[pair] * float4(output);
    }
    const uint at = token * (HIDDEN / 4) + quad;
    const Quad before = reinterpret_cast<const device Quad*>(residual)[at];
    reinterpret_cast<device Quad*>(combined)[at] = Quad(sum + float4(before));
}
