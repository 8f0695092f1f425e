// What a compiled kernel and the runtime say to each other. No headers of any library: kernels and runtime are built
// freestanding.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long;
using i64 = long;

constexpr u32 SIMD_WIDTH = 32;

// Where a call stands in the kernel's source. As a default argument it is the place of the outermost call.
struct Site {
    const char* file;
    u32 line;
    u32 column;

    static constexpr Site here(const char* file = __builtin_FILE(), u32 line = __builtin_LINE(),
                               u32 column = __builtin_COLUMN()) {
        return {file, line, column};
    }
};

// Who a lane is: the values of Metal's attributes of kernel arguments.
struct Position {
    u32 thread_in_grid[3];
    u32 thread_in_threadgroup[3];
    u32 threadgroup_in_grid[3];
    u32 threads_per_threadgroup[3];             // of this threadgroup: smaller at the edge of a grid
    u32 dispatched_threads_per_threadgroup[3];  // of a whole threadgroup
    u32 threadgroups_per_grid[3];
    u32 threads_per_grid[3];
    u32 thread_index;
    u32 lane;
    u32 simdgroup;
    u32 simdgroups;
    u32 dispatched_simdgroups;
};

// Gives every active lane its result, in place: operands[lane] lies on that lane's stack, null where it is not active.
using Combine = void (*)(u32 active, void** operands);

enum CollectiveKind : u32 { SIMD_OPERATION = 0, MATRIX_OPERATION = 1, SIMDGROUP_BARRIER = 2 };

enum BarrierFlags : u32 { ORDERS_NOTHING = 0, ORDERS_DEVICE = 1, ORDERS_THREADGROUP = 2 };

extern "C" {
// Waits until the simdgroup's lanes have come to `site`, then `combine`s what they brought.
void sim_collective(void* operand, Combine combine, u32 kind, u32 barrier_flags, Site site);
void sim_threadgroup_barrier(u32 barrier_flags, Site site);
// A combine found that `reader` asks for the value of a lane that is not there.
void sim_inactive_lane(u32 reader, u32 source);
// An atomic access: bounds are checked, races are not.
void sim_atomic_access(const volatile void* address, u32 bytes, Site site);
// A load of a packed vector of three elements.
void sim_packed_load(const void* address, u64 bytes);
void sim_assertion_failed(const char* expression, Site site);
u32 sim_lane();
}
