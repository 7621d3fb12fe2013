// Whether tiles can be used, as machines answer that are made up, and as this one does.
#include <stdio.h>

#include "../../../csrc/cpu/common/tile_support.h"

namespace {

constexpr unsigned kOsxsave = 1u << 27, kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
constexpr uint64_t kAvx512 = 0xe7, kBoth = (uint64_t)3 << 17;

struct MadeUp {
  unsigned saves, features;
  uint64_t enabled;
  bool permitted;
  mutable int asked = 0;

  void cpuid(unsigned leaf, unsigned part, unsigned (&registers)[4]) const {
    for (unsigned &one : registers) one = 0;
    if (leaf == 1) registers[2] = saves;
    if (leaf == 7 && !part) registers[3] = features;
  }
  // Without OSXSAVE, XGETBV is no instruction; permission is asked for where there is something to permit.
  uint64_t enabled_states() const { if (!saves) __builtin_trap(); return enabled; }
  bool permits(int state) const { return ++asked, state == 18 && permitted; }
};

int failures = 0;
void expect(bool ok, const char *what) {
  if (!ok) printf("FAILED %s\n", what), ++failures;
}

}  // namespace

int main() {
  const MadeUp whole{kOsxsave, kBf16 | kTile | kInt8, kAvx512 | kBoth, true};
  expect(can_use_tiles(whole) && whole.asked == 1, "all there");
  const auto lacks = [&](const char *what, auto change, int asked = 0) {
    MadeUp one = whole;
    one.asked = 0;
    change(one);
    expect(!can_use_tiles(one) && one.asked == asked, what);
  };
  lacks("no OSXSAVE", [](MadeUp &m) { m.saves = 0; });
  lacks("no AMX at all", [](MadeUp &m) { m.features = 0; });
  lacks("AMX-TILE without AMX-BF16", [](MadeUp &m) { m.features = kTile | kInt8; });
  lacks("AMX-BF16 without AMX-TILE", [](MadeUp &m) { m.features = kBf16; });
  lacks("a system that saves no tiles", [](MadeUp &m) { m.enabled = kAvx512; });
  lacks("a system that saves their configuration alone", [](MadeUp &m) { m.enabled = kAvx512 | (uint64_t)1 << 17; });
  lacks("a system that saves their data alone", [](MadeUp &m) { m.enabled = kAvx512 | (uint64_t)1 << 18; });
  lacks("no permission", [](MadeUp &m) { m.permitted = false; }, 1);
  printf("%d failures, here %d\n", failures, has_tiles());
  return failures != 0;
}
