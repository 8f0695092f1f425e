// Metal's standard library on a CPU: what every compiled kernel includes first.
#pragma once
#pragma clang system_header
#include "arguments.h"
#include "atomic.h"
#include "language.h"
#include "math.h"
#include "matrix.h"
#include "simdgroup.h"
#include "traits.h"
#include "vectors.h"

namespace metal {
struct os_log {
    template <class... A> os_log(A...) {}
    template <class... A> void log_debug(A...) const {}
    template <class... A> void log_info(A...) const {}
    template <class... A> void log_error(A...) const {}
};
}  // namespace metal
