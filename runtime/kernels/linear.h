// x @ weight.T + bias in float32, from a weight that lies as checkpoints store it: one row an output column.
//
// For few rows the weight is read once, front to back, as dot products. For many it is turned, sixteen columns and some
// channels at a time, into a panel that stays in the nearest cache while all rows go over it
// (https://doi.org/10.1145/1356052.1356053).
#pragma once

#include "linear_calls.h"
#include "vector.h"

namespace precast {
namespace {

constexpr int64_t kLinearColumns = 16;                    // of a panel
constexpr int64_t kLinearDepth = 256;                     // channels of a panel: 16 KiB
constexpr int kPanelVectors = kLinearColumns / kWidth;
constexpr int kLinearRows = kPanelVectors == 1 ? 12 : kPanelVectors == 2 ? 6 : 2;  // of a register tile
constexpr int kDotColumns = 4;
constexpr int kDotRows = 3;  // 12 sums

// out[Rows, kDotColumns] of dot products; columns beyond `wide` repeat the last one.
template <int Rows>
void dot_tile(const LinearCall& call, int64_t row, int64_t column) {
  const int64_t depth = call.depth, left = call.columns - column, wide = left < kDotColumns ? left : kDotColumns;
  const float* x = call.x + row * depth;
  const float* w[kDotColumns];
  for (int64_t c = 0; c < kDotColumns; ++c) w[c] = call.weight + (column + (c < wide ? c : wide - 1)) * depth;
  V sums[Rows][kDotColumns];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) sums[r][c] = splat(0.0f);
  }
  const int64_t whole = depth / kWidth * kWidth;
  for (int64_t k = 0; k < whole; k += kWidth) {
    V part[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) part[r] = load(x + r * depth + k);
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) {
      const V weight = load(w[c] + k);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sums[r][c] = fma(part[r], weight, sums[r][c]);
    }
  }
  if (whole < depth) {
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) {
      const V weight = load_part(w[c] + whole, depth - whole);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        sums[r][c] = fma(load_part(x + r * depth + whole, depth - whole), weight, sums[r][c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    float* to = call.out + (row + r) * call.columns + column;
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) {
      if (c < wide) to[c] = sum_of(sums[r][c]) + (call.bias == nullptr ? 0.0f : call.bias[column + c]);
    }
  }
}

// All rows, some columns.
void linear_few(const LinearCall& call, int64_t first, int64_t last) {
  for (int64_t column = first; column < last; column += kDotColumns) {
    int64_t row = 0;
    for (; row + kDotRows <= call.rows; row += kDotRows) dot_tile<kDotRows>(call, row, column);
    if (call.rows - row == 2) dot_tile<2>(call, row, column);
    else if (call.rows - row == 1) dot_tile<1>(call, row, column);
  }
}

// panel[depth][kLinearColumns] from kLinearColumns rows of the weight, zeros where there are fewer.
void turn_panel(const float* weight, int64_t stride, int64_t columns, int64_t depth, float* panel) {
  int64_t done = 0;
#ifdef PRECAST_TRANSPOSES
  if (columns == kLinearColumns) {
    for (; done + 8 <= depth; done += 8) {
      for (int64_t half = 0; half < kLinearColumns; half += 8) {
        const float* from[8];
        for (int64_t j = 0; j < 8; ++j) from[j] = weight + (half + j) * stride + done;
        transpose_8x8(from, nullptr, panel + done * kLinearColumns + half, kLinearColumns);
      }
    }
  }
#endif
  for (int64_t c = 0; c < kLinearColumns; ++c) {
    for (int64_t k = done; k < depth; ++k) panel[k * kLinearColumns + c] = c < columns ? weight[c * stride + k] : 0.0f;
  }
}

// out[Rows, kLinearColumns] (+)= x[Rows, depth] @ panel.
template <int Rows>
inline void panel_product(const LinearCall& call, int64_t row, int64_t column, int64_t from, int64_t depth,
                          const float* panel) {
  const float* x = call.x + row * call.depth + from;
  const int64_t left = call.columns - column, stride = call.depth;
  V sums[Rows][kPanelVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) sums[r][j] = splat(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    V w[kPanelVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j) w[j] = load(panel + j * kWidth);
    panel += kLinearColumns;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const V part = splat(x[r * stride + k]);
#pragma GCC unroll 4
      for (int j = 0; j < kPanelVectors; ++j) sums[r][j] = fma(part, w[j], sums[r][j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    float* to = call.out + (row + r) * call.columns + column;
#pragma GCC unroll 4
    for (int j = 0; j < kPanelVectors; ++j, to += kWidth) {
      const int64_t wide = left - j * kWidth;
      if (wide <= 0) break;
      V sum = sums[r][j];
      const float* bias = call.bias == nullptr ? nullptr : call.bias + column + j * kWidth;
      if (wide >= kWidth) {
        if (from != 0) sum = add(load(to), sum);
        else if (bias != nullptr) sum = add(load(bias), sum);
        store(to, sum);
      } else {
        if (from != 0) sum = add(load_part(to, wide), sum);
        else if (bias != nullptr) sum = add(load_part(bias, wide), sum);
        store_part(to, sum, wide);
      }
    }
  }
}

// The last rows, fewer than a tile.
template <int Rows>
inline void panel_rest(const LinearCall& call, int64_t row, int64_t rows, int64_t column, int64_t from, int64_t depth,
                       const float* panel) {
  if constexpr (Rows > 0) {
    if (rows == Rows) panel_product<Rows>(call, row, column, from, depth, panel);
    else panel_rest<Rows - 1>(call, row, rows, column, from, depth, panel);
  }
}

// Rows [first_row, last_row) of columns [first, last); first is a multiple of kLinearColumns.
void linear_many(const LinearCall& call, int64_t first, int64_t last, int64_t first_row, int64_t last_row,
                 float* panel) {
  for (int64_t from = 0; from < call.depth; from += kLinearDepth) {
    const int64_t depth = call.depth - from < kLinearDepth ? call.depth - from : kLinearDepth;
    for (int64_t column = first; column < last; column += kLinearColumns) {
      const int64_t columns = call.columns - column < kLinearColumns ? call.columns - column : kLinearColumns;
      turn_panel(call.weight + column * call.depth + from, call.depth, columns, depth, panel);
      int64_t row = first_row;
      for (; row + kLinearRows <= last_row; row += kLinearRows) {
        panel_product<kLinearRows>(call, row, column, from, depth, panel);
      }
      panel_rest<kLinearRows - 1>(call, row, last_row - row, column, from, depth, panel);
    }
  }
}

}  // namespace
}  // namespace precast
