// One vector type `V` of `kWidth` floats and the few operations the kernels need, for the instruction set that the
// including file names. Everything is in an anonymous namespace, and no inline function of the standard library is used
// below: the linker would keep one copy of such a function, perhaps the one with instructions this processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#include <immintrin.h>
#endif

namespace precast {
namespace {

#if defined(PRECAST_ISA_AVX512)

using V = __m512;
constexpr int kWidth = 16;
constexpr int kTileRows = 8;  // of a register tile, two vectors wide: 16 sums of 32 registers

inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline V splat(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V div(V a, V b) { return _mm512_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
inline V absolute(V a) { return _mm512_abs_ps(a); }
inline V greater(V low, V x) { return _mm512_max_ps(low, x); }
inline V lesser(V high, V x) { return _mm512_min_ps(high, x); }
inline V shift_to_exponent(V t) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23)); }

#elif defined(PRECAST_ISA_AVX2)

using V = __m256;
constexpr int kWidth = 8;
constexpr int kTileRows = 6;  // 12 sums of 16 registers, which leaves two for loads and one to broadcast

inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline V splat(float x) { return _mm256_set1_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V div(V a, V b) { return _mm256_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
inline V absolute(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline V greater(V low, V x) { return _mm256_max_ps(low, x); }
inline V lesser(V high, V x) { return _mm256_min_ps(high, x); }
inline V shift_to_exponent(V t) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23)); }

#else

// The compiler's own vectors: SSE2, NEON, or plain scalars where there is neither.
using V = float __attribute__((vector_size(16)));
using Bits = uint32_t __attribute__((vector_size(16)));
constexpr int kWidth = 4;
constexpr int kTileRows = 4;

inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
inline V splat(float x) { return V{x, x, x, x}; }
inline V add(V a, V b) { return a + b; }
inline V sub(V a, V b) { return a - b; }
inline V mul(V a, V b) { return a * b; }
inline V div(V a, V b) { return a / b; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V fnma(V a, V b, V c) { return c - a * b; }
inline V absolute(V a) { return (V)((Bits)a & Bits{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}); }
inline V greater(V low, V x) { return x < low ? low : x; }
inline V lesser(V high, V x) { return x > high ? high : x; }
inline V shift_to_exponent(V t) { return (V)((Bits)t << 23); }

#endif

// `greater` and `lesser` return their second argument where it is NaN, on every instruction set.

// The sum and the largest of a vector's floats, in one order whatever the instruction set's own reductions do.
inline float sum_of(V v) {
  float lanes[kWidth];
  store(lanes, v);
#pragma GCC unroll 16
  for (int half = kWidth / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

inline float largest_of(V v) {
  float lanes[kWidth];
  store(lanes, v);
  float best = lanes[0];
#pragma GCC unroll 16
  for (int i = 1; i < kWidth; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// A row's last floats, fewer than a vector: copied so that neither reads nor writes pass the end.
inline V load_part(const float* p, int64_t count) {
  float lanes[kWidth] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}

inline void store_part(float* p, V v, int64_t count) {
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

// Adding 2^23 * 1.5 leaves the nearest integer in the low bits of a float; with 127 more these bits, shifted, are the
// exponent of 2^n. An exponent of -127 gives 0, which is how both functions below end: no subnormal results.
constexpr float kRound = 12582912.0f + 127.0f;

// 2^p for p <= 127. The polynomial is a minimax fit of 2^r - 1 on [-0.5, 0.5], relative error 2e-9.
inline V power_of_two(V p) {
  p = greater(splat(-127.0f), p);
  const V t = add(p, splat(kRound));
  const V r = sub(p, sub(t, splat(kRound)));
  V y = splat(0.0001535336341476068f);
  y = fma(y, r, splat(0.0013398876180872321f));
  y = fma(y, r, splat(0.00961843691766262f));
  y = fma(y, r, splat(0.055503323674201965f));
  y = fma(y, r, splat(0.24022647738456726f));
  y = fma(y, r, splat(0.6931471824645996f));
  y = fma(y, r, splat(1.0f));
  return mul(y, shift_to_exponent(t));
}

// e^x for x <= 88, about one unit in the last place; 0 from -87.7 down. x - n * ln 2 is taken in two parts, of which
// the first has so few bits that its product with n is exact. Fit of e^r - 1 - r, relative error 3e-9.
inline V exponential(V x) {
  x = greater(splat(-88.0f), x);
  const V t = fma(x, splat(1.44269504f), splat(kRound));
  const V n = sub(t, splat(kRound));
  V r = fnma(n, splat(0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  V q = splat(0.00138146f);
  q = fma(q, r, splat(0.00836871f));
  q = fma(q, r, splat(0.04166839f));
  q = fma(q, r, splat(0.16666521f));
  q = fma(q, r, splat(0.49999993f));
  return mul(add(splat(1.0f), fma(mul(r, r), q, r)), shift_to_exponent(t));
}

}  // namespace
}  // namespace precast
