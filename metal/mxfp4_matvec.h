// Rows of an MXFP4 matrix times one vector, by one simdgroup.
//
// A row of K values is K / 32 groups: 16 bytes of codes and one byte of scale each. A lane takes whole groups: lane l
// takes groups l, l + 32, l + 64, ..., so that a simdgroup loads 512 bytes of codes side by side and 32 scales side by
// side, and a group's scale is applied once, to its sum.
//
// The vector waits in threadgroup memory, cut into planes so that 32 lanes read 32 neighbours:
//
//     value i = group * 32 + 4 * p + c   lies in   planes[p * groups + group][c]        groups = K / 32, p = 0..7
//
// It keeps its dtype there: 16-bit values take half the memory, and half the traffic, of float.
#include <metal_stdlib>
#include "mxfp4.h"
using namespace metal;

// Stages x[0..K) as planes[0..K / 4). All `threads` threads of the threadgroup call it; a barrier must follow before
// the planes are read.
template <int K, typename T>
void stage_groups(const device T* x, threadgroup vec<T, 4>* planes, uint thread_index, uint threads) {
    static_assert(K % 32 == 0, "a row is whole groups");
    constexpr uint groups = K / 32;
    const device vec<T, 4>* quads = reinterpret_cast<const device vec<T, 4>*>(x);
    for (uint quad = thread_index; quad < groups * 8; quad += threads) {
        planes[(quad % 8) * groups + quad / 8] = quads[quad];
    }
}

// Adds to sums[r] this lane's share of row r times the staged vector, for ROWS rows that follow each other from
// `blocks` and `scales` on. The rows share each load of the vector.
template <int K, int ROWS, typename T>
void add_row_products(
    const device uint* blocks,
    const device uchar* scales,
    const threadgroup vec<T, 4>* planes,
    thread float* sums,
    uint lane
) {
    constexpr uint groups = K / 32;
    constexpr uint rows = ROWS;
    const device uint4* codes = reinterpret_cast<const device uint4*>(blocks);
    for (uint group = lane; group < groups; group += 32) {
        uint4 words[ROWS];
        uchar row_scales[ROWS];
        float4 products[ROWS];
        // Loops are unrolled so that these arrays are registers.
        #pragma clang loop unroll(full)
        for (uint row = 0; row < rows; row++) {
            words[row] = codes[row * groups + group];
            row_scales[row] = scales[row * groups + group];
            products[row] = float4(0.0f);
        }
        #pragma clang loop unroll(full)
        for (uint octet = 0; octet < 4; octet++) {
            const float4 low = float4(planes[(2 * octet) * groups + group]);
            const float4 high = float4(planes[(2 * octet + 1) * groups + group]);
            #pragma clang loop unroll(full)
            for (uint row = 0; row < rows; row++) {
                const CodeOctet values = code_octet(words[row][octet]);
                products[row] = fma(values.low, low, products[row]);
                products[row] = fma(values.high, high, products[row]);
            }
        }
        #pragma clang loop unroll(full)
        for (uint row = 0; row < rows; row++) {
            const float4 p = products[row];
            sums[row] += scaled((p.x + p.y) + (p.z + p.w), row_scales[row]);
        }
    }
}
