// What every matrix-vector kernel shares: a vector staged in threadgroup memory so that lanes read it side by side.
//
// A lane takes chunks of CHUNK consecutive values of a row: lane l takes chunks l, l + 32, l + 64, ... Read from device
// memory as they lie, 32 lanes would touch addresses CHUNK values apart. Staged, the vector is cut into planes of float4:
//
//     value i = chunk * CHUNK + 4 * p + c   lies in   planes[p * chunks + chunk][c]        chunks = K / CHUNK
//
// so that in each plane 32 lanes read 32 neighbouring float4. Threadgroup memory: K floats.
#include <metal_stdlib>
using namespace metal;

// Stages x[0..K) as float. All `threads` threads of the threadgroup call it; a barrier must follow before planes is read.
template <int K, int CHUNK, typename X>
void stage(const device X* x, threadgroup float4* planes, uint thread_index, uint threads) {
    static_assert(K % CHUNK == 0 && CHUNK % 4 == 0, "a row is whole chunks, a chunk whole float4");
    constexpr uint chunks = K / CHUNK;
    for (uint quad = thread_index; quad < K / 4; quad += threads) {
        const uint chunk = quad / (CHUNK / 4);
        const uint plane = quad % (CHUNK / 4);
        const uint i = quad * 4;
        planes[plane * chunks + chunk] = float4(float(x[i]), float(x[i + 1]), float(x[i + 2]), float(x[i + 3]));
    }
}
