// Metal's keywords, scalar types and constants, in terms of clang's C++.
//
// Address spaces are OpenCL's attributes: clang checks them in C++ too, and on a CPU they all become ordinary memory.
// A build without STRICT_ADDRESS_SPACES erases them, for code that copies whole structs between them, which the
// attributes cannot express.
#pragma once
#include "../runtime/abi.h"

// Inlined always, and without lines of its own: an instruction belongs to the kernel's line that called.
#define SHIM inline __attribute__((always_inline, nodebug))
// Reads or writes the runtime's memory: not announced as the kernel's.
#define SHIM_UNSEEN inline __attribute__((noinline, nodebug, no_sanitize("thread")))

#ifdef STRICT_ADDRESS_SPACES
#define device __attribute__((opencl_global))
#define constant const __attribute__((opencl_constant))
#define threadgroup __attribute__((opencl_local))
#else
#define device
#define constant
#define threadgroup
#endif
#define thread
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST static constexpr
// "used", so that clang believes nothing of what lies in them.
#define THREADGROUP_VARIABLE __attribute__((used, section("threadgroup_memory"))) static
#define THREADGROUP_GUARD(NAME) __attribute__((used, section("threadgroup_memory"))) static char NAME[64];

using uint8_t = unsigned char;
using int8_t = signed char;
using uint16_t = unsigned short;
using int16_t = short;
using uint32_t = unsigned int;
using int32_t = int;
using uint64_t = unsigned long;
using int64_t = long;
using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;
using size_t = unsigned long;
using ptrdiff_t = long;
using uintptr_t = unsigned long;
using intptr_t = long;
using half = _Float16;
using bfloat = __bf16;

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT 3.402823466e+38f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.19209290e-07f
#define HALF_MAX ((half)65504.0f)
#define MAXHALF ((half)65504.0f)
#define CHAR_BIT 8
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define USHRT_MAX 65535
#define M_PI_F 3.14159265358979323846f
#define M_E_F 2.71828182845904523536f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f

#define assert(CONDITION) ((CONDITION) ? (void)0 : sim_assertion_failed(#CONDITION, Site::here()))
