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
// A panel is two vectors wide, which share what is broadcast of x. With two, 32 multiplications by 4 bits take 0.98 cycles
// instead of 1.08, by 8 bits 1.51 instead of 1.71 (4 rows and more, one core of an EPYC 9004, whose AVX2 does 16 in
// float32 in 1.0); for one row 1.49 instead of 1.69 and 2.31 instead of 2.82.
constexpr int kHalves = 2;
constexpr int kHalfColumns = kPanelColumns / kHalves;

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

// sums[h][r] = products of one block of half h of a panel with row r.
template <bool Single, int Rows>  // Single: the block is one fold
PRECAST_INLINE void block_of_4(const uint8_t* w, const int8_t* x, int64_t block,
                               __m256i (&sums)[kHalves][Rows]) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
  for (int h = 0; h < kHalves && !Single; ++h) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[h][r] = _mm256_setzero_si256();
  }
  int64_t i = 0;
  do {
    __m256i words[kHalves][Rows];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      __m256i even[kHalves], odd[kHalves];
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const __m256i raw = load_bytes(w + (v * kHalves + h) * 32);
        even[h] = _mm256_and_si256(raw, low);
        odd[h] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), low);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i four = four_of(x + (2 * v * Rows + r) * 4);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          const __m256i product = _mm256_maddubs_epi16(even[h], four);
          words[h][r] = v == 0 ? product : _mm256_add_epi16(words[h][r], product);
          pin(words[h][r]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i four = four_of(x + ((2 * v + 1) * Rows + r) * 4);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          words[h][r] = _mm256_add_epi16(words[h][r], _mm256_maddubs_epi16(odd[h], four));
          pin(words[h][r]);
        }
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i folded = _mm256_madd_epi16(words[h][r], ones);
        sums[h][r] = Single ? folded : _mm256_add_epi32(sums[h][r], folded);
      }
    }
    w += 256;
    x += kFold * Rows;
    i += kFold;
  } while (!Single && i < block);
}

// Two products of 16 bits a lane: (k, k + 2), then (k + 1, k + 3), the order in which `quantize_tiles` lays x for it.
template <int Rows>
PRECAST_INLINE void block_of_8(const uint8_t* w, const int8_t* x, int64_t block,
                               __m256i (&sums)[kHalves][Rows]) {
#pragma GCC unroll 2
  for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[h][r] = _mm256_setzero_si256();
  }
  for (int64_t i = 0; i < block; i += kFold) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      __m256i even[kHalves], odd[kHalves];
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        const __m256i raw = load_bytes(w + (v * kHalves + h) * 32);
        even[h] = _mm256_srai_epi16(_mm256_slli_epi16(raw, 8), 8);
        odd[h] = _mm256_srai_epi16(raw, 8);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i first = four_of(x + (v * Rows + r) * 8), second = four_of(x + (v * Rows + r) * 8 + 4);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          sums[h][r] = _mm256_add_epi32(sums[h][r], _mm256_madd_epi16(even[h], first));
          pin(sums[h][r]);
          sums[h][r] = _mm256_add_epi32(sums[h][r], _mm256_madd_epi16(odd[h], second));
          pin(sums[h][r]);
        }
      }
    }
    w += 512;
    x += kFold * Rows * 2;
  }
}

// The columns of a panel of Rows rows.
template <int Bits, bool Zeros, bool Single, int Rows>
PRECAST_INLINE void panel_tile(const BlockCall& call, const PanelLayout& layout, const uint8_t* w, const int8_t* x,
                               const float* x_scales, __m256 (&out)[kHalves][Rows]) {
#pragma GCC unroll 2
  for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) out[h][r] = _mm256_setzero_ps();
  }
  const int64_t block = Single ? kFold : call.block;
  for (int64_t b = 0; b < layout.blocks; ++b) {
    __m256i sums[kHalves][Rows];
    if constexpr (Bits == 4) block_of_4<Single, Rows>(w, x, block, sums);
    else block_of_8<Rows>(w, x, block, sums);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256 scale = scales_of(w + layout.scales + h * kHalfColumns * 2);
      const __m256 zero =
          Zeros ? zeros_of<Bits>(w + layout.zeros + h * kHalfColumns * Bits / 8) : _mm256_set1_ps(8.0f);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        // Integers below 2^24 all of them: exact in float32.
        __m256 total = _mm256_cvtepi32_ps(sums[h][r]);
        if (Zeros || Bits == 4) total = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(x_scales + 2 * r + 1), total);
        // The product of the scales first: large rows do not overflow before small weights are at them.
        out[h][r] = _mm256_fmadd_ps(total, _mm256_mul_ps(scale, _mm256_broadcast_ss(x_scales + 2 * r)), out[h][r]);
      }
    }
    w += layout.of_block;
    x += block * Rows * Bits / 4;
    x_scales += 2 * Rows;
  }
}

