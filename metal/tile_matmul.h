// What both grouped expert products share: a tile of pairs through a tile of one expert's rows.
//
//     sums[pair][row] = 2^-14 * sum over k of x[pair][k] * weight[row][k]
//
// for TILE_ROWS pairs and 64 rows, k in steps of 256. A threadgroup is four simdgroups; simdgroup s multiplies all
// pairs by rows 16 s .. 16 s + 15, whose weights nobody else needs: they go from device memory into the registers of
// the lanes that multiply them. The activations, which all four need, go through threadgroup memory, and so do the
// scales, since those of 64 rows lie side by side.
//
// Who holds what. octets.h says which two elements of an 8x8 matrix are a lane's. A product does not mind the order of
// the k that it sums over, as long as both sides agree: matrix f of the 32 in a step takes k = 32 * index + f, so that
// a lane's share of all 32 is one whole group of a row, 16 bytes of codes with one scale:
//
//     matrix     element         is                       a lane's share of the 32 matrices
//     inputs     [pair][index]   x[pair][32 index + f]    four octets each of groups column and column + 1 of its pair
//     weights    [index][row]    weight[row][32 index+f]  group `index` of rows column and column + 1
//
//     one row of the expert, 128 bytes of codes a step, as the eight lanes of a column load them:
//
//     bytes      0      16      32      48      64      80      96      112     128
//                | index 0 | index 1 | index 2 | index 3 | index 4 | index 5 | index 6 | index 7 |
//                  f 0..31   f 0..31   ...
//
// The codes of the next step are loaded before those of this one are multiplied. The last step is as short as it
// can be: with one octet of k a lane instead of four up to 64 k, with two up to 128 (K = 2880 leaves 64). Lanes whose
// codes would lie beyond K bring zeros.
//
// Threadgroup memory
//
//     x_tile       up to 8 KiB: a step of 16 pairs (8 for float). Of a taller tile one such part after the other takes
//                  its place, while the codes stay in registers and are decoded again. Units of 16 bytes lie in the
//                  order in which lanes read them: of each eight pairs, unit u of groups 0, 2, 4, 6 as 32 lanes hold
//                  them, then of groups 1, 3, 5, 7, then unit u + 1. Within these 32, lane l is at l ^ (2 u + odd) % 8:
//                  reads of eight neighbouring lanes meet in no bank, nor do writes of a whole step (of float, twice)
//     scale_tile   64 rows of K / 32 bytes, as in device memory; loaded once, before the first step
//     sources      the row of x of each pair
//
// Eight pairs are one row of matrices; those behind the tile's last pair are skipped, so that a tile that is not full
// multiplies no more than its pairs need, rounded up to eight. A pair's sums do not depend on the tile's height.
//
// Numerics. A weight is an E2M1 value (one bit of mantissa) times a power of two, so float holds it exactly. It stays
// smaller by 2^14, the factor that `code_octet` leaves in: then no scale byte up to 254 passes float's range, not even
// 6 * 2^127, and the sums get the factor back at the end (`WEIGHT_FACTOR`). Float cannot hold the other end at the same
// time: groups with a scale byte below 16 count as zero, for their values would be subnormal, which GPUs may flush
// anyway: they are at most 6 * 2^-112, so a sum is off by at most 1.2e-33 times the sum of |x|. Products are exact for
// T of bfloat or half, and all sums are float.
#include "mxfp4.h"
#include "octets.h"

constant constexpr uint TILE_THREADS = 128;
constant constexpr int TILE_COLUMNS = 64;     // rows of the expert's matrix
constant constexpr int SIMDGROUP_COLUMNS = 16;
constant constexpr int STEP_OCTETS = 4;       // of k that a lane takes in a whole step: a group
constant constexpr int STEP_K = 64 * STEP_OCTETS;
constant constexpr float WEIGHT_FACTOR = 16384.0f;

// First k of the last step.
constexpr int last_step(int k) {
    return (k - 1) / STEP_K * STEP_K;
}

// Octets of k that a lane takes in the last step.
constexpr int last_octets(int k) {
    return k - last_step(k) <= 64 ? 1 : k - last_step(k) <= 128 ? 2 : 4;
}

// Pairs whose activations are in threadgroup memory at once.
template <typename T, int TILE_ROWS>
constexpr int part_rows() {
    return TILE_ROWS < 32 / int(sizeof(T)) ? TILE_ROWS : 32 / int(sizeof(T));
}

// uint4 of x_tile.
template <typename T, int TILE_ROWS>
constexpr int x_tile_words() {
    return part_rows<T, TILE_ROWS>() * STEP_K * int(sizeof(T)) / 16;
}

// uint4 of scale_tile.
constexpr int scale_tile_words(int k) {
    return TILE_COLUMNS * (k / 32) / 16;
}

// Where x_tile has what `lane` holds as unit `unit` of pairs 8 m .. 8 m + 7, of groups 0, 2, 4, 6 (odd 0) or 1, 3, 5, 7
// (odd 1). A lane's group has `units` units in this step.
inline uint x_place(uint m, uint unit, uint odd, uint units, uint lane) {
    const uint element = unit * 2 + odd;
    return (m * units * 2 + element) * 32 + (lane ^ element % 8);
}

