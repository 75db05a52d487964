#include "amx.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace gt::cpu {
namespace {

// Intel SDM: CPUID.(7,0):EDX and XCR0.
constexpr unsigned kTileBit = 1u << 24;
constexpr unsigned kInt8Bit = 1u << 25;
constexpr unsigned kXsaveBit = 1u << 27;  // CPUID.1:ECX: xgetbv may be asked
constexpr unsigned kTileState = 1u << 17 | 1u << 18;
// Linux, Documentation/arch/x86/xstate.rst
constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long kTileData = 18;

bool system_saves_tiles() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState;
}

}  // namespace

bool may_use_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kXsaveBit) == 0) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & kTileBit) == 0 || (edx & kInt8Bit) == 0) return false;
  return system_saves_tiles() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace gt::cpu
