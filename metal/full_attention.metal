// One token's attention to every position of a full layer, the last of which are kept apart, and those with the token's
// rows among them.
//
//     q           T [batch, kv_heads * G, 1, 64]
//     rows        T [batch, 2 * kv_heads, 1, 64]           the token's keys, then its values
//     body        T [batch, 2 * kv_heads, capacity, 64]    positions 0 to flushed - 1; what lies behind is not read
//     recent      T [batch, 2 * kv_heads, RECENT, 64]      position p, from `flushed` on, in slot p - flushed
//     position    int32, the token's; flushed <= position < flushed + RECENT
//     flushed     int32, at most capacity
//     sinks       [kv_heads * G], any floating type
//     result      without SPLIT: T [batch, 1, kv_heads * G * 64]
//                 with SPLIT: float32 [batch, 1, kv_heads * G, splits, 68], for merge_attention (attention.h)
//     new_recent  T as recent: slot position - flushed holds `rows`, every other slot what it held
//
// So `body` is read only, and who keeps it writes into it once in RECENT tokens.
//
// A threadgroup of 256 threads takes one key/value head of one sequence and one split of the positions: grid
// (256 * kv_heads, splits, batch). The last split takes the recent slots, and all share the rest of the work evenly,
// whatever the capacity: a split is ceil((flushed + RECENT) / splits) positions, rounded up to whole steps of 16, of
// which the last one's recent slots are a part; some may be empty. Within it the 8 simdgroups take steps in turn, all G
// query heads at once (attention.h), and are merged at the end. Every key and value is loaded once; to fill the last
// step of a split, its last one again.
//
// Only slots that hold a position count; the others are copied and may hold anything.
// Assumes 1 <= G <= 8. Numerics: attention.h; without SPLIT the sink joins denominator and maximum at the end, with it
// merge_attention adds it.
#include "attention.h"

template <typename T, int G, int RECENT, bool SPLIT, typename Sinks, typename Result>
void full_attention(
    const device T* q,
    const device T* rows,
    const device T* body,
    const device T* recent,
    int capacity,
    int position,
    int flushed,
    Sinks sinks,
    device Result* result,
    device T* new_recent,
    threadgroup float2* sums,
    threadgroup float2* states,
    uint3 group,
    uint3 groups,
    uint simdgroup,
    uint lane) {
    constexpr int words = row_words<T>();
    const Place place = place_of(lane);
    const uint kv_heads = groups.x, kv_head = group.x, batch = group.z;
    const uint query_head = (batch * kv_heads + kv_head) * G;
    const ulong head_words = ulong(capacity) * words;
    const device uint4* keys = (const device uint4*)(body) + (batch * 2 * kv_heads + kv_head) * head_words;
    const device uint4* values = keys + kv_heads * head_words;

    const int splits = int(groups.y);
    const int chunk = ((flushed + RECENT + splits - 1) / splits + STEP_KEYS - 1) / STEP_KEYS * STEP_KEYS;
    const int first = int(group.y) * chunk;
    const int stop = min(first + chunk, flushed);

    const uint own_row = min(place.row, uint(G - 1));
    Rows attending = new_rows<T>((const device uint4*)(q) + (query_head + own_row) * words, place);
    if (int(group.y) == splits - 1) {
        const Kept kept = kept_of<T>(rows, recent, new_recent, RECENT, kv_head, kv_heads, batch);
        const int own_slot = position - flushed;
        take_kept<T, RECENT>(attending, kept, own_slot, own_slot + 1, simdgroup, place);
    }
    for (int start = first + int(simdgroup) * STEP_KEYS; start < stop; start += 8 * STEP_KEYS) {
        // Past the end the last row is loaded again: no branch keeps loads from being under way together.
        const int last = stop - 1;
        Step<T> step;
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            step.keys[i] = load_octet<T>(keys + min(start + step_key(i, place), last) * words, place.row);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const device uint4* row = values + min(start + step_value(i, place), last) * words;
            step.values[i] = load_octet<T>(row, step_octet(i, place));
        }
        take_step(attending, step, start, first, stop, place);
    }

    const Merged merged = merge_simdgroups(attending, sums, states, simdgroup, lane);
    if (simdgroup < G) {
        const uint head = query_head + simdgroup;
        if (SPLIT) {
            device Result* out = result + (ulong(head) * splits + group.y) * PARTIAL_FLOATS;
            out[2 * lane] = Result(merged.sums.x);
            out[2 * lane + 1] = Result(merged.sums.y);
            if (lane == 0) {
                store_state(out, merged.peak, merged.total);
            }
        } else {
            const float sink = float(sinks[kv_head * G + simdgroup]);
            const float2 attended = merged.sums * share(merged.peak, merged.total, sink);
            device Result* out = result + head * HEAD_DIM + 2 * lane;
            out[0] = Result(attended.x);
            out[1] = Result(attended.y);
        }
    }
}
