// What the attention kernels share: one step of attention as products of 8x8 matrices, fed from 16-byte loads.
//
// The query heads of a key/value head (8 in gpt-oss) are the rows of a matrix, so that a key is loaded once for all of
// them. A simdgroup holds 8 such rows and takes 16 keys a step:
//
//     scores[row][key] = sum over dim of  q[row][dim] * k[key][dim]
//     sums[row][dim]  += sum over key of  2^(scores[row][key] - peak[row]) * v[key][dim]
//
// A lane holds two neighbouring elements of an 8x8 matrix: (row, column) and (row, column + 1), as octets.h says.
//
// A product does not mind the order of the dims it sums over, nor an output the order of its columns, as long as both
// sides agree. So matrix f of the eight that make up 64 dims takes the dims that make a lane's share of all eight one
// octet of neighbours in memory, 16 bytes of a 16-bit type, and nothing is staged or shuffled:
//
//     matrix       element      dim                              a lane's share of 8 matrices
//     q            [row][k]     8 * k + f                        octets column and column + 1 of its row
//     k (as k^T)   [k][key]     8 * k + f                        octet row of keys column and column + 1
//     v            [key][n]     8 * (n / 2) + 32 * (n % 2) + f   octets column / 2 and 4 + column / 2 of key row
//     sums         [row][n]     as v                             the same two octets of its row
//
// Numerics: all float32. q is multiplied by log2(e) / sqrt(64) as it is loaded, so that weights are exp2 of differences
// of scores; `peak` is in the same unit. A key that a row does not see has weight 0 by a choice between values, never
// by arithmetic with infinities; since 0 * NaN is NaN, its value must still be a number: that of a position that
// counts, or zeros. A row that has seen no key has peak LOWEST, total 0 and sums 0.
#include "octets.h"

constant constexpr int HEAD_DIM = 64;
constant constexpr int STEP_KEYS = 16;                  // keys that a simdgroup takes in one step
constant constexpr int MATRIX_ROWS = 8;
constant constexpr int PARTIAL_FLOATS = HEAD_DIM + 4;   // what a split leaves: sums, peak, total, two zeros
constant constexpr float LOG2_E = 1.44269504f;
constant constexpr float SCALE = 0.125f * LOG2_E;       // 1 / sqrt(HEAD_DIM), for exp2
constant constexpr float LOWEST = -3.0e38f;             // below any score, and finite

// uint4 in a row of HEAD_DIM values.
template <typename T>
constexpr int row_words() {
    return HEAD_DIM / 8 * int(sizeof(T) / 2);
}

// Octet `index` of the row at `row`, a pointer to uint4 in any address space.
template <typename T, typename Words>
inline Octet<T> load_octet(Words row, uint index) {
    Octet<T> octet;
    for (uint w = 0; w < sizeof(T) / 2; w++) {
        octet.words[w] = row[index * (sizeof(T) / 2) + w];
    }
    return octet;
}

template <typename T, typename Words>
inline void store_octet(Octet<T> octet, Words row, uint index) {
    for (uint w = 0; w < sizeof(T) / 2; w++) {
        row[index * (sizeof(T) / 2) + w] = octet.words[w];
    }
}

template <typename T>
inline Octet<T> zero_octet() {
    Octet<T> octet;
    for (uint w = 0; w < sizeof(T) / 2; w++) {
        octet.words[w] = uint4(0);
    }
    return octet;
}

// Sets value f of an octet that has been zeros, in any order.
inline void set_value(thread Octet<half>& octet, uint f, float value) {
    octet.words[0][f / 2] |= uint(as_type<ushort>(half(value))) << (f % 2 * 16);
}

inline void set_value(thread Octet<bfloat16_t>& octet, uint f, float value) {
    octet.words[0][f / 2] |= uint(as_type<ushort>(bfloat16_t(value))) << (f % 2 * 16);
}

inline void set_value(thread Octet<float>& octet, uint f, float value) {
    octet.words[f / 4][f % 4] = as_type<uint>(value);
}

// Sum and maximum of a value over the four lanes that share a matrix row.
inline float row_sum(float x) {
    x += simd_shuffle_xor(x, 1);
    return x + simd_shuffle_xor(x, 8);
}

inline float row_max(float x) {
    x = max(x, simd_shuffle_xor(x, 1));
    return max(x, simd_shuffle_xor(x, 8));
}

// A lane's share of eight rows of queries and of what they have attended to so far.
struct Rows {
    float2 q[8];
    float2 sums[8];
    float peak;         // the highest score that the lane's row has seen
    float total;        // of the weights in the lane's columns
};

