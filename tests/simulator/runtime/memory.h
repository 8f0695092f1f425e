// Where buffers lie, and their shadows.
//
// One reservation of address space holds a slot for every buffer and one for dynamic threadgroup memory:
//
//     arena | slot 0: ... 1 GiB nothing ... | data | nothing ... | slot 1: ... | data | ...
//
// so that the slot of an address is a shift, a negative index still names its buffer, and what is outside of a buffer's
// pages cannot be touched even where nothing checks it. Buffers begin on a page, as Metal's do.
//
// A large input is copied in chunk by chunk when a kernel first touches a chunk: of the experts' weights, most launches
// touch an eighth.
#pragma once
#include "shadow.h"

namespace sim {

constexpr u64 SLOT_BYTES = 1ul << 32;
constexpr u64 LEAD_BYTES = 1ul << 30;
constexpr u32 DYNAMIC_SLOT = MOST_BUFFERS;
constexpr u32 SLOTS = MOST_BUFFERS + 1;
constexpr u64 PAGE = 4096;
constexpr u64 CHUNK_BYTES = 256 * 1024;
constexpr u64 LEAST_CHUNKED_BYTES = 4 * CHUNK_BYTES;
constexpr u64 MOST_CHUNKS = (SLOT_BYTES - 2 * LEAD_BYTES) / CHUNK_BYTES;
constexpr u64 KEPT_BYTES = 32ul << 20;  // memory of a slot that stays for the next launch

constexpr u64 THREADGROUP_SHADOW_BYTES = 128 * 1024;  // variables and the guards between them
constexpr u64 DYNAMIC_GUARD = 256;                    // between dynamic threadgroup arguments

// Memory that grows, zeroed when it is new.
struct Growing {
    char* memory;
    u64 bytes;

