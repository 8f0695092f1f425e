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
//     CHUNK                                  values of a row that one lane takes at a time
//     add(row, chunk, x, x_sum, sum)         adds the products of that chunk with x[0..CHUNK/4), in float
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

// Adds the products of one chunk of the staged vector with that chunk of each row.
template <int ROWS, int K, typename T, typename Weights>
inline void add_chunk(
    const Weights weights,
    const thread uint* rows,
    const threadgroup vec<T, 4>* planes,
    uint chunk,
    thread float4* sums
) {
    constexpr uint chunks = K / Weights::CHUNK;
    constexpr int quads = Weights::CHUNK / 4;
    float4 x[quads];
    float4 x_sums = float4(0.0f);
    for (int p = 0; p < quads; p++) {
        x[p] = to_float<T>(planes[p * chunks + chunk]);
        x_sums += x[p];
    }
    // Only offsets of quantised groups ask for it; elsewhere the compiler leaves the sum out.
    const float x_sum = (x_sums.x + x_sums.y) + (x_sums.z + x_sums.w);
    for (int r = 0; r < ROWS; r++) {
        weights.add(rows[r], chunk, x, x_sum, sums[r]);
    }
}

// totals[r] = row rows[r] times the staged vector, summed over the simdgroup, for each of its lanes. LANES lanes share
// the rows, of which the caller is number `lane`: 32 where a simdgroup owns rows, THREADS where a threadgroup does. All
// rounds but the last are whole, so their loads need no mask and can be under way together.
template <int ROWS, int K, int LANES, typename T, typename Weights>
void multiply_rows(
    const Weights weights,
    const thread uint* rows,
    const threadgroup vec<T, 4>* planes,
    uint lane,
    thread float* totals
) {
    constexpr uint chunks = K / Weights::CHUNK;
    constexpr uint whole = chunks / LANES * LANES;
    float4 sums[ROWS];
    for (int r = 0; r < ROWS; r++) {
        sums[r] = float4(0.0f);
    }
    for (uint round = 0; round < whole; round += LANES) {
        add_chunk<ROWS, K, T>(weights, rows, planes, round + lane, sums);
    }
    if (whole + lane < chunks) {
        add_chunk<ROWS, K, T>(weights, rows, planes, whole + lane, sums);
    }
    for (int r = 0; r < ROWS; r++) {
        totals[r] = simd_sum((sums[r].x + sums[r].y) + (sums[r].z + sums[r].w));
    }
}
