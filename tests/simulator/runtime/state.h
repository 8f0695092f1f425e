// A launch and what happens in it: what the caller asks for, lanes, simdgroups, and the first fault.
#pragma once
#include "abi.h"
#include "platform.h"

constexpr u32 MOST_BUFFERS = 31;
constexpr u32 MOST_THREADS = 1024;
constexpr u32 MOST_SIMDGROUPS = MOST_THREADS / SIMD_WIDTH;
constexpr u32 MOST_BARRIER_SITES = 64;

// ---- What the caller fills in; tests/simulator/runtime.py mirrors these structs.

enum BufferAccess : u32 { WRITABLE = 0, READ_ONLY = 1, CONSTANT = 2 };

struct Buffer {
    const void* input;  // copied in before the launch; null: not initialised
    void* output;       // copied out after it; null: not wanted
    u64 bytes;
    u32 access;
    u32 must_be_stored;  // every byte of it, by this launch
    // Results.
    u64 loaded_bytes, stored_bytes, unique_loaded_bytes, unique_stored_bytes, transactions;
};

struct Range {
    u64 begin, end;
};

using Entry = void (*)(const Position* position, void** buffers, void** dynamic_threadgroup_memory);

struct Launch {
    Entry entry;
    Buffer* buffers;  // MOST_BUFFERS of them
    Range image;      // the kernel's shared object in memory: code and program-scope constants
    Range threadgroup_memory;
    Range* threadgroup_variables;  // within it, in order of their addresses
    u32 threadgroup_variable_count;
    u32 dynamic_count;
    u64 dynamic_bytes[MOST_BUFFERS];  // of each [[threadgroup(i)]] argument
    u32 grid[3];
    u32 threadgroup[3];
    u64 seed;
    u32 checked;   // the kernel was compiled with its accesses instrumented
    u32 counting;  // count transactions
    u32 divergence_allowed;
    // Results.
    u64 threads, threadgroups, threadgroup_barriers, simdgroup_barriers, simd_operations, matrix_operations;
    u64 divergent_operations, threadgroup_loaded_bytes, threadgroup_stored_bytes;
    Site barrier_sites[MOST_BARRIER_SITES];  // of the barriers that were passed
    u64 barrier_site_count;
};

struct Fault {
    const char* kind;  // null: none
    u32 has_thread;
    u32 threadgroup[3];
    u32 thread[3];
    u32 has_access;
    u32 access_bytes;
    u64 address;
    u64 instruction;  // the return address of the call that found it; 0: `site` says where
    Site site;
    char detail[256];
};

// ---- Lanes.

enum LaneState : u32 { READY, AT_COLLECTIVE, AT_BARRIER, FINISHED };

struct Lane {
    Position position;
    void* stack_pointer;
    char* stack;
    LaneState state;
    u32 kind;
    u32 barrier_flags;
    void* operand;
    Combine combine;
    Site site;
};

struct Simdgroup {
    u32 first;
    u32 lanes;
    u32 moment[2];  // by MemoryKind: see shadow.h
    u64 gathering;  // the last time that all lanes were together
};

namespace sim {

inline Launch* launch;
inline Fault fault;
inline bool stopped;

inline Lane lanes[MOST_THREADS];
inline Simdgroup simdgroups[MOST_SIMDGROUPS];
inline u32 lane_count, simdgroup_count;
inline u64 last_gathering;
inline u32 accesses_in_a_row;  // of the current lane
inline Lane* current;  // null: the scheduler runs
inline void* scheduler_stack_pointer;

inline void leave_lane() { switch_stack(&current->stack_pointer, scheduler_stack_pointer); }

// Notes the first fault and ends the launch: on a lane it does not return, the lane is abandoned.
template <class... Details>
[[gnu::noinline, gnu::cold]] void fail(const char* kind, const Lane* lane, u64 instruction, Site site,
                                       const char* format = "", Details... details) {
    if (!stopped) {
        stopped = true;
        fault.kind = kind;
        fault.instruction = instruction;
        fault.site = site;
        if (lane) {
            fault.has_thread = 1;
            memcpy(fault.threadgroup, lane->position.threadgroup_in_grid, sizeof fault.threadgroup);
            memcpy(fault.thread, lane->position.thread_in_threadgroup, sizeof fault.thread);
        }
        snprintf(fault.detail, sizeof fault.detail, format, details...);
    }
    if (current) {
        current->state = FINISHED;
        leave_lane();
        __builtin_unreachable();
    }
}

// The same for an access to memory.
template <class... Details>
[[gnu::noinline, gnu::cold]] void fail_access(const char* kind, u64 address, u32 bytes, u64 instruction, Site site,
                                              const char* format = "", Details... details) {
    fault.has_access = 1;
    fault.address = address;
    fault.access_bytes = bytes;
    fail(kind, current, instruction, site, format, details...);
}

inline u64 random_state;

inline u32 random_below(u32 bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<u32>(random_state >> 11) % bound;
}

template <class T>
void shuffle(T* items, u32 count) {
    for (u32 i = count; i > 1; i--) {
        const u32 j = random_below(i);
        const T item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

}  // namespace sim
