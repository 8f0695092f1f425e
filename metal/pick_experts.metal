// Each token's strongest experts, their softmax weights, and how often each chunk of tokens visits each expert.
//
//     logits   [tokens, EXPERTS]   float32
//     chosen   [tokens, CHOICES]   uint32, the strongest first; of equal logits the lower expert
//     weights  [tokens, CHOICES]   float32, the softmax of the chosen logits
//     counts   [chunks, EXPERTS]   uint32: tokens of a chunk of CHUNK that chose an expert
//
// Grid: one threadgroup of 8 simdgroups for a chunk of tokens. A simdgroup takes every eighth of them, one after the
// other; lane l holds the logits of experts l, l + 32, ... Then thread e counts the chunk's visits of expert e.
//
// A logit is compared as a number whose order is that of the floats, so that a NaN, too, leads to different experts
// that exist:
//
//     positive float  0 eeeeeeee m...m  ->  1 eeeeeeee m...m
//     negative float  1 eeeeeeee m...m  ->  every bit flipped            0 stands for "taken"
//
// Assumes: CHOICES <= 32, CHOICES <= EXPERTS <= 256. Numerics: softmax in float.
#include <metal_stdlib>
using namespace metal;

constant constexpr int PICK_SIMDGROUPS = 8;

inline uint rank_of(float logit) {
    // -0 equals 0 and must tie with it.
    const uint bits = as_type<uint>(logit == 0.0f ? 0.0f : logit);
    const uint rank = (bits >> 31) == 0 ? bits | 0x80000000u : ~bits;
    return max(rank, 1u);
}

template <int EXPERTS, int CHOICES, int CHUNK, typename Logits>
void pick_experts(
    Logits logits,
    uint tokens,
    device uint* chosen,
    device float* weights,
    device uint* counts,
    threadgroup uint* chunk_chosen,
    uint chunk,
    uint thread_index,
    uint simdgroup_index,
    uint lane
) {
    static_assert(CHOICES <= 32 && CHOICES <= EXPERTS, "a lane holds a choice");
    static_assert(EXPERTS <= PICK_SIMDGROUPS * 32, "a thread counts for an expert");
    constexpr uint lane_experts = (EXPERTS + 31) / 32;
    for (uint own = simdgroup_index; own < CHUNK; own += PICK_SIMDGROUPS) {
        const uint token = chunk * CHUNK + own;
        if (token >= tokens) {
            break;
        }
        uint ranks[lane_experts];
        #pragma unroll
        for (uint i = 0; i < lane_experts; i++) {
            const uint expert = i * 32 + lane;
            ranks[i] = expert < EXPERTS ? rank_of(logits[token * EXPERTS + expert]) : 0;
        }
        float strongest = 0.0f, sum = 0.0f, own_weight = 0.0f;
        uint own_choice = 0;
        for (uint choice = 0; choice < CHOICES; choice++) {
            uint best = 0, expert = 0;
            #pragma unroll
            for (uint i = 0; i < lane_experts; i++) {
                if (ranks[i] > best) {
                    best = ranks[i];
                    expert = i * 32 + lane;
                }
            }
            const uint top = simd_max(best);
            const uint taken = simd_min(best == top ? expert : uint(EXPERTS));
            #pragma unroll
            for (uint i = 0; i < lane_experts; i++) {
                if (i * 32 + lane == taken) {
                    ranks[i] = 0;
                }
            }
            const float logit = as_type<float>((top >> 31) == 1 ? top & 0x7fffffffu : ~top);
            strongest = choice == 0 ? logit : strongest;
            const float weight = metal::exp(logit - strongest);
            sum += weight;
            if (lane == choice) {
                own_choice = taken;
                own_weight = weight;
            }
        }
        if (lane < CHOICES) {
            chosen[token * CHOICES + lane] = own_choice;
            weights[token * CHOICES + lane] = own_weight / sum;
            chunk_chosen[own * CHOICES + lane] = own_choice;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < EXPERTS) {
        const uint pairs = min(uint(CHUNK), tokens - chunk * CHUNK) * CHOICES;
        uint count = 0;
        for (uint pair = 0; pair < pairs; pair++) {
            count += chunk_chosen[pair] == thread_index ? 1 : 0;
        }
        counts[chunk * EXPERTS + thread_index] = count;
    }
}
