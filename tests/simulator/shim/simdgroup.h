// Barriers and simdgroup functions. Each lane brings an operand that lies on its stack; when all have come, `combine`
// writes every lane's result into it.
#pragma once
#include "math.h"

namespace metal {

enum class mem_flags : uint {
    mem_none = ORDERS_NOTHING,
    mem_device = ORDERS_DEVICE,
    mem_threadgroup = ORDERS_THREADGROUP,
    mem_texture = 4,
    mem_threadgroup_imageblock = 8
};
SHIM constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

SHIM void threadgroup_barrier(mem_flags flags, Site site = Site::here()) { sim_threadgroup_barrier((u32)flags, site); }
SHIM void simdgroup_barrier(mem_flags flags, Site site = Site::here()) {
    sim_collective(nullptr, nullptr, SIMDGROUP_BARRIER, (u32)flags, site);
}

// bfloat and 64-bit integers have no simdgroup functions in Metal.
template <class T>
constexpr bool is_simd_type = !is_same_v<element_of<T>, bfloat> && sizeof(element_of<T>) <= 4;

// What a lane brings, and what it gets. Operand::combine sees those of all active lanes.
template <class Operand>
SHIM_UNSEEN void exchange(Operand& operand, Site site, CollectiveKind kind = SIMD_OPERATION) {
    sim_collective(&operand, Operand::combine, kind, ORDERS_NOTHING, site);
}

template <class T>
SHIM T* operand_of(void** operands, int lane) { return static_cast<T*>(operands[lane]); }

#define COMBINE static SHIM_UNSEEN void combine([[maybe_unused]] u32 active, void** operands)

// ---- Reductions: a fixed tree, so that the result does not depend on the order in which lanes came.

template <class T, class Operation>
struct Reduction {
    T value;

    COMBINE {
        T values[SIMD_WIDTH];
        bool present[SIMD_WIDTH];
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            present[i] = operands[i];
            values[i] = present[i] ? operand_of<Reduction>(operands, i)->value : T{};
        }
        for (u32 half_width = SIMD_WIDTH / 2; half_width; half_width /= 2) {
            for (u32 i = 0; i < half_width; i++) {
                const u32 other = i + half_width;
                if (present[i] && present[other]) values[i] = Operation::of(values[i], values[other]);
                else if (present[other]) values[i] = values[other], present[i] = true;
            }
        }
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            if (operands[i]) operand_of<Reduction>(operands, i)->value = values[0];
        }
    }
};

template <class T, class Operation>
struct QuadReduction {
    T value;

    COMBINE {
        for (u32 first = 0; first < SIMD_WIDTH; first += 4) {
            QuadReduction* quad[4];
            bool whole = true;
            for (u32 i = 0; i < 4; i++) {
                quad[i] = operand_of<QuadReduction>(operands, first + i);
                if (!quad[i]) whole = false;
            }
            if (!whole) continue;
            const T result = Operation::of(Operation::of(quad[0]->value, quad[1]->value),
                                           Operation::of(quad[2]->value, quad[3]->value));
            for (QuadReduction* lane : quad) lane->value = result;
        }
    }
};

template <class T, class Operation>
struct Scan {
    T value;
    bool inclusive;
    T neutral;

    COMBINE {
        bool any = false;
        T before{};
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            if (!operands[i]) continue;
            Scan& lane = *operand_of<Scan>(operands, i);
            if (!any) before = lane.neutral, any = true;
            const T with = Operation::of(before, lane.value);
            lane.value = lane.inclusive ? with : before;
            before = with;
        }
    }
};

#define OPERATION(NAME, EXPRESSION)                                   \
    struct NAME {                                                     \
        template <class T>                                            \
        SHIM static T of(T a, T b) { return (T)(EXPRESSION); }        \
    };
OPERATION(Sum, a + b)
OPERATION(Product, a* b)
OPERATION(Maximum, metal::max(a, b))
OPERATION(Minimum, metal::min(a, b))
OPERATION(BitAnd, a & b)
OPERATION(BitOr, a | b)
OPERATION(BitXor, a ^ b)
#undef OPERATION

