// Which instruction set runs: asked of the processor once, not of the compiler.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace deepstruct::sweeps {
namespace {

#if defined(DEEPSTRUCT_X86)
bool runs(const Isa& isa) {
  __builtin_cpu_init();
  if (&isa == &kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (&isa == &kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
}
#endif

const Isa& choose() {
#if defined(DEEPSTRUCT_X86)
  const Isa* best_first[] = {&kAvx512, &kAvx2, &kPlain};
  const char* wanted = std::getenv("DEEPSTRUCT_ISA");
  for (const Isa* isa : best_first)
    if (wanted && std::strcmp(wanted, isa->name) == 0 && runs(*isa)) return *isa;
  for (const Isa* isa : best_first)
    if (runs(*isa)) return *isa;
#endif
  return kPlain;
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose();
  return chosen;
}

}  // namespace deepstruct::sweeps
