// Many rows in bytes times weights in blocks, where a processor adds products of bytes (VPDPBUSD): one product instead of
// the two of block_dots.h beside weights of 8 bits. Rows are the unsigned factor, counted from -128; what that adds to
// the sums is the same for all of them, and is what they begin with.
//
// A row keeps 8 bits of each block's largest, as weights do: their errors are alike. MiniLM's vectors have a cosine of
// 0.99965 to eager's, 0.99986 with exact rows; the KL divergence of a language model grows fourfold, so that it is not
// allowed there. Beside weights of 4 bits rows have 8 bits either way. Infinity or NaN in a block make every product NaN.
#pragma once

#include "block_rows.h"
#include "short_gelu.h"
#include "words.h"

namespace precast {
namespace {

// Rows of a tile, two vectors of columns wide: the sums of a block are 16 of 32 registers, or 12 of 16.
constexpr int64_t kByteRows = kWidth == 16 ? 8 : 6;
constexpr int kByteUnits = 2;
// Channels of a row that lie together, [depth / 32][kByteRows][32] in a tile: every address is a constant away.
constexpr int64_t kByteGroup = 32;

inline int64_t byte_tiles(const BlockCall& call) { return (call.rows + kByteRows - 1) / kByteRows; }

// In front of all tiles' bytes are [tiles][blocks][kByteRows] records.
inline RowScale* byte_scales(uint8_t* prepared, int64_t tile, int64_t blocks) {
  return reinterpret_cast<RowScale*>(prepared) + tile * blocks * kByteRows;
}
inline uint8_t* byte_quants(uint8_t* prepared, int64_t tiles, int64_t tile, int64_t blocks, int64_t block) {
  return reinterpret_cast<uint8_t*>(byte_scales(prepared, tiles, blocks)) + tile * blocks * block * kByteRows;
}

size_t bytes_prepared(const BlockCall& call) {
  const int64_t numbers = byte_tiles(call) * kByteRows * blocks_of(call);
  return static_cast<size_t>(numbers) * (sizeof(RowScale) + static_cast<size_t>(call.block));
}

// One block of a tile's rows: their quants, each 128 more than it is, and their scales; the quants' sums where weights have
// zero points. Infinity times zero is no integer, but what stands for it is multiplied by NaN.
#ifdef PRECAST_ISA_AVX512
// v[i] = the largest of each 64 bits' row: low halves of the four quarters are rows 0 to 3, high halves rows 4 to 7.
PRECAST_INLINE __m512i largest_of_eight(const __m512i (&v)[8]) {
  __m512i pair[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    pair[i] = _mm512_max_epi32(_mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0x44),
                               _mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0xee));
  }
  const __m512i low = _mm512_max_epi32(_mm512_shuffle_i64x2(pair[0], pair[1], 0x88),
                                       _mm512_shuffle_i64x2(pair[0], pair[1], 0xdd));
  const __m512i high = _mm512_max_epi32(_mm512_shuffle_i64x2(pair[2], pair[3], 0x88),
                                        _mm512_shuffle_i64x2(pair[2], pair[3], 0xdd));
  const __m512i both = _mm512_max_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
  return _mm512_max_epi32(both, _mm512_shuffle_epi32(both, _MM_PERM_CDAB));
}