// Puts a step of pairs [first, first + part_rows) into x_tile. Neighbouring threads take neighbouring 16 bytes. Beyond
// K, and in pairs that only fill up the last eight, the values are zeros.
template <typename T, int TILE_ROWS, int OCTETS, int K>
void stage_x(
    const device T* x,
    const threadgroup uint* sources,
    uint first,
    uint pairs,
    uint k,
    threadgroup uint4* x_tile,
    uint thread_index
) {
    constexpr uint rows = part_rows<T, TILE_ROWS>();
    constexpr uint units = OCTETS * sizeof(T) / 2;  // of a group
    constexpr uint row_units = 8 * units;
    constexpr uint unit_values = 16 / sizeof(T);
    const uint used = min((pairs - first + 7) / 8 * 8, rows);
    #pragma unroll
    for (uint i = 0; i < (rows * row_units + TILE_THREADS - 1) / TILE_THREADS; i++) {
        const uint row = (i * TILE_THREADS + thread_index) / row_units;
        const uint row_unit = (i * TILE_THREADS + thread_index) % row_units;
        if (row >= used) {
            continue;
        }
        const uint own_k = k + row_unit * unit_values;
        uint4 values = uint4(0);
        if (first + row < pairs && own_k < uint(K)) {
            values = *reinterpret_cast<const device uint4*>(x + sources[first + row] * K + own_k);
        }
        const uint group = row_unit / units;
        x_tile[x_place(row / 8, row_unit % units, group % 2, units, lane_at(row % 8, group))] = values;
    }
}

// Puts the scales of the expert's rows [row, row + 64), or up to `rows`, into scale_tile.
template <int K>
void stage_scales(
    const device uchar* scales, uint row, uint rows, threadgroup uint4* scale_tile, uint thread_index
) {
    const device uint4* from = reinterpret_cast<const device uint4*>(scales + row * (K / 32));
    const uint words = min(rows - row, uint(TILE_COLUMNS)) * (K / 32) / 16;
    for (uint i = thread_index; i < words; i += TILE_THREADS) {
        scale_tile[i] = from[i];
    }
}

// OCTETS words, over and over.
template <int OCTETS>
inline uint4 load_words(const device uint* from) {
    if (OCTETS == 4) {
        return *reinterpret_cast<const device uint4*>(from);
    }
    if (OCTETS == 2) {
        const uint2 words = *reinterpret_cast<const device uint2*>(from);
        return words.xyxy;
    }
    return uint4(*from);
}

// A lane's codes of one step: [n][h] those of row 8 n + column + h of the simdgroup's 16.
struct StepCodes {
    uint4 words[2][2];
};

// `blocks` begins with the simdgroup's rows.
template <int OCTETS, int K>
inline StepCodes load_step(const device uint* blocks, uint k, Place place) {
    const uint own_k = k + place.row * OCTETS * 8;
    StepCodes codes;
    #pragma unroll
    for (uint n = 0; n < 2; n++) {
        #pragma unroll
        for (uint h = 0; h < 2; h++) {
            const device uint* from = blocks + (n * 8 + place.column + h) * (K / 8) + own_k / 8;
            codes.words[n][h] = own_k < uint(K) ? load_words<OCTETS>(from) : uint4(0);
        }
    }
    return codes;
}

// The codes of the step that begins at k.
template <int K>
inline StepCodes load_codes(const device uint* blocks, uint k, Place place) {
    if (k < uint(last_step(K))) {
        return load_step<STEP_OCTETS, K>(blocks, k, place);
    }
    return load_step<last_octets(K), K>(blocks, k, place);
}

// 2^(scale - 127), or 0 where the products would be subnormal.
inline float tile_scale(uchar scale) {
    return scale < 16 ? 0.0f : as_type<float>(uint(scale) << 23);
}

