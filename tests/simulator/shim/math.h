// metal_math, metal_common, metal_integer, metal_relational, metal_geometric. Computed in float and rounded to the
// argument's type; as accurate as the C library, which is more than Metal promises.
#pragma once
#include "vectors.h"

extern "C" {
float powf(float, float);
float fmodf(float, float);
float atan2f(float, float);
float ldexpf(float, int);
float frexpf(float, int*);
int ilogbf(float);
}

namespace metal {

// V with elements of type T.
template <class V, class T>
using with_element_t = conditional_t<is_vector<V>, vec<T, is_vector<V> ? size_of_vector<V> : 2>, T>;

// half and bfloat as float; integers too.
template <class A>
SHIM auto widen(const A& a) {
    using V = bare<A>;
    const V value = a;
    if constexpr (is_vector<V>) return __builtin_convertvector(value, with_element_t<V, float>);
    else return (float)value;
}

// The type of a function's result for an argument of type A: itself, or float for an integer.
template <class A>
using float_type = conditional_t<is_float_type<element_of<A>>, bare<A>, with_element_t<bare<A>, float>>;

template <class T, class W>
SHIM T narrow(W wide) {
    if constexpr (is_vector<T>) return __builtin_convertvector(wide, T);
    else return (T)wide;
}

// f of every element.
#define EACH(V, X, EXPRESSION)                                             \
    [&]() __attribute__((always_inline, nodebug)) {                        \
        if constexpr (is_vector<V>) {                                      \
            V result;                                                      \
            for (int i = 0; i < size_of_vector<V>; i++) {                  \
                const float x = X[i];                                      \
                result[i] = EXPRESSION;                                    \
            }                                                              \
            return result;                                                 \
        } else {                                                           \
            const float x = X;                                             \
            return (float)(EXPRESSION);                                    \
        }                                                                  \
    }()

// Metal has one function for each type. Where no argument decides between them, a call is ambiguous: an integer where
// there are half and float, scalars of two types where there is each.
#define REFUSE_INTEGER(A) static_assert(is_float_type<element_of<A>>, "ambiguous in Metal: an integer where there is half and float")
#define REFUSE_MIXED(A, B)                                                            \
    static_assert(is_vector<bare<A>> || is_vector<bare<B>> || is_same_v<bare<A>, bare<B>>, \
                  "ambiguous in Metal: scalars of two types")

#define UNARY(NAME, EXPRESSION)                                  \
    template <class A>                                           \
    SHIM float_type<A> NAME(const A& a) {                        \
        REFUSE_INTEGER(A);                                       \
        const auto x = widen(a);                                 \
        return narrow<float_type<A>>(EXPRESSION);                \
    }
#define UNARY_EACH(NAME, EXPRESSION)                                         \
    template <class A>                                                       \
    SHIM float_type<A> NAME(const A& a) {                                    \
        REFUSE_INTEGER(A);                                                   \
        const auto wide = widen(a);                                          \
        return narrow<float_type<A>>(EACH(decltype(widen(a)), wide, EXPRESSION)); \
    }

// The type of an operation on A and B: the vector's, or what they promote to.
template <class A, class B>
SHIM auto common_value() {
    if constexpr (is_vector<A> || is_same_v<A, B>) return A();
    else if constexpr (is_vector<B>) return B();
    else return A() + B();
}
template <class A, class B>
using common_type_t = decltype(common_value<bare<A>, bare<B>>());

#define BINARY(NAME, EXPRESSION)                                                   \
    template <class A, class B>                                                    \
    SHIM common_type_t<A, B> NAME(const A& a, const B& b) {                        \
        REFUSE_MIXED(A, B);                                                        \
        using V = common_type_t<A, B>;                                             \
        const V left = (V)a, right = (V)b;                                         \
        if constexpr (is_vector<V>) {                                              \
            V result;                                                              \
            for (int i = 0; i < size_of_vector<V>; i++) {                          \
                const float x = left[i], y = right[i];                             \
                result[i] = (element_of<V>)(EXPRESSION);                           \
            }                                                                      \
            return result;                                                         \
        } else {                                                                   \
            const float x = left, y = right;                                       \
            return (V)(EXPRESSION);                                                \
        }                                                                          \
    }

#define MATH_FUNCTIONS                                    \
    UNARY(exp, __builtin_elementwise_exp(x))              \
    UNARY(exp2, __builtin_elementwise_exp2(x))            \
    UNARY_EACH(exp10, powf(10.0f, x))                     \
    UNARY(log, __builtin_elementwise_log(x))              \
    UNARY(log2, __builtin_elementwise_log2(x))            \
    UNARY(log10, __builtin_elementwise_log10(x))          \
    UNARY(sin, __builtin_elementwise_sin(x))              \
    UNARY(cos, __builtin_elementwise_cos(x))              \
    UNARY_EACH(tan, __builtin_tanf(x))                    \
    UNARY_EACH(sinh, __builtin_sinhf(x))                  \
    UNARY_EACH(cosh, __builtin_coshf(x))                  \
    UNARY_EACH(tanh, __builtin_tanhf(x))                  \
    UNARY_EACH(asin, __builtin_asinf(x))                  \
    UNARY_EACH(acos, __builtin_acosf(x))                  \
    UNARY_EACH(atan, __builtin_atanf(x))                  \
    UNARY_EACH(asinh, __builtin_asinhf(x))                \
    UNARY_EACH(acosh, __builtin_acoshf(x))                \
    UNARY_EACH(atanh, __builtin_atanhf(x))                \
    UNARY(sqrt, __builtin_elementwise_sqrt(x))            \
    UNARY(rsqrt, 1.0f / __builtin_elementwise_sqrt(x))    \
    UNARY(ceil, __builtin_elementwise_ceil(x))            \
    UNARY(floor, __builtin_elementwise_floor(x))          \
    UNARY(round, __builtin_elementwise_round(x))          \
    UNARY(rint, __builtin_elementwise_rint(x))            \
    UNARY(trunc, __builtin_elementwise_trunc(x))          \
    UNARY(fract, x - __builtin_elementwise_floor(x))      \
    BINARY(pow, powf(x, y))                               \
    BINARY(powr, powf(x, y))                              \
    BINARY(fmod, fmodf(x, y))                             \
    BINARY(atan2, atan2f(x, y))                           \
    BINARY(copysign, __builtin_copysignf(x, y))           \
    BINARY(divide, x / y)                                 \
    BINARY(fmax, __builtin_fmaxf(x, y))                   \
    BINARY(fmin, __builtin_fminf(x, y))
MATH_FUNCTIONS
namespace fast {
MATH_FUNCTIONS
}
namespace precise {
MATH_FUNCTIONS
}

template <class A>
SHIM A sincos(A a, thread A& cosine) {
    cosine = cos(a);
    return sin(a);
}

// Of a number and a NaN, the number.
template <class T>
SHIM T larger(T a, T b) { return a != a ? b : b != b ? a : a > b ? a : b; }
template <class T>
SHIM T smaller(T a, T b) { return a != a ? b : b != b ? a : a < b ? a : b; }

#define EXTREME(NAME, PICK)                                                        \
    template <class A, class B>                                                    \
    SHIM common_type_t<A, B> NAME(const A& a, const B& b) {                        \
        REFUSE_MIXED(A, B);                                                        \
        using V = common_type_t<A, B>;                                             \
        const V left = (V)a, right = (V)b;                                         \
        if constexpr (is_vector<V>) {                                              \
            V result;                                                              \
            for (int i = 0; i < size_of_vector<V>; i++) result[i] = PICK(left[i], right[i]); \
            return result;                                                         \
        } else {                                                                   \
            return PICK(left, right);                                              \
        }                                                                          \
    }
EXTREME(max, larger)
EXTREME(min, smaller)
#undef EXTREME
template <class A, class B, class C>
SHIM auto max3(const A& a, const B& b, const C& c) { return max(max(a, b), c); }
template <class A, class B, class C>
SHIM auto min3(const A& a, const B& b, const C& c) { return min(min(a, b), c); }
template <class A, class B, class C>
SHIM auto clamp(const A& x, const B& low, const C& high) { return min(max(x, low), high); }
template <class A>
SHIM A saturate(A x) { return clamp(x, A(0), A(1)); }

template <class A, class B, class C>
SHIM auto fma(const A& a, const B& b, const C& c) {
    using V = common_type_t<common_type_t<A, B>, C>;
    return narrow<V>(__builtin_elementwise_fma(widen((V)a), widen((V)b), widen((V)c)));
}
template <class A, class B, class C>
SHIM auto mix(const A& a, const B& b, const C& t) { return a + (b - a) * t; }

template <class A>
SHIM bare<A> abs(const A& a) {
    using V = bare<A>;
    const V x = a;
    if constexpr (is_float_type<element_of<V>>) {
        return narrow<V>(__builtin_elementwise_abs(widen(x)));
    } else if constexpr (is_unsigned_v<element_of<V>>) {
        return x;
    } else if constexpr (is_vector<V>) {
        return __builtin_elementwise_abs(x);
    } else {
        return (V)(x < 0 ? -x : x);
    }
}
template <class A>
SHIM auto fabs(const A& a) { return abs(a); }
template <class A>
SHIM A sign(A x) { return x > A(0) ? A(1) : x < A(0) ? A(-1) : A(0); }
template <class A>
SHIM A ldexp(A a, int exponent) { return (A)ldexpf((float)a, exponent); }
template <class A>
SHIM A frexp(A a, thread int& exponent) { return (A)frexpf((float)a, &exponent); }
template <class A>
SHIM int ilogb(A a) { return ilogbf((float)a); }
template <class A>
SHIM A modf(A a, thread A& whole) {
    whole = (A)__builtin_truncf((float)a);
    return a - whole;
}

// ---- Relations.

template <class A>
SHIM auto isnan(A x) {
    if constexpr (is_vector<A>) return bool_vector<size_of_vector<A>>(x != x);
    else return (bool)(x != x);
}
template <class A>
SHIM bool isinf(A x) { return __builtin_isinf((float)x); }
template <class A>
SHIM bool isfinite(A x) { return __builtin_isfinite((float)x); }
template <class A>
SHIM bool signbit(A x) { return __builtin_signbit((float)x); }

template <class A, class B, class M>
SHIM common_type_t<A, B> select(const A& if_false, const B& if_true, const M& mask) {
    using V = common_type_t<A, B>;
    V result = (V)if_false;
    const V other = (V)if_true;
    if constexpr (is_vector<V>) {
        for (int i = 0; i < size_of_vector<V>; i++) {
            if (mask[i]) result[i] = other[i];
        }
        return result;
    } else {
        return mask ? other : result;
    }
}
template <class V>
SHIM bool all(const V& mask) {
    bool result = true;
    if constexpr (components<V> == 1) result = mask;
    else for (int i = 0; i < components<V>; i++) result = result && mask[i];
    return result;
}
template <class V>
SHIM bool any(const V& mask) {
    bool result = false;
    if constexpr (components<V> == 1) result = mask;
    else for (int i = 0; i < components<V>; i++) result = result || mask[i];
    return result;
}

// ---- Geometry.

template <class A, class B>
SHIM auto dot(const A& a, const B& b) {
    element_of<A> sum = a[0] * b[0];
    for (int i = 1; i < size_of_vector<A>; i++) sum += a[i] * b[i];
    return sum;
}
template <class A>
SHIM auto length_squared(const A& a) { return dot(a, a); }
template <class A>
SHIM auto length(const A& a) { return sqrt(dot(a, a)); }

// ---- Integers.

template <class A>
using unsigned_of = conditional_t<sizeof(A) == 8, ulong, conditional_t<sizeof(A) == 4, uint,
    conditional_t<sizeof(A) == 2, ushort, uchar>>>;

template <class A, class B>
SHIM common_type_t<A, B> addsat(A a, B b) {
    return __builtin_elementwise_add_sat((common_type_t<A, B>)a, (common_type_t<A, B>)b);
}
template <class A, class B>
SHIM common_type_t<A, B> subsat(A a, B b) {
    return __builtin_elementwise_sub_sat((common_type_t<A, B>)a, (common_type_t<A, B>)b);
}
template <class A>
SHIM A absdiff(A a, A b) { return a > b ? a - b : b - a; }
template <class A>
SHIM A popcount(A a) {
    if constexpr (is_vector<A>) return __builtin_elementwise_popcount(a);
    else return (A)__builtin_popcountl((unsigned_of<A>)a);
}
template <class A>
SHIM A clz(A a) {
    constexpr int bits = 8 * sizeof(A);
    return a == 0 ? A(bits) : A(__builtin_clzl((unsigned_of<A>)a) - (64 - bits));
}
template <class A>
SHIM A ctz(A a) { return a == 0 ? A(8 * sizeof(A)) : A(__builtin_ctzl((unsigned_of<A>)a)); }
template <class A>
SHIM A mulhi(A a, A b) {
    if constexpr (sizeof(A) == 8) {
        return (A)(((conditional_t<is_signed_v<A>, __int128, unsigned __int128>)a * b) >> 64);
    } else {
        return (A)(((conditional_t<is_signed_v<A>, long, ulong>)a * b) >> (8 * sizeof(A)));
    }
}
template <class A>
SHIM A rotate(A a, A by) {
    constexpr int bits = 8 * sizeof(A);
    const unsigned_of<A> value = (unsigned_of<A>)a;
    const int left = (int)by & (bits - 1);
    return left ? (A)((value << left) | (value >> (bits - left))) : a;
}
template <class A>
SHIM A extract_bits(A a, uint offset, uint count) {
    constexpr uint bits = 8 * sizeof(A);
    if (count == 0) return 0;
    const unsigned_of<A> up = (unsigned_of<A>)a << (bits - offset - count);
    return (A)up >> (bits - count);
}
template <class A>
SHIM A insert_bits(A base, A insert, uint offset, uint count) {
    if (count == 0) return base;
    const unsigned_of<A> mask = (unsigned_of<A>)((unsigned_of<A>)~0ul >> (8 * sizeof(A) - count)) << offset;
    return (A)(((unsigned_of<A>)base & ~mask) | (((unsigned_of<A>)insert << offset) & mask));
}
template <class A>
SHIM A reverse_bits(A a) {
    A result = 0;
    for (uint i = 0; i < 8 * sizeof(A); i++) result |= ((a >> i) & 1) << (8 * sizeof(A) - 1 - i);
    return result;
}
template <class A, class B, class C>
SHIM auto mad24(A a, B b, C c) { return a * b + c; }

}  // namespace metal
