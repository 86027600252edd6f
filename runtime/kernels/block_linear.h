// Products of rows quantised on the fly with weights in blocks of 4 or 8 bits, a scale for each block of either
// (https://arxiv.org/abs/2208.07339 for the idea; the layout is described in block_calls.h).
//
// Sums of products are exact integers on every instruction set: nothing here saturates. 4 bits: 15 * 127 * 2 fits 16
// bits eight times. 8 bits: the unsigned operand is |w| <= 128, the signed one x with w's sign, 128 * 127 * 2 < 2^15.
#pragma once

#include "block_calls.h"
#include "vector.h"

namespace precast {
namespace {

constexpr float kMostQuant = 127.0f;

inline int32_t bits_of(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float from_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// One block of one row: out[i * stride .. + 4] = the quants of x[4 * i .. + 4]. Returns their sum.
template <bool Wide>
inline int32_t quantize_block(const float* x, int64_t block, float* scale, int8_t* out, int64_t stride) {
  // As integers, the absolute values keep their order, and NaN is above infinity above everything else.
  int32_t largest = 0;
#ifdef PRECAST_TRANSPOSES
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (int64_t i = 0; i < block; i += 8) {
    const __m256i v = _mm256_and_si256(magnitude, _mm256_castps_si256(_mm256_loadu_ps(x + i)));
    most = _mm256_max_epi32(most, v);
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  largest = _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
#else
  for (int64_t i = 0; i < block; ++i) {
    const int32_t v = bits_of(x[i]) & 0x7fffffff;
    largest = v > largest ? v : largest;
  }
#endif
  const float most_of_all = from_bits(static_cast<uint32_t>(largest));
  // Below this 127 / most would overflow: such a block is zero. Infinity and NaN make every product with it NaN.
  const bool tiny = most_of_all < 1e-36f, finite = largest < 0x7f800000;
  *scale = tiny ? 0.0f : finite ? most_of_all / kMostQuant : __builtin_nanf("");
  const float inverse = tiny || !finite ? 0.0f : kMostQuant / most_of_all;
  int32_t sum = 0;
  if (inverse == 0.0f) {
    for (int64_t i = 0; i < block / 4; ++i) __builtin_memset(out + i * stride, 0, Wide ? 8 : 4);
    return 0;
  }
#ifdef PRECAST_TRANSPOSES
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; i < block; i += 32) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), factor));
      sums = _mm256_add_epi32(sums, q[j]);
    }
    if (Wide) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        // Channels 0 2 1 3 of every four, in 16 bits.
        const __m256i pairs = _mm256_shuffle_epi32(q[j], 0xd8);
        const __m256i packed = _mm256_packs_epi32(pairs, pairs);
        const int64_t low = _mm256_extract_epi64(packed, 0), high = _mm256_extract_epi64(packed, 2);
        __builtin_memcpy(out + (i / 4 + 2 * j) * stride, &low, 8);
        __builtin_memcpy(out + (i / 4 + 2 * j + 1) * stride, &high, 8);
      }
      continue;
    }
    const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    int32_t fours[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(fours), _mm256_permutevar8x32_epi32(words, order));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) __builtin_memcpy(out + (i / 4 + j) * stride, &fours[j], 4);
  }
  __m128i low = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  low = _mm_add_epi32(low, _mm_shuffle_epi32(low, 0x4e));
  sum = _mm_cvtsi128_si32(_mm_add_epi32(low, _mm_shuffle_epi32(low, 0xb1)));
#else
  constexpr float kToInteger = 12582912.0f;  // adding 1.5 * 2^23 rounds to the nearest, ties to even
  for (int64_t i = 0; i < block; ++i) {
    volatile const float rounded = x[i] * inverse + kToInteger;
    const int32_t q = static_cast<int32_t>(rounded - kToInteger);
    out[i / 4 * stride + i % 4] = static_cast<int8_t>(q);
    sum += q;
  }
#endif
  return sum;
}

