// The experts that one token visits, out of its router logits.
//
// One simdgroup chooses: lane l holds the logits of experts l, l + 32, l + 64, ... The strongest are taken one after
// the other; of equal logits the lower expert comes first; NaN is weaker than anything, so that a choice is always an
// expert. Comparisons are of unsigned numbers, in which "taken" has a place of its own below every logit, -inf and NaN
// included.
#include <metal_stdlib>
using namespace metal;

constant constexpr uint KEY_TAKEN = 0;  // taken, or no expert at all
constant constexpr uint KEY_NAN = 1;    // between `taken` and -inf, whose key is 0x007fffff

// A number that grows with the logit: the float's bits, turned around where they fall.
//
//     x >= 0    0 eeeeeeee mmm...m    rises with x    ->    1 eeeeeeee mmm...m
//     x <  0    1 eeeeeeee mmm...m    falls with x    ->    0 ~~~~~~~~ ~~~...~    (all bits inverted)
inline uint strength_key(float logit) {
    // -0 equals 0, and so must have its bits.
    const uint bits = as_type<uint>(logit == 0.0f ? 0.0f : logit);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return KEY_NAN;
    }
    return (bits & 0x80000000u) != 0 ? ~bits : (bits | 0x80000000u);
}

// Lane r of the simdgroup gets the expert with the r-th strongest of `logits` [EXPERTS], r < CHOICES; other lanes get
// 0. `Logits` is a pointer to const float, in device or constant memory. All 32 lanes must call it.
template <int EXPERTS, int CHOICES, typename Logits>
uint choose_expert(Logits logits, uint lane) {
    static_assert(CHOICES >= 1 && CHOICES <= 32 && CHOICES <= EXPERTS, "a lane for each choice, an expert for each");
    constexpr uint experts = EXPERTS;
    constexpr uint held = (experts + 31) / 32;

    uint keys[held];
    for (uint i = 0; i < held; i++) {
        const uint expert = i * 32 + lane;
        keys[i] = expert < experts ? strength_key(logits[expert]) : KEY_TAKEN;
    }

    uint chosen = 0;
    for (uint choice = 0; choice < uint(CHOICES); choice++) {
        uint own_key = KEY_TAKEN;
        uint own_expert = experts;
        for (uint i = 0; i < held; i++) {
            if (keys[i] > own_key) {
                own_key = keys[i];
                own_expert = i * 32 + lane;
            }
        }
        const uint best_key = simd_max(own_key);
        const uint best = simd_min(own_key == best_key ? own_expert : experts);
        for (uint i = 0; i < held; i++) {
            keys[i] = i * 32 + lane == best ? KEY_TAKEN : keys[i];
        }
        chosen = lane == choice ? best : chosen;
    }
    return chosen;
}

// Lane r gets the softmax weight, over the CHOICES chosen, of the `expert` that it got from choose_expert; other lanes
// get 0. All 32 lanes must call it.
template <int CHOICES, typename Logits>
float choice_weight(Logits logits, uint expert, uint lane) {
    const float logit = logits[expert];
    // Lane 0 holds the strongest, so no exponent is positive.
    const float strongest = simd_broadcast(logit, 0);
    const float share = lane < uint(CHOICES) ? exp(logit - strongest) : 0.0f;
    return share / simd_sum(share);
}
