// What memory is asked for.
#ifndef DEEPSTRUCT_MASKED_MEMORY_H
#define DEEPSTRUCT_MASKED_MEMORY_H

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace deepstruct {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

// Asks for pages of 2 MB instead of 4 KB where memory is about to be filled for the first time: a fault for each small
// page costs more than the kernels that write to it. A wish only, which the system may leave unheard.
inline void ask_for_huge_pages(void* begin, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(begin);
  const std::uintptr_t from = (at + kHugePage - 1) / kHugePage * kHugePage, to = (at + bytes) / kHugePage * kHugePage;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  static_cast<void>(begin), static_cast<void>(bytes);
#endif
}

}  // namespace deepstruct

#endif
