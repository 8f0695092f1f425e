// One token's attention over the ring of a sliding layer, and the ring with the token's rows in it.
//
//     q           T [batch, kv_heads * G, 1, 64]
//     rows        T [batch, 2 * kv_heads, 1, 64]         the token's keys, then its values
//     ring        T [batch, 2 * kv_heads, WINDOW, 64]    position p in slot p % WINDOW
//     position    int32, the token's
//     sinks       [kv_heads * G], any floating type
//     attended    T [batch, 1, kv_heads * G * 64]
//     new_ring    T as ring: slot position % WINDOW holds `rows`, every other slot what it held
//
// A threadgroup of 256 threads takes one key/value head of one sequence: grid (256 * kv_heads, batch, 1). Its 8
// simdgroups take steps of 16 slots in turn (one each where WINDOW is 128), all G query heads at once (attention.h), and
// are merged at the end. What a lane loads for the products it stores into the new ring: keys and values are read once.
//
// Only slots that hold a position count, min(position + 1, WINDOW) of them; the others are copied and may hold anything.
// Softmax does not mind the order of keys, so the ring is taken as it lies.
// Assumes 1 <= G <= 8. Numerics: attention.h; the sink joins denominator and maximum at the end.
#include "attention.h"

// Octet `octet` of the row in `slot`, from the token's own row where that is its slot, and on to the new ring.
template <typename T>
inline Octet<T> pass_on(
    const device uint4* own, const device uint4* ring, device uint4* new_ring, int slot, int own_slot, uint octet) {
    const Octet<T> taken =
        slot == own_slot ? load_octet<T>(own, octet) : load_octet<T>(ring + slot * row_words<T>(), octet);
    store_octet<T>(taken, new_ring + slot * row_words<T>(), octet);
    return taken;
}

template <typename T, int G, int WINDOW, typename Sinks>
void ring_attention(
    const device T* q,
    const device T* rows,
    const device T* ring,
    int position,
    Sinks sinks,
    device T* attended,
    device T* new_ring,
    threadgroup float2* sums,
    threadgroup float2* states,
    uint3 group,
    uint3 groups,
    uint simdgroup,
    uint lane) {
    constexpr int words = row_words<T>();
    const Place place = place_of(lane);
    const uint kv_heads = groups.x, kv_head = group.x, batch = group.y;
    const uint key_head = batch * 2 * kv_heads + kv_head, value_head = key_head + kv_heads;
    const uint query_head = (batch * kv_heads + kv_head) * G;
    const device uint4* own_key = (const device uint4*)(rows) + key_head * words;
    const device uint4* own_value = (const device uint4*)(rows) + value_head * words;
    const device uint4* keys = (const device uint4*)(ring) + key_head * WINDOW * words;
    const device uint4* values = (const device uint4*)(ring) + value_head * WINDOW * words;
    device uint4* new_keys = (device uint4*)(new_ring) + key_head * WINDOW * words;
    device uint4* new_values = (device uint4*)(new_ring) + value_head * WINDOW * words;
    const int own_slot = position % WINDOW;
    const int filled = min(position + 1, WINDOW);

    const device uint4* own_q = (const device uint4*)(q) + (query_head + place.row) * words;
    Rows state = new_rows<T>(own_q, place.row < G, place);
    for (int start = int(simdgroup) * STEP_KEYS; start < WINDOW; start += 8 * STEP_KEYS) {
        Step<T> step;
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const int n = i / 2, h = i % 2;
            const int slot = start + 8 * n + int(place.column) + h;
            step.keys[n][h] = slot < WINDOW ? pass_on<T>(own_key, keys, new_keys, slot, own_slot, place.row)
                                            : zero_octet<T>();
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < STEP_KEYS / 4; i++) {
            const int n = i / 2, h = i % 2;
            const int slot = start + 8 * n + int(place.row);
            const uint octet = place.column / 2 + 4 * h;
            step.values[n][h] = slot < WINDOW ? pass_on<T>(own_value, values, new_values, slot, own_slot, octet)
                                              : zero_octet<T>();
            // An empty slot is copied like any other, but what it holds must not reach a product.
            if (slot >= filled) {
                step.values[n][h] = zero_octet<T>();
            }
        }
        take_step(state, step, start, 0, filled, place);
    }

    const Merged merged = merge_simdgroups(state, sums, states, simdgroup, lane);
    if (simdgroup < G) {
        const float sink = float(sinks[kv_head * G + simdgroup]);
        const float2 result = merged.sums * share(merged.peak, merged.total, sink);
        device T* out = attended + (query_head + simdgroup) * HEAD_DIM + 2 * lane;
        out[0] = T(result.x);
        out[1] = T(result.y);
    }
}
