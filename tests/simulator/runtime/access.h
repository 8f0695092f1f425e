// One load or store of a lane: bounds, rights, races, uninitialised reads, counts.
#pragma once
#include "memory.h"
#include "transactions.h"

namespace sim {

constexpr u64 STACK_BYTES = 128 * 1024;
constexpr u32 MOST_ACCESSES = 1u << 26;  // of a lane that waits for nobody meanwhile

inline constexpr Site NOWHERE = {nullptr, 0, 0};

struct Access {
    u64 address;
    u32 bytes;
    bool is_store;
    u64 instruction;
    Site site;
};

inline void name_other_thread(u32 other, char* text, u32 bytes, MemoryKind kind) {
    const u32 who = other & EVERYBODY;
    if (other < thresholds[kind].threadgroup) snprintf(text, bytes, "by another threadgroup");
    else if (simdgroup_of(other) == NO_OWNER) snprintf(text, bytes, "by several simdgroups");
    else if (who == SEVERAL) snprintf(text, bytes, "by several lanes of simdgroup %u", simdgroup_of(other));
    else snprintf(text, bytes, "by thread %u of the threadgroup", simdgroup_of(other) * SIMD_WIDTH + who);
}

[[gnu::noinline, gnu::cold]] inline void fail_race(const char* kind, const char* what, const Access& access, u32 other,
                                                    MemoryKind memory) {
    char who[80];
    name_other_thread(other, who, sizeof who, memory);
    fail_access(kind, access.address, access.bytes, access.instruction, access.site, "already %s %s", what, who);
}

inline const char* uninitialised(MemoryKind kind) {
    return kind == THREADGROUP ? "uninitialised threadgroup read" : "uninitialised output read";
}

// Bytes one by one: exact, and slower.
[[gnu::noinline]] inline void check_each_byte(const Access& access, u32* writers, u32* readers, MemoryKind kind,
                                              bool initialised) {
    const Thresholds& at = thresholds[kind];
    const u32 mine = stamp[kind];
    for (u32 i = 0; i < access.bytes; i++) {
        const u32 writer = writers[i];
        if (writer == FORBIDDEN) {
            const char* what = access.is_store ? "out-of-bounds store" : "out-of-bounds load";
            return fail_access(what, access.address, access.bytes, access.instruction, access.site);
        }
        if (access.is_store) {
            if (conflicts(writer, mine, at)) return fail_race("write/write race", "stored", access, writer, kind);
            const u32 reader = readers[i];
            if (conflicts(reader, mine, at)) return fail_race("write-after-read race", "loaded", access, reader, kind);
            writers[i] = mine;
        } else {
            if (writer < at.oldest && !initialised) {
                return fail_access(uninitialised(kind), access.address, access.bytes, access.instruction, access.site);
            }
            if (conflicts(writer, mine, at)) return fail_race("read-after-write race", "stored", access, writer, kind);
            readers[i] = with_reader(readers[i], mine, at);
        }
    }
}

// Whether all stamps of an access lie in [least, end).
template <u32 BYTES>
inline bool all_within(const u32* stamps, u32 least, u32 end) {
    const u32 width = end - least;
    u32 outside = 0;
    for (u32 i = 0; i < BYTES; i++) outside |= stamps[i] - least >= width;
    return !outside;
}

template <u32 BYTES>
inline bool all_equal(const u32* stamps, u32 to) {
    u32 different = 0;
    for (u32 i = 0; i < BYTES; i++) different |= stamps[i] ^ to;
    return !different;
}

template <u32 BYTES>
inline void fill(u32* stamps, u32 with) {
    for (u32 i = 0; i < BYTES; i++) stamps[i] = with;
}

// All bytes at once where nothing happened to them since the last barrier, or all happened at once.
template <u32 BYTES>
inline void check_order(const Access& access, u32* writers, u32* readers, MemoryKind kind, bool initialised) {
    const Thresholds& at = thresholds[kind];
    const u32 mine = stamp[kind];
    // Device memory of another threadgroup's time is no safe past; for threadgroup memory there is no such time.
    if (access.is_store) {
        const u32 writer = writers[0], reader = readers[0];
        if (writer != FORBIDDEN && all_equal<BYTES>(writers, writer) && all_equal<BYTES>(readers, reader) &&
            !conflicts(writer, mine, at) && !conflicts(reader, mine, at)) {
            return fill<BYTES>(writers, mine);
        }
    } else if (all_within<BYTES>(writers, at.threadgroup, at.period) ||
               (all_equal<BYTES>(writers, writers[0]) && writers[0] != FORBIDDEN &&
                (writers[0] >= at.oldest || initialised) && !conflicts(writers[0], mine, at))) {
        const u32 reader = readers[0];
        if (all_equal<BYTES>(readers, reader)) {
            const u32 readers_now = with_reader(reader, mine, at);
            if (readers_now != reader) fill<BYTES>(readers, readers_now);
            return;
        }
    }
    check_each_byte(access, writers, readers, kind, initialised);
}

[[gnu::noinline, gnu::cold]] inline void fail_bounds(const Access& access) {
    const char* kind = access.is_store ? "out-of-bounds store" : "out-of-bounds load";
    fail_access(kind, access.address, access.bytes, access.instruction, access.site);
}

enum AccessKind : u32 { WHOLE, PART, ATOMIC };  // PART of a copy, whose transactions are counted once

template <u32 BYTES>
inline void check_buffer(const Access& access, u64 arena_offset, AccessKind kind) {
    Slot& slot = slots[arena_offset / SLOT_BYTES];
    const u64 offset = arena_offset % SLOT_BYTES - LEAD_BYTES;
    if (offset >= slot.bytes || slot.bytes - offset < BYTES) return fail_bounds(access);
    if (access.is_store) {
        slot.buffer->stored_bytes += BYTES;
        if (slot.access != WRITABLE) {
            const char* what = slot.access == CONSTANT ? "store to constant memory" : "store to a const buffer";
            return fail_access(what, access.address, access.bytes, access.instruction, access.site);
        }
    } else {
        slot.buffer->loaded_bytes += BYTES;
    }
    if (launch->counting && kind != PART) count_transactions(slot, offset, BYTES, access.instruction);
    if (slot.access != WRITABLE) {
        if (slot.chunked) {
            bring_chunk(slot, offset);
            bring_chunk(slot, offset + BYTES - 1);
        }
        __builtin_memset(slot.seen + offset, 1, BYTES);
    } else if (kind == ATOMIC) {
        fill<BYTES>(slot.writers + offset, stamp[DEVICE]);
        fill<BYTES>(slot.readers + offset, stamp[DEVICE]);
    } else {
        check_order<BYTES>(access, slot.writers + offset, slot.readers + offset, DEVICE, slot.initialised);
    }
}

template <u32 BYTES>
inline void check_threadgroup(const Access& access, ThreadgroupMemory& memory, AccessKind kind) {
    const u64 offset = access.address - memory.begin;
    if (memory.bytes - offset < BYTES) return fail_bounds(access);
    if (access.is_store) launch->threadgroup_stored_bytes += BYTES;
    else launch->threadgroup_loaded_bytes += BYTES;
    if (kind == ATOMIC) fill<BYTES>(memory.writers + offset, stamp[THREADGROUP]);
    else check_order<BYTES>(access, memory.writers + offset, memory.readers + offset, THREADGROUP, false);
}

template <u32 BYTES, u32 ALIGNMENT = 1>
inline void check_access(const Access& access, AccessKind kind = WHOLE) {
    if (!current) return;
    const u64 address = access.address;
    if (++accesses_in_a_row > MOST_ACCESSES) {
        return fail_access("endless loop", address, BYTES, access.instruction, access.site);
    }
    if (address % ALIGNMENT) {
        return fail_access("misaligned access", address, BYTES, access.instruction, access.site);
    }
    if (address - static_memory.begin < static_memory.bytes) {
        return check_threadgroup<BYTES>(access, static_memory, kind);
    }
    const u64 arena_offset = address - reinterpret_cast<u64>(arena);
    if (arena_offset < DYNAMIC_SLOT * SLOT_BYTES) return check_buffer<BYTES>(access, arena_offset, kind);
    if (address - reinterpret_cast<u64>(current->stack) < STACK_BYTES) return;
    if (address - dynamic_memory.begin < dynamic_memory.bytes) {
        return check_threadgroup<BYTES>(access, dynamic_memory, kind);
    }
    if (address >= launch->image.begin && address + BYTES <= launch->image.end) {
        if (access.is_store) {
            fail_access("store to constant memory", address, BYTES, access.instruction, access.site);
        }
        return;
    }
    fail_bounds(access);
}

// A copy of a struct or an array, in pieces that lie as they would be accessed.
inline void check_range(u64 address, u64 bytes, bool is_store, u64 instruction) {
    if (!current) return;
    const u64 begin = address, end = address + bytes;
    while (address < end) {
        u32 piece = 16;
        while (piece > end - address || address % piece) piece /= 2;
        const Access part = {address, piece, is_store, instruction, NOWHERE};
        if (piece == 16) check_access<16>(part, PART);
        else if (piece == 8) check_access<8>(part, PART);
        else if (piece == 4) check_access<4>(part, PART);
        else if (piece == 2) check_access<2>(part, PART);
        else check_access<1>(part, PART);
        address += piece;
    }
    const u64 arena_offset = begin - reinterpret_cast<u64>(arena);
    if (launch->counting && bytes && arena_offset < DYNAMIC_SLOT * SLOT_BYTES) {
        Slot& slot = slots[arena_offset / SLOT_BYTES];
        count_transactions(slot, arena_offset % SLOT_BYTES - LEAD_BYTES, static_cast<u32>(bytes), instruction);
    }
}

}  // namespace sim
