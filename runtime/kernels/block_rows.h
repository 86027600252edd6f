// Rows in integers, a scale for each block: the largest of a block becomes `most_quant`. Infinity or NaN in a block make
// its scale, and with it every product, NaN.
//
// A tile of R rows lies together: of every four channels those of each row, zeros behind the last channel. Beside weights
// of 4 bits they are bytes, [depth / 4][R][4], depth rounded up to whole blocks. Beside weights of 8 bits they are words
// or two planes of bytes, twice as many bytes either way. In front of all of them are [blocks][R] records of `RowScale`.
#pragma once

#include "block_calls.h"
#include "vector.h"

#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#define PRECAST_BYTES 1  // vectors of 32 bytes: all that is used here of AVX-512 too
#endif

namespace precast {
namespace {

// Weights of 4 bits meet 8 bits: their own rounding is far coarser. Weights of 8 bits meet as many as leave every sum of
// a block below 2^24, 12 bits in blocks of 32: with 8 of them the rows' rounding would be four times the weights' (KL
// divergence 3.8e-3 instead of 1.0e-3 over text, Gemma 3 270M), and 16 bits are multiplied either way.
inline float most_quant(bool wide, int64_t block) { return static_cast<float>(wide ? 65504 / block : 127); }

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

constexpr int64_t kRowTile = 4;
constexpr int64_t kLargestBlock = 256;

// Words: 16 bits each, channels 0 2 1 3 of four where instructions multiply pairs. Planes: four bytes of what is left of
// a quant without its low bits, then four of these, which are not negative: quant = high << plane_shift + low.
enum RowForm : int { kBytesForm, kWordsForm, kPlanesForm };

inline int plane_shift(int64_t block) { return block == kSmallestBlock ? 5 : 4; }

struct RowScale {
  float scale;
  float sum;  // of the block's quants, an integer
};

inline RowScale* row_scales(const BlockCall& call) { return reinterpret_cast<RowScale*>(call.prepared); }

inline int64_t blocks_of(const BlockCall& call) { return (call.depth + call.block - 1) / call.block; }

inline int8_t* row_quants(const BlockCall& call) {
  return reinterpret_cast<int8_t*>(row_scales(call) + call.rows * blocks_of(call));
}

size_t integers_prepared(const BlockCall& call) {
  const int64_t blocks = blocks_of(call);
  return static_cast<size_t>(call.rows * blocks) * (sizeof(RowScale) + static_cast<size_t>(call.block * call.bits / 4));
}

// The bits of a block's largest magnitude: as integers absolute values keep their order, and NaN is above infinity above
// everything else.
inline int32_t largest_bits(const float* x, int64_t block) {
#ifdef PRECAST_BYTES
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i highest = _mm256_setzero_si256();
  for (int64_t i = 0; i < block; i += 8) {
    const __m256i v = _mm256_and_si256(magnitude, _mm256_castps_si256(_mm256_loadu_ps(x + i)));
    highest = _mm256_max_epi32(highest, v);
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(highest), _mm256_extracti128_si256(highest, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
#else
  int32_t largest = 0;
  for (int64_t i = 0; i < block; ++i) {
    const int32_t v = bits_of(x[i]) & 0x7fffffff;
    largest = v > largest ? v : largest;
  }
  return largest;
#endif
}

// Below this `most` / largest (4094 / 1.2e-35) would overflow: such a block is zero.
constexpr float kTiny = 2e-35f;

// What a block is multiplied by to become quants up to `most`, and what they are multiplied by to become it again.
struct BlockScale {
  float scale, inverse;

  // Infinity and NaN make every product with the block NaN.
  BlockScale(int32_t largest, float most) {
    const float most_of_all = from_bits(static_cast<uint32_t>(largest));
    const bool tiny = most_of_all < kTiny, finite = largest < 0x7f800000;
    scale = tiny ? 0.0f : finite ? most_of_all / most : __builtin_nanf("");
    inverse = tiny || !finite ? 0.0f : most / most_of_all;
  }
};

#ifdef PRECAST_BYTES
// The quants of 32 numbers, as they follow each other; they are added to `sums`.
inline __m256i bytes_of_32(const float* x, __m256 factor, __m256i& sums) {
  __m256i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), factor));
    sums = _mm256_add_epi32(sums, q[j]);
  }
  const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  return _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

inline int32_t sum_of_words(__m256i v) {
  __m128i low = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  low = _mm_add_epi32(low, _mm_shuffle_epi32(low, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(low, _mm_shuffle_epi32(low, 0xb1)));
}
#endif

// One block of one row: out[i * stride .. + 4] = the quants of x[4 * i .. + 4]. Returns their sum.
template <RowForm Form>
inline int32_t quantize_block(const float* x, int64_t block, float* scale, int8_t* out, int64_t stride) {
  constexpr bool Wide = Form != kBytesForm;
  const BlockScale of_block(largest_bits(x, block), most_quant(Wide, block));
  const float inverse = of_block.inverse;
  *scale = of_block.scale;
  int32_t sum = 0;
  if (inverse == 0.0f) {
    for (int64_t i = 0; i < block / 4; ++i) __builtin_memset(out + i * stride, 0, Wide ? 8 : 4);
    return 0;
  }
#ifdef PRECAST_BYTES
  const __m256 factor = _mm256_set1_ps(inverse);
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; Wide && i < block; i += 8) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
    sums = _mm256_add_epi32(sums, q);
    __m256i packed;
    if (Form == kPlanesForm) {
      const __m128i shift = _mm_cvtsi32_si128(plane_shift(block));
      const __m256i high = _mm256_sra_epi32(q, shift);
      const __m256i words = _mm256_packs_epi32(high, _mm256_sub_epi32(q, _mm256_sll_epi32(high, shift)));
      packed = _mm256_packs_epi16(words, words);
    } else {
      const __m256i pairs = _mm256_shuffle_epi32(q, 0xd8);
      packed = _mm256_packs_epi32(pairs, pairs);
    }
    const int64_t low = _mm256_extract_epi64(packed, 0), high = _mm256_extract_epi64(packed, 2);
    __builtin_memcpy(out + i / 4 * stride, &low, 8);
    __builtin_memcpy(out + (i / 4 + 1) * stride, &high, 8);
  }
  for (int64_t i = 0; !Wide && i < block; i += 32) {
    int32_t fours[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(fours), bytes_of_32(x + i, factor, sums));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) __builtin_memcpy(out + (i / 4 + j) * stride, &fours[j], 4);
  }
  sum = sum_of_words(sums);
