// The (token, expert) pairs sorted by expert, and cut into tiles of one expert each.
//
//     chosen   [tokens, CHOICES]   uint32: each token's experts, no expert twice
//     counts   [chunks, EXPERTS]   uint32: tokens of a chunk of CHUNK that chose an expert (pick_experts.metal)
//     order    [pairs]             uint32: the pair (token * CHOICES + choice) at each place; by expert, then by token
//     places   [pairs]             uint32: the place of each pair
//     tiles    [most_tiles, 3]     uint32: expert, first place, pairs (1 .. TILE_ROWS); behind the last, three zeros
//
// Grid: one threadgroup of 256 threads for a chunk of tokens. Thread e sums expert e's counts over all chunks and over
// those before its own; prefix sums over the experts give where an expert's pairs and tiles begin. A pair's place is
// its expert's beginning, plus the expert's pairs of earlier chunks, plus those before it in its own chunk. All
// threadgroups together write the tiles, a thread each. Every threadgroup reads all of `counts`: 64 KB for 4096 tokens
// and 128 experts.
//
// Assumes: EXPERTS <= 256; most_tiles is enough. Numerics: integers, and no atomics: one thread, one place.
#include <metal_stdlib>
using namespace metal;

constant constexpr int ROUTE_THREADS = 256;

// The sum of `value` over all threads before this one. `totals`: a word for each simdgroup, and others for every
// call, since no barrier follows.
inline uint sum_before(uint value, threadgroup uint* totals, uint simdgroup_index, uint lane) {
    const uint before = simd_prefix_exclusive_sum(value);
    if (lane == 31) {
        totals[simdgroup_index] = before + value;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint sum = before;
    for (uint i = 0; i < simdgroup_index; i++) {
        sum += totals[i];
    }
    return sum;
}

template <int EXPERTS, int CHOICES, int CHUNK, int TILE_ROWS, typename Chosen, typename Counts>
void route_pairs(
    Chosen chosen,
    Counts counts,
    uint tokens,
    uint most_tiles,
    device uint* order,
    device uint* places,
    device uint* tiles,
    threadgroup uint* chunk_chosen,  // [CHUNK * CHOICES]
    threadgroup uint* own_starts,    // [EXPERTS]
    threadgroup uint* starts,        // [EXPERTS + 1]
    threadgroup uint* tile_starts,   // [EXPERTS + 1]
    threadgroup uint* totals,        // [2 * ROUTE_THREADS / 32]
    uint chunk,
    uint chunks,
    uint thread_index,
    uint simdgroup_index,
    uint lane
) {
    static_assert(EXPERTS <= ROUTE_THREADS, "one thread for each expert");
    const uint first_pair = chunk * CHUNK * CHOICES;
    const uint chunk_pairs = min(uint(CHUNK), tokens - chunk * CHUNK) * CHOICES;
    for (uint pair = thread_index; pair < chunk_pairs; pair += ROUTE_THREADS) {
        chunk_chosen[pair] = chosen[first_pair + pair];
    }
    uint count = 0, earlier = 0;
    if (thread_index < EXPERTS) {
        for (uint other = 0; other < chunks; other++) {
            const uint visits = counts[other * EXPERTS + thread_index];
            count += visits;
            earlier += other < chunk ? visits : 0;
        }
    }
    const uint start = sum_before(count, totals, simdgroup_index, lane);
    const uint tile_start =
        sum_before((count + TILE_ROWS - 1) / TILE_ROWS, totals + ROUTE_THREADS / 32, simdgroup_index, lane);
    if (thread_index < EXPERTS) {
        own_starts[thread_index] = start + earlier;
        starts[thread_index] = start;
        tile_starts[thread_index] = tile_start;
    }
    if (thread_index == EXPERTS - 1) {
        starts[EXPERTS] = start + count;
        tile_starts[EXPERTS] = tile_start + (count + TILE_ROWS - 1) / TILE_ROWS;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (uint pair = thread_index; pair < chunk_pairs; pair += ROUTE_THREADS) {
        const uint expert = chunk_chosen[pair];
        uint place = own_starts[expert];
        for (uint other = 0; other < pair; other++) {
            place += chunk_chosen[other] == expert ? 1 : 0;
        }
        order[place] = first_pair + pair;
        places[first_pair + pair] = place;
    }

    for (uint tile = chunk * ROUTE_THREADS + thread_index; tile < most_tiles; tile += chunks * ROUTE_THREADS) {
        uint expert = 0, first = 0, pairs = 0;
        if (tile < tile_starts[EXPERTS]) {
            // The last expert whose tiles begin at or before this one: the first of those behind it, less one.
            uint behind = EXPERTS;
            while (behind - expert > 1) {
                const uint middle = (expert + behind) / 2;
                if (tile_starts[middle] <= tile) {
                    expert = middle;
                } else {
                    behind = middle;
                }
            }
            first = starts[expert] + (tile - tile_starts[expert]) * TILE_ROWS;
            pairs = min(uint(TILE_ROWS), starts[expert + 1] - first);
        }
        tiles[tile * 3] = expert;
        tiles[tile * 3 + 1] = first;
        tiles[tile * 3 + 2] = pairs;
    }
}