// Rows that have seen nothing. The lane's row of queries begins at `q`.
template <typename T>
inline Rows new_rows(const device uint4* q, Place place) {
    Rows rows;
    rows.peak = LOWEST;
    rows.total = 0.0f;
    const Octet<T> first = load_octet<T>(q, place.column);
    const Octet<T> second = load_octet<T>(q, place.column + 1);
#pragma clang loop unroll(full)
    for (uint f = 0; f < 8; f++) {
        rows.q[f] = SCALE * float2(value_of(first, f), value_of(second, f));
        rows.sums[f] = float2(0.0f);
    }
    return rows;
}

// A lane's share of STEP_KEYS keys and values: keys[i] is octet `row` of key step_key(i), values[i] octet step_octet(i)
// of key step_value(i), counted within the step.
template <typename T>
struct Step {
    Octet<T> keys[STEP_KEYS / 4];
    Octet<T> values[STEP_KEYS / 4];
};

inline int step_key(int i, Place place) {
    return i / 2 * 8 + int(place.column) + i % 2;
}

inline int step_value(int i, Place place) {
    return i / 2 * 8 + int(place.row);
}

inline uint step_octet(int i, Place place) {
    return place.column / 2 + uint(i % 2) * 4;
}

// Takes a step, whose first key is number `key`, into `rows`. The lane's row sees keys first <= number < stop.
template <typename T>
inline void take_step(thread Rows& rows, thread const Step<T>& step, int key, int first, int stop, Place place) {
    float2 scores[STEP_KEYS / 8];
    bool seen[STEP_KEYS / 8][2];
    float peak = rows.peak;
    for (int n = 0; n < STEP_KEYS / 8; n++) {
        scores[n] = float2(0.0f);
    }
    // Two products in turn: neither waits for its own last one.
#pragma clang loop unroll(full)
    for (uint f = 0; f < 8; f++) {
        for (int n = 0; n < STEP_KEYS / 8; n++) {
            const float2 k = float2(value_of(step.keys[2 * n], f), value_of(step.keys[2 * n + 1], f));
            scores[n] = multiply_add(rows.q[f], k, scores[n]);
        }
    }
#pragma clang loop unroll(full)
    for (int n = 0; n < STEP_KEYS / 8; n++) {
        for (int h = 0; h < 2; h++) {
            const int number = key + 8 * n + int(place.column) + h;
            seen[n][h] = number >= first && number < stop;
            peak = seen[n][h] ? max(peak, scores[n][h]) : peak;
        }
    }
    peak = row_max(peak);

    const float shrink = exp2(rows.peak - peak);
    rows.peak = peak;
    rows.total *= shrink;
#pragma clang loop unroll(full)
    for (uint f = 0; f < 8; f++) {
        rows.sums[f] *= shrink;
    }
#pragma clang loop unroll(full)
    for (int n = 0; n < STEP_KEYS / 8; n++) {
        const float2 weights = float2(seen[n][0] ? exp2(scores[n].x - peak) : 0.0f,
                                      seen[n][1] ? exp2(scores[n].y - peak) : 0.0f);
        rows.total += weights.x + weights.y;
#pragma clang loop unroll(full)
        for (uint f = 0; f < 8; f++) {
            const float2 v = float2(value_of(step.values[2 * n], f), value_of(step.values[2 * n + 1], f));
            rows.sums[f] = multiply_add(weights, v, rows.sums[f]);
        }
    }
}

// A few keys and values that are kept apart, `slots` rows for each head; the new ones take one more token in.
// Pointers to the rows of one key/value head, in uint4.
struct Kept {
    const device uint4* own_key;        // the token's
    const device uint4* own_value;
    const device uint4* keys;
    const device uint4* values;
    device uint4* new_keys;
    device uint4* new_values;
};

// Those of key/value head `kv_head` of sequence `batch`, in arrays T [batch, 2 * kv_heads, 1 or `slots`, 64].
template <typename T>
inline Kept kept_of(
    const device T* rows,
    const device T* kept,
    device T* new_kept,
    int slots,
    uint kv_head,
    uint kv_heads,
    uint batch) {
    constexpr int words = row_words<T>();
    const uint key_head = batch * 2 * kv_heads + kv_head, value_head = key_head + kv_heads;
    Kept result;
    result.own_key = (const device uint4*)(rows) + key_head * words;
    result.own_value = (const device uint4*)(rows) + value_head * words;
    result.keys = (const device uint4*)(kept) + key_head * slots * words;
    result.values = (const device uint4*)(kept) + value_head * slots * words;
    result.new_keys = (device uint4*)(new_kept) + key_head * slots * words;
    result.new_values = (device uint4*)(new_kept) + value_head * slots * words;
    return result;
}