template <bool Wide>
void quantize_rows(const BlockCall& call, int64_t first, int64_t last) {
  constexpr int64_t kBytes = Wide ? 2 : 1;
  const int64_t blocks = (call.depth + call.block - 1) / call.block, depth = blocks * call.block;
  constexpr int64_t kLargestBlock = 256;
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t begin = tile * kRowTile, rows = call.rows - begin < kRowTile ? call.rows - begin : kRowTile;
    int8_t* quants = call.quants + begin * depth * kBytes;
    float* scales = call.scales + begin * blocks * 2;
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = call.x + (begin + r) * call.depth;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t at = b * call.block, left = call.depth - at;
        float* to = scales + (b * rows + r) * 2;
        int8_t* out = quants + (at * rows + r * 4) * kBytes;
        if (left >= call.block) {
          to[1] = static_cast<float>(quantize_block<Wide>(x + at, call.block, to, out, rows * 4 * kBytes));
        } else {
          float padded_block[kLargestBlock] = {};
          for (int64_t i = 0; i < left; ++i) padded_block[i] = x[at + i];
          to[1] = static_cast<float>(quantize_block<Wide>(padded_block, call.block, to, out, rows * 4 * kBytes));
        }
      }
    }
  }
}

void quantize_tiles(const BlockCall& call, int64_t first, int64_t last) {
#ifdef PRECAST_TRANSPOSES
  if (call.bits == 8) return quantize_rows<true>(call, first, last);
#endif
  quantize_rows<false>(call, first, last);
}

#ifdef PRECAST_TRANSPOSES

#define PRECAST_INLINE __attribute__((always_inline)) inline
// Panels that share what is broadcast of x. With two, products of 4 bits take 0.98 cycles for 32 multiplications instead
// of 1.08, of 8 bits 1.51 instead of 1.71 (4 rows and more, one core of an EPYC 9004, whose AVX2 does 1.0 in float32 for
// 16); for one row 1.49 instead of 1.69 and 2.31 instead of 2.82.
constexpr int kSidePanels = 2;

// Sums stay in one register each: left alone, GCC reorders integer additions into trees and spills their leaves.
inline void pin(__m256i& v) { __asm__("" : "+x"(v)); }

inline __m256i load_bytes(const uint8_t* p) {
  __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  pin(v);  // or it is loaded once for each of its readers
  return v;
}

inline __m256i four_of(const int8_t* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm256_set1_epi32(bits);
}

inline __m256 scales_of(const uint8_t* p) {
  const __m256i code = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(code, _mm256_set1_epi32(kScaleOffset)), kScaleShift);
  return _mm256_castsi256_ps(bits);
}

template <int Bits>
inline __m256 zeros_of(const uint8_t* p) {
  if (Bits == 8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  const __m256i halves = _mm256_srlv_epi32(four_of(reinterpret_cast<const int8_t*>(p)),
                                           _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  return _mm256_cvtepi32_ps(_mm256_and_si256(halves, _mm256_set1_epi32(15)));
}

// sums[p][r] = products of one block of panel p's eight columns with row r; panels lie `stride` bytes apart.
template <bool Single, int Panels, int Rows>  // Single: the block is one fold
PRECAST_INLINE void block_of_4(const uint8_t* w, int64_t stride, const int8_t* x, int64_t block,
                               __m256i (&sums)[Panels][Rows]) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int p = 0; p < Panels && !Single; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[p][r] = _mm256_setzero_si256();
  }
  int64_t i = 0;
  do {
    __m256i words[Panels][Rows];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      __m256i even[Panels], odd[Panels];
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) {
        const __m256i raw = load_bytes(w + p * stride + 32 * v);
        even[p] = _mm256_and_si256(raw, low);
        odd[p] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), low);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i four = four_of(x + (2 * v * Rows + r) * 4);
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          const __m256i product = _mm256_maddubs_epi16(even[p], four);
          words[p][r] = v == 0 ? product : _mm256_add_epi16(words[p][r], product);
          pin(words[p][r]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i four = four_of(x + ((2 * v + 1) * Rows + r) * 4);
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          words[p][r] = _mm256_add_epi16(words[p][r], _mm256_maddubs_epi16(odd[p], four));
          pin(words[p][r]);
        }
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p) {
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i folded = _mm256_madd_epi16(words[p][r], ones);
        sums[p][r] = Single ? folded : _mm256_add_epi32(sums[p][r], folded);
      }
    }
    w += 128;
    x += kFold * Rows;
    i += kFold;
  } while (!Single && i < block);
}

