// Products of rows in 8 or 12 bits with weights in blocks of 4 or 8, a scale for each block of either. The layouts are
// described in block_calls.h and block_rows.h; the idea is that of https://arxiv.org/abs/2208.07339 with finer scales.
//
// Sums within a block are exact integers on every instruction set, nothing saturates: 4 bits by 8 give at most
// 2 * 15 * 127 a lane of 16 bits, of which eight fit; 8 by 12 bits are multiplied as 16 bits into lanes of 32.
#pragma once

#include "block_rows.h"

namespace precast {
namespace {

#ifdef PRECAST_BYTES

#define PRECAST_INLINE __attribute__((always_inline)) inline
// A panel is two vectors wide, which share what is broadcast of x. With two, 32 multiplications by 4 bits take 0.98
// cycles instead of 1.08, by 8 bits 1.51 instead of 1.71 (4 rows and more, one core of an EPYC 9004, whose AVX2 does 16
// in float32 in one); for one row 1.49 instead of 1.69 and 2.31 instead of 2.82. From four rows on, products of 4 bits
// are twice as fast as float32 ones and of 8 bits 1.3 times, so that there is one way for any number of rows.
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

template <int Bits, int Kind>
inline __m256 zeros_of(const uint8_t* p) {
  if (Kind == kMiddle) return _mm256_set1_ps(8.0f);
  if (Kind == kHalves) {  // as `from_half`
    const __m256i code = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x7fff)), 13);
    const __m256i sign = _mm256_slli_epi32(_mm256_srli_epi32(code, 15), 31);
    const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p112f));
    return _mm256_or_ps(value, _mm256_castsi256_ps(sign));
  }
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
template <int Fold, int Rows>  // Fold: 32, or 16 where that is the block
PRECAST_INLINE void block_of_8(const uint8_t* w, const int8_t* x, int64_t block,
                               __m256i (&sums)[kHalves][Rows]) {
#pragma GCC unroll 2
  for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[h][r] = _mm256_setzero_si256();
  }
  for (int64_t i = 0; i < block; i += Fold) {
#pragma GCC unroll 8
    for (int v = 0; v < Fold / 4; ++v) {
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
    w += Fold * kPanelColumns;
    x += Fold * Rows * 2;
  }
}

// The columns of a panel of Rows rows. Block: 16, 32, or 0 for multiples of 32.
template <int Bits, int Kind, int Block, int Rows>
PRECAST_INLINE void panel_tile(const BlockCall& call, const PanelLayout& layout, const uint8_t* w, const int8_t* x,
                               const RowScale* x_scales, __m256 (&out)[kHalves][Rows]) {
#pragma GCC unroll 2
  for (int h = 0; h < kHalves; ++h) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) out[h][r] = _mm256_setzero_ps();
  }
  const int64_t block = Block != 0 ? Block : call.block;
  for (int64_t b = 0; b < layout.blocks; ++b) {
    __m256i sums[kHalves][Rows];
    if constexpr (Bits == 4) block_of_4<Block == kFold, Rows>(w, x, block, sums);
    else block_of_8<Block == kSmallestBlock ? kSmallestBlock : kFold, Rows>(w, x, block, sums);
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256 scale = scales_of(w + layout.scales + h * kHalfColumns * 2);
      const __m256 zero = zeros_of<Bits, Kind>(w + layout.zeros + h * kHalfColumns * (Kind == kHalves ? 16 : Bits) / 8);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        // Integers below 2^24 all of them, but for zero points that are floats: exact in float32.
        __m256 total = _mm256_cvtepi32_ps(sums[h][r]);
        if (Kind != kMiddle || Bits == 4) total = _mm256_fnmadd_ps(zero, _mm256_broadcast_ss(&x_scales[r].sum), total);
        // The product of the scales first: large rows do not overflow before small weights are at them.
        out[h][r] = _mm256_fmadd_ps(total, _mm256_mul_ps(scale, _mm256_broadcast_ss(&x_scales[r].scale)), out[h][r]);
      }
    }
    w += layout.of_block;
    x += block * Rows * Bits / 4;
    x_scales += Rows;
  }
}

