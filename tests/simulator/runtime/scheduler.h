// Lanes as fibers: each runs until it waits for others or is done.
//
// Lanes of a simdgroup that wait at a simdgroup operation go on together once none of them can run. If they wait at
// different places, those at the earliest place in the source go first; that is how diverged lanes come together again.
#pragma once
#include "access.h"

namespace sim {

inline char* stacks;

inline bool make_stacks(u32 count) {
    static u32 made;
    if (made >= count) return true;
    if (!stacks) {
        stacks = reserve(MOST_THREADS * STACK_BYTES, NO_ACCESS);
        if (stacks == reinterpret_cast<char*>(-1)) stacks = nullptr;
    }
    if (!stacks) return false;
    for (; made < count; made++) {  // the lowest page of each stays closed
        if (mprotect(stacks + made * STACK_BYTES + PAGE, STACK_BYTES - PAGE, READ_WRITE)) return false;
    }
    return true;
}

inline const Simdgroup* combining;  // whose lanes' values are being combined

inline void* entry_buffers[MOST_BUFFERS];
inline void* entry_dynamic_memory[MOST_BUFFERS];

inline void lane_main() {
    launch->entry(&current->position, entry_buffers, entry_dynamic_memory);
    current->state = FINISHED;
    leave_lane();
}

inline void run_lane(Lane& lane) {
    current = &lane;
    accesses_in_a_row = 0;
    const Simdgroup& simdgroup = simdgroups[lane.position.simdgroup];
    for (u32 kind = 0; kind < 2; kind++) stamp[kind] = simdgroup.moment[kind] << STAMP_SHIFT | lane.position.lane;
    switch_stack(&scheduler_stack_pointer, lane.stack_pointer);
    current = nullptr;
}

inline bool same_place(const Site& a, const Site& b) {
    return a.line == b.line && a.column == b.column && a.file == b.file;
}

inline bool is_earlier(const Site& a, const Site& b) {
    if (a.line != b.line) return a.line < b.line;
    if (a.column != b.column) return a.column < b.column;
    return a.file < b.file;
}

inline void note_barrier(const Site& site) {
    for (u32 i = 0; i < launch->barrier_site_count; i++) {
        if (same_place(launch->barrier_sites[i], site)) return;
    }
    if (launch->barrier_site_count < MOST_BARRIER_SITES) launch->barrier_sites[launch->barrier_site_count++] = site;
}

// When no lane of the simdgroup can run: lets those at the earliest operation go on. False if none waits at one.
inline bool release_collective(Simdgroup& simdgroup) {
    Lane* const first = &lanes[simdgroup.first];
    Lane* earliest = nullptr;
    for (u32 i = 0; i < simdgroup.lanes; i++) {
        Lane& lane = first[i];
        if (lane.state == AT_COLLECTIVE && (!earliest || is_earlier(lane.site, earliest->site))) earliest = &lane;
    }
    if (!earliest) return false;
    u32 active = 0;
    void* operands[SIMD_WIDTH];
    for (u32 i = 0; i < SIMD_WIDTH; i++) {
        operands[i] = nullptr;
        if (i >= simdgroup.lanes) continue;
        Lane& lane = first[i];
        if (lane.state != AT_COLLECTIVE || !same_place(lane.site, earliest->site)) continue;
        active |= 1u << i;
        operands[i] = lane.operand;
    }
    const u32 all = simdgroup.lanes == SIMD_WIDTH ? ~0u : (1u << simdgroup.lanes) - 1;
    if (active == all) {
        simdgroup.gathering = ++last_gathering;
    } else {
        launch->divergent_operations++;
        if (!launch->divergence_allowed) {
            const bool is_barrier = earliest->kind == SIMDGROUP_BARRIER;
            const char* kind = is_barrier ? "divergent simdgroup barrier" : "divergent simd operation";
            fail(kind, earliest, 0, earliest->site, "reached by lanes %08x of %08x", active, all);
            return false;
        }
    }
    if (earliest->kind == SIMDGROUP_BARRIER) {
        launch->simdgroup_barriers++;
        note_barrier(earliest->site);
        const u32 index = earliest->position.simdgroup;
        if (earliest->barrier_flags & ORDERS_DEVICE) simdgroup.moment[DEVICE] = new_moment(index);
        if (earliest->barrier_flags & ORDERS_THREADGROUP) simdgroup.moment[THREADGROUP] = new_moment(index);
    } else {
        if (earliest->kind == MATRIX_OPERATION) launch->matrix_operations++;
        else launch->simd_operations++;
        combining = &simdgroup;
        if (earliest->combine) earliest->combine(active, operands);
        if (stopped) return false;
    }
    for (u32 i = 0; i < simdgroup.lanes; i++) {
        if (active >> i & 1) first[i].state = READY;
    }
    return true;
}

inline void run_simdgroup(Simdgroup& simdgroup) {
    u32 order[SIMD_WIDTH];
    for (u32 i = 0; i < simdgroup.lanes; i++) order[i] = i;
    do {
        if (launch->seed) shuffle(order, simdgroup.lanes);
        for (u32 i = 0; i < simdgroup.lanes; i++) {
            Lane& lane = lanes[simdgroup.first + order[i]];
            if (lane.state != READY) continue;
            run_lane(lane);
            if (stopped) return;
        }
        if (!release_collective(simdgroup)) return;
        // In a random order, let other simdgroups come in between now and then.
    } while (!launch->seed || simdgroup_count == 1 || random_below(4));
}

// When no lane can run: lets all pass the barrier. False at the end of the threadgroup.
inline bool release_barrier() {
    Lane* waiting = nullptr;
    Lane* elsewhere = nullptr;
    for (u32 i = 0; i < lane_count; i++) {
        Lane& lane = lanes[i];
        if (lane.state == READY || lane.state == AT_COLLECTIVE) return true;  // simdgroups take turns
        if (lane.state == AT_BARRIER && !waiting) waiting = &lane;
    }
    if (!waiting) return false;
    for (u32 i = 0; i < lane_count && !elsewhere; i++) {
        Lane& lane = lanes[i];
        if (lane.state == FINISHED || !same_place(lane.site, waiting->site)) elsewhere = &lane;
    }
    if (elsewhere) {
        const u32 index = elsewhere->position.thread_index;
        if (elsewhere->state == FINISHED) {
            fail("barrier not reached by all threads", waiting, 0, waiting->site, "thread %u has returned", index);
        } else {
            fail("barriers at different places", waiting, 0, waiting->site, "thread %u waits at line %u", index,
                 elsewhere->site.line);
        }
        return false;
    }
    launch->threadgroup_barriers++;
    note_barrier(waiting->site);
    if (waiting->barrier_flags & ORDERS_DEVICE) begin_period(DEVICE);
    if (waiting->barrier_flags & ORDERS_THREADGROUP) begin_period(THREADGROUP);
    for (u32 i = 0; i < lane_count; i++) lanes[i].state = READY;
    for (u32 i = 0; i < simdgroup_count; i++) simdgroups[i].gathering = ++last_gathering;
    return true;
}

inline void prepare_lanes(const u32 (&at)[3], const u32 (&groups)[3]) {
    u32 size[3];
    for (u32 d = 0; d < 3; d++) {
        const u32 left = launch->grid[d] - at[d] * launch->threadgroup[d];
        size[d] = left < launch->threadgroup[d] ? left : launch->threadgroup[d];
    }
    const u32 whole = launch->threadgroup[0] * launch->threadgroup[1] * launch->threadgroup[2];
    lane_count = size[0] * size[1] * size[2];
    simdgroup_count = (lane_count + SIMD_WIDTH - 1) / SIMD_WIDTH;
    for (u32 i = 0; i < simdgroup_count; i++) {
        const u32 left = lane_count - i * SIMD_WIDTH;
        simdgroups[i].gathering = ++last_gathering;
        simdgroups[i].first = i * SIMD_WIDTH;
        simdgroups[i].lanes = left < SIMD_WIDTH ? left : SIMD_WIDTH;
    }
    for (u32 i = 0; i < lane_count; i++) {
        Lane& lane = lanes[i];
        Position& position = lane.position;
        const u32 thread[3] = {i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
        for (u32 d = 0; d < 3; d++) {
            position.thread_in_threadgroup[d] = thread[d];
            position.threadgroup_in_grid[d] = at[d];
            position.thread_in_grid[d] = at[d] * launch->threadgroup[d] + thread[d];
            position.threads_per_threadgroup[d] = size[d];
            position.dispatched_threads_per_threadgroup[d] = launch->threadgroup[d];
            position.threadgroups_per_grid[d] = groups[d];
            position.threads_per_grid[d] = launch->grid[d];
        }
        position.thread_index = i;
        position.lane = i % SIMD_WIDTH;
        position.simdgroup = i / SIMD_WIDTH;
        position.simdgroups = simdgroup_count;
        position.dispatched_simdgroups = (whole + SIMD_WIDTH - 1) / SIMD_WIDTH;
        lane.state = READY;
        lane.stack = stacks + i * STACK_BYTES;
        lane.stack_pointer = fresh_stack(lane.stack + STACK_BYTES - 64, lane_main);
    }
}

inline void run_threadgroup(const u32 (&at)[3], const u32 (&groups)[3]) {
    prepare_lanes(at, groups);
    begin_threadgroup();
    u32 order[MOST_SIMDGROUPS];
    for (u32 i = 0; i < simdgroup_count; i++) order[i] = i;
    do {
        if (launch->seed) shuffle(order, simdgroup_count);
        for (u32 i = 0; i < simdgroup_count && !stopped; i++) run_simdgroup(simdgroups[order[i]]);
    } while (!stopped && release_barrier());
    launch->threads += lane_count;
    launch->threadgroups++;
}

}  // namespace sim
