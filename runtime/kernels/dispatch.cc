// Which instruction set the kernels use, and the scratch memory of a thread.
#include <cstdlib>
#include <cstring>

#ifdef PRECAST_HAVE_AVX2
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

namespace precast {
namespace {

struct Scratch {
  void* memory = nullptr;
  size_t floats = 0;
  ~Scratch() { std::free(memory); }
};

constexpr Kernels kPortable = {"portable", &kRowsPortable, &kAttentionPortable, &kBlockPortable, &kHalfPortable};
#ifdef PRECAST_HAVE_AVX2
constexpr Kernels kAvx2 = {"avx2", &kRowsAvx2, &kAttentionAvx2, &kBlockAvx2, &kHalfAvx2};
#ifdef PRECAST_HAVE_AVXVNNI
constexpr Kernels kAvxVnni = {"avxvnni", &kRowsAvx2, &kAttentionAvx2, &kBlockAvxVnni, &kHalfAvx2, &kBytesAvxVnni};
#endif
#ifdef PRECAST_HAVE_AVX512
constexpr Kernels kAvx512 = {"avx512", &kRowsAvx512, &kAttentionAvx512, &kBlockAvx2, &kHalfAvx512};
#ifdef PRECAST_HAVE_AVX512VNNI
constexpr Kernels kAvx512Vnni = {"avx512vnni",      &kRowsAvx512, &kAttentionAvx512,
                                 &kBlockAvx512Vnni, &kHalfAvx512, &kBytesAvx512Vnni};
#ifdef PRECAST_HAVE_AMX
constexpr Kernels kAmx = {"amx",        &kRowsAvx512, &kAttentionAvx512, &kBlockAvx512Vnni,
                          &kHalfAvx512, &kBlockAmx,   &kAttentionAmx};
#endif
#endif
#endif
#endif

#ifdef PRECAST_HAVE_AVX2
// What `__builtin_cpu_supports` has no name for in every compiler: bits of leaf 7 of CPUID.
struct Features {
  bool avx_vnni = false, avx512_bf16 = false, tiles = false;

  Features() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    tiles = (d >> 22 & 1) != 0 && (d >> 24 & 1) != 0 && tiles_granted();  // AMX-BF16, AMX-TILE
    if (a == 0 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return;
    avx_vnni = (a >> 4 & 1) != 0;
    avx512_bf16 = (a >> 5 & 1) != 0;
  }

  // The system saves their registers for a process that has asked for it.
  static bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
  }
};
#endif

struct List {
  const Kernels* items[7] = {};
  List() {
    int count = 0;
#ifdef PRECAST_HAVE_AVX2
    const Features features;
    // Every processor with AVX2 has F16C but for some that a virtual machine makes up.
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#ifdef PRECAST_HAVE_AVX512
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
#ifdef PRECAST_HAVE_AVX512VNNI
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
#ifdef PRECAST_HAVE_AMX
    if (vnni && features.avx512_bf16 && features.tiles) items[count++] = &kAmx;
#endif
    if (vnni) items[count++] = &kAvx512Vnni;
#endif
    if (avx512) items[count++] = &kAvx512;
#endif
#ifdef PRECAST_HAVE_AVXVNNI
    if (avx2 && features.avx_vnni) items[count++] = &kAvxVnni;
#endif
    if (avx2) items[count++] = &kAvx2;
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
