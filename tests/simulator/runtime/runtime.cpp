// Runs one compiled kernel over a grid. Built once, freestanding; knows nothing of Metal's types.
#include "abi.h"
#include "access.h"
#include "memory.h"
#include "platform.h"
#include "sanitizers.h"
#include "scheduler.h"
#include "shadow.h"
#include "state.h"
#include "transactions.h"

namespace sim {
namespace {

constexpr u64 SIGNAL_STACK_BYTES = 64 * 1024;
constexpr int CAUGHT_SIGNALS[] = {SIGNAL_ILLEGAL, SIGNAL_BUS, SIGNAL_ARITHMETIC, SIGNAL_SEGMENT};
constexpr u32 CAUGHT_COUNT = sizeof CAUGHT_SIGNALS / sizeof *CAUGHT_SIGNALS;

SignalAction previous_actions[CAUGHT_COUNT];
SignalStack previous_stack;

void restore_signals() {
    for (u32 i = 0; i < CAUGHT_COUNT; i++) sigaction(CAUGHT_SIGNALS[i], &previous_actions[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
}

void on_signal(int signal, void* information, void* context) {
    if (!current) return restore_signals();  // not a kernel's: it happens again, to whom it belongs
    // As if the instruction were a call's, whose return address lies behind it.
    const u64 instruction = faulting_instruction(context) + 1;
    if (signal == SIGNAL_ILLEGAL) fail("undefined behaviour", current, instruction, NOWHERE);
    if (signal == SIGNAL_ARITHMETIC) fail("integer division by zero or overflow", current, instruction, NOWHERE);
    const u64 address = faulting_address(information);
    const u64 arena_offset = address - reinterpret_cast<u64>(arena);
    if (arena_offset < DYNAMIC_SLOT * SLOT_BYTES) {
        Slot& slot = slots[arena_offset / SLOT_BYTES];
        const u64 offset = arena_offset % SLOT_BYTES - LEAD_BYTES;
        if (slot.chunked && offset < slot.bytes && !slot.has_chunk[offset / CHUNK_BYTES]) {
            return bring_chunk(slot, offset);  // and the instruction runs again
        }
    }
    if (address - reinterpret_cast<u64>(current->stack) < PAGE) fail("stack overflow", current, instruction, NOWHERE);
    fail_access("wild access", address, 1, instruction, NOWHERE);
}

void catch_signals() {
    static char memory[SIGNAL_STACK_BYTES];
    const SignalStack stack = {memory, 0, sizeof memory};
    sigaltstack(&stack, &previous_stack);
    SignalAction action = {};
    action.handler = on_signal;
    action.flags = WITH_INFORMATION | ON_ALTERNATIVE_STACK | NOT_DEFERRED;
    for (u32 i = 0; i < CAUGHT_COUNT; i++) sigaction(CAUGHT_SIGNALS[i], &action, &previous_actions[i]);
}

void forget_old_moments() {
    if (last_moment < MOST_MOMENTS) return;
    last_moment = 1;
    for (Slot& slot : slots) slot.stamps.zero();
}

bool place_memory() {
    if (!make_arena()) return false;
    for (u32 i = 0; i < MOST_BUFFERS; i++) {
        if (!place_buffer(slots[i], launch->buffers[i])) return false;
        entry_buffers[i] = slots[i].data;
    }
    const Range memory = launch->threadgroup_memory;
    place_threadgroup_memory(static_memory, static_shadow, memory.begin, memory.end - memory.begin);
    for (u32 i = 0; i < launch->threadgroup_variable_count; i++) {
        claim(static_memory, launch->threadgroup_variables[i].begin, launch->threadgroup_variables[i].end);
    }
    u64 dynamic_bytes = 0;
    for (u32 i = 0; i < launch->dynamic_count; i++) {
        dynamic_bytes += ((launch->dynamic_bytes[i] + DYNAMIC_GUARD - 1) & ~(DYNAMIC_GUARD - 1)) + DYNAMIC_GUARD;
    }
    Slot& slot = slots[DYNAMIC_SLOT];
    if (!make_usable(slot, dynamic_bytes)) return false;
    const u64 begin = reinterpret_cast<u64>(slot.data);
    place_threadgroup_memory(dynamic_memory, dynamic_shadow, begin, dynamic_bytes);
    u64 at = begin;
    for (u32 i = 0; i < launch->dynamic_count; i++) {
        entry_dynamic_memory[i] = reinterpret_cast<void*>(at);
        claim(dynamic_memory, at, at + launch->dynamic_bytes[i]);
        at += ((launch->dynamic_bytes[i] + DYNAMIC_GUARD - 1) & ~(DYNAMIC_GUARD - 1)) + DYNAMIC_GUARD;
    }
    return true;
}

// The first byte of a buffer that should have been stored and was not becomes the fault.
void check_stored(const Slot& slot) {
    for (u64 i = 0; i < slot.bytes; i++) {
        if (slot.writers[i] >= thresholds[DEVICE].oldest) continue;
        const u64 missing = slot.bytes - slot.buffer->unique_stored_bytes;
        return fail_access("output not stored", reinterpret_cast<u64>(slot.data) + i, 1, 0, NOWHERE,
                           "%lu of %lu bytes were never stored", missing, slot.bytes);
    }
}

void collect_results() {
    for (u32 i = 0; i < MOST_BUFFERS; i++) {
        Slot& slot = slots[i];
        Buffer& buffer = *slot.buffer;
        if (launch->checked && buffer.access == WRITABLE) {
            buffer.unique_loaded_bytes = count_touched(slot.readers, slot.bytes);
            buffer.unique_stored_bytes = count_touched(slot.writers, slot.bytes);
            if (buffer.must_be_stored && buffer.unique_stored_bytes < slot.bytes && !stopped) check_stored(slot);
        } else if (launch->checked) {
            buffer.unique_loaded_bytes = count_seen(slot);
        }
        if (buffer.output) memcpy(buffer.output, slot.data, buffer.bytes);
    }
}

void run_grid() {
    u32 groups[3];
    for (u32 d = 0; d < 3; d++) groups[d] = (launch->grid[d] + launch->threadgroup[d] - 1) / launch->threadgroup[d];
    const u32 count = groups[0] * groups[1] * groups[2];
    static Growing order_memory;
    order_memory.require(count * sizeof(u32));
    u32* order = reinterpret_cast<u32*>(order_memory.memory);
    for (u32 i = 0; i < count; i++) order[i] = i;
    random_state = 0x9E3779B97F4A7C15ul ^ (launch->seed * 0x2545F4914F6CDD1Dul + 1);
    if (launch->seed) shuffle(order, count);
    for (u32 i = 0; i < count && !stopped; i++) {
        const u32 index = order[i];
        const u32 at[3] = {index % groups[0], index / groups[0] % groups[1], index / groups[0] / groups[1]};
        run_threadgroup(at, groups);
        if (last_moment > 2 * MOST_MOMENTS - 100'000) {
            fail("too long a launch", nullptr, 0, NOWHERE, "the simulator counts %u moments", 2 * MOST_MOMENTS);
        }
    }
}

}  // namespace
}  // namespace sim

extern "C" {

void sim_collective(void* operand, Combine combine, u32 kind, u32 barrier_flags, Site site) {
    Lane& lane = *sim::current;
    lane.operand = operand;
    lane.combine = combine;
    lane.kind = kind;
    lane.barrier_flags = barrier_flags;
    lane.site = site;
    lane.state = AT_COLLECTIVE;
    sim::leave_lane();
}

void sim_threadgroup_barrier(u32 barrier_flags, Site site) {
    Lane& lane = *sim::current;
    lane.barrier_flags = barrier_flags;
    lane.site = site;
    lane.state = AT_BARRIER;
    sim::leave_lane();
}

void sim_inactive_lane(u32 reader, u32 source) {
    const Lane& lane = sim::lanes[sim::combining->first + reader];
    sim::fail("shuffle from an inactive lane", &lane, 0, lane.site, "lane %u asks lane %u", reader, source);
}

void sim_atomic_access(const volatile void* address, u32 bytes, Site site) {
    if (!sim::launch->checked) return;
    const u64 at = reinterpret_cast<u64>(address);
    const u64 caller = reinterpret_cast<u64>(__builtin_return_address(0));
    if (bytes == 4) sim::check_access<4>({at, 4, true, caller, site}, sim::ATOMIC);
    else sim::check_access<8>({at, 8, true, caller, site}, sim::ATOMIC);
}

void sim_packed_load(const void* address, u64 bytes) {
    if (!sim::launch->checked) return;
    sim::check_range(reinterpret_cast<u64>(address), bytes, false, reinterpret_cast<u64>(__builtin_return_address(0)));
}

void sim_assertion_failed(const char* expression, Site site) {
    sim::fail("assertion failed", sim::current, 0, site, "%s", expression);
}

// Where buffers lie: see memory.h.
u64 sim_arena() { return reinterpret_cast<u64>(sim::arena); }

u32 sim_lane() { return sim::current->position.lane; }

// Runs `launch` to its end or to its first fault, which it writes to `fault`. False if there is not enough memory.
bool sim_run(Launch* launch, Fault* fault) {
    using namespace sim;
    sim::launch = launch;
    stopped = false;
    sim::fault = {};
    current = nullptr;
    forget_old_moments();
    if (!place_memory() || !make_stacks(launch->threadgroup[0] * launch->threadgroup[1] * launch->threadgroup[2])) {
        return false;
    }
    if (launch->counting) {
        if (!make_instruction_tables()) return false;
        forget_addresses();
    }
    thresholds[DEVICE].oldest = ++last_moment << STAMP_SHIFT;
    catch_signals();
    run_grid();
    restore_signals();
    collect_results();
    for (Slot& slot : slots) release_buffer(slot);
    *fault = sim::fault;
    sim::launch = nullptr;
    return true;
}
}
