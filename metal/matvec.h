// What every matrix-vector kernel shares: a vector staged in threadgroup memory so that lanes read it side by side,
// with or without an RMSNorm on the way, and the loop that multiplies rows of a matrix with it.
//
// A lane takes chunks of CHUNK consecutive values of a row: lane l takes chunks l, l + 32, l + 64, ... Read from device
// memory as they lie, 32 lanes would touch addresses CHUNK values apart. Staged, the vector is cut into planes of
// quads:
//
//     value i = chunk * CHUNK + 4 * p + c   lies in   planes[p * chunks + chunk][c]        chunks = K / CHUNK
//
// so that in each plane 32 lanes read 32 neighbouring quads. Threadgroup memory: K values of T, the dtype of
// activations: what is staged was T before or is rounded to it, and half the memory lets a core hold more threadgroups.
//
// How the rows are stored is a type of its own (`Dense` in dense.h, `Affine` in affine.h) with
//
//     CHUNK                                    values of a row that one lane takes at a time
//     ROUNDS                                   rounds of 32 neighbouring chunks that cover 32 groups
//     Group                                    what else is stored for a group of values: nothing, or scale and offset
//     group(row, chunk, rounds, lane)          loads one group a lane, of those that `rounds` rounds from `chunk` on need
//     of_chunk(group, round, lane)             the group of the lane's chunk in that round; all 32 lanes ask
//     add(row, chunk, group, x, x_sum, sum)    adds the products of that chunk with x[0..CHUNK/4), in float
//
// Every product is an explicit fma and every sum has one order, so that two kernels that multiply the same row with the
// same vector get the same bits.
#include <metal_stdlib>
using namespace metal;

// Threads of a threadgroup that calls `stage_normed`: eight simdgroups.
constant constexpr int THREADS = 256;
constant constexpr int SIMDGROUPS = THREADS / 32;

// Where in `planes` the values 4 * quad to 4 * quad + 3 lie.
template <int K, int CHUNK>
inline uint plane_index(uint quad) {
    return quad % (CHUNK / 4) * (K / CHUNK) + quad / (CHUNK / 4);
}

// x[4 * quad .. 4 * quad + 3] in one load.
template <typename T>
inline vec<T, 4> load_quad(const device T* x, uint quad) {
    return reinterpret_cast<const device vec<T, 4>*>(x)[quad];
}

template <typename T>
inline float4 to_float(vec<T, 4> quad) {
    return float4(float(quad.x), float(quad.y), float(quad.z), float(quad.w));
}

template <typename T>
inline vec<T, 4> to_quad(float4 values) {
    return vec<T, 4>(T(values.x), T(values.y), T(values.z), T(values.w));
}

// Stages x[0..K). All `threads` threads of the threadgroup call it; a barrier must follow before planes is read.
template <int K, int CHUNK, typename T>
void stage(const device T* x, threadgroup vec<T, 4>* planes, uint thread_index, uint threads) {
    static_assert(K % CHUNK == 0 && CHUNK % 4 == 0, "a row is whole chunks, a chunk whole float4");
    for (uint quad = thread_index; quad < K / 4; quad += threads) {
        planes[plane_index<K, CHUNK>(quad)] = load_quad(x, quad);
    }
}

