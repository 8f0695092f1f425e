// Attention of two and more positions, each to the positions before it and itself, or to the last WINDOW of those.
//
//     q           T [batch, kv_heads * G, seq, 64]
//     kv          T [batch, 2 * kv_heads, capacity, 64]    keys, then values; what lies from `length` on is not read
//     length      int32: positions that count; the queries are the last seq of them
//     sinks       [kv_heads * G], any floating type
//     result      without SPLIT: T [batch, seq, kv_heads * G * 64]
//                 with SPLIT: float32 [batch, seq, kv_heads * G, splits, 68], for merge_attention (attention.h)
//
// WINDOW 0 is no window. A threadgroup of 256 threads takes one key/value head of one sequence, a tile of 8 * (8 / G)
// consecutive positions and one split of the keys that the tile sees: grid (256 * tiles, kv_heads * splits, batch). A
// simdgroup takes 8 / G of the positions; its matrix rows are
//
//     row r       position r / G of the simdgroup, query head r % G of the key/value head; rows beyond are idle
//
// The threadgroup walks over the keys from the first that any of its positions sees, 32 at a time: all threads stage
// keys and values in threadgroup memory, as they are, then each simdgroup takes the steps of 16 keys that its own
// positions see (attention.h). Tiles that are early in the sequence walk less; the grid begins with the longest.
//
// A split is an equal part of the keys that the tile sees, rounded up to whole 32; the last ones may be empty.
//
// Assumes 1 <= G <= 8, seq <= length <= capacity. Numerics: attention.h; without SPLIT the sink joins denominator and
// maximum at the end, with it merge_attention adds it.
#include "attention.h"

constant constexpr int STAGED_KEYS = 32;

// uint4 from one staged row to the next: one more than a row has, so that 8 rows lie in different banks.
template <typename T>
constexpr int staged_words() {
    return row_words<T>() + 1;
}

// Stages STAGED_KEYS keys and values from number `start` on, zeros in place of those from `stop` on.
template <typename T>
inline void stage_rows(
    const device uint4* keys,
    const device uint4* values,
    threadgroup uint4* staged_keys,
    threadgroup uint4* staged_values,
    int start,
    int stop,
    uint thread_index) {
    const uint row = thread_index / 8, octet = thread_index % 8;
    const int number = start + int(row);
    Octet<T> key = zero_octet<T>(), value = zero_octet<T>();
    if (number < stop) {
        key = load_octet<T>(keys + number * row_words<T>(), octet);
        value = load_octet<T>(values + number * row_words<T>(), octet);
    }
    store_octet<T>(key, staged_keys + row * staged_words<T>(), octet);
    store_octet<T>(value, staged_values + row * staged_words<T>(), octet);
}

template <typename T, int G, int WINDOW, bool SPLIT, typename Sinks, typename Result>
void tile_attention(
    const device T* q,
    const device T* kv,
    int seq,
    int capacity,
    int length,
    Sinks sinks,
    device Result* result,
    threadgroup uint4* staged_keys,
    threadgroup uint4* staged_values,
    uint kv_heads,
    uint3 group,
    uint3 groups,
    uint simdgroup,
    uint lane) {
    constexpr int words = row_words<T>();
    constexpr int positions = MATRIX_ROWS / G;
    const Place place = place_of(lane);
    const uint kv_head = group.y % kv_heads, split = group.y / kv_heads, batch = group.z;
    const int splits = int(groups.y / kv_heads);
    const ulong head_words = ulong(capacity) * words;
    const device uint4* keys = (const device uint4*)(kv) + (batch * 2 * kv_heads + kv_head) * head_words;
    const device uint4* values = keys + kv_heads * head_words;

    // Queries of the tile, of the simdgroup and of the lane's row, counted within the call. The last tile, which sees
    // the most, comes first.
    const int history = length - seq;
    const int tile_start = int(groups.x - 1 - group.x) * 8 * positions;
    const int tile_end = min(tile_start + 8 * positions, seq);
    const int own = tile_start + int(simdgroup) * positions;
    const int own_end = min(own + positions, seq);
    const int query = own + int(place.row) / G;
    const uint head = kv_head * G + place.row % G;
    const bool used = int(place.row) < positions * G && query < seq;

    // Keys that each of them sees.
    const int row_first = WINDOW ? max(0, history + query - WINDOW + 1) : 0;
    const int own_first = WINDOW ? max(0, history + own - WINDOW + 1) : 0;
    const int tile_first = WINDOW ? max(0, history + tile_start - WINDOW + 1) : 0;
    const int tile_stop = history + tile_end;
    const int chunk = ((tile_stop - tile_first + splits - 1) / splits + STAGED_KEYS - 1) / STAGED_KEYS * STAGED_KEYS;
    const int first = tile_first + int(split) * chunk;
    const int stop = min(first + chunk, tile_stop);
    const int row_stop = min(history + query + 1, stop);
    const int own_stop = own < own_end ? min(history + own_end, stop) : 0;

    const ulong query_row = (ulong(batch) * kv_heads * G + head) * seq + min(query, seq - 1);
    Rows attending = new_rows<T>((const device uint4*)(q) + query_row * words, place);
    for (int block = first; block < stop; block += STAGED_KEYS) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        stage_rows<T>(keys, values, staged_keys, staged_values, block, stop, simdgroup * 32 + lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int start = 0; start < STAGED_KEYS; start += STEP_KEYS) {
            if (block + start >= own_stop || block + start + STEP_KEYS <= own_first) {
                continue;
            }
            Step<T> step;
#pragma clang loop unroll(full)
            for (int i = 0; i < STEP_KEYS / 4; i++) {
                const int key = start + step_key(i, place), value = start + step_value(i, place);
                step.keys[i] = load_octet<T>(staged_keys + key * staged_words<T>(), place.row);
                step.values[i] = load_octet<T>(staged_values + value * staged_words<T>(), step_octet(i, place));
            }
            take_step(attending, step, block + start, row_first, row_stop, place);
        }
    }

    const float total = row_sum(attending.total);
    if (!used) {
        return;
    }
    // The lane's row ends in two octets: dims 8 * (column / 2) and 32 further.
    const ulong row = (ulong(batch) * seq + query) * kv_heads * G + head;
    device Result* out = SPLIT ? result + (row * splits + split) * PARTIAL_FLOATS : result + row * HEAD_DIM;
    float scale = 1.0f;
    if (!SPLIT) {
        scale = share(attending.peak, total, float(sinks[head]));
    } else if (place.column == 0) {
        store_state(out, attending.peak, total);
    }
    Octet<Result> lower = zero_octet<Result>(), upper = zero_octet<Result>();
#pragma clang loop unroll(full)
    for (uint f = 0; f < 8; f++) {
        set_value(lower, f, attending.sums[f].x * scale);
        set_value(upper, f, attending.sums[f].y * scale);
    }
    store_octet<Result>(lower, (device uint4*)(out), place.column / 2);
    store_octet<Result>(upper, (device uint4*)(out), place.column / 2 + 4);
}
