// Layer normalisation of rows, with the residual sum in front (https://arxiv.org/abs/1607.06450), and the one by their
// root mean square alone (https://arxiv.org/abs/1910.07467).
#pragma once

#include "kernels.h"
#include "vector.h"

namespace precast {
namespace {

// Mean first, then the squares of what is left: one pass with sums of squares would cancel where the mean is large.
void norm_row(const NormCall& call, const float* x, const float* residual, float* out, float* sum) {
  const int64_t width = call.width, whole = width / (4 * kWidth) * (4 * kWidth);
  float* kept = sum != nullptr ? sum : out;
  const bool plain = residual == nullptr && call.bias == nullptr && sum == nullptr;
  const float* row = plain ? x : kept;
  const auto total = [&](int64_t i) {
    V v = load(x + i);
    if (call.bias != nullptr) v = add(v, load(call.bias + i));
    return residual == nullptr ? v : add(v, load(residual + i));
  };

  V sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i < whole; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V v = total(i + j * kWidth);
      if (!plain) store(kept + i + j * kWidth, v);
      sums[j] = add(sums[j], v);
    }
  }
  for (; i + kWidth <= width; i += kWidth) {
    const V v = total(i);
    if (!plain) store(kept + i, v);
    sums[0] = add(sums[0], v);
  }
  float rest = 0.0f;
  for (; i < width; ++i) {
    float v = x[i];
    if (call.bias != nullptr) v += call.bias[i];
    if (residual != nullptr) v += residual[i];
    if (!plain) kept[i] = v;
    rest += v;
  }
  const float count = static_cast<float>(width);
  const float mean = (sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + rest) / count;

  const V centre = splat(mean);
  for (V& part : sums) part = splat(0.0f);
  for (i = 0; i < whole; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V v = sub(load(row + i + j * kWidth), centre);
      sums[j] = fma(v, v, sums[j]);
    }
  }
  for (; i + kWidth <= width; i += kWidth) {
    const V v = sub(load(row + i), centre);
    sums[0] = fma(v, v, sums[0]);
  }
  rest = 0.0f;
  for (; i < width; ++i) rest += (row[i] - mean) * (row[i] - mean);
  const float variance = (sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + rest) / count;

  const float inverse = 1.0f / __builtin_sqrtf(variance + call.epsilon);
  const V scale = splat(inverse);
  for (i = 0; i + kWidth <= width; i += kWidth) {
    const V v = mul(sub(load(row + i), centre), scale);
    const V w = load(call.weight + i);
    store(out + i, call.beta == nullptr ? mul(v, w) : fma(v, w, load(call.beta + i)));
  }
  for (; i < width; ++i) {
    const float v = (row[i] - mean) * inverse * call.weight[i];
    out[i] = call.beta == nullptr ? v : v + call.beta[i];
  }
}

void rms_row(const NormCall& call, const float* x, const float* residual, float* out, float* sum) {
  const int64_t width = call.width, whole = width / (4 * kWidth) * (4 * kWidth);
  float* kept = sum != nullptr ? sum : out;
  const float* row = residual == nullptr ? x : kept;
  const auto total = [&](int64_t i) {
    if (residual == nullptr) return load(x + i);
    const V v = add(load(x + i), load(residual + i));
    store(kept + i, v);
    return v;
  };

  V sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i < whole; i += 4 * kWidth) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V v = total(i + j * kWidth);
      sums[j] = fma(v, v, sums[j]);
    }
  }
  for (; i + kWidth <= width; i += kWidth) {
    const V v = total(i);
    sums[0] = fma(v, v, sums[0]);
  }
  float rest = 0.0f;
  for (; i < width; ++i) {
    const float v = residual == nullptr ? x[i] : x[i] + residual[i];
    if (residual != nullptr) kept[i] = v;
    rest += v * v;
  }
  const float squares = sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + rest;
  const float inverse = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + call.epsilon);
  const V scale = splat(inverse);
  for (i = 0; i + kWidth <= width; i += kWidth) {
    store(out + i, mul(mul(load(row + i), scale), load(call.weight + i)));
  }
  for (; i < width; ++i) out[i] = row[i] * inverse * call.weight[i];
}

template <void (*Row)(const NormCall&, const float*, const float*, float*, float*)>
void norm_rows(const NormCall& call, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const float* residual =
        call.residual == nullptr ? nullptr : call.residual + row % call.residual_rows * call.width;
    Row(call, call.x + row % call.x_rows * call.width, residual, call.out + row * call.width,
        call.sum == nullptr ? nullptr : call.sum + row * call.width);
  }
}

}  // namespace
}  // namespace precast