// Two products of 16 bits a lane: (k, k + 2), then (k + 1, k + 3), the order in which `quantize_tiles` lays x for it.
template <int Panels, int Rows>
PRECAST_INLINE void block_of_8(const uint8_t* w, int64_t stride, const int8_t* x, int64_t block,
                               __m256i (&sums)[Panels][Rows]) {
#pragma GCC unroll 2
  for (int p = 0; p < Panels; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[p][r] = _mm256_setzero_si256();
  }
  for (int64_t i = 0; i < block; i += kFold) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      __m256i even[Panels], odd[Panels];
#pragma GCC unroll 2
      for (int p = 0; p < Panels; ++p) {
        const __m256i raw = load_bytes(w + p * stride + 32 * v);
        even[p] = _mm256_srai_epi16(_mm256_slli_epi16(raw, 8), 8);
        odd[p] = _mm256_srai_epi16(raw, 8);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i first = four_of(x + (v * Rows + r) * 8), second = four_of(x + (v * Rows + r) * 8 + 4);
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          sums[p][r] = _mm256_add_epi32(sums[p][r], _mm256_madd_epi16(even[p], first));
          pin(sums[p][r]);
          sums[p][r] = _mm256_add_epi32(sums[p][r], _mm256_madd_epi16(odd[p], second));
          pin(sums[p][r]);
        }
      }
    }
    w += 256;
    x += kFold * Rows * 2;
  }
}

// Eight columns each of Panels panels, of Rows rows.
template <int Bits, bool Zeros, bool Single, int Panels, int Rows>
PRECAST_INLINE void panel_tile(const BlockCall& call, const PanelLayout& layout, const uint8_t* panel, const int8_t* x,
                               const float* x_scales, __m256 (&out)[Panels][Rows]) {
#pragma GCC unroll 2
  for (int p = 0; p < Panels; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) out[p][r] = _mm256_setzero_ps();
  }
  const int64_t block = Single ? kFold : call.block;
  for (int64_t b = 0; b < layout.blocks; ++b) {
    __m256i sums[Panels][Rows];
    const uint8_t* w = panel + b * block * kPanelColumns * Bits / 8;
    const int8_t* of_block = x + b * block * Rows * Bits / 4;
    if constexpr (Bits == 4) block_of_4<Single, Panels, Rows>(w, layout.bytes, of_block, block, sums);
    else block_of_8<Panels, Rows>(w, layout.bytes, of_block, block, sums);
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p) {
      const uint8_t* scales = panel + p * layout.bytes + layout.scales + b * 2 * kPanelColumns;
      const uint8_t* zeros = panel + p * layout.bytes + layout.zeros + b * kPanelColumns * Bits / 8;
      const __m256 scale = scales_of(scales), zero = Zeros ? zeros_of<Bits>(zeros) : _mm256_set1_ps(8.0f);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        // Integers below 2^24 all of them: exact in float32.
        __m256 total = _mm256_cvtepi32_ps(sums[p][r]);
        if (Zeros || Bits == 4) total = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(x_scales + 2 * r + 1), total);
        // The product of the scales first: large rows do not overflow before small weights are at them.
        out[p][r] = _mm256_fmadd_ps(total, _mm256_mul_ps(scale, _mm256_broadcast_ss(x_scales + 2 * r)), out[p][r]);
      }
    }
    x_scales += 2 * Rows;
  }
}

template <int Bits, bool Zeros, int Panels, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  const uint8_t* parts = call.weight + panel * layout.bytes;
  const int8_t* x = call.quants + begin * layout.blocks * call.block * Bits / 4;
  const float* x_scales = call.scales + begin * layout.blocks * 2;
  __m256 result[Panels][Rows];
  if (call.block == kFold) panel_tile<Bits, Zeros, true, Panels, Rows>(call, layout, parts, x, x_scales, result);
  else panel_tile<Bits, Zeros, false, Panels, Rows>(call, layout, parts, x, x_scales, result);
#pragma GCC unroll 2
  for (int p = 0; p < Panels; ++p) {
    const int64_t column = (panel + p) * kPanelColumns, left = call.columns - column;
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      float* to = call.out + (begin + r) * call.columns + column;
      if (left >= kPanelColumns) {
        if (call.bias != nullptr) result[p][r] = _mm256_add_ps(result[p][r], _mm256_loadu_ps(call.bias + column));
        _mm256_storeu_ps(to, result[p][r]);
      } else {
        float lanes[kPanelColumns];
        _mm256_storeu_ps(lanes, result[p][r]);
        for (int64_t c = 0; c < left; ++c) to[c] = call.bias == nullptr ? lanes[c] : lanes[c] + call.bias[column + c];
      }
    }
  }
}

