// Vectors of 32-bit lanes for products of bytes: VPDPBUSD adds four of them to a lane, one factor unsigned, one signed.
#pragma once

#include "block_calls.h"
#include "vector.h"

namespace precast {
namespace {

#if defined(PRECAST_ISA_AVX512)
using Words = __m512i;
constexpr int kUnits = 2;  // vectors of columns side by side, which share what is broadcast of the rows

inline Words zero_words() { return _mm512_setzero_si512(); }
inline Words load_words(const void* p) { return _mm512_loadu_si512(p); }
inline Words every_byte(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
inline Words bits_and(Words a, Words b) { return _mm512_and_si512(a, b); }
inline Words bits_xor(Words a, Words b) { return _mm512_xor_si512(a, b); }
inline Words high_halves(Words a) { return _mm512_srli_epi16(a, 4); }
inline Words shifted_left(Words a, int count) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count)); }
inline Words add_words(Words a, Words b) { return _mm512_add_epi32(a, b); }
inline Words subtract_words(Words a, Words b) { return _mm512_sub_epi32(a, b); }
inline Words subtract_bytes(Words a, Words b) { return _mm512_sub_epi8(a, b); }
inline void store_words(void* p, Words a) { _mm512_storeu_si512(p, a); }
inline V to_floats(Words a) { return _mm512_cvtepi32_ps(a); }
// sum += unsigned x signed bytes. As text, or GCC copies sums from register to register.
inline void add_dots(Words& sum, Words unsigned_bytes, Words signed_bytes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}
inline Words four_of(const void* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm512_set1_epi32(bits);
}
inline Words from_16(const uint8_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Words from_8(const uint8_t* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Words from_4(const uint8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i both = _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4));
  return _mm512_cvtepu8_epi32(_mm_and_si128(both, _mm_set1_epi8(15)));
}
inline V scales_from(Words codes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(codes, _mm512_set1_epi32(kScaleOffset)), kScaleShift));
}
inline V halves_from(Words codes) {  // none subnormal, infinite or NaN, for which this is the same
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(codes));
}

#else
using Words = __m256i;
constexpr int kUnits = 1;

inline Words zero_words() { return _mm256_setzero_si256(); }
inline Words load_words(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Words every_byte(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
inline Words bits_and(Words a, Words b) { return _mm256_and_si256(a, b); }
inline Words bits_xor(Words a, Words b) { return _mm256_xor_si256(a, b); }
inline Words high_halves(Words a) { return _mm256_srli_epi16(a, 4); }
inline Words shifted_left(Words a, int count) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count)); }
inline Words add_words(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline Words subtract_words(Words a, Words b) { return _mm256_sub_epi32(a, b); }
inline Words subtract_bytes(Words a, Words b) { return _mm256_sub_epi8(a, b); }
inline void store_words(void* p, Words a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline V to_floats(Words a) { return _mm256_cvtepi32_ps(a); }
inline void add_dots(Words& sum, Words unsigned_bytes, Words signed_bytes) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(unsigned_bytes), "x"(signed_bytes));
}
inline Words four_of(const void* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm256_set1_epi32(bits);
}
inline Words from_16(const uint8_t* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Words from_8(const uint8_t* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline Words from_4(const uint8_t* p) {
  const Words halves = _mm256_srlv_epi32(four_of(p),
                                         _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  return _mm256_and_si256(halves, _mm256_set1_epi32(15));
}
inline V scales_from(Words codes) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(codes, _mm256_set1_epi32(kScaleOffset)), kScaleShift));
}
inline V halves_from(Words codes) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(codes, codes), 0xd8);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}
#endif

// A unit is a vector of columns: a panel, or half of one.
constexpr int64_t kUnitsOfPanel = kPanelColumns / kWidth;

template <int Bits, int Kind>
PRECAST_INLINE V unit_zeros(const uint8_t* zeros, int64_t column) {
  if (Kind == kMiddle) return splat(Bits == 4 ? 8.0f : 0.0f);
  if (Kind == kHalves) return halves_from(from_16(zeros + column * 2));
  return to_floats(Bits == 4 ? from_4(zeros + column / 2) : from_8(zeros + column));
}

}  // namespace
}  // namespace precast
