// One vector type `V` of `kWidth` floats and the few operations the kernels need, for the instruction set that the
// including file names. Everything is in an anonymous namespace, and no inline function of the standard library is used
// below: the linker would keep one copy of such a function, perhaps the one with instructions this processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#include <immintrin.h>
#endif

#define PRECAST_INLINE __attribute__((always_inline)) inline

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
inline V where_less(V a, V b, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// The first `count` lanes: all of them from 16 on, none below 1.
inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1 << (count > 0 ? count : 0)) - 1);
}

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
inline V where_less(V a, V b, V yes, V no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }

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
inline V where_less(V a, V b, V yes, V no) {
  const Bits chosen = (Bits)(a < b);
  return (V)(((Bits)yes & chosen) | ((Bits)no & ~chosen));
}

#endif

#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#define PRECAST_TRANSPOSES 1

// to[d * to_stride + j] = from[j][d] + bias[d] for 8 rows and 8 channels.
inline void transpose_8x8(const float* const (&from)[8], const float* bias, float* to, int64_t to_stride) {
  __m256 row[8], pair[8], quad[8];
  const __m256 added = bias == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(bias);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) row[j] = _mm256_add_ps(_mm256_loadu_ps(from[j]), added);
#pragma GCC unroll 4
  for (int j = 0; j < 8; j += 2) {
    pair[j] = _mm256_unpacklo_ps(row[j], row[j + 1]);
    pair[j + 1] = _mm256_unpackhi_ps(row[j], row[j + 1]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < 8; j += 4) {
    quad[j] = _mm256_shuffle_ps(pair[j], pair[j + 2], 0x44);
    quad[j + 1] = _mm256_shuffle_ps(pair[j], pair[j + 2], 0xee);
    quad[j + 2] = _mm256_shuffle_ps(pair[j + 1], pair[j + 3], 0x44);
    quad[j + 3] = _mm256_shuffle_ps(pair[j + 1], pair[j + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int d = 0; d < 4; ++d) {
    _mm256_storeu_ps(to + d * to_stride, _mm256_permute2f128_ps(quad[d], quad[d + 4], 0x20));
    _mm256_storeu_ps(to + (d + 4) * to_stride, _mm256_permute2f128_ps(quad[d], quad[d + 4], 0x31));
  }
}

#endif

// `greater` and `lesser` return their second argument where it is NaN, on every instruction set.

// The sum and the largest of a vector's floats: its upper half joins the lower one until one is left.
inline float sum_of(V v) {
#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#if defined(PRECAST_ISA_AVX512)
  const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), upper);
#else
  const __m256 eight = v;
#endif
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// out[i] = the sum of v[i]: one order for each, whichever of the eight it is.
inline void sums_of_eight(const V (&v)[8], float* out) {
#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
  __m256 x[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
#if defined(PRECAST_ISA_AVX512)
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1));
    x[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), high);
#else
    x[i] = v[i];
#endif
  }
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
  const __m256 first = _mm256_permute2f128_ps(low, high, 0x20), second = _mm256_permute2f128_ps(low, high, 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(first, second));
#else
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
#endif
}

inline float largest_of(V v) {
#if defined(PRECAST_ISA_AVX2) || defined(PRECAST_ISA_AVX512)
#if defined(PRECAST_ISA_AVX512)
  const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), upper);
#else
  const __m256 eight = v;
#endif
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#else
  float best = v[0];
#pragma GCC unroll 4
  for (int i = 1; i < kWidth; ++i) best = v[i] > best ? v[i] : best;
  return best;
#endif
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
// exponent of 2^n; an exponent of -127 gives 0, so that no result is subnormal.
constexpr float kRound = 12582912.0f + 127.0f;

// Several vectors that go through a polynomial side by side: each is a chain of dependent operations, and a
// coefficient loaded once serves them all.
constexpr int kSide = 2;
struct Side {
  V v[kSide];
};

template <typename Function>
inline Side each(Function function) {
  Side out;
#pragma GCC unroll 4
  for (int i = 0; i < kSide; ++i) out.v[i] = function(i);
  return out;
}

inline Side horner(const Side& p, const Side& x, float coefficient) {
  const V c = splat(coefficient);
  return each([&](int i) { return fma(p.v[i], x.v[i], c); });
}

// 2^p for p <= 127; 0 from -126.5 down. The polynomial is a minimax fit of 2^r on [-0.5, 0.5], relative error 2e-9.
inline Side power_of_two(const Side& exponent) {
  const V round = splat(kRound), lowest = splat(-127.0f);
  const Side p = each([&](int i) { return greater(lowest, exponent.v[i]); });
  const Side t = each([&](int i) { return add(p.v[i], round); });
  const Side r = each([&](int i) { return sub(p.v[i], sub(t.v[i], round)); });
  const V first = splat(0.0001535336341476068f), second = splat(0.0013398876180872321f);
  Side y = each([&](int i) { return fma(first, r.v[i], second); });
  y = horner(y, r, 0.00961843691766262f);
  y = horner(y, r, 0.055503323674201965f);
  y = horner(y, r, 0.24022647738456726f);
  y = horner(y, r, 0.6931471824645996f);
  y = horner(y, r, 1.0f);
  return each([&](int i) { return mul(y.v[i], shift_to_exponent(t.v[i])); });
}

// 2^p for p <= 0, 0 from -126.5 down, with a relative error of 8e-5: a fiftieth of what bfloat16 rounds by.
inline Side short_power_of_two(const Side& exponent) {
  const V round = splat(kRound), lowest = splat(-127.0f);
  const Side p = each([&](int i) { return greater(lowest, exponent.v[i]); });
  const Side t = each([&](int i) { return add(p.v[i], round); });
  const Side r = each([&](int i) { return sub(p.v[i], sub(t.v[i], round)); });
  const V first = splat(0.05517167f), second = splat(0.24261112f);
  Side y = each([&](int i) { return fma(first, r.v[i], second); });
  y = horner(y, r, 0.69326099f);
  y = horner(y, r, 0.99992807f);
  return each([&](int i) { return mul(y.v[i], shift_to_exponent(t.v[i])); });
}

// tanh: e = exp(-2 |x|), (1 - e) / (1 + e) with the sign of x; near zero, where that cancels, the odd polynomial of
// Cephes (https://www.netlib.org/cephes), relative error 2e-8.
inline Side hyperbolic_tangent(const Side& x) {
  const V one = splat(1.0f), zero = splat(0.0f), factor = splat(-2.885390081777927f), near = splat(0.625f);
  const Side a = each([&](int i) { return absolute(x.v[i]); });
  const Side e = power_of_two(each([&](int i) { return mul(a.v[i], factor); }));
  const Side z = each([&](int i) { return mul(x.v[i], x.v[i]); });
  const V first = splat(-5.70498872745e-3f), second = splat(2.06390887954e-2f);
  Side p = each([&](int i) { return fma(first, z.v[i], second); });
  p = horner(p, z, -5.37397155531e-2f);
  p = horner(p, z, 1.33314422036e-1f);
  p = horner(p, z, -3.33332819422e-1f);
  return each([&](int i) {
    const V far = div(sub(one, e.v[i]), add(one, e.v[i]));
    const V odd = fma(mul(p.v[i], z.v[i]), x.v[i], x.v[i]);
    return where_less(a.v[i], near, odd, where_less(x.v[i], zero, sub(zero, far), far));
  });
}

}  // namespace
}  // namespace precast