// Takes the first `filled` slots into `attending`, the token's own among them, and stores every slot anew: what a lane
// loads for the products it stores, so that each is loaded once. The 8 simdgroups of a threadgroup take steps in turn.
template <typename T, int SLOTS>
inline void take_kept(
    thread Rows& attending, thread const Kept& kept, int own_slot, int filled, uint simdgroup, Place place) {
    constexpr int words = row_words<T>();
    for (int start = int(simdgroup) * STEP_KEYS; start < SLOTS; start += 8 * STEP_KEYS) {
        // All loads before the first store, so that they are under way together. Past the end the last slot is loaded
        // again.
        Step<T> step;
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const int slot = min(start + step_key(i, place), SLOTS - 1);
            step.keys[i] = load_octet<T>(slot == own_slot ? kept.own_key : kept.keys + slot * words, place.row);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const int slot = min(start + step_value(i, place), SLOTS - 1);
            const device uint4* row = slot == own_slot ? kept.own_value : kept.values + slot * words;
            step.values[i] = load_octet<T>(row, step_octet(i, place));
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const int key = start + step_key(i, place), value = start + step_value(i, place);
            if (key < SLOTS) {
                store_octet<T>(step.keys[i], kept.new_keys + key * words, place.row);
            }
            if (value < SLOTS) {
                store_octet<T>(step.values[i], kept.new_values + value * words, step_octet(i, place));
            }
            // An empty slot is copied like any other, but what it holds must not reach a product.
            if (value >= filled) {
                step.values[i] = zero_octet<T>();
            }
        }
        take_step(attending, step, start, 0, filled, place);
    }
}

// What sums are multiplied by to become a result: the softmax's denominator, the sink included, and nothing else of it.
inline float share(float peak, float total, float sink) {
    const float scaled_sink = sink * LOG2_E;
    const float top = max(peak, scaled_sink);
    const float shrink = exp2(peak - top);
    return shrink / (total * shrink + exp2(scaled_sink - top));
}

// Stores what stands behind a split's sums. The zeros only keep the next split's octets aligned.
template <typename Result>
inline void store_state(device Result* partial, float peak, float total) {
    partial[HEAD_DIM] = Result(peak);
    partial[HEAD_DIM + 1] = Result(total);
    partial[HEAD_DIM + 2] = Result(0.0f);
    partial[HEAD_DIM + 3] = Result(0.0f);
}

// One thread's part of rows that were merged: dims 2 * lane and 2 * lane + 1 of row `simdgroup`.
struct Merged {
    float peak;
    float total;
    float2 sums;
};

// Merges the rows of the 8 simdgroups of a threadgroup, each of which has seen other keys. Every thread calls it.
// Threadgroup memory: `sums` [8 simdgroups][8 rows][32 pairs], `states` [8 simdgroups][8 rows] (peak, total).
inline Merged merge_simdgroups(
    thread const Rows& rows, threadgroup float2* sums, threadgroup float2* states, uint simdgroup, uint lane) {
    const Place place = place_of(lane);
    const float total = row_sum(rows.total);
    const uint own = simdgroup * MATRIX_ROWS + place.row;
    if (place.column == 0) {
        states[own] = float2(rows.peak, total);
    }
    const uint pair = own * (HEAD_DIM / 2) + place.column / 2 * 4;
#pragma clang loop unroll(full)
    for (uint f = 0; f < 8; f += 2) {
        sums[pair + f / 2] = float2(rows.sums[f].x, rows.sums[f + 1].x);
        sums[pair + HEAD_DIM / 4 + f / 2] = float2(rows.sums[f].y, rows.sums[f + 1].y);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    Merged merged;
    merged.peak = LOWEST;
    merged.total = 0.0f;
    merged.sums = float2(0.0f);
    for (uint s = 0; s < 8; s++) {
        const float2 state = states[s * MATRIX_ROWS + simdgroup];
        merged.peak = max(merged.peak, state.x);
    }
    for (uint s = 0; s < 8; s++) {
        const uint other = s * MATRIX_ROWS + simdgroup;
        const float2 state = states[other];
        const float shrink = exp2(state.x - merged.peak);
        merged.total += state.y * shrink;
        merged.sums += sums[other * (HEAD_DIM / 2) + lane] * shrink;
    }
    return merged;
}
