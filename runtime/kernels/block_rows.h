// Rows in integers, a scale for each block: the largest of a block becomes `most_quant`. What comes out is described in
// block_calls.h. Infinity or NaN in a block make its scale, and with it every product, NaN.
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

// One block of one row: out[i * stride .. + 4] = the quants of x[4 * i .. + 4]. Returns their sum.
template <bool Wide>
inline int32_t quantize_block(const float* x, int64_t block, float* scale, int8_t* out, int64_t stride) {
  // As integers, the absolute values keep their order, and NaN is above infinity above everything else.
  const float most = most_quant(Wide, block);
  int32_t largest = 0;
#ifdef PRECAST_BYTES
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i highest = _mm256_setzero_si256();
  for (int64_t i = 0; i < block; i += 8) {
    const __m256i v = _mm256_and_si256(magnitude, _mm256_castps_si256(_mm256_loadu_ps(x + i)));
    highest = _mm256_max_epi32(highest, v);
  }
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(highest), _mm256_extracti128_si256(highest, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  largest = _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
#else
  for (int64_t i = 0; i < block; ++i) {
    const int32_t v = bits_of(x[i]) & 0x7fffffff;
    largest = v > largest ? v : largest;
  }
#endif
  const float most_of_all = from_bits(static_cast<uint32_t>(largest));
  // Below this most / most_of_all (4094 / 1.2e-35) would overflow: such a block is zero. Infinity and NaN make every
  // product with it NaN.
  const bool tiny = most_of_all < 2e-35f, finite = largest < 0x7f800000;
  *scale = tiny ? 0.0f : finite ? most_of_all / most : __builtin_nanf("");
  const float inverse = tiny || !finite ? 0.0f : most / most_of_all;
  int32_t sum = 0;
  if (inverse == 0.0f) {
    for (int64_t i = 0; i < block / 4; ++i) __builtin_memset(out + i * stride, 0, Wide ? 8 : 4);
    return 0;
  }
#ifdef PRECAST_BYTES
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; Wide && i < block; i += 8) {
    const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
    sums = _mm256_add_epi32(sums, q);
    // Channels 0 2 1 3 of every four, in 16 bits.
    const __m256i pairs = _mm256_shuffle_epi32(q, 0xd8);
    const __m256i packed = _mm256_packs_epi32(pairs, pairs);
    const int64_t low = _mm256_extract_epi64(packed, 0), high = _mm256_extract_epi64(packed, 2);
    __builtin_memcpy(out + i / 4 * stride, &low, 8);
    __builtin_memcpy(out + (i / 4 + 1) * stride, &high, 8);
  }
  for (int64_t i = 0; !Wide && i < block; i += 32) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), factor));
      sums = _mm256_add_epi32(sums, q[j]);
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
  if (call.bits == 8) return quantize_rows<true>(call, first, last);
  quantize_rows<false>(call, first, last);
}

}  // namespace
}  // namespace precast
