// Rows of a matrix in MLX's affine quantisation: `scale * code + offset`, scale and offset shared by GROUP values of a
// row, the unsigned codes of BITS bits one after the other in little-endian words.
//
// Codes become floats without a conversion from integers: a half whose exponent bits are zero is its mantissa times
// 2^-24, exactly. Two codes at once, one in each half of a word:
//
//     half    s eeeee mmmmmmmmmm
//     code    0 00000 00cccccccc         = code * 2^-24
//
// The factor 2^24 is given back where the scale is applied, once for a chunk. Offsets meet the sum of the chunk's x
// alone.
#include <metal_stdlib>
using namespace metal;

// CHUNK codes of a row as float4, times 2^-24: how many, and how they lie in the words of the row.
template <int BITS>
struct Codes;

// 16 codes in one load of 16 bytes.
//
//     a word     33333333 22222222 11111111 00000000         code of each bit, four codes a word
template <>
struct Codes<8> {
    static constant constexpr int CHUNK = 16;

    static void load(const device uint* codes, uint chunk, thread float4* values) {
        const uint4 words = reinterpret_cast<const device uint4*>(codes)[chunk];
        for (int w = 0; w < 4; w++) {
            const half2 even = as_type<half2>(words[w] & 0x00FF00FFu);
            const half2 odd = as_type<half2>((words[w] >> 8) & 0x00FF00FFu);
            values[w] = float4(float(even.x), float(odd.x), float(even.y), float(odd.y));
        }
    }
};

// 32 codes in one load of 16 bytes.
//
//     a word     7777 6666 5555 4444 3333 2222 1111 0000     code of each bit, eight codes a word
template <>
struct Codes<4> {
    static constant constexpr int CHUNK = 32;

    static void load(const device uint* codes, uint chunk, thread float4* values) {
        const uint4 words = reinterpret_cast<const device uint4*>(codes)[chunk];
        for (int w = 0; w < 4; w++) {
            const half2 a = pair(words[w]), b = pair(words[w] >> 4), c = pair(words[w] >> 8), d = pair(words[w] >> 12);
            values[2 * w] = float4(float(a.x), float(b.x), float(c.x), float(d.x));
            values[2 * w + 1] = float4(float(a.y), float(b.y), float(c.y), float(d.y));
        }
    }

    // Codes 0 and 4 of the word.
    static half2 pair(uint word) {
        return as_type<half2>(word & 0x000F000Fu);
    }
};

// 32 codes in three loads of 8 bytes: six words, of which each three hold four units of 24 bits.
//
//     a unit     333333 222222 111111 000000                 code of each bit, four codes in three bytes
//
//     word 0     11111111 00000000 00000000 00000000         unit of each bit
//     word 1     22222222 22222222 11111111 11111111
//     word 2     33333333 33333333 33333333 22222222
template <>
struct Codes<6> {
    static constant constexpr int CHUNK = 32;

    static void load(const device uint* codes, uint chunk, thread float4* values) {
        const device uint2* pairs = reinterpret_cast<const device uint2*>(codes) + chunk * 3u;
        const uint2 a = pairs[0], b = pairs[1], c = pairs[2];
        unpack(a.x, a.y, b.x, values);
        unpack(b.y, c.x, c.y, values + 4);
    }

    static void unpack(uint first, uint second, uint third, thread float4* values) {
        values[0] = unit(first);
        values[1] = unit(first >> 24 | second << 8);
        values[2] = unit(second >> 16 | third << 16);
        values[3] = unit(third >> 8);
    }

    // The four codes in the low 24 bits; what lies above is left out.
    //
    //     even   .......... 222222 .......... 000000           two halves, the codes in their lowest bits
    //     odd    .......... 333333 .......... 111111
    static float4 unit(uint bits) {
        const half2 even = as_type<half2>(((bits << 4) & 0x003F0000u) | (bits & 0x0000003Fu));
        const half2 odd = as_type<half2>(((bits >> 2) & 0x003F0000u) | ((bits >> 6) & 0x0000003Fu));
        return float4(float(even.x), float(odd.x), float(even.y), float(odd.y));
    }
};

template <int K, int BITS, int GROUP, typename S>
struct Affine {
    static constant constexpr int CHUNK = Codes<BITS>::CHUNK;
    static_assert(GROUP % CHUNK == 0, "a chunk has one scale");
    const device uint* codes;
    const device S* scales;
    const device S* offsets;

    void add(uint row, uint chunk, const thread float4* x, float x_sum, thread float4& sum) const {
        float4 values[CHUNK / 4];
        Codes<BITS>::load(codes, row * uint(K / CHUNK) + chunk, values);
        float4 product = float4(0.0f);
        for (int p = 0; p < CHUNK / 4; p++) {
            product = fma(values[p], x[p], product);
        }
        const uint group = row * uint(K / GROUP) + chunk / uint(GROUP / CHUNK);
        sum = fma(float4(float(scales[group]) * 16777216.0f), product, sum);
        sum.x = fma(float(offsets[group]), x_sum, sum.x);
    }
};
