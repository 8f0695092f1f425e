// Vector types, and the expressions that the rewriter puts in place of Metal's constructors and casts:
//
//     float4(a, b.xy, c)    construct<float4>(a, b.xy, c)
//     (float4)a             As<float4>{}->*a
//     static_cast<T>(a)     convert<T>(a)
#pragma once
#include "traits.h"

namespace metal {

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <class T>
struct vector_traits {
    using element = T;
    static constexpr int size = 1;
    static constexpr bool is_vector = false;
};
#define VECTOR_TRAITS(T, N)                      \
    template <> struct vector_traits<vec<T, N>> {\
        using element = T;                       \
        static constexpr int size = N;           \
        static constexpr bool is_vector = true;  \
    };
#define VECTOR_TYPES(T)          \
    VECTOR_TRAITS(T, 2)          \
    VECTOR_TRAITS(T, 3)          \
    VECTOR_TRAITS(T, 4)          \
    VECTOR_TRAITS(T, 8)          \
    using T##2 = vec<T, 2>;      \
    using T##3 = vec<T, 3>;      \
    using T##4 = vec<T, 4>;
VECTOR_TYPES(float)
VECTOR_TYPES(half)
VECTOR_TYPES(bfloat)
VECTOR_TYPES(char)
VECTOR_TYPES(uchar)
VECTOR_TYPES(short)
VECTOR_TYPES(ushort)
VECTOR_TYPES(int)
VECTOR_TYPES(uint)
VECTOR_TYPES(long)
VECTOR_TYPES(ulong)
VECTOR_TRAITS(int8_t, 2)
VECTOR_TRAITS(int8_t, 3)
VECTOR_TRAITS(int8_t, 4)
#undef VECTOR_TYPES
#undef VECTOR_TRAITS

template <class T> constexpr bool is_vector = vector_traits<bare<T>>::is_vector;
template <class T> using element_of = typename vector_traits<bare<T>>::element;
template <class T> constexpr int size_of_vector = vector_traits<bare<T>>::size;

// clang's comparisons of vectors give integers; this is what Metal's give.
template <int N>
struct bool_vector {
    bool values[N];

    bool_vector() = default;
    SHIM constexpr bool_vector(bool value) {
        for (int i = 0; i < N; i++) values[i] = value;
    }
    template <class V, enable_if_t<vector_traits<V>::is_vector && vector_traits<V>::size == N, int> = 0>
    SHIM constexpr bool_vector(V compared) {
        for (int i = 0; i < N; i++) values[i] = compared[i] != 0;
    }
    SHIM constexpr bool& operator[](int i) { return values[i]; }
    SHIM constexpr bool operator[](int i) const { return values[i]; }
    SHIM friend bool_vector operator&&(bool_vector a, bool_vector b) {
        for (int i = 0; i < N; i++) a.values[i] = a.values[i] && b.values[i];
        return a;
    }
    SHIM friend bool_vector operator||(bool_vector a, bool_vector b) {
        for (int i = 0; i < N; i++) a.values[i] = a.values[i] || b.values[i];
        return a;
    }
    SHIM friend bool_vector operator!(bool_vector a) {
        for (int i = 0; i < N; i++) a.values[i] = !a.values[i];
        return a;
    }
};
using bool2 = bool_vector<2>;
using bool3 = bool_vector<3>;
using bool4 = bool_vector<4>;
template <class T> constexpr int bool_size = 0;
template <int N> constexpr int bool_size<bool_vector<N>> = N;

template <class T>
SHIM_UNSEEN void copy_unseen(void* to, const void* from) { __builtin_memcpy(to, from, sizeof(T)); }

// Vectors with the alignment of their elements. Three elements are no power of two: a struct, which can be loaded from
// any address space, and stored to thread memory only.
template <class T>
struct packed_triple {
    union {
        T values[3];
        struct {
            T x, y, z;
        };
    };

