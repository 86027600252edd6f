// Weights in blocks of 4 or 8 bits: how they lie, and what their products ask of the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>

namespace precast {

constexpr int64_t kPanelColumns = 16;  // weight columns that lie together
constexpr int64_t kSmallestBlock = 16;  // of 8 bits; those of 4 have at least kFold
constexpr int64_t kFold = 32;          // products of 4 bits by 8 that a sum of 16 bits holds: 32 / 2 * 15 * 127

constexpr uint32_t kScaleShift = 13, kScaleOffset = (127 - 48) << 10;

// How a panel of sixteen weight columns lies: block after block, all that is needed of a block together, so that memory
// is read from front to back. First the values; column c and channel k of the block are
//   4 bits: byte k/8*64 + c*4 + k%4, its low half where k/4 is even;    unsigned
//   8 bits: byte k/4*64 + c*4 + k%4;                                    signed: what is stored minus 128
// then the scales of the columns in 16 bits: those of a float32 from its tenth bit of mantissa up, minus kScaleOffset,
// which is 2^-48 to 2^16 at the precision of half floats, with nothing subnormal; then, where there are any, the zero
// points. Integers: 4 bits 8 bytes, column c in half c%2 of byte c/2; 8 bits 16 bytes, what is stored minus 128 again.
// Floats, in units of the stored values: half floats, none of them subnormal; of 8 bits minus 128 too.
enum Zeros : int { kMiddle = 0, kIntegers = 1, kHalves = 2 };

struct PanelLayout {
  int64_t blocks, scales, zeros, of_block, bytes;

  PanelLayout(int64_t depth, int64_t block, int64_t bits, int64_t kind) {
    blocks = (depth + block - 1) / block;
    scales = block * kPanelColumns * bits / 8;
    zeros = scales + kPanelColumns * 2;
    of_block = zeros + kPanelColumns * (kind == kIntegers ? bits : kind == kHalves ? 16 : 0) / 8;
    bytes = blocks * of_block;
  }
};

// A half float that is not subnormal, infinite or NaN: its bits, moved, are those of a float32 2^112 times smaller.
inline float from_half(uint16_t code) {
  const uint32_t magnitude = (code & 0x7fffu) << 13;
  float value;
  __builtin_memcpy(&value, &magnitude, sizeof value);
  return (code & 0x8000 ? -0x1p112f : 0x1p112f) * value;
}

// The zero point of column c of the block that `zeros` bytes belong to.
inline float zero_point(const uint8_t* zeros, int64_t c, int64_t bits, int64_t kind) {
  if (kind == kMiddle) return bits == 4 ? 8.0f : 0.0f;
  if (kind == kHalves) {
    uint16_t code;
    __builtin_memcpy(&code, zeros + c * 2, sizeof code);
    return from_half(code);
  }
  const uint8_t stored = zeros[c * bits / 8];
  return static_cast<float>(bits == 4 ? stored >> (c % 2 * 4) & 15 : static_cast<int8_t>(stored));
}

// Rows of x in fewer bits times weights in blocks of 4 or 8 bits, plus a bias.
struct BlockCall {
  const float* x;         // [rows, depth]
  const uint8_t* weight;  // panels
  const float* bias;      // [columns]; null: none
  float* out;             // [rows, columns]
  uint8_t* prepared;      // what `prepare` makes of x, aligned to 64 bytes
  int64_t rows, depth, columns, block, bits, zeros;
  // Instead of `out`: GELU of the results, prepared for a product with a weight of as many channels; null: none.
  uint8_t* activated;
  int64_t activated_channels;  // with what is behind the last one
  bool tanh;                   // the approximation of GELU
};

template <int N>
struct Number {
  static constexpr int value = N;
};

// use(bits, kind of zero points), each a `Number`: what is compiled once for every form of weights.
template <typename Use>
inline void by_form(const BlockCall& call, Use use) {
  const auto by_kind = [&](auto bits) {
    if (call.zeros == kMiddle) use(bits, Number<kMiddle>{});
    else if (call.zeros == kIntegers) use(bits, Number<kIntegers>{});
    else use(bits, Number<kHalves>{});
  };
  if (call.bits == 4) by_kind(Number<4>{});
  else by_kind(Number<8>{});
}

// What rows are rounded to: nothing that a call has to allow, bfloat16, or beside weights of 8 bits 8 bits, too.
enum class Rounding { kNone, kBfloat16, kBytes };

// How rows are multiplied. Ranges are [first, last): tiles of `row_tile` rows, panels of kPanelColumns columns.
struct BlockKernels {
  Rounding rounding;
  int64_t smallest_block;                  // of those that `product` takes
  int64_t row_tile;                        // rows that lie together when they are prepared
  int64_t task_bytes;                      // prepared rows of one task, about: they stay in the second cache
  size_t (*prepared)(const BlockCall&);    // bytes
  void (*prepare)(const BlockCall&, int64_t first, int64_t last);
  void (*product)(const BlockCall&, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile, float* scratch);
  size_t (*scratch)(const BlockCall&);     // floats of a thread's own
  int64_t (*channels)(const BlockCall&);   // of prepared rows, where `product` takes `activated`; null, 0: it does not
};

}  // namespace precast
