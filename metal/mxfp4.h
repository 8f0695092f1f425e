// The MXFP4 format: 32 E2M1 codes that share one E8M0 scale.
//
//     a code     s e e m        value (-1)^s * {0, 0.5, 1, 1.5, 2, 3, 4, 6}[eem]
//     a word     nnnn nnnn nnnn nnnn nnnn nnnn nnnn nnnn      eight codes, the first in the lowest four bits
//     a scale    eeeeeeee       2^(e - 127); 255 (not a number) never reaches a kernel
//
// A code becomes a half by moving its bits: s to the sign, ee to the low end of the exponent, m to the top of the
// mantissa.
//
//     half    s eeeee mmmmmmmmmm
//     code    s 000ee m000000000         = value * 2^-14, exactly, subnormal 0.5 included
//
// Two codes at once: those in the low and the high half of a 32-bit word, four apart. The factor 2^14 is given back
// where the scale is applied.
#include <metal_stdlib>
using namespace metal;

// Codes N and N + 4 of the word, N = 0..3, as values times 2^-14. The word moves up until both codes lead their half:
//
//     half           s eem xxxxxxxxxxxx
//     & 0x8000       s
//     >> 3              000 eem             & 0x0e00
template <int N>
inline half2 code_pair(uint word) {
    const uint codes = word << (12 - 4 * N);
    return as_type<half2>((codes & 0x80008000u) | ((codes >> 3) & 0x0e000e00u));
}

// Eight codes of a word in order, as values times 2^-14: `low` the first four, `high` the last four.
struct CodeOctet {
    float4 low;
    float4 high;
};

inline CodeOctet code_octet(uint word) {
    const half2 a = code_pair<0>(word), b = code_pair<1>(word), c = code_pair<2>(word), d = code_pair<3>(word);
    CodeOctet octet;
    octet.low = float4(float(a.x), float(b.x), float(c.x), float(d.x));
    octet.high = float4(float(a.y), float(b.y), float(c.y), float(d.y));
    return octet;
}

// `sum` of products with codes from above, times its group's scale: sum * 2^14 * 2^(scale - 127). The exponent is split
// in two factors that are never subnormal, so that scales 0 and 254 come out right.
inline float scaled(float sum, uchar scale) {
    const uint exponent = uint(scale);
    const uint first = exponent >> 1;
    const float low = as_type<float>((first + 71u) << 23);
    const float high = as_type<float>((exponent - first + 70u) << 23);
    return sum * low * high;
}
