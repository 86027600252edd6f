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
// 4e-8 (a rounded erf in x/2 * (1 + erf(x / sqrt 2)) alone costs 2.6e-7 there).
inline V gelu_exact(V x) {
  const V a = lesser(splat(kFar), absolute(x));
  V p = splat(-1.7923190043234172e-08f);
  p = fma(p, a, splat(6.436289936573303e-07f));
  p = fma(p, a, splat(-9.22454273677431e-06f));
  p = fma(p, a, splat(6.876044062664732e-05f));
  p = fma(p, a, splat(-0.00025896457373164594f));
  p = fma(p, a, splat(-3.538473174558021e-05f));
  p = fma(p, a, splat(0.0069848718121647835f));
  p = fma(p, a, splat(-0.05246511474251747f));
  p = fma(p, a, splat(-0.4592132568359375f));
  p = fma(p, a, splat(-1.1511050462722778f));
  p = fma(p, a, splat(-1.0f));
  return fnma(a, power_of_two(p), greater(splat(0.0f), x));
}

// x * sigmoid(2 u(x)) = max(x, 0) - |x| * e / (1 + e), e = exp(-2 u(|x|)), u(a) = sqrt(2 / pi) (a + 0.044715 a^3).
inline V gelu_tanh(V x) {
  const V a = lesser(splat(kFar), absolute(x));
  const V cubic = mul(a, fma(mul(a, a), splat(-2.0f * 0.7978845608028654f * 0.044715f), splat(-2.0f * 0.7978845608028654f)));
  const V e = exponential(cubic);
  return fnma(a, div(e, add(e, splat(1.0f))), greater(splat(0.0f), x));
}

template <bool Tanh, bool Bias>
void gelu_span(const float* x, const float* bias, float* out, int64_t width) {
  const auto act = [](V v) { return Tanh ? gelu_tanh(v) : gelu_exact(v); };
  int64_t i = 0;
  // Four at a time: each is a long chain of dependent operations.
  for (; i + 4 * kWidth <= width; i += 4 * kWidth) {
    V v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      v[j] = load(x + i + j * kWidth);
      if (Bias) v[j] = add(v[j], load(bias + i + j * kWidth));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store(out + i + j * kWidth, act(v[j]));
  }
  for (; i < width; i += kWidth) {
    const int64_t count = width - i < kWidth ? width - i : kWidth;
    V v = load_part(x + i, count);
    if (Bias) v = add(v, load_part(bias + i, count));
    store_part(out + i, act(v), count);
  }
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
