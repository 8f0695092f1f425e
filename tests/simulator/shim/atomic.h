// metal_atomic. Lanes run one at a time, so plain operations are atomic; the race checker leaves them alone.
#pragma once
#include "simdgroup.h"

namespace metal {

enum memory_order {
    memory_order_relaxed,
    memory_order_acquire,
    memory_order_release,
    memory_order_acq_rel,
    memory_order_seq_cst
};
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };
SHIM void atomic_thread_fence(mem_flags, memory_order = memory_order_relaxed, thread_scope = thread_scope_device) {}

template <class T>
struct atomic {
    T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_bool = atomic<bool>;
using atomic_float = atomic<float>;
using atomic_ulong = atomic<ulong>;

template <class P>
SHIM void announce_atomic(P pointer, Site site) {
    sim_atomic_access((const volatile void*)(uintptr_t)pointer, sizeof(pointer->value), site);
}

#define ATOMIC(NAME, RESULT)                                                                        \
    template <class P, class T>                                                                     \
    SHIM_UNSEEN auto atomic_##NAME##_unseen(P pointer, T operand) {                                 \
        const auto old = pointer->value;                                                            \
        const bare<decltype(old)> x = operand;                                                      \
        pointer->value = RESULT;                                                                    \
        return (bare<decltype(old)>)old;                                                            \
    }                                                                                               \
    template <class P, class T>                                                                     \
    SHIM auto atomic_##NAME##_explicit(P pointer, T operand, memory_order, Site site = Site::here()) { \
        announce_atomic(pointer, site);                                                             \
        return atomic_##NAME##_unseen(pointer, operand);                                            \
    }
ATOMIC(fetch_add, old + x)
ATOMIC(fetch_sub, old - x)
ATOMIC(fetch_max, old > x ? old : x)
ATOMIC(fetch_min, old < x ? old : x)
ATOMIC(fetch_and, old & x)
ATOMIC(fetch_or, old | x)
ATOMIC(fetch_xor, old ^ x)
ATOMIC(exchange, x)
#undef ATOMIC

template <class P>
SHIM_UNSEEN auto atomic_load_unseen(P pointer) { return (bare<decltype(pointer->value)>)pointer->value; }
template <class P>
SHIM auto atomic_load_explicit(P pointer, memory_order, Site site = Site::here()) {
    announce_atomic(pointer, site);
    return atomic_load_unseen(pointer);
}
template <class P, class T>
SHIM void atomic_store_explicit(P pointer, T value, memory_order order, Site site = Site::here()) {
    atomic_exchange_explicit(pointer, value, order, site);
}
template <class P, class T>
SHIM_UNSEEN bool atomic_compare_exchange_unseen(P pointer, thread T& expected, T desired) {
    const bool same = pointer->value == expected;
    if (same) pointer->value = desired;
    else expected = pointer->value;
    return same;
}
template <class P, class T, class U>
SHIM bool atomic_compare_exchange_weak_explicit(P pointer, thread T* expected, U desired, memory_order, memory_order,
                                                Site site = Site::here()) {
    announce_atomic(pointer, site);
    return atomic_compare_exchange_unseen(pointer, *expected, (T)desired);
}

}  // namespace metal