#else
  constexpr float kToInteger = 12582912.0f;  // adding 1.5 * 2^23 rounds to the nearest, ties to even
  for (int64_t i = 0; i < block; ++i) {
    volatile const float rounded = x[i] * inverse + kToInteger;
    const int32_t q = static_cast<int32_t>(rounded - kToInteger);
    if (Wide) {
      const int16_t word = static_cast<int16_t>(q);
      __builtin_memcpy(out + i / 4 * stride + i % 4 * 2, &word, 2);
    } else {
      out[i / 4 * stride + i % 4] = static_cast<int8_t>(q);
    }
    sum += q;
  }
#endif
  return sum;
}

template <RowForm Form>
void quantize_rows(const BlockCall& call, int64_t first, int64_t last) {
  constexpr int64_t kBytes = Form == kBytesForm ? 1 : 2;
  const int64_t blocks = blocks_of(call), depth = blocks * call.block;
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t begin = tile * kRowTile, rows = call.rows - begin < kRowTile ? call.rows - begin : kRowTile;
    int8_t* quants = row_quants(call) + begin * depth * kBytes;
    RowScale* scales = row_scales(call) + begin * blocks;
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = call.x + (begin + r) * call.depth;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t at = b * call.block, left = call.depth - at;
        RowScale& to = scales[b * rows + r];
        int8_t* out = quants + (at * rows + r * 4) * kBytes;
        float padded[kLargestBlock];
        const float* from = x + at;
        if (left < call.block) {
          for (int64_t i = 0; i < call.block; ++i) padded[i] = i < left ? from[i] : 0.0f;
          from = padded;
        }
        to.sum = static_cast<float>(quantize_block<Form>(from, call.block, &to.scale, out, rows * 4 * kBytes));
      }
    }
  }
}

template <RowForm Wide>
void quantize_tiles(const BlockCall& call, int64_t first, int64_t last) {
  if (call.bits == 8) return quantize_rows<Wide>(call, first, last);
  quantize_rows<kBytesForm>(call, first, last);
}

size_t no_scratch(const BlockCall&) { return 0; }

}  // namespace
}  // namespace precast
