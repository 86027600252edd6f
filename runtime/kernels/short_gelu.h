// GELU of what is then rounded to eight bits, as bfloat16 or as bytes.
#pragma once

#include "vector.h"

namespace precast {
namespace {

// GELU as in gelu.h, max(x, 0) - |x| Phi(-|x|), to 2e-5: the logarithm of the second factor is a polynomial of fewer
// terms, for the approximation by tanh another one.
template <bool Tanh>
inline Side short_gelu(const Side& x) {
  const V far = splat(5.5f), zero = splat(0.0f);
  const Side a = each([&](int i) { return lesser(far, absolute(x.v[i])); });
  const V first = splat(Tanh ? -0.001883744f : 0.003866262688f);
  Side p = each([&](int i) { return fma(first, a.v[i], splat(Tanh ? 0.008121615477f : -0.04407930184f)); });
  if (Tanh) p = horner(p, a, -0.04601977472f);
  p = horner(p, a, Tanh ? -0.4667092736f : -0.4680147178f);
  p = horner(p, a, Tanh ? -1.14775022f : -1.147372386f);
  p = horner(p, a, Tanh ? -1.000431f : -1.000479598f);
  const Side tail = short_power_of_two(p);
  return each([&](int i) { return fnma(a.v[i], tail.v[i], greater(zero, x.v[i])); });
}

}  // namespace
}  // namespace precast