// The sum of the simdgroups' `own`, in their order, for every thread. A barrier must follow before `partial`
// (SIMDGROUPS floats) is written again.
inline float sum_of_simdgroups(float own, threadgroup float* partial, uint lane, uint simdgroup) {
    if (lane == 0) {
        partial[simdgroup] = own;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0;
    for (int i = 0; i < SIMDGROUPS; i++) {
        sum += partial[i];
    }
    return sum;
}

// Stages x / sqrt(mean(x^2) + eps) * weight, computed in float and rounded to T as one who stored it would. x is read
// from device memory once and kept in registers in between. All THREADS threads call it; a barrier must follow before
// planes is read or `partial` written.
template <int K, int CHUNK, typename T>
void stage_normed(
    const device T* x,
    const device T* weight,
    float eps,
    threadgroup vec<T, 4>* planes,
    threadgroup float* partial,
    uint thread_index,
    uint lane,
    uint simdgroup
) {
    static_assert(K % CHUNK == 0 && CHUNK % 4 == 0, "a row is whole chunks, a chunk whole float4");
    constexpr uint quads = K / 4;
    constexpr int own = (quads + THREADS - 1) / THREADS;
    float4 values[own];
    float squares = 0;
    for (int n = 0; n < own; n++) {
        const uint quad = thread_index + n * THREADS;
        values[n] = quad < quads ? to_float<T>(load_quad(x, quad)) : float4(0.0f);
        const float4 square = values[n] * values[n];
        squares += (square.x + square.y) + (square.z + square.w);
    }
    const float mean = sum_of_simdgroups(simd_sum(squares), partial, lane, simdgroup) / float(K);
    const float scale = precise::rsqrt(mean + eps);
    for (int n = 0; n < own; n++) {
        const uint quad = thread_index + n * THREADS;
        if (quad < quads) {
            const float4 normed = to_float<T>(load_quad(weight, quad)) * (values[n] * scale);
            planes[plane_index<K, CHUNK>(quad)] = to_quad<T>(normed);
        }
    }
}

// Adds the products of one round: chunk first + lane of the staged vector with that chunk of each row. WHOLE: there is
// one for each lane.
template <int ROWS, int K, bool WHOLE, typename T, typename Weights>
inline void add_round(
    const Weights weights,
    const thread uint* rows,
    const thread typename Weights::Group* held,
    const threadgroup vec<T, 4>* planes,
    uint first,
    uint round,
    uint lane,
    thread float4* sums
) {
    constexpr uint chunks = K / Weights::CHUNK;
    constexpr int quads = Weights::CHUNK / 4;
    // Before the mask: a lane may ask one that has no chunk itself.
    typename Weights::Group groups[ROWS];
    for (int r = 0; r < ROWS; r++) {
        groups[r] = Weights::of_chunk(held[r], round, lane % 32);
    }
    const uint chunk = first + lane;
    if (!WHOLE && chunk >= chunks) {
        return;
    }
    float4 x[quads];
    float4 x_sums = float4(0.0f);
    for (int p = 0; p < quads; p++) {
        x[p] = to_float<T>(planes[p * chunks + chunk]);
        x_sums += x[p];
    }
    // Only offsets of quantised groups ask for it; elsewhere the compiler leaves the sum out.
    const float x_sum = (x_sums.x + x_sums.y) + (x_sums.z + x_sums.w);
    for (int r = 0; r < ROWS; r++) {
        weights.add(rows[r], chunk, groups[r], x, x_sum, sums[r]);
    }
}

// Adds the products of CHUNKS chunks from `first` on, whose groups the lanes hold one each. All rounds but the last are
// whole, so their loads need no mask and can be under way together.
template <int ROWS, int K, int LANES, int CHUNKS, typename T, typename Weights>
inline void add_span(
    const Weights weights,
    const thread uint* rows,
    const threadgroup vec<T, 4>* planes,
    uint first,
    uint lane,
    thread float4* sums
) {
    constexpr uint whole = CHUNKS / LANES;
    constexpr uint rounds = (CHUNKS + LANES - 1) / LANES;
    typename Weights::Group held[ROWS];
    for (int r = 0; r < ROWS; r++) {
        held[r] = weights.group(rows[r], first + lane / 32 * 32, rounds, lane % 32);
    }
    for (uint round = 0; round < whole; round++) {
        add_round<ROWS, K, true, T>(weights, rows, held, planes, first + round * LANES, round, lane, sums);
    }
    if constexpr (whole < rounds) {
        add_round<ROWS, K, false, T>(weights, rows, held, planes, first + whole * LANES, whole, lane, sums);
    }
}

// totals[r] = row rows[r] times the staged vector, summed over the simdgroup, for each of its lanes. LANES lanes share
// the rows, of which the caller is number `lane`: 32 where a simdgroup owns rows, THREADS where a threadgroup does. Its
// simdgroups then take turns, and no two rounds of one are neighbours.
template <int ROWS, int K, int LANES, typename T, typename Weights>
void multiply_rows(
    const Weights weights,
    const thread uint* rows,
    const threadgroup vec<T, 4>* planes,
    uint lane,
    thread float* totals
) {
    constexpr uint chunks = K / Weights::CHUNK;
    constexpr uint span = LANES == 32 ? 32 * Weights::ROUNDS : LANES;
    constexpr uint whole = chunks / span * span;
    float4 sums[ROWS];
    for (int r = 0; r < ROWS; r++) {
        sums[r] = float4(0.0f);
    }
    for (uint first = 0; first < whole; first += span) {
        add_span<ROWS, K, LANES, span, T>(weights, rows, planes, first, lane, sums);
    }
    if constexpr (whole < chunks) {
        add_span<ROWS, K, LANES, chunks - whole, T>(weights, rows, planes, whole, lane, sums);
    }
    for (int r = 0; r < ROWS; r++) {
        totals[r] = simd_sum((sums[r].x + sums[r].y) + (sums[r].z + sums[r].w));
    }
}
