// Rows of a matrix as floating numbers: bfloat16, float16 or float32.
//
// A chunk is the 16 bytes that a lane loads at once, so that a simdgroup reads 512 neighbouring bytes of a row:
//
//     two-byte numbers   8 of them, two in each word of a uint4, the first in its low half
//     float32            4 of them
#include <metal_stdlib>
using namespace metal;

template <int K, typename W>
struct Dense {
    static constant constexpr int CHUNK = 16 / sizeof(W);
    const device W* weight;

    void add(uint row, uint chunk, const thread float4* x, float x_sum, thread float4& sum) const {
        const uint index = row * uint(K / CHUNK) + chunk;
        const uint4 words = reinterpret_cast<const device uint4*>(weight)[index];
        if constexpr (sizeof(W) == 4) {
            sum = fma(as_type<float4>(words), x[0], sum);
        } else {
            sum = fma(unpack(words.xy), x[0], sum);
            sum = fma(unpack(words.zw), x[1], sum);
        }
    }

    static float4 unpack(uint2 words) {
        const vec<W, 4> values = as_type<vec<W, 4>>(words);
        return float4(float(values.x), float(values.y), float(values.z), float(values.w));
    }
};
