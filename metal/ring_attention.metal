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
// simdgroups take steps of 16 slots in turn (one each where WINDOW is 128), all G query heads at once (attention.h),
// and are merged at the end. What a lane loads for the products it stores into the new ring: keys and values are read
// once.
//
// Only slots that hold a position count, min(position + 1, WINDOW) of them; the others are copied and may hold
// anything. Softmax does not mind the order of keys, so the ring is taken as it lies.
// Assumes 1 <= G <= 8. Numerics: attention.h; the sink joins denominator and maximum at the end.
#include "attention.h"

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
    const uint query_head = (batch * kv_heads + kv_head) * G;

    const uint own_row = min(place.row, uint(G - 1));
    Rows attending = new_rows<T>((const device uint4*)(q) + (query_head + own_row) * words, place);
    const Kept kept = kept_of<T>(rows, ring, new_ring, WINDOW, kv_head, kv_heads, batch);
    take_kept<T, WINDOW>(attending, kept, position % WINDOW, min(position + 1, WINDOW), simdgroup, place);

    const Merged merged = merge_simdgroups(attending, sums, states, simdgroup, lane);
    if (simdgroup < G) {
        const float sink = float(sinks[kv_head * G + simdgroup]);
        const float2 result = merged.sums * share(merged.peak, merged.total, sink);
        device T* out = attended + (query_head + simdgroup) * HEAD_DIM + 2 * lane;
        out[0] = T(result.x);
        out[1] = T(result.y);
    }
}
