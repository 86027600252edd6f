// Products of float32 rows with weights in 16 bits, which are widened in registers: exactly what float32 weights of the
// same values would give, for half the memory that is read. The layout is described in half_calls.h.
#pragma once

#include "half_calls.h"
#include "vector.h"

namespace precast {
namespace {

constexpr int kVectors = kHalfPanel / kWidth;  // of a panel
// What stays in registers for many rows: as many columns as two vectors are wide, a panel at least.
constexpr int kWidePanels = kVectors >= 2 ? 1 : 2 / kVectors;
// Of few rows more panels at a time: enough independent sums to hide how long an addition takes.
constexpr int kFewSums = kTileRows * kVectors * kWidePanels;

inline float from_bfloat16(uint16_t code) {
  const uint32_t bits = static_cast<uint32_t>(code) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Subnormal ones, infinities and NaN too.
inline float from_float16(uint16_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x8000) << 16, magnitude = code & 0x7fff;
  uint32_t bits;
  if (magnitude >= 0x7c00) {
    bits = 0x7f800000u | (magnitude & 0x3ff) << 13;
  } else if (magnitude >= 0x400) {
    bits = (magnitude << 13) + ((127 - 15) << 23);
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    __builtin_memcpy(&bits, &subnormal, sizeof bits);
  }
  bits |= sign;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

enum Held : int { kHeldBfloat16 = kBfloat16, kHeldFloat16 = kFloat16, kHeldFloat = 2 };

// kWidth numbers as floats.
template <int Kind>
inline V widened(const void* p) {
  if constexpr (Kind == kHeldFloat) return load(static_cast<const float*>(p));
  const uint16_t* codes = static_cast<const uint16_t*>(p);
#if defined(PRECAST_ISA_AVX512)
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  if (Kind == kHeldFloat16) return _mm512_cvtph_ps(raw);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
#elif defined(PRECAST_ISA_AVX2)
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  if (Kind == kHeldFloat16) return _mm256_cvtph_ps(raw);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
#else
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = Kind == kHeldFloat16 ? from_float16(codes[i]) : from_bfloat16(codes[i]);
  return load(lanes);
#endif
}

template <int Kind>
constexpr int64_t kBytes = Kind == kHeldFloat ? 4 : 2;

// Rows x Panels * 16 sums over some channels; `stride` bytes from one panel to the next.
template <int Kind, int Rows, int Panels>
inline __attribute__((always_inline)) void sums_of(const float* x, int64_t x_stride, const char* weight,
                                                   int64_t stride, int64_t channels,
                                                   V (&sums)[Rows][Panels * kVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Panels * kVectors; ++v) sums[r][v] = splat(0.0f);
  }
  for (int64_t k = 0; k < channels; ++k) {
    V column[Panels * kVectors];
#pragma GCC unroll 16
    for (int p = 0; p < Panels; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const char* at = weight + p * stride + (k * kHalfPanel + v * kWidth) * kBytes<Kind>;
        column[p * kVectors + v] = widened<Kind>(at);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const V one = splat(x[r * x_stride + k]);
#pragma GCC unroll 16
      for (int v = 0; v < Panels * kVectors; ++v) sums[r][v] = fma(one, column[v], sums[r][v]);
    }
  }
}

// Adds sums of a span of channels to those of the spans before, and the bias to the last ones.
template <int Rows, int Panels>
inline __attribute__((always_inline)) void add_to(const HalfCall& call, int64_t row, int64_t panel, bool first,
                                                  bool last, const V (&sums)[Rows][Panels * kVectors]) {
#pragma GCC unroll 16
  for (int v = 0; v < Panels * kVectors; ++v) {
    const int64_t column = panel * kHalfPanel + v * kWidth, left = call.columns - column;
    if (left <= 0) break;
    const bool whole = left >= kWidth;
    const bool biased = last && call.bias != nullptr;
    const V bias = !biased ? splat(0.0f) : whole ? load(call.bias + column) : load_part(call.bias + column, left);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      float* to = call.out + (row + r) * call.columns + column;
      V sum = sums[r][v];
      if (!first) sum = add(whole ? load(to) : load_part(to, left), sum);
      if (biased) sum = add(sum, bias);
      if (whole) store(to, sum);
      else store_part(to, sum, left);
    }
  }
}

template <int Kind, int Rows, int Panels>
void tile(const HalfCall& call, int64_t row, int64_t panel, const char* weight, int64_t stride, int64_t begin,
          int64_t channels) {
  V sums[Rows][Panels * kVectors];
  sums_of<Kind, Rows, Panels>(call.x + row * call.depth + begin, call.depth, weight, stride, channels, sums);
  add_to<Rows, Panels>(call, row, panel, begin == 0, begin + channels == call.depth, sums);
}

// Fewer rows than a tile has.
template <int Kind, int Rows, int Panels>
void tile_of(int64_t rows, const HalfCall& call, int64_t row, int64_t panel, const char* weight, int64_t stride,
             int64_t begin, int64_t channels) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return tile_of<Kind, Rows - 1, Panels>(rows, call, row, panel, weight, stride, begin, channels);
  }
  tile<Kind, Rows, Panels>(call, row, panel, weight, stride, begin, channels);
}

