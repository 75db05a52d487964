#include "amx_trap.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace gt::test {
namespace {

constexpr int kTiles = 8;
constexpr int kRows = 16;
constexpr int kRowBytes = 64;

struct Tile {
  int rows;
  int row_bytes;
  std::uint8_t data[kRows][kRowBytes];
};

// Of a thread, as the registers are.
struct State {
  bool is_configured;
  Tile tiles[kTiles];
};
thread_local State state;
std::atomic<long> trapped{0};

[[noreturn]] void refuse(const char* why) {
  dprintf(STDERR_FILENO, "AMX: %s\n", why);
  _exit(3);
}

Tile& tile(int number) {
  if (number >= kTiles) refuse("a tile above 7");
  if (!state.is_configured) refuse("a tile is used before ldtilecfg or after tilerelease");
  Tile& found = state.tiles[number];
  if (found.rows == 0) refuse("a tile is used that the configuration leaves out");
  return found;
}

void configure(const std::uint8_t* memory) {
  if (memory[0] != 1) refuse("ldtilecfg: palette is not 1");
  if (memory[1] != 0) refuse("ldtilecfg: start_row is not 0");
  for (int i = 2; i < 16; ++i) {
    if (memory[i] != 0) refuse("ldtilecfg: a reserved byte is not 0");
  }
  state = State{};
  for (int i = 0; i < 16; ++i) {
    std::uint16_t row_bytes = 0;
    std::memcpy(&row_bytes, memory + 16 + 2 * i, sizeof row_bytes);
    const int rows = memory[48 + i];
    if (i >= kTiles) {
      if (row_bytes != 0 || rows != 0) refuse("ldtilecfg: a ninth tile");
      continue;
    }
    if (rows > kRows || row_bytes > kRowBytes) refuse("ldtilecfg: a tile is too large");
    if ((rows == 0) != (row_bytes == 0)) refuse("ldtilecfg: rows without bytes or bytes without rows");
    state.tiles[i].rows = rows;
    state.tiles[i].row_bytes = row_bytes;
  }
  state.is_configured = true;
}

void zero(Tile& t) { std::memset(t.data, 0, sizeof t.data); }

void load(Tile& t, const std::uint8_t* memory, std::ptrdiff_t stride) {
  zero(t);
  for (int r = 0; r < t.rows; ++r) std::memcpy(t.data[r], memory + r * stride, t.row_bytes);
}

void store(const Tile& t, std::uint8_t* memory, std::ptrdiff_t stride) {
  for (int r = 0; r < t.rows; ++r) std::memcpy(memory + r * stride, t.data[r], t.row_bytes);
}

int extended(std::uint8_t byte, bool is_signed) {
  return is_signed ? static_cast<std::int8_t>(byte) : byte;
}

void dot(Tile& sum, const Tile& a, bool is_a_signed, const Tile& b, bool is_b_signed) {
  if (&sum == &a || &sum == &b || &a == &b) refuse("tdp: two operands are one tile");
  if (sum.rows != a.rows || sum.row_bytes != b.row_bytes || a.row_bytes != 4 * b.rows ||
      sum.row_bytes % 4 != 0) {
    refuse("tdp: the tiles' shapes do not match");
  }
  for (int m = 0; m < sum.rows; ++m) {
    for (int n = 0; n < sum.row_bytes / 4; ++n) {
      std::uint32_t total = 0;  // wraps around
      std::memcpy(&total, &sum.data[m][4 * n], sizeof total);
      for (int k = 0; k < b.rows; ++k) {
        for (int i = 0; i < 4; ++i) {
          const int product = extended(a.data[m][4 * k + i], is_a_signed) *
                              extended(b.data[k][4 * n + i], is_b_signed);
          total += static_cast<std::uint32_t>(product);
        }
      }
      std::memcpy(&sum.data[m][4 * n], &total, sizeof total);
    }
  }
}

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// The operand in memory of an instruction: base + displacement, and the index apart, which counts
// rows for tiles.
struct Memory {
  std::uint8_t* base;
  std::ptrdiff_t index;
};

// `at`: behind ModRM; moved behind the operand. Bits X and B of VEX as the high bits of registers.
Memory memory_operand(const greg_t* registers, int modrm, int x, int b, const std::uint8_t*& at) {
  const auto value = [&](int number) { return registers[kRegisters[number]]; };
  const int mod = modrm >> 6;
  Memory found{};
  std::int64_t address = 0;
  bool has_wide_displacement = mod == 2;
  if ((modrm & 7) == 4) {
    const int sib = *at++;
    const int index = (sib >> 3 & 7) | x << 3;
    if (index != 4) found.index = value(index) << (sib >> 6);
    if (mod == 0 && (sib & 7) == 5) {
      has_wide_displacement = true;
    } else {
      address = value((sib & 7) | b << 3);
    }
  } else if (mod == 0 && (modrm & 7) == 5) {
    has_wide_displacement = true;
    address = reinterpret_cast<std::int64_t>(at) + 4;  // relative to the next instruction
  } else {
    address = value((modrm & 7) | b << 3);
  }
  if (has_wide_displacement) {
    std::int32_t displacement = 0;
    std::memcpy(&displacement, at, sizeof displacement);
    address += displacement;
    at += sizeof displacement;
  } else if (mod == 1) {
    address += static_cast<std::int8_t>(*at++);
  }
  found.base = reinterpret_cast<std::uint8_t*>(address);
  return found;
}

// Does the instruction at `at` and returns where the next begins; nullptr: none of AMX.
// C4 [R X B 00010] [W vvvv L pp] opcode ModRM, with R, X, B and vvvv inverted.
const std::uint8_t* emulate(const greg_t* registers, const std::uint8_t* at) {
  enum Prefix { kNone, k66, kF3, kF2 };
  const int first = at[1];
  const int second = at[2];
  const int opcode = at[3];
  if (at[0] != 0xC4 || (first & 0x1F) != 2 || (second & 0x84) != 0) return nullptr;
  if (opcode != 0x49 && opcode != 0x4B && opcode != 0x5E) return nullptr;
  const int modrm = at[4];
  const int x = (first >> 6 & 1) ^ 1;
  const int b = (first >> 5 & 1) ^ 1;
  const int reg = (modrm >> 3 & 7) | ((first >> 7) ^ 1) << 3;
  const int rm = (modrm & 7) | b << 3;
  const int vvvv = (second >> 3 & 15) ^ 15;
  const Prefix prefix = static_cast<Prefix>(second & 3);
  const bool is_memory = modrm >> 6 != 3;
  at += 5;
  if (opcode == 0x5E && !is_memory) {
    dot(tile(reg), tile(rm), prefix == kF2 || prefix == kF3, tile(vvvv), prefix == kF2 || prefix == k66);
  } else if (vvvv != 0) {
    return nullptr;
  } else if (opcode == 0x49 && prefix == kNone && modrm == 0xC0) {
    state = State{};
  } else if (opcode == 0x49 && prefix == kF2 && !is_memory && (modrm & 7) == 0) {
    zero(tile(reg));
  } else if (opcode == 0x49 && prefix == kNone && is_memory && reg == 0) {
    const Memory from = memory_operand(registers, modrm, x, b, at);
    configure(from.base + from.index);
  } else if (opcode == 0x4B && is_memory && (modrm & 7) == 4 && (prefix == kF2 || prefix == kF3)) {
    const Memory rows = memory_operand(registers, modrm, x, b, at);
    if (prefix == kF2) {
      load(tile(reg), rows.base, rows.index);
    } else {
      store(tile(reg), rows.base, rows.index);
    }
  } else {
    return nullptr;
  }
  trapped.fetch_add(1, std::memory_order_relaxed);
  return at;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* at = reinterpret_cast<const std::uint8_t*>(registers[REG_RIP]);
  const std::uint8_t* next = emulate(registers, at);
  if (next == nullptr) refuse("an illegal instruction that is none of AMX");
  // A trap takes long: do those that follow at once. Nothing in between can change a register.
  for (const std::uint8_t* done = next; done != nullptr; done = emulate(registers, next)) next = done;
  registers[REG_RIP] = reinterpret_cast<greg_t>(next);
}

}  // namespace

void trap_amx() {
  struct sigaction action {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
}

long trapped_amx_instructions() { return trapped.load(); }

}  // namespace gt::test
