// Weights in 16 bits, bfloat16 or float16: how they lie, and what their products ask of the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>

namespace precast {

// Sixteen columns of a weight [columns, depth] lie together, channel after channel: panel p holds, of channel k, columns
// p * 16 to p * 16 + 15, zeros behind the last one. One row reads a panel from front to back, and many rows read of it
// what a register tile needs next.
constexpr int64_t kHalfPanel = 16;
// Channels that are added up before their sum is added to those of the channels before: shorter sums round less.
constexpr int64_t kHalfSpan = 256;

enum HalfKind : int { kBfloat16 = 0, kFloat16 = 1 };

// x times a weight, plus a bias. Every sum is made in one order, channel by channel, whatever the number of rows and
// whichever of them it is: a result depends on nothing but its row, its column and the instruction set.
struct HalfCall {
  const float* x;          // [rows, depth]
  const uint16_t* weight;  // [columns / 16, rounded up][depth][16]
  const float* bias;       // [columns]; null: none
  float* out;              // [rows, columns]
  int64_t rows, depth, columns;
  HalfKind kind;
};

// Ranges are [first, last), of panels and of rows.
struct HalfKernels {
  void (*product)(const HalfCall&, int64_t first, int64_t last, int64_t first_row, int64_t last_row, float* scratch);
  // out[i] = the weight's channels of one column.
  void (*column)(const HalfCall&, int64_t column, float* out);
  size_t scratch;  // floats
};

}  // namespace precast
