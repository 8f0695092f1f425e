// How many 128-byte lines a simdgroup's accesses touch: a load or store instruction of 32 lanes is as many transactions
// as it touches lines.
//
// Lanes run one after another here, so the n-th time that a lane comes to an instruction counts as one with the n-th
// time of the others; n begins anew wherever all lanes were together, at a simdgroup operation or a barrier.
#pragma once
#include "memory.h"

namespace sim {

constexpr u64 LINE_SHIFT = 7;
constexpr u32 SITE_TABLE = 1024;

// The lines that one execution of an instruction touched so far.
struct Lines {
    u32 count;
    u32 line[2 * SIMD_WIDTH];
};

struct Instruction {
    u64 address;
    u64 gathering;               // that of the simdgroup when it began to count
    u32 executions[SIMD_WIDTH];  // since then, by lane
    Lines* lines;                // by execution
    u32 capacity;
};

struct InstructionTable {
    Instruction entries[SITE_TABLE];
};

inline InstructionTable* instruction_tables;  // one a simdgroup of the running threadgroup

inline bool make_instruction_tables() {
    if (instruction_tables) return true;
    char* memory = reserve(MOST_SIMDGROUPS * sizeof(InstructionTable), READ_WRITE);
    if (memory == reinterpret_cast<char*>(-1)) return false;
    instruction_tables = reinterpret_cast<InstructionTable*>(memory);
    return true;
}

inline Instruction& find_instruction(u64 address) {
    InstructionTable& table = instruction_tables[current->position.simdgroup];
    u32 index = static_cast<u32>((address * 0x9E3779B97F4A7C15ul) >> 54);
    while (table.entries[index].address && table.entries[index].address != address) index = (index + 1) % SITE_TABLE;
    table.entries[index].address = address;
    return table.entries[index];
}

inline void begin_anew(Instruction& instruction) {
    u32 executions = 0;
    for (u32& count : instruction.executions) {
        if (count > executions) executions = count;
        count = 0;
    }
    for (u32 e = 0; e < executions; e++) instruction.lines[e].count = 0;
    instruction.gathering = simdgroups[current->position.simdgroup].gathering;
}

inline void count_transactions(Slot& slot, u64 offset, u32 bytes, u64 instruction_address) {
    Instruction& instruction = find_instruction(instruction_address);
    if (instruction.gathering != simdgroups[current->position.simdgroup].gathering) begin_anew(instruction);
    const u32 execution = instruction.executions[current->position.lane]++;
    if (execution >= instruction.capacity) {
        const u32 capacity = 2 * execution + 16;
        instruction.lines = static_cast<Lines*>(realloc(instruction.lines, capacity * sizeof(Lines)));
        for (u32 i = instruction.capacity; i < capacity; i++) instruction.lines[i].count = 0;
        instruction.capacity = capacity;
    }
    Lines& lines = instruction.lines[execution];
    const u32 slot_bits = static_cast<u32>(&slot - slots) << 26;
    for (u64 at = offset >> LINE_SHIFT; at <= (offset + bytes - 1) >> LINE_SHIFT; at++) {
        const u32 line = slot_bits | static_cast<u32>(at);
        bool known = false;
        for (u32 i = lines.count; i > 0 && !known; i--) known = lines.line[i - 1] == line;
        if (known) continue;
        if (lines.count < 2 * SIMD_WIDTH) lines.line[lines.count++] = line;
        slot.buffer->transactions++;
    }
}

// The next launch begins: addresses mean other instructions.
inline void forget_addresses() {
    for (u32 i = 0; i < MOST_SIMDGROUPS; i++) {
        for (Instruction& instruction : instruction_tables[i].entries) instruction.address = 0;
    }
}

}  // namespace sim
