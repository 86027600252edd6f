// Products of integer rows with weights in blocks where a processor adds four products of bytes to a lane of 32 bits
// (VPDPBUSD). One of the two is unsigned: weights of 4 bits are, those of 8 are counted from -128, which is taken off
// with the sum of the row's quants. Rows beside weights of 8 bits are planes of bytes (block_rows.h), whose sums are
// put together as integers: every sum of a block is exact.
#pragma once

#include "block_rows.h"
#include "words.h"

namespace precast {
namespace {

// sums[u][r] = products of one block of unit u with row r.
template <int Rows, int Units>
PRECAST_INLINE void dots_of_4(const uint8_t* const (&w)[Units], const int8_t* x, int64_t block,
                              Words (&sums)[Units][Rows]) {
  const Words low = every_byte(15);
  for (int64_t i = 0; i < block; i += 8) {
    Words even[Units], odd[Units];
#pragma GCC unroll 2
    for (int u = 0; u < Units; ++u) {
      const Words raw = load_words(w[u] + i / 8 * 4 * kPanelColumns);
      even[u] = bits_and(raw, low);
      odd[u] = bits_and(high_halves(raw), low);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Words first = four_of(x + i * Rows + r * 4), second = four_of(x + (i + 4) * Rows + r * 4);
#pragma GCC unroll 2
      for (int u = 0; u < Units; ++u) {
        add_dots(sums[u][r], even[u], first);
        add_dots(sums[u][r], odd[u], second);
      }
    }
  }
}

template <int Rows, int Units>
PRECAST_INLINE void dots_of_8(const uint8_t* const (&w)[Units], const int8_t* x, int64_t block,
                              Words (&sums)[Units][Rows]) {
  const Words middle = every_byte(0x80);
  Words high[Units][Rows];
#pragma GCC unroll 2
  for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) high[u][r] = zero_words();
  }
  for (int64_t i = 0; i < block; i += 4) {
    Words weights[Units];
#pragma GCC unroll 2
    for (int u = 0; u < Units; ++u) weights[u] = bits_xor(load_words(w[u] + i / 4 * 4 * kPanelColumns), middle);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Words first = four_of(x + (i * Rows + r * 4) * 2), second = four_of(x + (i * Rows + r * 4) * 2 + 4);
#pragma GCC unroll 2
      for (int u = 0; u < Units; ++u) {
        add_dots(high[u][r], weights[u], first);
        add_dots(sums[u][r], weights[u], second);
      }
    }
  }
  const int shift = plane_shift(block);
#pragma GCC unroll 2
  for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) sums[u][r] = add_words(sums[u][r], shifted_left(high[u][r], shift));
  }
}

// Units from `unit` on, Rows of a tile.
template <int Bits, int Kind, int Rows, int Units>
void dot_rows(const BlockCall& call, const PanelLayout& layout, int64_t unit, int64_t begin) {
  const uint8_t* panels[Units];
  int64_t columns[Units];  // of a panel, the first of the unit
#pragma GCC unroll 2
  for (int u = 0; u < Units; ++u) {
    panels[u] = call.weight + (unit + u) / kUnitsOfPanel * layout.bytes;
    columns[u] = (unit + u) % kUnitsOfPanel * kWidth;
  }
  const int8_t* x = row_quants(call) + begin * layout.blocks * call.block * Bits / 4;
  const RowScale* x_scales = row_scales(call) + begin * layout.blocks;
  V out[Units][Rows];
#pragma GCC unroll 2
  for (int u = 0; u < Units; ++u) {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) out[u][r] = splat(0.0f);
  }
  for (int64_t b = 0; b < layout.blocks; ++b) {
    Words sums[Units][Rows];
    const uint8_t* w[Units];
#pragma GCC unroll 2
    for (int u = 0; u < Units; ++u) {
      w[u] = panels[u] + columns[u] * 4;
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sums[u][r] = zero_words();
    }
    if constexpr (Bits == 4) dots_of_4<Rows, Units>(w, x, call.block, sums);
    else dots_of_8<Rows, Units>(w, x, call.block, sums);
#pragma GCC unroll 2
    for (int u = 0; u < Units; ++u) {
      const V scale = scales_from(from_16(panels[u] + layout.scales + columns[u] * 2));
      V zero = unit_zeros<Bits, Kind>(panels[u] + layout.zeros, columns[u]);
      if (Bits == 8 && Kind != kHalves) zero = add(zero, splat(128.0f));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        // Integers below 2^24 all of them, but for zero points that are floats: exact in float32.
        V total = to_floats(sums[u][r]);
        const V sum = splat(x_scales[r].sum);
        if (Bits == 8 && Kind == kHalves) total = fnma(splat(128.0f), sum, total);
        total = fnma(zero, sum, total);
        // The product of the scales first: large rows do not overflow before small weights are at them.
        out[u][r] = fma(total, mul(scale, splat(x_scales[r].scale)), out[u][r]);
      }
      panels[u] += layout.of_block;
    }
    x += call.block * Rows * Bits / 4;
    x_scales += Rows;
  }
#pragma GCC unroll 2
  for (int u = 0; u < Units; ++u) {
    const int64_t column = (unit + u) * kWidth, left = call.columns - column;
    if (left <= 0) break;
    const bool whole = left >= kWidth;
    V bias = splat(0.0f);
    if (call.bias != nullptr) bias = whole ? load(call.bias + column) : load_part(call.bias + column, left);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      float* to = call.out + (begin + r) * call.columns + column;
      if (call.bias != nullptr) out[u][r] = add(out[u][r], bias);
      if (whole) store(to, out[u][r]);
      else store_part(to, out[u][r], left);
    }
  }
}

template <int Bits, int Kind, int Units>
void dots_of(const BlockCall& call, const PanelLayout& layout, int64_t unit, int64_t first_tile, int64_t last_tile) {
  static_assert(kRowTile == 4, "one case a number of rows");
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    const int64_t begin = tile * kRowTile, left = call.rows - begin;
    if (left >= 4) dot_rows<Bits, Kind, 4, Units>(call, layout, unit, begin);
    else if (left == 3) dot_rows<Bits, Kind, 3, Units>(call, layout, unit, begin);
    else if (left == 2) dot_rows<Bits, Kind, 2, Units>(call, layout, unit, begin);
    else dot_rows<Bits, Kind, 1, Units>(call, layout, unit, begin);
  }
}

template <int Bits, int Kind>
void dots(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile) {
  const PanelLayout layout(call.depth, call.block, Bits, Kind);
  int64_t unit = first * kUnitsOfPanel;
  const int64_t end = last * kUnitsOfPanel;
  for (; unit + kUnits <= end; unit += kUnits) {
    dots_of<Bits, Kind, kUnits>(call, layout, unit, first_tile, last_tile);
  }
  for (; unit < end; ++unit) dots_of<Bits, Kind, 1>(call, layout, unit, first_tile, last_tile);
}

void block_dots(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile, float*) {
  by_form(call, [&](auto bits, auto kind) {
    dots<bits.value, kind.value>(call, first, last, first_tile, last_tile);
  });
}

}  // namespace
}  // namespace precast