inline void quantize_tile(const float* const (&rows)[kByteRows], int64_t block, bool sums, RowScale* scales,
                          uint8_t* out) {
  static_assert(kByteRows == 8, "as many as `largest_of_eight` takes");
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    largest[r] = _mm512_setzero_si512();
    for (int64_t i = 0; i < block; i += 16) {
      largest[r] = _mm512_max_epi32(largest[r], _mm512_and_si512(magnitude, _mm512_castps_si512(load(rows[r] + i))));
    }
  }
  // As in `BlockScale`, eight at a time: row r in lane r.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
  const __m512i bits = _mm512_permutexvar_epi32(order, largest_of_eight(largest));
  const V most_of_all = _mm512_castsi512_ps(bits), most = splat(127.0f);
  const __mmask16 tiny = _mm512_cmp_ps_mask(most_of_all, splat(kTiny), _CMP_LT_OQ);
  const __mmask16 endless = _mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  V scale = _mm512_mask_mov_ps(div(most_of_all, most), endless, splat(__builtin_nanf("")));
  scale = _mm512_maskz_mov_ps(static_cast<__mmask16>(~tiny), scale);
  alignas(64) float scale_of[16], inverse_of[16];
  store(scale_of, scale);
  store(inverse_of, _mm512_maskz_div_ps(static_cast<__mmask16>(~(tiny | endless)), most, most_of_all));
  for (int r = 0; r < 8; ++r) scales[r] = {scale_of[r], 0.0f};
  // Packed by quarters of a vector, low and high half of a row in turns, two rows: put in their order.
  const __m512i together = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i middle = _mm512_set1_epi8(-128);
  for (int64_t i = 0; i < block; i += kByteGroup, out += kByteRows * kByteGroup) {
#pragma GCC unroll 4
    for (int r = 0; r < 8; r += 2) {
      __m512i words[2];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const V factor = splat(inverse_of[r + j]);
        words[j] = _mm512_packs_epi32(_mm512_cvtps_epi32(mul(load(rows[r + j] + i), factor)),
                                      _mm512_cvtps_epi32(mul(load(rows[r + j] + i + 16), factor)));
      }
      const __m512i bytes = _mm512_permutexvar_epi32(together, _mm512_packs_epi16(words[0], words[1]));
      _mm512_storeu_si512(out + r * kByteGroup, _mm512_xor_si512(bytes, middle));
      if (sums) {
        __m512i fours = _mm512_setzero_si512();
        add_dots(fours, every_byte(1), bytes);
        scales[r].sum += static_cast<float>(_mm512_mask_reduce_add_epi32(0x00ff, fours));
        scales[r + 1].sum += static_cast<float>(_mm512_mask_reduce_add_epi32(0xff00, fours));
      }
    }
  }
}
#else
inline void quantize_tile(const float* const (&rows)[kByteRows], int64_t block, bool, RowScale* scales, uint8_t* out) {
  const __m256i middle = _mm256_set1_epi8(-128);
  for (int64_t r = 0; r < kByteRows; ++r) {
    const BlockScale of_block(largest_bits(rows[r], block), 127.0f);
    const __m256 factor = _mm256_set1_ps(of_block.inverse);
    __m256i sums = _mm256_setzero_si256();
    for (int64_t i = 0; i < block; i += kByteGroup) {
      const __m256i bytes = bytes_of_32(rows[r] + i, factor, sums);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * kByteRows + r * kByteGroup),
                          _mm256_xor_si256(bytes, middle));
    }
    scales[r] = {of_block.scale, static_cast<float>(sum_of_words(sums))};
  }
}
#endif

// Tiles are whole: rows behind the last one are zero.
void prepare_bytes(const BlockCall& call, int64_t first, int64_t last) {
  static constexpr float kZeros[kLargestBlock] = {};
  const int64_t blocks = blocks_of(call), tiles = byte_tiles(call);
  for (int64_t tile = first; tile < last; ++tile) {
    uint8_t* quants = byte_quants(call.prepared, tiles, tile, blocks, call.block);
    RowScale* scales = byte_scales(call.prepared, tile, blocks);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t at = b * call.block, left = call.depth - at;
      float padded[kByteRows][kLargestBlock];
      const float* rows[kByteRows];
      for (int64_t r = 0; r < kByteRows; ++r) {
        const int64_t row = tile * kByteRows + r;
        rows[r] = row < call.rows ? call.x + row * call.depth + at : kZeros;
        if (left < call.block && row < call.rows) {
          for (int64_t i = 0; i < call.block; ++i) padded[r][i] = i < left ? rows[r][i] : 0.0f;
          rows[r] = padded[r];
        }
      }
      quantize_tile(rows, call.block, call.zeros != kMiddle, scales + b * kByteRows, quants + at * kByteRows);
    }
  }
}

