// All that depends on the machine: Linux on x86-64 with glibc. The C library's functions are declared here, since its
// headers need not be installed.
#pragma once
#include "abi.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the simulator's runtime is written for Linux on x86-64"
#endif

extern "C" {
void* mmap(void* address, u64 bytes, int protection, int flags, int file, i64 offset);
int munmap(void* address, u64 bytes);
int mprotect(void* address, u64 bytes, int protection);
int madvise(void* address, u64 bytes, int advice);
void* memcpy(void* to, const void* from, u64 bytes);
void* memmove(void* to, const void* from, u64 bytes);
void* memset(void* to, int value, u64 bytes);
void* realloc(void* memory, u64 bytes);
int snprintf(char* text, u64 bytes, const char* format, ...);
}

constexpr int NO_ACCESS = 0, READ_WRITE = 3;
constexpr int PRIVATE_ANONYMOUS_UNRESERVED = 0x02 | 0x20 | 0x4000;
constexpr int DONT_NEED = 4;

inline char* reserve(u64 bytes, int protection) {
    return static_cast<char*>(mmap(nullptr, bytes, protection, PRIVATE_ANONYMOUS_UNRESERVED, -1, 0));
}

// ---- Fibers: a stack each, and a switch that keeps what the calling convention says a function keeps.

extern "C" void switch_stack(void** save_here, void* load_this);
asm(R"(
.text
.type switch_stack,@function
switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

// What switch_stack loads to begin `function` on a fresh stack that ends at `end`.
inline void* fresh_stack(char* end, void (*function)()) {
    u64* top = reinterpret_cast<u64*>(reinterpret_cast<u64>(end) & ~15ul);
    *--top = 0;  // so that the stack is aligned as after a call
    *--top = reinterpret_cast<u64>(function);
    for (int saved = 0; saved < 6; saved++) *--top = 0;
    return top;
}

// ---- Signals: what the processor refuses inside a kernel.

constexpr int SIGNAL_ILLEGAL = 4, SIGNAL_BUS = 7, SIGNAL_ARITHMETIC = 8, SIGNAL_SEGMENT = 11;

using SignalHandler = void (*)(int signal, void* information, void* context);

struct SignalAction {
    SignalHandler handler;
    u64 mask[16];
    int flags;
    void (*restorer)();
};

struct SignalStack {
    void* memory;
    int flags;
    u64 bytes;
};

extern "C" int sigaction(int signal, const SignalAction* action, SignalAction* previous);
extern "C" int sigaltstack(const SignalStack* stack, SignalStack* previous);

constexpr int WITH_INFORMATION = 4, ON_ALTERNATIVE_STACK = 0x08000000, NOT_DEFERRED = 0x40000000;

// The address that could not be accessed, of a siginfo_t, and the instruction, of a ucontext_t.
inline u64 faulting_address(void* information) { return static_cast<u64*>(information)[2]; }
inline u64 faulting_instruction(void* context) { return static_cast<u64*>(context)[21]; }