// Adds the products of one step's k with eight pairs after the other to `sums`, [2 m + n] of pairs 8 m .. 8 m + 7 and
// the simdgroup's columns 8 n .. 8 n + 7. x_tile holds the `pairs` pairs that there are, or part_rows of them.
template <typename T, int TILE_ROWS, int OCTETS>
void multiply_step(
    const threadgroup uint4* x_tile,
    StepCodes codes,
    float4 scales,
    uint pairs,
    thread float2* sums,
    uint lane
) {
    constexpr uint octet_units = sizeof(T) / 2;
    for (uint octet = 0; octet < uint(OCTETS); octet++) {
        float4 weights[2][2][2];
        #pragma unroll
        for (uint n = 0; n < 2; n++) {
            #pragma unroll
            for (uint h = 0; h < 2; h++) {
                const CodeOctet values = code_octet(codes.words[n][h].x);
                weights[n][h][0] = values.low * scales[2 * n + h];
                weights[n][h][1] = values.high * scales[2 * n + h];
                // The next octet's word comes to the front, since a register cannot be picked by a number. After OCTETS
                // turns all is as before, for load_words repeats a shorter step's.
                codes.words[n][h] = codes.words[n][h].yzwx;
            }
        }
        #pragma unroll
        for (uint m = 0; m < uint(part_rows<T, TILE_ROWS>() / 8); m++) {
            if (m * 8 >= pairs) {
                continue;
            }
            Octet<T> inputs[2];
            #pragma unroll
            for (uint v = 0; v < octet_units; v++) {
                #pragma unroll
                for (uint h = 0; h < 2; h++) {
                    inputs[h].words[v] =
                        x_tile[x_place(m, octet * octet_units + v, h, OCTETS * octet_units, lane)];
                }
            }
            #pragma unroll
            for (uint f = 0; f < 8; f++) {
                const float2 input = float2(value_of(inputs[0], f), value_of(inputs[1], f));
                #pragma unroll
                for (uint n = 0; n < 2; n++) {
                    const float2 weight = float2(weights[n][0][f / 4][f % 4], weights[n][1][f / 4][f % 4]);
                    sums[2 * m + n] = multiply_add(input, weight, sums[2 * m + n]);
                }
            }
        }
    }
}

// One step of the tile, all its pairs. `active` is false in a simdgroup whose rows are beyond the expert's.
template <typename T, int TILE_ROWS, int OCTETS, int K>
void take_step(
    const device T* x,
    const threadgroup uint* sources,
    uint pairs,
    uint k,
    thread const StepCodes& codes,
    const threadgroup uchar* scales,
    bool active,
    threadgroup uint4* x_tile,
    thread float2* sums,
    uint thread_index,
    uint lane
) {
    constexpr uint rows = part_rows<T, TILE_ROWS>();
    const Place place = place_of(lane);
    const uint group = (k + place.row * OCTETS * 8) / 32;
    float4 own_scales = float4(0.0f);
    #pragma unroll
    for (uint n = 0; n < 2; n++) {
        #pragma unroll
        for (uint h = 0; h < 2; h++) {
            if (active && group < uint(K / 32)) {
                own_scales[2 * n + h] = tile_scale(scales[(n * 8 + place.column + h) * (K / 32) + group]);
            }
        }
    }
    #pragma unroll
    for (uint first = 0; first < uint(TILE_ROWS); first += rows) {
        if (first < pairs) {
            stage_x<T, TILE_ROWS, OCTETS, K>(x, sources, first, pairs, k, x_tile, thread_index);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (active) {
                multiply_step<T, TILE_ROWS, OCTETS>(
                    x_tile, codes, own_scales, pairs - first, sums + first / 4, lane
                );
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
}

// The whole product of a tile. Each thread below TILE_ROWS has put the row of x of its pair into `sources` before;
// `blocks` and `scales` are those of the expert, `row` is the first of the 64 columns. sums[2 m + n] is a lane's share
// of pairs 8 m .. 8 m + 7 and columns 8 n .. 8 n + 7 of its simdgroup, and must be given back 2^14 (WEIGHT_FACTOR).
template <typename T, int TILE_ROWS, int K, int ROWS>
void multiply_tile(
    const device T* x,
    const threadgroup uint* sources,
    uint pairs,
    const device uint* blocks,
    const device uchar* scales,
    uint row,
    threadgroup uint4* x_tile,
    threadgroup uint4* scale_tile,
    thread float2* sums,
    uint thread_index,
    uint simdgroup_index,
    uint lane
) {
    static_assert(K % 32 == 0 && ROWS % 32 == 0, "whole groups of 32 weights; scales of a tile in whole 16 bytes");
    static_assert(TILE_ROWS % 8 == 0, "whole 8x8 matrices");
    constexpr uint last = last_step(K);
    const Place place = place_of(lane);
    const uint column = simdgroup_index * SIMDGROUP_COLUMNS;
    const bool active = row + column < uint(ROWS);
    const device uint* own_blocks = blocks + (row + column) * (K / 8);
    const threadgroup uchar* own_scales =
        reinterpret_cast<const threadgroup uchar*>(scale_tile) + column * (K / 32);
    #pragma unroll
    for (uint i = 0; i < TILE_ROWS / 4; i++) {
        sums[i] = float2(0.0f);
    }
    stage_scales<K>(scales, row, ROWS, scale_tile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    StepCodes codes = {};
    if (active) {
        codes = load_codes<K>(own_blocks, 0, place);
    }
    for (uint k = 0; k < last; k += STEP_K) {
        StepCodes next = codes;
        if (active) {
            next = load_codes<K>(own_blocks, k + STEP_K, place);
        }
        take_step<T, TILE_ROWS, STEP_OCTETS, K>(
            x, sources, pairs, k, codes, own_scales, active, x_tile, sums, thread_index, lane
        );
        codes = next;
    }
    take_step<T, TILE_ROWS, last_octets(K), K>(
        x, sources, pairs, last, codes, own_scales, active, x_tile, sums, thread_index, lane
    );
}
