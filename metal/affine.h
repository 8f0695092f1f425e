// Rows of a matrix in MLX's affine quantisation: `scale * code + offset`, scale and offset shared by GROUP values of a
// row, the unsigned codes of BITS bits one after the other in little-endian words.
//
// Codes become floats without a conversion from integers: a half whose exponent bits are zero is its mantissa times
// 2^-24, exactly. Two codes at once, one in each half of a word:
//
//     half    s eeeee mmmmmmmmmm
//     code    0 00000 00cccccccc         = code * 2^-24
//
// The factor 2^24 is given back to the scale as it is loaded. Offsets meet the sum of the chunk's x alone.
//
// A group is ROUNDS chunks. Did every lane load the scale and offset of its chunk, each would be loaded ROUNDS times.
// So each lane loads those of one group, 32 neighbours of a row in all: enough for ROUNDS rounds, in each of which every
// lane asks the one that holds its chunk's group. For ROUNDS = 4:
//
//     lane             0   1   2   3   4   5   6   7  ...  28  29  30  31
//     holds group      0   1   2   3   4   5   6   7  ...  28  29  30  31
//
//     round 0, chunk   0   1   2   3   4   5   6   7  ...  28  29  30  31
//              asks    0   0   0   0   1   1   1   1  ...   7   7   7   7
//     round 1, chunk  32  33  34  35  36  37  38  39  ...  60  61  62  63
//              asks    8   8   8   8   9   9   9   9  ...  15  15  15  15
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

// 16 codes in one load of 12 bytes: three words that hold four units of 24 bits.
//
//     a unit     333333 222222 111111 000000                 code of each bit, four codes in three bytes
//
//     word 0     11111111 00000000 00000000 00000000         unit of each bit
//     word 1     22222222 22222222 11111111 11111111
//     word 2     33333333 33333333 33333333 22222222
template <>
struct Codes<6> {
    static constant constexpr int CHUNK = 16;

    static void load(const device uint* codes, uint chunk, thread float4* values) {
        const packed_uint3 words = reinterpret_cast<const device packed_uint3*>(codes)[chunk];
        values[0] = unit(words[0]);
        values[1] = unit(words[0] >> 24 | words[1] << 8);
        values[2] = unit(words[1] >> 16 | words[2] << 16);
        values[3] = unit(words[2] >> 8);
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
    static_assert(GROUP % CHUNK == 0 && K % GROUP == 0, "a chunk has one scale, a row whole groups");
    static constant constexpr int ROUNDS = GROUP / CHUNK;
    // Scale times 2^24, and offset.
    using Group = float2;
    const device uint* codes;
    const device S* scales;
    const device S* offsets;

    Group group(uint row, uint chunk, uint rounds, uint lane) const {
        const uint own = chunk / ROUNDS + lane;
        // A row's last groups may be fewer, and fewer rounds need no more.
        if (lane >= rounds * (32 / ROUNDS) || own >= uint(K / GROUP)) {
            return float2(0.0f);
        }
        const uint index = row * uint(K / GROUP) + own;
        return float2(float(scales[index]) * 16777216.0f, float(offsets[index]));
    }

    static Group of_chunk(Group group, uint round, uint lane) {
        if constexpr (ROUNDS == 1) {
            return group;
        } else {
            return simd_shuffle(group, ushort(round * (32 / ROUNDS) + lane / ROUNDS));
        }
    }

    void add(uint row, uint chunk, Group group, const thread float4* x, float x_sum, thread float4& sum) const {
        float4 values[CHUNK / 4];
        Codes<BITS>::load(codes, row * uint(K / CHUNK) + chunk, values);
        float4 product = float4(0.0f);
        for (int p = 0; p < CHUNK / 4; p++) {
            product = fma(values[p], x[p], product);
        }
        sum = fma(float4(group.x), product, sum);
        sum.x = fma(group.y, x_sum, sum.x);
    }
};