    bool require(u64 wanted) {
        if (wanted <= bytes) return true;
        if (memory) munmap(memory, bytes);
        bytes = (wanted + PAGE - 1) & ~(PAGE - 1);
        memory = reserve(bytes, READ_WRITE);
        if (memory == reinterpret_cast<char*>(-1)) memory = nullptr, bytes = 0;
        return memory != nullptr;
    }
    void zero() {
        if (bytes > KEPT_BYTES) {
            munmap(memory, bytes);
            const u64 wanted = bytes;
            memory = nullptr, bytes = 0;
            require(wanted);
        } else if (memory) {
            memset(memory, 0, bytes);
        }
    }
};

struct Slot {
    char* data;
    u64 usable_bytes;  // pages that can be touched
    // Of the running launch:
    u64 bytes;
    u32 access;
    u32 initialised;
    Buffer* buffer;
    bool chunked;
    u8 has_chunk[MOST_CHUNKS];
    u32* writers;  // stamps, a byte each
    u32* readers;
    u8* seen;  // for memory that is only read: 1 for a byte that was
    // Kept apart, since stamps of earlier launches stay where they are and must be stamps.
    Growing stamps;
    Growing seen_bytes;
};

struct ThreadgroupMemory {
    u64 begin;
    u64 bytes;  // with guards
    u32* writers;
    u32* readers;
};

inline char* arena;
inline Slot slots[SLOTS];
inline ThreadgroupMemory static_memory, dynamic_memory;
inline Growing static_shadow, dynamic_shadow;

inline bool make_arena() {
    if (arena) return true;
    arena = reserve(SLOTS * SLOT_BYTES, NO_ACCESS);
    if (arena == reinterpret_cast<char*>(-1)) arena = nullptr;
    if (!arena) return false;
    for (u32 i = 0; i < SLOTS; i++) slots[i].data = arena + i * SLOT_BYTES + LEAD_BYTES;
    return true;
}

inline bool make_usable(Slot& slot, u64 bytes) {
    const u64 wanted = (bytes + PAGE - 1) & ~(PAGE - 1);
    if (wanted > SLOT_BYTES - 2 * LEAD_BYTES) return false;
    if (wanted < slot.usable_bytes) mprotect(slot.data + wanted, slot.usable_bytes - wanted, NO_ACCESS);
    slot.usable_bytes = wanted;
    return wanted == 0 || mprotect(slot.data, wanted, READ_WRITE) == 0;
}

// Copies in the chunk of a large input that an offset lies in.
inline void bring_chunk(Slot& slot, u64 offset) {
    const u64 chunk = offset / CHUNK_BYTES, begin = chunk * CHUNK_BYTES;
    if (slot.has_chunk[chunk]) return;
    slot.has_chunk[chunk] = 1;
    const u64 left = slot.bytes - begin, bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    mprotect(slot.data + begin, (bytes + PAGE - 1) & ~(PAGE - 1), READ_WRITE);
    memcpy(slot.data + begin, static_cast<const char*>(slot.buffer->input) + begin, bytes);
    if (launch->checked) memset(slot.seen + begin, 0, bytes);
}

inline bool place_buffer(Slot& slot, Buffer& buffer) {
    slot.chunked = buffer.access != WRITABLE && buffer.input && buffer.bytes >= LEAST_CHUNKED_BYTES;
    if (!make_usable(slot, buffer.bytes)) return false;
    slot.bytes = buffer.bytes;
    slot.access = buffer.access;
    slot.initialised = buffer.input != nullptr;
    slot.buffer = &buffer;
    if (slot.chunked) {
        memset(slot.has_chunk, 0, (buffer.bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
        mprotect(slot.data, slot.usable_bytes, NO_ACCESS);
    } else if (buffer.input) memcpy(slot.data, buffer.input, buffer.bytes);
    else memset(slot.data, 0xFF, buffer.bytes);  // floats read as NaN
    if (!launch->checked) return true;
    if (buffer.access == WRITABLE) {
        if (!slot.stamps.require(2 * sizeof(u32) * buffer.bytes)) return false;
        slot.writers = reinterpret_cast<u32*>(slot.stamps.memory);
        slot.readers = slot.writers + buffer.bytes;
    } else {
        if (!slot.seen_bytes.require(buffer.bytes)) return false;
        slot.seen = reinterpret_cast<u8*>(slot.seen_bytes.memory);
        if (!slot.chunked) memset(slot.seen, 0, buffer.bytes);
    }
    return true;
}

inline void release_buffer(Slot& slot) {
    if (slot.usable_bytes > KEPT_BYTES) madvise(slot.data, slot.usable_bytes, DONT_NEED);
    slot.buffer = nullptr;
    slot.bytes = 0;
}

inline void place_threadgroup_memory(ThreadgroupMemory& memory, Growing& shadow, u64 begin, u64 bytes) {
    shadow.require(2 * sizeof(u32) * THREADGROUP_SHADOW_BYTES);
    memory.begin = begin;
    memory.bytes = bytes;
    memory.writers = reinterpret_cast<u32*>(shadow.memory);
    memory.readers = memory.writers + THREADGROUP_SHADOW_BYTES;
    memset(memory.writers, 0xFF, bytes * sizeof(u32));  // FORBIDDEN until a variable claims it
    memset(memory.readers, 0, bytes * sizeof(u32));
}

inline void claim(ThreadgroupMemory& memory, u64 begin, u64 end) {
    memset(memory.writers + (begin - memory.begin), 0, (end - begin) * sizeof(u32));
}

// Bytes of a buffer that were stored, or loaded, in this launch.
inline u64 count_touched(const u32* stamps, u64 bytes) {
    u64 count = 0;
    for (u64 i = 0; i < bytes; i++) count += stamps[i] >= thresholds[DEVICE].oldest;
    return count;
}

inline u64 count_ones(const u8* bytes, u64 length) {
    u64 count = 0;
    for (u64 i = 0; i < length; i++) count += bytes[i];
    return count;
}

inline u64 count_seen(const Slot& slot) {
    if (!slot.chunked) return count_ones(slot.seen, slot.bytes);
    u64 count = 0;
    for (u64 begin = 0; begin < slot.bytes; begin += CHUNK_BYTES) {
        const u64 left = slot.bytes - begin;
        if (slot.has_chunk[begin / CHUNK_BYTES]) {
            count += count_ones(slot.seen + begin, left < CHUNK_BYTES ? left : CHUNK_BYTES);
        }
    }
    return count;
}

}  // namespace sim