    packed_triple() = default;
    SHIM constexpr packed_triple(const packed_triple& other) : values{other[0], other[1], other[2]} {}
    SHIM constexpr packed_triple(vec<T, 3> vector) : values{vector[0], vector[1], vector[2]} {}
    SHIM constexpr packed_triple(T a, T b, T c) : values{a, b, c} {}
    SHIM explicit constexpr packed_triple(T value) : values{value, value, value} {}
    SHIM constexpr packed_triple& operator=(const packed_triple& other) {
        for (int i = 0; i < 3; i++) values[i] = other[i];
        return *this;
    }
#ifdef STRICT_ADDRESS_SPACES
    // One load of twelve bytes, or six, not three loads.
#define LOAD_FROM(SPACE)                                                           \
    SHIM packed_triple(const __attribute__((SPACE)) packed_triple& other) {        \
        const void* from = (const void*)(uintptr_t)&other;                         \
        sim_packed_load(from, sizeof(packed_triple));                              \
        copy_unseen<packed_triple>(this, from);                                    \
    }
    LOAD_FROM(opencl_global)
    LOAD_FROM(opencl_constant)
    LOAD_FROM(opencl_local)
#undef LOAD_FROM
#endif
    SHIM constexpr operator vec<T, 3>() const { return vec<T, 3>{values[0], values[1], values[2]}; }
    SHIM constexpr T& operator[](int i) { return values[i]; }
    SHIM constexpr const T& operator[](int i) const { return values[i]; }
};
#define PACKED_TYPES(T)                                                              \
    typedef T packed_##T##2 __attribute__((ext_vector_type(2), aligned(sizeof(T)))); \
    typedef T packed_##T##4 __attribute__((ext_vector_type(4), aligned(sizeof(T)))); \
    using packed_##T##3 = packed_triple<T>;
PACKED_TYPES(float)
PACKED_TYPES(half)
PACKED_TYPES(bfloat)
PACKED_TYPES(char)
PACKED_TYPES(uchar)
PACKED_TYPES(short)
PACKED_TYPES(ushort)
PACKED_TYPES(int)
PACKED_TYPES(uint)
#undef PACKED_TYPES

// Appends the components of one constructor argument.
template <class V, class A>
SHIM constexpr void append(V& vector, int& at, const A& argument) {
    using E = element_of<V>;
    if constexpr (is_vector<A>) {
        for (int k = 0; k < size_of_vector<A>; k++) vector[at++] = (E)argument[k];
    } else if constexpr (bool_size<bare<A>> > 0) {
        for (int k = 0; k < bool_size<bare<A>>; k++) vector[at++] = (E)argument[k];
    } else {
        vector[at++] = (E)argument;
    }
}

template <class A>
constexpr int components = is_vector<A> ? size_of_vector<A> : bool_size<bare<A>> > 0 ? bool_size<bare<A>> : 1;

template <class V, class... A>
SHIM constexpr V construct(const A&... arguments) {
    if constexpr (bool_size<V> > 0) {
        if constexpr (sizeof...(A) == 1) return V(arguments...);
        else return V{{(bool)arguments...}};
    } else if constexpr (!is_vector<V>) {
        return V(arguments...);
    } else if constexpr (sizeof...(A) == 0) {
        return V(0);
    } else {
        constexpr int given = (0 + ... + components<A>);
        V vector{};
        if constexpr (sizeof...(A) == 1 && given == 1) {
            ((vector = V((element_of<V>)arguments)), ...);
        } else {
            static_assert(given == size_of_vector<V>, "vector constructor: wrong number of components");
            int at = 0;
            (append(vector, at, arguments), ...);
        }
        return vector;
    }
}

template <class T, class U>
SHIM constexpr T convert(U&& value) {
    using A = bare<T>;
    using B = bare<U>;
    if constexpr (is_vector<A>) return construct<A>(value);
    else if constexpr ((is_same_v<A, bfloat> && is_same_v<B, half>) || (is_same_v<A, half> && is_same_v<B, bfloat>)) {
        return (T)(float)value;
    } else {
        return static_cast<T>(static_cast<U&&>(value));
    }
}

template <class T>
struct As {
    template <class U>
    SHIM constexpr T operator->*(const U& value) const { return construct<T>(value); }
};

template <class T, class U>
SHIM T as_type(const U& value) {
    const bare<U> from = value;
    static_assert(sizeof(T) == sizeof from, "as_type: sizes differ");
    return __builtin_bit_cast(T, from);
}

template <class T, size_t N>
struct array {
    T values[N];
    SHIM constexpr T& operator[](size_t i) { return values[i]; }
    SHIM constexpr const T& operator[](size_t i) const { return values[i]; }
    SHIM static constexpr size_t size() { return N; }
};

}  // namespace metal

#define EXPORT_TYPES(T) using metal::T##2; using metal::T##3; using metal::T##4;
EXPORT_TYPES(float) EXPORT_TYPES(half) EXPORT_TYPES(bfloat) EXPORT_TYPES(char) EXPORT_TYPES(uchar) EXPORT_TYPES(short)
EXPORT_TYPES(ushort) EXPORT_TYPES(int) EXPORT_TYPES(uint) EXPORT_TYPES(long) EXPORT_TYPES(ulong) EXPORT_TYPES(bool)
EXPORT_TYPES(packed_float) EXPORT_TYPES(packed_half) EXPORT_TYPES(packed_bfloat) EXPORT_TYPES(packed_char)
EXPORT_TYPES(packed_uchar) EXPORT_TYPES(packed_short) EXPORT_TYPES(packed_ushort) EXPORT_TYPES(packed_int)
EXPORT_TYPES(packed_uint)
#undef EXPORT_TYPES
using metal::as_type;
