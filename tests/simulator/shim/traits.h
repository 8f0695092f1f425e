// metal_type_traits and metal_numeric_limits.
#pragma once
#include "language.h"

namespace metal {

template <class T, T v>
struct integral_constant {
    static constexpr T value = v;
    using value_type = T;
    using type = integral_constant;
    constexpr operator T() const { return v; }
    constexpr T operator()() const { return v; }
};
template <bool v>
using bool_constant = integral_constant<bool, v>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <class T> struct remove_reference { using type = T; };
template <class T> struct remove_reference<T&> { using type = T; };
template <class T> struct remove_reference<T&&> { using type = T; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct remove_const { using type = T; };
template <class T> struct remove_const<const T> { using type = T; };
template <class T> struct remove_volatile { using type = T; };
template <class T> struct remove_volatile<volatile T> { using type = T; };
template <class T> struct remove_cv { using type = typename remove_const<typename remove_volatile<T>::type>::type; };
template <class T> using remove_cv_t = typename remove_cv<T>::type;

template <class T> struct remove_address_space { using type = T; };
#ifdef STRICT_ADDRESS_SPACES
#define REMOVE_ADDRESS_SPACE(SPACE)                                                                                 \
    template <class T> struct remove_address_space<__attribute__((SPACE)) T> { using type = T; };                   \
    template <class T> struct remove_address_space<const __attribute__((SPACE)) T> { using type = T; };             \
    template <class T> struct remove_address_space<volatile __attribute__((SPACE)) T> { using type = T; };
REMOVE_ADDRESS_SPACE(opencl_global)
REMOVE_ADDRESS_SPACE(opencl_constant)
REMOVE_ADDRESS_SPACE(opencl_local)
#undef REMOVE_ADDRESS_SPACE
#endif
template <class T> using remove_addrspace_t = typename remove_address_space<T>::type;
// The type of a value, whatever it was read through.
template <class T> using bare = remove_cv_t<remove_addrspace_t<remove_cv_t<remove_reference_t<T>>>>;

template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <bool condition, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool condition, class T = void> using enable_if_t = typename enable_if<condition, T>::type;
template <bool condition, class T, class F> struct conditional { using type = T; };
template <class T, class F> struct conditional<false, T, F> { using type = F; };
template <bool condition, class T, class F> using conditional_t = typename conditional<condition, T, F>::type;
template <class A, class B> constexpr bool is_convertible_v = __is_convertible(A, B);
template <class A, class B> struct is_convertible : bool_constant<__is_convertible(A, B)> {};
template <class A, class B> struct is_base_of : bool_constant<__is_base_of(A, B)> {};
template <class... B> struct disjunction : bool_constant<(B::value || ...)> {};
template <class... B> struct conjunction : bool_constant<(B::value && ...)> {};
template <class B> struct negation : bool_constant<!B::value> {};
template <class T> T declval();
template <class T> struct is_pointer : false_type {};
template <class T> struct is_pointer<T*> : true_type {};
template <class T> constexpr bool is_pointer_v = is_pointer<T>::value;

template <class T> constexpr bool is_integer_type = __is_integral(T);
template <class T> constexpr bool is_float_type = is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>;
template <class T> struct is_integral : bool_constant<is_integer_type<remove_cv_t<T>>> {};
template <class T> struct is_floating_point : bool_constant<is_float_type<remove_cv_t<T>>> {};
template <class T> struct is_arithmetic : bool_constant<is_integral<T>::value || is_floating_point<T>::value> {};
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> constexpr bool is_arithmetic_v = is_arithmetic<T>::value;
template <class T> struct is_unsigned : bool_constant<is_integral_v<T> && (T(-1) > T(0))> {};
template <class T> struct is_signed : bool_constant<is_arithmetic_v<T> && !(T(-1) > T(0))> {};
template <class T> constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <class T> constexpr bool is_signed_v = is_signed<T>::value;

template <class T> struct numeric_limits;
#define INTEGER_LIMITS(T, LEAST, MOST)                       \
    template <> struct numeric_limits<T> {                   \
        static constexpr bool is_integer = true;             \
        static constexpr T max() { return MOST; }            \
        static constexpr T min() { return LEAST; }           \
        static constexpr T lowest() { return LEAST; }        \
        static constexpr T infinity() { return 0; }          \
    };
INTEGER_LIMITS(bool, false, true)
INTEGER_LIMITS(char, -128, 127)
INTEGER_LIMITS(int8_t, -128, 127)
INTEGER_LIMITS(uint8_t, 0, 255)
INTEGER_LIMITS(short, -32768, 32767)
INTEGER_LIMITS(ushort, 0, 65535)
INTEGER_LIMITS(int, -2147483647 - 1, 2147483647)
INTEGER_LIMITS(uint, 0, 4294967295u)
INTEGER_LIMITS(long, -9223372036854775807l - 1, 9223372036854775807l)
INTEGER_LIMITS(ulong, 0, 18446744073709551615ul)
#undef INTEGER_LIMITS

#define FLOAT_LIMITS(T, LEAST_NORMAL, MOST, EPSILON)                    \
    template <> struct numeric_limits<T> {                              \
        static constexpr bool is_integer = false;                       \
        static constexpr T max() { return T(MOST); }                    \
        static constexpr T min() { return T(LEAST_NORMAL); }            \
        static constexpr T lowest() { return T(-MOST); }                \
        static constexpr T infinity() { return T(__builtin_inff()); }   \
        static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }\
        static constexpr T epsilon() { return T(EPSILON); }             \
    };
FLOAT_LIMITS(float, 1.17549435e-38f, 3.402823466e+38f, 1.19209290e-07f)
FLOAT_LIMITS(half, 6.103515625e-05f, 65504.0f, 0.0009765625f)
FLOAT_LIMITS(bfloat, 1.17549435e-38f, 3.38953139e38f, 0.0078125f)
#undef FLOAT_LIMITS

}  // namespace metal