template <int Bits, int Kind, int Block, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  const uint8_t* w = call.weight + panel * layout.bytes;
  const int8_t* x = row_quants(call) + begin * layout.blocks * call.block * Bits / 4;
  const RowScale* x_scales = row_scales(call) + begin * layout.blocks;
  __m256 result[kHalves][Rows];
  panel_tile<Bits, Kind, Block, Rows>(call, layout, w, x, x_scales, result);
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

template <int Bits, int Kind, int, int Rows>
void panel_rows(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t begin) {
  const int64_t depth = layout.blocks * call.block, column = panel * kPanelColumns;
  const int64_t wide = call.columns - column < kPanelColumns ? call.columns - column : kPanelColumns;
  const uint8_t* parts = call.weight + panel * layout.bytes;
  const int8_t* x = row_quants(call) + begin * depth * (Bits / 4);
  const RowScale* x_scales = row_scales(call) + begin * layout.blocks;
  float result[Rows][kPanelColumns] = {};
  for (int64_t b = 0; b < layout.blocks; ++b) {
    int32_t sums[Rows][kPanelColumns] = {};
    const int8_t* of_block = x + b * call.block * Rows * (Bits / 4);
    for (int64_t k = 0; k < call.block / 4; ++k) {
      int32_t w[4 * kPanelColumns];
      for (int64_t i = 0; i < 4 * kPanelColumns; ++i) {
        if (Bits == 4) w[i] = (parts[k / 2 * 4 * kPanelColumns + i] >> (k % 2 * 4)) & 15;
        else w[i] = static_cast<int8_t>(parts[k * 4 * kPanelColumns + i]);
      }
      for (int r = 0; r < Rows; ++r) {
        int16_t four[4];
        const int8_t* from = of_block + (k * Rows + r) * Bits;
        if (Bits == 8) __builtin_memcpy(four, from, sizeof four);
        else for (int64_t i = 0; i < 4; ++i) four[i] = from[i];
        for (int64_t c = 0; c < kPanelColumns; ++c) {
          for (int64_t i = 0; i < 4; ++i) sums[r][c] += w[c * 4 + i] * four[i];
        }
      }
    }
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      uint16_t code;
      __builtin_memcpy(&code, parts + layout.scales + c * 2, sizeof code);
      const float scale = from_bits((code + kScaleOffset) << kScaleShift);
      const float zero = zero_point(parts + layout.zeros, c, Bits, Kind);
      for (int r = 0; r < Rows; ++r) {
        const RowScale& of_row = x_scales[b * Rows + r];
        const float total = static_cast<float>(sums[r][c]) - zero * of_row.sum;
        result[r][c] += total * (of_row.scale * scale);
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

template <int Bits, int Kind, int Block>
void panels(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  const PanelLayout layout(call.depth, call.block, Bits, Kind);
  static_assert(kRowTile == 4, "one case a number of rows");
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t begin = tile * kRowTile, left = call.rows - begin;
      if (left >= 4) panel_rows<Bits, Kind, Block, 4>(call, layout, panel, begin);
      else if (left == 3) panel_rows<Bits, Kind, Block, 3>(call, layout, panel, begin);
      else if (left == 2) panel_rows<Bits, Kind, Block, 2>(call, layout, panel, begin);
      else panel_rows<Bits, Kind, Block, 1>(call, layout, panel, begin);
    }
  }
}

template <int Bits, int Kind>
void panels_of_kind(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  if (Bits == 8 && call.block == kSmallestBlock) {
    panels<8, Kind, kSmallestBlock>(call, first, last, first_tile, last_tile);
  } else if (call.block == kFold) {
    panels<Bits, Kind, kFold>(call, first, last, first_tile, last_tile);
  } else {
    panels<Bits, Kind, 0>(call, first, last, first_tile, last_tile);
  }
}

void block_linear(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile, float*) {
  by_form(call, [&](auto bits, auto kind) {
    panels_of_kind<bits.value, kind.value>(call, first, last, first_tile, last_tile);
  });
}

constexpr BlockKernels kBlockPanels = {
    Rounding::kNone, kSmallestBlock, kRowTile, 384 * 1024, integers_prepared, quantize_tiles<kWordsForm>, block_linear,
    no_scratch, nullptr,
};

}  // namespace
}  // namespace precast