// What two units of columns need beside their weights, a thread's own: for each block what sums begin with, the scales
// and the zero points.
constexpr int64_t kByteColumns = kByteUnits * kWidth;

size_t bytes_scratch(const BlockCall& call) { return static_cast<size_t>(3 * blocks_of(call) * kByteColumns); }

// Weights of channels k to k + 4 of a group, signed: those of 4 bits without their middle where that is their zero point.
template <int Bits, int Kind>
PRECAST_INLINE Words signed_weights(const uint8_t* group, int64_t k) {
  if constexpr (Bits == 8) return load_words(group + k * kPanelColumns);
  const Words raw = load_words(group + k / 8 * 4 * kPanelColumns);
  const Words four = bits_and(k % 8 == 0 ? raw : high_halves(raw), every_byte(15));
  return Kind == kMiddle ? subtract_bytes(four, every_byte(8)) : four;
}

// Columns of two units, of a panel each or of the same.
struct ByteColumns {
  const uint8_t* panels[kByteUnits];
  int64_t columns[kByteUnits];  // of its panel, the first of a unit

  ByteColumns(const BlockCall& call, const PanelLayout& layout, int64_t unit, int64_t end) {
    for (int u = 0; u < kByteUnits; ++u) {
      const int64_t at = unit + u < end ? unit + u : unit;  // one twice, where there is no other: it is not written
      panels[u] = call.weight + at / kUnitsOfPanel * layout.bytes;
      columns[u] = at % kUnitsOfPanel * kWidth;
    }
  }
};

template <int Bits, int Kind>
void column_terms(const BlockCall& call, const PanelLayout& layout, const ByteColumns& at, float* scratch) {
  const Words middle = every_byte(-128);
  float* const scales = scratch + layout.blocks * kByteColumns;
  float* const zeros = scales + layout.blocks * kByteColumns;
  for (int u = 0; u < kByteUnits; ++u) {
    const uint8_t* block = at.panels[u];
    for (int64_t b = 0; b < layout.blocks; ++b, block += layout.of_block) {
      Words sum = zero_words();
      for (int64_t k = 0; k < call.block; k += kByteGroup) {
        const uint8_t* group = block + k * kPanelColumns * Bits / 8 + at.columns[u] * 4;
#pragma GCC unroll 8
        for (int64_t i = 0; i < kByteGroup; i += 4) add_dots(sum, middle, signed_weights<Bits, Kind>(group, i));
      }
      const int64_t to = (b * kByteUnits + u) * kWidth;
      store_words(scratch + to, subtract_words(zero_words(), sum));
      store(scales + to, scales_from(from_16(block + layout.scales + at.columns[u] * 2)));
      if (Kind != kMiddle) store(zeros + to, unit_zeros<Bits, Kind>(block + layout.zeros, at.columns[u]));
    }
  }
}