template <int Bits, bool Zeros, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  const uint8_t* w = call.weight + panel * layout.bytes;
  const int8_t* x = call.quants + begin * layout.blocks * call.block * Bits / 4;
  const float* x_scales = call.scales + begin * layout.blocks * 2;
  __m256 result[kHalves][Rows];
  if (call.block == kFold) panel_tile<Bits, Zeros, true, Rows>(call, layout, w, x, x_scales, result);
  else panel_tile<Bits, Zeros, false, Rows>(call, layout, w, x, x_scales, result);
#pragma GCC unroll 2
  for (int h = 0; h < kHalves; ++h) {
    const int64_t column = panel * kPanelColumns + h * kHalfColumns, left = call.columns - column;
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      float* to = call.out + (begin + r) * call.columns + column;
      if (left >= kHalfColumns) {
        if (call.bias != nullptr) result[h][r] = _mm256_add_ps(result[h][r], _mm256_loadu_ps(call.bias + column));
        _mm256_storeu_ps(to, result[h][r]);
      } else {
        float lanes[kHalfColumns];
        _mm256_storeu_ps(lanes, result[h][r]);
        for (int64_t c = 0; c < left; ++c) to[c] = call.bias == nullptr ? lanes[c] : lanes[c] + call.bias[column + c];
      }
    }
  }
}

#else

template <int Bits, bool Zeros, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  const int64_t depth = layout.blocks * call.block, column = panel * kPanelColumns;
  const int64_t wide = call.columns - column < kPanelColumns ? call.columns - column : kPanelColumns;
  const uint8_t* parts = call.weight + panel * layout.bytes;
  const int8_t* x = call.quants + begin * depth;
  const float* x_scales = call.scales + begin * layout.blocks * 2;
  float result[Rows][kPanelColumns] = {};
  for (int64_t b = 0; b < layout.blocks; ++b) {
    int32_t sums[Rows][kPanelColumns] = {};
    const int8_t* of_block = x + b * call.block * Rows;
    for (int64_t k = 0; k < call.block / 4; ++k) {
      int32_t w[4 * kPanelColumns];
      for (int64_t i = 0; i < 4 * kPanelColumns; ++i) {
        w[i] = Bits == 4 ? (parts[k / 2 * 4 * kPanelColumns + i] >> (k % 2 * 4)) & 15 : static_cast<int8_t>(parts[k * 4 * kPanelColumns + i]);
      }
      for (int r = 0; r < Rows; ++r) {
        const int8_t* four = of_block + (k * Rows + r) * 4;
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          for (int64_t i = 0; i < 4; ++i) sums[r][c] += w[c * 4 + i] * four[i];
        }
      }
    }
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      uint16_t code;
      __builtin_memcpy(&code, parts + layout.scales + c * 2, sizeof code);
      const float scale = from_bits((code + kScaleOffset) << kScaleShift);
      float zero = Bits == 4 ? 8.0f : 0.0f;
      if (Zeros) {
        const uint8_t* stored = parts + layout.zeros + c * Bits / 8;
        zero = static_cast<float>(Bits == 4 ? *stored >> (c % 2 * 4) & 15 : static_cast<int8_t>(*stored));
      }
      for (int r = 0; r < Rows; ++r) {
        const float* of_row = x_scales + (b * Rows + r) * 2;
        const float total = static_cast<float>(sums[r][c]) - zero * of_row[1];
        result[r][c] += total * (of_row[0] * scale);
      }
    }
    parts += layout.of_block;
  }
  for (int r = 0; r < Rows; ++r) {
    for (int64_t c = 0; c < wide; ++c) {
      const float added = call.bias == nullptr ? 0.0f : call.bias[column + c];
      call.out[(begin + r) * call.columns + column + c] = result[r][c] + added;
    }
  }
}

#endif

template <int Bits, bool Zeros>
void panels(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  const PanelLayout layout(call.depth, call.block, Bits, Zeros);
  static_assert(kRowTile == 4, "one case a number of rows");
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t begin = tile * kRowTile, left = call.rows - begin;
      if (left >= 4) panel_rows<Bits, Zeros, 4>(call, layout, panel, begin);
      else if (left == 3) panel_rows<Bits, Zeros, 3>(call, layout, panel, begin);
      else if (left == 2) panel_rows<Bits, Zeros, 2>(call, layout, panel, begin);
      else panel_rows<Bits, Zeros, 1>(call, layout, panel, begin);
    }
  }
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
