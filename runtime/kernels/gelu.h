// GELU and its tanh approximation, with a bias in front (https://arxiv.org/abs/1606.08415).
#pragma once

#include "kernels.h"
#include "vector.h"

namespace precast {
namespace {

// Beyond this both forms are max(x, 0) to the last bit, and the polynomial below is not fitted.
constexpr float kFar = 13.25f;

// x * Phi(x) = max(x, 0) - |x| * Phi(-|x|): nothing cancels, so that small negative results keep their digits.
// log2 Phi(-a) is smooth; the polynomial is a fit on [0, 13.25], weighted so that the error of the product stays below
// 5e-8 (a rounded erf in x/2 * (1 + erf(x / sqrt 2)) alone costs 2.6e-7 there).
inline Side exact_tail(const Side& a) {
  const V first = splat(-1.7923190043234172e-08f), second = splat(6.436289936573303e-07f);
  Side p = each([&](int i) { return fma(first, a.v[i], second); });
  p = horner(p, a, -9.22454273677431e-06f);
  p = horner(p, a, 6.876044062664732e-05f);
  p = horner(p, a, -0.00025896457373164594f);
  p = horner(p, a, -3.538473174558021e-05f);
  p = horner(p, a, 0.0069848718121647835f);
  p = horner(p, a, -0.05246511474251747f);
  p = horner(p, a, -0.4592132568359375f);
  p = horner(p, a, -1.1511050462722778f);
  p = horner(p, a, -1.0f);
  return power_of_two(p);
}

// 1 - sigmoid(2 u(a)) = e / (1 + e), e = exp(-2 u(a)), u(a) = sqrt(2 / pi) (a + 0.044715 a^3).
inline Side tanh_tail(const Side& a) {
  constexpr float kLinear = -2.0 * 0.7978845608028654 * 1.4426950408889634, kCubic = kLinear * 0.044715;
  const V linear = splat(kLinear), cubic = splat(kCubic), one = splat(1.0f);
  const Side e = power_of_two(each([&](int i) { return mul(a.v[i], fma(mul(a.v[i], a.v[i]), cubic, linear)); }));
  return each([&](int i) { return div(e.v[i], add(e.v[i], one)); });
}

template <bool Tanh>
inline Side gelu(const Side& x) {
  const V far = splat(kFar), zero = splat(0.0f);
  const Side a = each([&](int i) { return lesser(far, absolute(x.v[i])); });
  const Side tail = Tanh ? tanh_tail(a) : exact_tail(a);
  return each([&](int i) { return fnma(a.v[i], tail.v[i], greater(zero, x.v[i])); });
}

template <bool Tanh, bool Bias>
void gelu_span(const float* x, const float* bias, float* out, int64_t width) {
  int64_t i = 0;
  for (; i + kSide * kWidth <= width; i += kSide * kWidth) {
    const Side result = gelu<Tanh>(each([&](int j) {
      const V v = load(x + i + j * kWidth);
      return Bias ? add(v, load(bias + i + j * kWidth)) : v;
    }));
#pragma GCC unroll 4
    for (int j = 0; j < kSide; ++j) store(out + i + j * kWidth, result.v[j]);
  }
  if (i == width) return;
  // The same arithmetic for what is left: an element's result does not depend on where it stands.
  float rest[kSide * kWidth] = {};
  for (int64_t j = 0; i + j < width; ++j) rest[j] = Bias ? x[i + j] + bias[i + j] : x[i + j];
  const Side result = gelu<Tanh>(each([&](int j) { return load(rest + j * kWidth); }));
#pragma GCC unroll 4
  for (int j = 0; j < kSide; ++j) store(rest + j * kWidth, result.v[j]);
  for (int64_t j = 0; i + j < width; ++j) out[i + j] = rest[j];
}

void gelu_rows(const GeluCall& call, int64_t first, int64_t last) {
  using Span = void (*)(const float*, const float*, float*, int64_t);
  const Span span = call.bias == nullptr ? (call.tanh ? gelu_span<true, false> : gelu_span<false, false>)
                                         : (call.tanh ? gelu_span<true, true> : gelu_span<false, true>);
  for (int64_t row = first; row < last; ++row) {
    span(call.x + row * call.width, call.bias, call.out + row * call.width, call.width);
  }
}

}  // namespace
}  // namespace precast