// Few rows: every panel is read once, from front to back, with as many beside it as there are registers for.
template <int Kind, int Rows>
void few_rows(const HalfCall& call, int64_t first, int64_t last, int64_t row) {
  constexpr int kFit = kFewSums / (Rows * kVectors);
  constexpr int kPanels = kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  const int64_t stride = call.depth * kHalfPanel * 2;
  const char* weights = reinterpret_cast<const char*>(call.weight);
  int64_t panel = first;
  for (; panel + kPanels <= last; panel += kPanels) {
    for (int64_t k = 0; k < call.depth; k += kHalfSpan) {
      const int64_t channels = call.depth - k < kHalfSpan ? call.depth - k : kHalfSpan;
      tile<Kind, Rows, kPanels>(call, row, panel, weights + panel * stride + k * kHalfPanel * 2, stride, k, channels);
    }
  }
  for (; panel < last; ++panel) {
    for (int64_t k = 0; k < call.depth; k += kHalfSpan) {
      const int64_t channels = call.depth - k < kHalfSpan ? call.depth - k : kHalfSpan;
      tile<Kind, Rows, 1>(call, row, panel, weights + panel * stride + k * kHalfPanel * 2, stride, k, channels);
    }
  }
}

template <int Kind, int Rows>
void few_of(int64_t rows, const HalfCall& call, int64_t first, int64_t last, int64_t row) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return few_of<Kind, Rows - 1>(rows, call, first, last, row);
  }
  few_rows<Kind, Rows>(call, first, last, row);
}

// Many rows: a span of some panels is widened once for all of them.
template <int Kind>
void many_rows(const HalfCall& call, int64_t first, int64_t last, int64_t first_row, int64_t last_row,
               float* scratch) {
  constexpr int64_t kStride = kHalfSpan * kHalfPanel;
  for (int64_t k = 0; k < call.depth; k += kHalfSpan) {
    const int64_t channels = call.depth - k < kHalfSpan ? call.depth - k : kHalfSpan;
    for (int64_t panel = first; panel < last; panel += kWidePanels) {
      const int64_t panels = last - panel < kWidePanels ? last - panel : kWidePanels;
      for (int64_t p = 0; p < panels; ++p) {
        const uint16_t* from = call.weight + ((panel + p) * call.depth + k) * kHalfPanel;
        for (int64_t i = 0; i < channels * kHalfPanel; i += kWidth) {
          store(scratch + p * kStride + i, widened<Kind>(from + i));
        }
      }
      const char* weight = reinterpret_cast<const char*>(scratch);
      for (int64_t row = first_row; row < last_row; row += kTileRows) {
        const int64_t rows = last_row - row;
        if (panels == kWidePanels) {
          tile_of<kHeldFloat, kTileRows, kWidePanels>(rows, call, row, panel, weight, kStride * 4, k, channels);
        } else {
          tile_of<kHeldFloat, kTileRows, 1>(rows, call, row, panel, weight, kStride * 4, k, channels);
        }
      }
    }
  }
}

template <int Kind>
void half_rows(const HalfCall& call, int64_t first, int64_t last, int64_t first_row, int64_t last_row,
               float* scratch) {
  if (last_row - first_row > kTileRows) return many_rows<Kind>(call, first, last, first_row, last_row, scratch);
  few_of<Kind, kTileRows>(last_row - first_row, call, first, last, first_row);
}

void half_product(const HalfCall& call, int64_t first, int64_t last, int64_t first_row, int64_t last_row,
                  float* scratch) {
  if (call.kind == kFloat16) half_rows<kHeldFloat16>(call, first, last, first_row, last_row, scratch);
  else half_rows<kHeldBfloat16>(call, first, last, first_row, last_row, scratch);
}

void half_column(const HalfCall& call, int64_t column, float* out) {
  const uint16_t* from = call.weight + column / kHalfPanel * call.depth * kHalfPanel + column % kHalfPanel;
  for (int64_t k = 0; k < call.depth; ++k) {
    const uint16_t code = from[k * kHalfPanel];
    out[k] = call.kind == kFloat16 ? from_float16(code) : from_bfloat16(code);
  }
}

constexpr size_t kHalfScratch = static_cast<size_t>(kHalfSpan * kHalfPanel * kWidePanels);

}  // namespace
}  // namespace precast