#else

constexpr int kSidePanels = 1;

template <int Bits, bool Zeros, int Panels, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  static_assert(Panels == 1, "one at a time");
  const int64_t depth = layout.blocks * call.block, column = panel * kPanelColumns;
  const int64_t wide = call.columns - column < kPanelColumns ? call.columns - column : kPanelColumns;
  const uint8_t* parts = call.weight + panel * layout.bytes;
  const int8_t* x = call.quants + begin * depth;
  const float* x_scales = call.scales + begin * layout.blocks * 2;
  float result[Rows][kPanelColumns] = {};
  for (int64_t b = 0; b < layout.blocks; ++b) {
    int32_t sums[Rows][kPanelColumns] = {};
    for (int64_t k = b * call.block / 4; k < (b + 1) * call.block / 4; ++k) {
      int32_t w[4 * kPanelColumns];
      for (int64_t i = 0; i < 4 * kPanelColumns; ++i) {
        w[i] = Bits == 4 ? (parts[k / 2 * 32 + i] >> (k % 2 * 4)) & 15 : static_cast<int8_t>(parts[k * 32 + i]);
      }
      for (int r = 0; r < Rows; ++r) {
        const int8_t* four = x + (k * Rows + r) * 4;
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          for (int64_t i = 0; i < 4; ++i) sums[r][c] += w[c * 4 + i] * four[i];
        }
      }
    }
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      uint16_t code;
      __builtin_memcpy(&code, parts + layout.scales + (b * kPanelColumns + c) * 2, sizeof code);
      const float scale = from_bits((code + kScaleOffset) << kScaleShift);
      float zero = Bits == 4 ? 8.0f : 0.0f;
      if (Zeros) {
        const uint8_t* stored = parts + layout.zeros + (b * kPanelColumns + c) * Bits / 8;
        zero = static_cast<float>(Bits == 4 ? *stored >> (c % 2 * 4) & 15 : static_cast<int8_t>(*stored));
      }
      for (int r = 0; r < Rows; ++r) {
        const float* of_row = x_scales + (b * Rows + r) * 2;
        const float total = static_cast<float>(sums[r][c]) - zero * of_row[1];
        result[r][c] += total * (of_row[0] * scale);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int64_t c = 0; c < wide; ++c) {
      const float added = call.bias == nullptr ? 0.0f : call.bias[column + c];
      call.out[(begin + r) * call.columns + column + c] = result[r][c] + added;
    }
  }
}

#endif

template <int Bits, bool Zeros, int Panels>
void tiles(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t first, int64_t last) {
  static_assert(kRowTile == 4, "one case a number of rows");
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t begin = tile * kRowTile, left = call.rows - begin;
    if (left >= 4) panel_rows<Bits, Zeros, Panels, 4>(call, layout, panel, begin);
    else if (left == 3) panel_rows<Bits, Zeros, Panels, 3>(call, layout, panel, begin);
    else if (left == 2) panel_rows<Bits, Zeros, Panels, 2>(call, layout, panel, begin);
    else panel_rows<Bits, Zeros, Panels, 1>(call, layout, panel, begin);
  }
}

template <int Bits, bool Zeros>
void panels(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  const PanelLayout layout(call.depth, call.block, Bits, Zeros);
  int64_t panel = first;
  for (; panel + kSidePanels <= last; panel += kSidePanels) {
    tiles<Bits, Zeros, kSidePanels>(call, layout, panel, first_tile, last_tile);
  }
  for (; panel < last; ++panel) tiles<Bits, Zeros, 1>(call, layout, panel, first_tile, last_tile);
}

void block_linear(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  if (call.bits == 4) {
    if (call.zeros) panels<4, true>(call, first, last, first_tile, last_tile);
    else panels<4, false>(call, first, last, first_tile, last_tile);
  } else {
    if (call.zeros) panels<8, true>(call, first, last, first_tile, last_tile);
    else panels<8, false>(call, first, last, first_tile, last_tile);
  }
}

}  // namespace
}  // namespace precast