// sums[r] = products of a tile's first Rows rows with two units of columns. Small: the block has 32 channels, and what is
// added of it is written out without a loop. A function of its own: where it is part of another, GCC keeps sums of a block in memory, and
// it takes twice as long.
template <int Bits, int Kind, int Rows, bool Small>
__attribute__((noinline)) void byte_sums(const BlockCall& call, const PanelLayout& layout, const ByteColumns& at, const float* scratch,
               const RowScale* scales, const uint8_t* x, float (&sums)[kByteRows][kByteColumns]) {
  const float* begins = scratch;
  const float* const column_scales = scratch + layout.blocks * kByteColumns;
  const float* const zeros = column_scales + layout.blocks * kByteColumns;
  const uint8_t* w[kByteUnits];
#pragma GCC unroll 2
  for (int u = 0; u < kByteUnits; ++u) {
    w[u] = at.panels[u] + at.columns[u] * 4;
    for (int r = 0; r < Rows; ++r) store(sums[r] + u * kWidth, splat(0.0f));
  }
  constexpr int64_t kOfGroup = kByteGroup * kPanelColumns * Bits / 8;
  const int64_t channels = Small ? kByteGroup : call.block;
  const int64_t rest = layout.of_block - channels * kPanelColumns * Bits / 8;
  for (int64_t b = 0; b < layout.blocks; ++b) {
    Words dots[Rows][kByteUnits];
    const int64_t of_block = b * kByteColumns;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
      for (int u = 0; u < kByteUnits; ++u) dots[r][u] = load_words(begins + of_block + u * kWidth);
    }
    for (int64_t k = 0; k < channels; k += kByteGroup, x += kByteGroup * kByteRows) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < kByteGroup; i += 4) {
        Words weights[kByteUnits];
#pragma GCC unroll 2
        for (int u = 0; u < kByteUnits; ++u) weights[u] = signed_weights<Bits, Kind>(w[u], i);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
          const Words four = four_of(x + r * kByteGroup + i);
#pragma GCC unroll 2
          for (int u = 0; u < kByteUnits; ++u) add_dots(dots[r][u], four, weights[u]);
        }
      }
#pragma GCC unroll 2
      for (int u = 0; u < kByteUnits; ++u) w[u] += kOfGroup;
    }
#pragma GCC unroll 2
    for (int u = 0; u < kByteUnits; ++u) {
      w[u] += rest;
      const V scale = load(column_scales + of_block + u * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        float* to = sums[r] + u * kWidth;
        V total = to_floats(dots[r][u]);  // below 2^24: exact
        if (Kind != kMiddle) total = fnma(load(zeros + of_block + u * kWidth), splat(scales[r].sum), total);
        // The product of the scales first: large rows do not overflow before small weights are at them.
        store(to, fma(total, mul(scale, splat(scales[r].scale)), load(to)));
      }
    }
    scales += kByteRows;
    // Or GCC keeps what is summed up in registers, which those of a block need.
    __asm__ volatile("" ::: "memory");
  }
}

// Sums and bias as they are asked for.
inline void bytes_out(const BlockCall& call, int64_t row, int64_t rows, int64_t column, int64_t columns,
                      const float (&sums)[kByteRows][kByteColumns]) {
#pragma GCC unroll 2
  for (int u = 0; u < kByteUnits; ++u) {
    const int64_t at = column + u * kWidth, left = columns - u * kWidth;
    if (left <= 0) return;
    const bool whole = left >= kWidth;
    V bias = splat(0.0f);
    if (call.bias != nullptr) bias = whole ? load(call.bias + at) : load_part(call.bias + at, left);
    for (int64_t r = 0; r < rows; ++r) {
      const V sum = add(load(sums[r] + u * kWidth), bias);
      float* to = call.out + (row + r) * call.columns + at;
      if (whole) store(to, sum);
      else store_part(to, sum, left);
    }
  }
}

#ifdef PRECAST_ISA_AVX512
// GELU of sums and bias as rows of the next product, whose block these 32 columns are.
template <bool Tanh>
void bytes_activated(const BlockCall& call, int64_t tile, int64_t column, int64_t columns,
                     const float (&sums)[kByteRows][kByteColumns]) {
  const __mmask16 there[2] = {first_lanes(columns), first_lanes(columns - kWidth)};
  const int64_t blocks = call.activated_channels / kByteGroup, block = column / kByteGroup;
  RowScale* scales = byte_scales(call.activated, tile, blocks) + block * kByteRows;
  uint8_t* to = byte_quants(call.activated, byte_tiles(call), tile, blocks, kByteGroup) + block * kByteGroup * kByteRows;
  V bias[2];
  for (int u = 0; u < 2; ++u) {
    const float* from = call.bias == nullptr ? nullptr : call.bias + column + (there[u] == 0 ? 0 : u * kWidth);
    bias[u] = from == nullptr ? splat(0.0f) : _mm512_maskz_loadu_ps(there[u], from);
  }
  alignas(64) float y[kByteRows][kByteGroup];
  const float* rows[kByteRows];
  for (int64_t r = 0; r < kByteRows; ++r) {
    const Side x = each([&](int u) { return add(load(sums[r] + u * kWidth), bias[u]); });
    const Side all = short_gelu<Tanh>(x);
    for (int u = 0; u < 2; ++u) store(y[r] + u * kWidth, _mm512_maskz_mov_ps(there[u], all.v[u]));
    rows[r] = y[r];
  }
  quantize_tile(rows, kByteGroup, call.zeros != kMiddle, scales, to);
}
#endif

