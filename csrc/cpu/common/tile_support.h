// Whether this process can use AMX: the processor has it, the system keeps its state from one thread to the next, and on
// Linux a process asks for it first. Unverified on hardware: the tests ask machines that they make up.
#pragma once

#include <cpuid.h>
#include <stdint.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct ThisMachine {
  // The registers EAX, EBX, ECX, EDX of one leaf; zeros where the processor has no such leaf.
  void cpuid(unsigned leaf, unsigned part, unsigned (&registers)[4]) const {
    if (!__get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2], &registers[3]))
      for (unsigned &one : registers) one = 0;
  }
  // XCR0, the states that the system has enabled. Only where CPUID says OSXSAVE.
  uint64_t enabled_states() const {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
  }
  // The permission holds for all threads of the process and those it forks.
  bool permits(int state) const {
#if defined(__linux__)
    constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequest, (long)state) == 0;
#else
    (void)state;
    return true;
#endif
  }
};

template <class Machine>
bool can_use_tiles(const Machine &machine) {
  constexpr int kTileConfig = 17, kTileData = 18;                          // states
  constexpr unsigned kSaves = 1u << 27, kBf16 = 1u << 22, kTile = 1u << 24;  // OSXSAVE; AMX-BF16 and AMX-TILE
  unsigned registers[4];
  machine.cpuid(1, 0, registers);
  if (!(registers[2] & kSaves)) return false;
  machine.cpuid(7, 0, registers);
  if (!(registers[3] & kBf16) || !(registers[3] & kTile)) return false;
  const uint64_t both = (uint64_t)1 << kTileConfig | (uint64_t)1 << kTileData;
  return (machine.enabled_states() & both) == both && machine.permits(kTileData);
}

// The system is asked once.
inline bool has_tiles() {
  static const bool usable = can_use_tiles(ThisMachine());
  return usable;
}

}  // namespace
