// What clang's instrumentation calls. Only its passes are used: -fsanitize=thread announces every load and store,
// -fsanitize=array-bounds,... tests what the language can. The libraries that usually answer are not linked.
#pragma once
#include "access.h"

#define CALLER reinterpret_cast<u64>(__builtin_return_address(0))

#define ANNOUNCE(NAME, BYTES, IS_STORE, ALIGNMENT)                                                                    \
    void NAME(void* address) {                                                                                        \
        sim::check_access<BYTES, ALIGNMENT>({reinterpret_cast<u64>(address), BYTES, IS_STORE, CALLER, sim::NOWHERE}); \
    }
#define ANNOUNCE_BOTH(NAME, BYTES, ALIGNMENT)                                                                      \
    void NAME(void* address) {                                                                                     \
        sim::check_access<BYTES, ALIGNMENT>({reinterpret_cast<u64>(address), BYTES, false, CALLER, sim::NOWHERE}); \
        sim::check_access<BYTES, ALIGNMENT>({reinterpret_cast<u64>(address), BYTES, true, CALLER, sim::NOWHERE});  \
    }
// "unaligned" is what the type allows: a packed vector, not an address that happened.
#define ANNOUNCE_SIZE(BYTES)                               \
    ANNOUNCE(__tsan_read##BYTES, BYTES, false, BYTES)      \
    ANNOUNCE(__tsan_write##BYTES, BYTES, true, BYTES)      \
    ANNOUNCE(__tsan_unaligned_read##BYTES, BYTES, false, 1) \
    ANNOUNCE(__tsan_unaligned_write##BYTES, BYTES, true, 1) \
    ANNOUNCE_BOTH(__tsan_read_write##BYTES, BYTES, BYTES)  \
    ANNOUNCE_BOTH(__tsan_unaligned_read_write##BYTES, BYTES, 1)

extern "C" {

ANNOUNCE_SIZE(1)
ANNOUNCE_SIZE(2)
ANNOUNCE_SIZE(4)
ANNOUNCE_SIZE(8)
ANNOUNCE_SIZE(16)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void* __tsan_memcpy(void* to, const void* from, u64 bytes) {
    sim::check_range(reinterpret_cast<u64>(from), bytes, false, CALLER);
    sim::check_range(reinterpret_cast<u64>(to), bytes, true, CALLER);
    return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, u64 bytes) {
    sim::check_range(reinterpret_cast<u64>(from), bytes, false, CALLER);
    sim::check_range(reinterpret_cast<u64>(to), bytes, true, CALLER);
    return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, u64 bytes) {
    sim::check_range(reinterpret_cast<u64>(to), bytes, true, CALLER);
    return memset(to, value, bytes);
}

// Each handler's first argument begins with the place in the source.
#define REFUSE(NAME, KIND)                                                       \
    void __ubsan_handle_##NAME(const Site* site, ...) {                          \
        sim::fail(KIND, sim::current, 0, *site);                                 \
    }

REFUSE(out_of_bounds, "array index out of bounds")
REFUSE(shift_out_of_bounds, "shift out of range")
REFUSE(divrem_overflow, "integer division by zero or overflow")

// Conversions to bfloat, for which processors without AVX512-BF16 call a function: round to nearest even.
__bf16 __truncsfbf2(float value) {
    const u32 bits = __builtin_bit_cast(u32, value);
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const u32 rounded = is_nan ? (bits >> 16) | 0x40 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return __builtin_bit_cast(__bf16, static_cast<u16>(rounded));
}
__bf16 __truncdfbf2(double value) { return __truncsfbf2(static_cast<float>(value)); }
}