#define SIMD_TYPE_CHECK(T) \
    static_assert(is_simd_type<T>, "simdgroup functions take neither bfloat nor 64-bit integers in Metal")
#define REDUCTION(NAME, OPERATION)                       \
    template <class T>                                   \
    SHIM T simd_##NAME(T value, Site site = Site::here()) { \
        SIMD_TYPE_CHECK(T);                              \
        Reduction<T, OPERATION> operand{value};          \
        exchange(operand, site);                         \
        return operand.value;                            \
    }                                                    \
    template <class T>                                   \
    SHIM T quad_##NAME(T value, Site site = Site::here()) { \
        SIMD_TYPE_CHECK(T);                              \
        QuadReduction<T, OPERATION> operand{value};      \
        exchange(operand, site);                         \
        return operand.value;                            \
    }
REDUCTION(sum, Sum)
REDUCTION(product, Product)
REDUCTION(max, Maximum)
REDUCTION(min, Minimum)
REDUCTION(and, BitAnd)
REDUCTION(or, BitOr)
REDUCTION(xor, BitXor)
#undef REDUCTION

#define SCAN(NAME, OPERATION, INCLUSIVE, NEUTRAL)              \
    template <class T>                                         \
    SHIM T NAME(T value, Site site = Site::here()) {           \
        SIMD_TYPE_CHECK(T);                                    \
        Scan<T, OPERATION> operand{value, INCLUSIVE, T(NEUTRAL)}; \
        exchange(operand, site);                               \
        return operand.value;                                  \
    }
SCAN(simd_prefix_inclusive_sum, Sum, true, 0)
SCAN(simd_prefix_exclusive_sum, Sum, false, 0)
SCAN(simd_prefix_inclusive_product, Product, true, 1)
SCAN(simd_prefix_exclusive_product, Product, false, 1)
#undef SCAN

// ---- Shuffles.

constexpr int NO_SOURCE = -1;  // the result is undefined

template <class T>
SHIM_UNSEEN void make_undefined(T& value) {
    if constexpr (is_same_v<T, bool>) value = false;
    else __builtin_memset(&value, 0xFF, sizeof value);  // a float is not a number
}

template <class T>
struct Shuffle {
    T value;
    int source;
    T result;

    COMBINE {
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            if (!operands[i]) continue;
            Shuffle& lane = *operand_of<Shuffle>(operands, i);
            if (lane.source == NO_SOURCE) {
                make_undefined(lane.result);
                continue;
            }
            if (lane.source < 0 || lane.source >= (int)SIMD_WIDTH || !operands[lane.source]) {
                sim_inactive_lane(i, (u32)lane.source);
                return;
            }
            lane.result = operand_of<Shuffle>(operands, lane.source)->value;
        }
    }
};

template <class T>
SHIM T shuffle(T value, int source, Site site) {
    SIMD_TYPE_CHECK(T);
    Shuffle<T> operand{value, source, value};
    exchange(operand, site);
    return operand.result;
}

SHIM int within(int lane) { return lane >= 0 && lane < (int)SIMD_WIDTH ? lane : NO_SOURCE; }

