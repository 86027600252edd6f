// Which instruction set the kernels use, and the scratch memory of a thread.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace precast {
namespace {

struct Scratch {
  void* memory = nullptr;
  size_t floats = 0;
  ~Scratch() { std::free(memory); }
};

struct List {
  const Kernels* items[4] = {};
  List() {
    int count = 0;
#ifdef PRECAST_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f")) items[count++] = &kAvx512;
#endif
#ifdef PRECAST_HAVE_AVX2
    // Every processor with AVX2 has F16C but for some that a virtual machine makes up.
    const bool halves = __builtin_cpu_supports("f16c");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && halves) items[count++] = &kAvx2;
#endif
    items[count] = &kPortable;
  }
};

}  // namespace

const Kernels* const* available_kernels() {
  static const List list;
  return list.items;
}

const Kernels* choose_kernels() {
  const Kernels* const* list = available_kernels();
  const char* wanted = std::getenv("PRECAST_KERNELS_ISA");
  if (wanted == nullptr || *wanted == '\0') return list[0];
  while (*list != nullptr && std::strcmp((*list)->name, wanted) != 0) ++list;
  return *list;
}

float* thread_scratch(size_t floats) {
  static thread_local Scratch scratch;
  if (scratch.floats < floats) {
    std::free(scratch.memory);
    const size_t bytes = (floats * sizeof(float) + 4095) / 4096 * 4096;
    scratch.memory = std::aligned_alloc(64, bytes);
    scratch.floats = scratch.memory == nullptr ? 0 : bytes / sizeof(float);
  }
  return static_cast<float*>(scratch.memory);
}

}  // namespace precast
