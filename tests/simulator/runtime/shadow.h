// Who touched a byte last: races and uninitialised reads, independent of the order in which lanes happened to run.
//
// Time is cut into *moments*, numbered upwards: a simdgroup's moment ends where it passes a barrier that orders the
// kind of memory. A *stamp* names who and when:
//
//     stamp = moment << 6 | who         who: a lane 0..31, SEVERAL lanes of the simdgroup, or EVERYBODY
//
// Every byte of writable memory has two stamps, of its last writer and of its readers. Three thresholds order them:
//
//     0 ....... oldest ............ threadgroup .............. period ............
//       never,         other threadgroups        this one, before    this one, since its last
//       or in the      of this launch            its last            threadgroup_barrier
//       past                                     barrier
//
// Two accesses of which one is a store conflict if nothing orders them: in one period, lanes of different simdgroups,
// or lanes of one simdgroup in the same moment; in device memory also any two threadgroups. (For threadgroup memory
// `oldest` equals `threadgroup`.)
#pragma once
#include "state.h"

namespace sim {

enum MemoryKind : u32 { DEVICE = 0, THREADGROUP = 1 };

constexpr u32 SEVERAL = 32, EVERYBODY = 63;
constexpr u32 STAMP_SHIFT = 6;
constexpr u32 FORBIDDEN = ~0u;  // writer of a byte that belongs to no variable
constexpr u32 MOST_MOMENTS = 1u << 25;

struct Thresholds {
    u32 oldest, threadgroup, period;
};

inline Thresholds thresholds[2];
inline u32 stamp[2];  // of the current lane, by MemoryKind
inline u32 last_moment = 1;
inline u8* moment_owner;  // simdgroup of each moment of this threadgroup, from the threadgroup's first
inline u32 moment_owner_capacity;
inline u32 first_moment;

inline u32 new_moment(u32 owner) {
    const u32 index = ++last_moment - first_moment;
    if (index >= moment_owner_capacity) {
        moment_owner_capacity = 2 * index + 1024;
        moment_owner = static_cast<u8*>(realloc(moment_owner, moment_owner_capacity));
    }
    moment_owner[index] = static_cast<u8>(owner);
    return last_moment;
}

constexpr u32 NO_OWNER = 255;

// A threadgroup_barrier that orders `kind`, or the beginning of a threadgroup.
inline void begin_period(u32 kind) {
    thresholds[kind].period = new_moment(NO_OWNER) << STAMP_SHIFT;
    for (u32 i = 0; i < simdgroup_count; i++) simdgroups[i].moment[kind] = new_moment(i);
}

inline void begin_threadgroup() {
    first_moment = last_moment;
    begin_period(DEVICE);
    begin_period(THREADGROUP);
    thresholds[DEVICE].threadgroup = thresholds[DEVICE].period;
    thresholds[THREADGROUP].threadgroup = thresholds[THREADGROUP].oldest = thresholds[THREADGROUP].period;
}

inline u32 simdgroup_of(u32 other) { return moment_owner[(other >> STAMP_SHIFT) - first_moment]; }

// Whether an access with stamp `other` is not ordered before the current lane's.
inline bool conflicts(u32 other, u32 mine, const Thresholds& at) {
    if (other < at.oldest || other == mine) return false;
    if (other < at.threadgroup) return true;
    if (other < at.period) return false;
    if ((other >> STAMP_SHIFT) == (mine >> STAMP_SHIFT)) return true;
    return simdgroup_of(other) != current->position.simdgroup;
}

// The stamp of a byte's readers after the current lane has read it too.
inline u32 with_reader(u32 readers, u32 mine, const Thresholds& at) {
    if (readers < at.oldest || readers == mine) return mine;
    if (readers < at.threadgroup) return at.oldest | EVERYBODY;
    if (readers < at.period) return mine;
    if ((readers >> STAMP_SHIFT) == (mine >> STAMP_SHIFT)) return (mine & ~EVERYBODY) | SEVERAL;
    return simdgroup_of(readers) == current->position.simdgroup ? mine : at.period | EVERYBODY;
}

}  // namespace sim