template <class T>
SHIM T simd_shuffle(T value, ushort lane, Site site = Site::here()) { return shuffle(value, lane, site); }
template <class T>
SHIM T simd_broadcast(T value, ushort lane, Site site = Site::here()) { return shuffle(value, lane, site); }
template <class T>
SHIM T simd_shuffle_xor(T value, ushort mask, Site site = Site::here()) {
    return shuffle(value, (int)(sim_lane() ^ mask), site);
}
template <class T>
SHIM T simd_shuffle_down(T value, ushort by, Site site = Site::here()) {
    return shuffle(value, within((int)sim_lane() + by), site);
}
template <class T>
SHIM T simd_shuffle_up(T value, ushort by, Site site = Site::here()) {
    return shuffle(value, within((int)sim_lane() - by), site);
}
template <class T>
SHIM T simd_shuffle_rotate_down(T value, ushort by, Site site = Site::here()) {
    return shuffle(value, (int)((sim_lane() + by) % SIMD_WIDTH), site);
}
template <class T>
SHIM T simd_shuffle_rotate_up(T value, ushort by, Site site = Site::here()) {
    return shuffle(value, (int)((sim_lane() - by) % SIMD_WIDTH), site);
}
template <class T>
SHIM T quad_broadcast(T value, ushort lane, Site site = Site::here()) {
    return shuffle(value, (int)((sim_lane() & ~3u) | (lane & 3u)), site);
}
template <class T>
SHIM T quad_shuffle(T value, ushort lane, Site site = Site::here()) { return quad_broadcast(value, lane, site); }
template <class T>
SHIM T quad_shuffle_xor(T value, ushort mask, Site site = Site::here()) {
    return shuffle(value, (int)(sim_lane() ^ (mask & 3u)), site);
}

template <class T>
struct FillingShuffle {
    T value;
    T filling;
    int source;
    T result;

    COMBINE {
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            if (!operands[i]) continue;
            FillingShuffle& lane = *operand_of<FillingShuffle>(operands, i);
            const u32 from = (u32)lane.source % SIMD_WIDTH;
            if (!operands[from]) {
                sim_inactive_lane(i, from);
                return;
            }
            const FillingShuffle& other = *operand_of<FillingShuffle>(operands, from);
            lane.result = within(lane.source) == NO_SOURCE ? other.filling : other.value;
        }
    }
};
template <class T>
SHIM T simd_shuffle_and_fill_down(T value, T filling, ushort by, Site site = Site::here()) {
    SIMD_TYPE_CHECK(T);
    FillingShuffle<T> operand{value, filling, (int)sim_lane() + by, value};
    exchange(operand, site);
    return operand.result;
}
template <class T>
SHIM T simd_shuffle_and_fill_up(T value, T filling, ushort by, Site site = Site::here()) {
    SIMD_TYPE_CHECK(T);
    FillingShuffle<T> operand{value, filling, (int)sim_lane() - by, value};
    exchange(operand, site);
    return operand.result;
}

// ---- Votes.

struct simd_vote {
    using vote_t = uint64_t;
    vote_t votes;

    SHIM explicit constexpr simd_vote(vote_t v = 0) : votes(v) {}
    SHIM explicit constexpr operator vote_t() const { return votes; }
    SHIM constexpr bool all() const { return votes == 0xFFFFFFFFul; }
    SHIM constexpr bool any() const { return votes != 0; }
};

struct Ballot {
    bool vote;
    u32 active;
    u32 votes;

    COMBINE {
        u32 votes = 0;
        for (u32 i = 0; i < SIMD_WIDTH; i++) votes |= (u32)(operands[i] && operand_of<Ballot>(operands, i)->vote) << i;
        for (u32 i = 0; i < SIMD_WIDTH; i++) {
            if (!operands[i]) continue;
            operand_of<Ballot>(operands, i)->votes = votes;
            operand_of<Ballot>(operands, i)->active = active;
        }
    }
};
SHIM Ballot ballot(bool vote, Site site) {
    Ballot operand{vote, 0, 0};
    exchange(operand, site);
    return operand;
}
SHIM simd_vote simd_ballot(bool vote, Site site = Site::here()) { return simd_vote(ballot(vote, site).votes); }
SHIM simd_vote simd_active_threads_mask(Site site = Site::here()) { return simd_vote(ballot(true, site).active); }
SHIM bool simd_any(bool vote, Site site = Site::here()) { return ballot(vote, site).votes != 0; }
SHIM bool simd_all(bool vote, Site site = Site::here()) { return ballot(!vote, site).votes == 0; }
SHIM bool simd_is_first(Site site = Site::here()) {
    return sim_lane() == (u32)__builtin_ctz(ballot(true, site).active);
}
template <class T>
SHIM T simd_broadcast_first(T value, Site site = Site::here()) {
    return shuffle(value, __builtin_ctz(ballot(true, site).active), site);
}

}  // namespace metal
