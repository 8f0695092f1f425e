// How the generated entry point turns addresses and positions into a kernel's arguments.
#pragma once
#include "vectors.h"

// The type of argument I of a function.
template <class F, int I>
struct argument_type;
template <class R, class First, class... Rest>
struct argument_type<R (*)(First, Rest...), 0> { using type = First; };
template <class R, class First, class... Rest, int I>
struct argument_type<R (*)(First, Rest...), I> : argument_type<R (*)(Rest...), I - 1> {};

template <class T>
struct pointer_argument {
    SHIM static T of(void* address) { return (T)(uintptr_t)address; }
};
template <class T>
struct pointer_argument<T&> {
    SHIM static T& of(void* address) { return *(T*)(uintptr_t)address; }
};

SHIM const u32* first(const u32& value) { return &value; }
SHIM const u32* first(const u32 (&values)[3]) { return values; }

template <class T>
SHIM T position_argument(const u32* values) {
    using V = metal::bare<T>;
    if constexpr (metal::is_vector<V>) {
        V result;
        for (int i = 0; i < metal::size_of_vector<V>; i++) result[i] = values[i];
        return result;
    } else {
        return (V)values[0];
    }
}