template <int Bits, int Kind, bool Small>
void bytes(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile, float* scratch) {
  const PanelLayout layout(call.depth, call.block, Bits, Kind);
  constexpr int64_t kPanelsOfUnits = kByteUnits / kUnitsOfPanel, kLine = 64;
  const int64_t end = last * kUnitsOfPanel, tiles = byte_tiles(call);
  const int64_t ahead_of_tile = kPanelsOfUnits * layout.bytes / (last_tile - first_tile) + 1;
  const uint8_t* const weights_end = call.weight + (call.columns + kPanelColumns - 1) / kPanelColumns * layout.bytes;
  for (int64_t unit = first * kUnitsOfPanel; unit < end; unit += kByteUnits) {
    const ByteColumns at(call, layout, unit, end);
    const int64_t column = unit * kWidth, behind = end * kWidth < call.columns ? end * kWidth : call.columns;
    const int64_t columns = behind - column < kByteColumns ? behind - column : kByteColumns;
    if (columns <= 0) break;
    column_terms<Bits, Kind>(call, layout, at, scratch);
    const uint8_t* ahead = at.panels[0] + kPanelsOfUnits * layout.bytes;
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t row = tile * kByteRows, left = call.rows - row, rows = left < kByteRows ? left : kByteRows;
      const RowScale* scales = byte_scales(call.prepared, tile, layout.blocks);
      const uint8_t* x = byte_quants(call.prepared, tiles, tile, layout.blocks, call.block);
      // What is far apart is fetched while rows are multiplied, or it would be waited for: the next columns' weights, and
      // lines of the output.
      for (int64_t i = 0; i < ahead_of_tile && ahead < weights_end; i += kLine, ahead += kLine) {
        __builtin_prefetch(ahead, 0, 2);
      }
      for (int64_t r = 0; call.activated == nullptr && r < rows; ++r) {
        const float* line = call.out + (row + r) * call.columns + column;
        __builtin_prefetch(line, 1);
        __builtin_prefetch(line + columns - 1, 1);
      }
      alignas(64) float sums[kByteRows][kByteColumns];
      if (rows > kByteRows / 2 || call.activated != nullptr) {
        byte_sums<Bits, Kind, kByteRows, Small>(call, layout, at, scratch, scales, x, sums);
      } else {
        byte_sums<Bits, Kind, kByteRows / 2, Small>(call, layout, at, scratch, scales, x, sums);
      }
#ifdef PRECAST_ISA_AVX512
      if (call.activated != nullptr) {
        if (call.tanh) bytes_activated<true>(call, tile, column, columns, sums);
        else bytes_activated<false>(call, tile, column, columns, sums);
        continue;
      }
#endif
      bytes_out(call, row, rows, column, columns, sums);
    }
  }
}

#ifdef PRECAST_ISA_AVX512
int64_t byte_channels(const BlockCall& call) {
  return call.block == kByteGroup ? blocks_of(call) * call.block : 0;
}
#endif

void block_bytes(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile,
                 float* scratch) {
  by_form(call, [&](auto bits, auto kind) {
    if (call.block == kByteGroup) bytes<bits.value, kind.value, true>(call, first, last, first_tile, last_tile, scratch);
    else bytes<bits.value, kind.value, false>(call, first, last, first_tile, last_tile, scratch);
  });
}

}  // namespace
}  // namespace precast
