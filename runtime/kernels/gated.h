// The gated activations of a decoder's feed-forward block (https://arxiv.org/abs/2002.05202).
#pragma once

#include "gelu.h"
#include "kernels.h"
#include "vector.h"

namespace precast {
namespace {

// x * sigmoid(x), of exp(-|x|), which never overflows.
inline Side silu(const Side& x) {
  const V one = splat(1.0f), zero = splat(0.0f), factor = splat(-1.4426950408889634f);
  const Side e = power_of_two(each([&](int i) { return mul(absolute(x.v[i]), factor); }));
  return each([&](int i) {
    return div(mul(x.v[i], where_less(x.v[i], zero, e.v[i], one)), add(one, e.v[i]));
  });
}

template <Activation Kind>
inline Side activate(const Side& x) {
  if constexpr (Kind == Activation::kSilu) return silu(x);
  if constexpr (Kind == Activation::kGelu) return gelu<false>(x);
  if constexpr (Kind == Activation::kGeluTanh) return gelu<true>(x);
  return each([&](int i) { return greater(splat(0.0f), x.v[i]); });
}

template <Activation Kind>
void gated_span(const float* gate, const float* up, float* out, int64_t width) {
  int64_t i = 0;
  for (; i + kSide * kWidth <= width; i += kSide * kWidth) {
    const Side result = activate<Kind>(each([&](int j) { return load(gate + i + j * kWidth); }));
#pragma GCC unroll 4
    for (int j = 0; j < kSide; ++j) store(out + i + j * kWidth, mul(result.v[j], load(up + i + j * kWidth)));
  }
  if (i == width) return;
  // The same arithmetic for what is left: an element's result does not depend on where it stands.
  float rest[kSide * kWidth] = {};
  for (int64_t j = 0; i + j < width; ++j) rest[j] = gate[i + j];
  const Side result = activate<Kind>(each([&](int j) { return load(rest + j * kWidth); }));
#pragma GCC unroll 4
  for (int j = 0; j < kSide; ++j) store(rest + j * kWidth, result.v[j]);
  for (int64_t j = 0; i + j < width; ++j) out[i + j] = rest[j] * up[i + j];
}

void gated_rows(const GatedCall& call, int64_t first, int64_t last) {
  using Span = void (*)(const float*, const float*, float*, int64_t);
  constexpr Span kSpans[] = {gated_span<Activation::kSilu>, gated_span<Activation::kGelu>,
                             gated_span<Activation::kGeluTanh>, gated_span<Activation::kRelu>};
  const int64_t begin = first * call.width;
  const int64_t end = last * call.width < call.elements ? last * call.width : call.elements;
  kSpans[static_cast<int>(call.activation)](call.gate + begin, call.up + begin, call.out + begin,
                                            end - begin);
}

}  // namespace
}  // namespace precast
