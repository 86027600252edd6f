// Many rows times weights in blocks, where a processor multiplies tiles of bfloat16 (AMX). The weights of a few panels
// are made floats again, scale and all, and rounded to bfloat16, once for all rows; sums are float32, over all channels.
//
// Eight bits of mantissa cost a weight at most 1/192 of itself, beside the 1/254 of its block's largest that its own
// rounding took; the rows, which keep 8 to 12 bits of a block's largest elsewhere, lose at most 1/256 of each number.
// MiniLM's vectors lie as near to eager's as with exact products (cosine 0.99982 beside 0.99984). Infinity and NaN go
// through; what is subnormal is zero.
#pragma once

#include "block_calls.h"
#include "short_gelu.h"
#include "tiles.h"

namespace precast {
namespace {

// Channels whose weights are widened at a time: those of two panels stay in the first cache.
constexpr int64_t kTileSpan = 512;

inline int64_t tile_channels(const BlockCall& call) {
  const int64_t depth = (call.depth + call.block - 1) / call.block * call.block;
  return (depth + kTileChannels - 1) / kTileChannels * kTileChannels;
}

// A multiple of the block; all of them where sums have no other place than tiles until they are activated.
inline int64_t tile_span(const BlockCall& call) {
  const int64_t channels = tile_channels(call), span = kTileSpan / call.block * call.block;
  return call.activated != nullptr || channels < span ? channels : span;
}

size_t tiles_prepared(const BlockCall& call) {
  const int64_t tiles = (call.rows + kTileHeight - 1) / kTileHeight;
  return static_cast<size_t>(tiles * kTileHeight * tile_channels(call)) * sizeof(uint16_t);
}

// [tiles of rows][channels / 32][16][32], zeros behind the last row and channel.
void prepare_tiles(const BlockCall& call, int64_t first, int64_t last) {
  const int64_t channels = tile_channels(call);
  for (int64_t tile = first; tile < last; ++tile) {
    uint16_t* of_tile = reinterpret_cast<uint16_t*>(call.prepared) + tile * kTileHeight * channels;
    for (int64_t r = 0; r < kTileHeight; ++r) {
      const int64_t row = tile * kTileHeight + r;
      uint16_t* to = of_tile + r * kTileChannels;
      const float* from = call.x + row * call.depth;
      for (int64_t k = 0; k < channels; k += kTileChannels, to += kTileNumbers) {
        const int64_t left = row < call.rows ? call.depth - k : 0;
        const __mmask16 low = first_lanes(left), high = first_lanes(left - 16);
        const V one = _mm512_maskz_loadu_ps(low, from + (low == 0 ? 0 : k));
        const V other = _mm512_maskz_loadu_ps(high, from + (high == 0 ? 0 : k + 16));
        _mm512_storeu_si512(to, narrowed(one, other));
      }
    }
  }
}

// Sixteen pairs of bfloat16, the first of each in the low half: what is behind their seven bits of mantissa is cut off.
inline __m512i pairs_of(V first, V second) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
  return _mm512_ternarylogic_epi32(low, _mm512_castps_si512(second), high, 0xf8);  // a | b & c
}

// Weights are multiplied by this before they are cut off: a third to two thirds of a step, half of one on average, by
// which they are then as near as rounded ones are (the root of the mean square 1.05 times theirs). What fits is exact.
constexpr float kHalfStep = 1.0f + 0x1p-7f / 3.0f;

// Two rows of a tile of weights: four channels of sixteen columns, one in the bits of `mask` of each byte of a lane. They
// are put into the mantissa of 2^23, and `middle` is taken from the sum.
template <int Kind>
inline void widen_four(__m512i raw, int mask, V middle, V zero, V scale, uint16_t* to) {
  const __m512i magic = _mm512_set1_epi32(0x4b000000), low = _mm512_set1_epi32(mask);
  V parts[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i number = _mm512_ternarylogic_epi32(magic, _mm512_srli_epi32(raw, static_cast<unsigned>(8 * j)), low, 0xf8);
    parts[j] = sub(_mm512_castsi512_ps(number), middle);
    if (Kind == kHalves) parts[j] = sub(parts[j], zero);
    parts[j] = mul(parts[j], scale);
  }
  _mm512_storeu_si512(to, pairs_of(parts[0], parts[1]));
  _mm512_storeu_si512(to + kTileChannels, pairs_of(parts[2], parts[3]));
}

// Widens channels [begin, begin + count) of some panels, each to [count / 32][16][16][2], a few at a time: the tiles of
// the panels before are multiplied meanwhile, by another part of the processor.
template <int Bits, int Kind>
class Widening {
 public:
  static constexpr int64_t kGroup = Bits == 8 ? 4 : 8;  // channels that are widened at once

  Widening(const BlockCall& call, const PanelLayout& layout, int64_t panel, int64_t panels, int64_t begin,
           int64_t count, uint16_t* to)
      : layout_(layout), block_(call.block), count_(count), to_(to) {
    const int64_t depth = layout.blocks * call.block;
    channels_ = begin + count < depth ? count : depth - begin;
    next_ = call.weight + panel * layout.bytes + begin / call.block * layout.of_block;
    left_ = panels * channels_ / kGroup;
    of_panel_ = 0;
    stride_ = layout.bytes - (channels_ / block_) * layout.of_block;
  }

  // Groups that are left.
  int64_t left() const { return left_; }

  PRECAST_INLINE void advance(int64_t groups) {
    if (groups > left_) groups = left_;
    left_ -= groups;
    for (; groups > 0; --groups) {
      if (of_block_ == 0) enter();
      const __m512i raw = _mm512_loadu_si512(at_);
      __builtin_prefetch(at_ + kAhead);
      if (Bits == 8) {
        const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80808080u));
        widen_four<Kind>(_mm512_xor_si512(raw, sign), 0xff, middle_, zero_, scale_, to_);
      } else {
        widen_four<Kind>(raw, 0xf, middle_, zero_, scale_, to_);
        widen_four<Kind>(_mm512_srli_epi32(raw, 4), 0xf, middle_, zero_, scale_, to_ + 2 * kTileChannels);
      }
      at_ += 4 * kPanelColumns;
      to_ += kGroup / 2 * kTileChannels;
      of_block_ -= kGroup;
      if (of_block_ == 0 && of_panel_ == channels_) leave();
    }
  }

 private:
  static constexpr int64_t kAhead = 2048;  // bytes

  void enter() {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next_ + layout_.scales));
    const __m512i bits = _mm512_add_epi32(_mm512_cvtepu16_epi32(codes), _mm512_set1_epi32(kScaleOffset));
    scale_ = mul(_mm512_castsi512_ps(_mm512_slli_epi32(bits, kScaleShift)), splat(kHalfStep));
    float zeros[kPanelColumns] = {};
    if (Kind != kMiddle || Bits == 4) {
      for (int64_t c = 0; c < kPanelColumns; ++c) zeros[c] = zero_point(next_ + layout_.zeros, c, Bits, Kind);
    }
    zero_ = load(zeros);
    const V origin = splat(Bits == 8 ? 0x1p23f + 128.0f : 0x1p23f);
    middle_ = Kind == kHalves ? origin : add(origin, zero_);
    at_ = next_;
    next_ += layout_.of_block;
    of_block_ = block_;
    of_panel_ += block_;
  }

  // What is behind a panel's last block up to a whole tile is zero.
  void leave() {
    for (int64_t k = channels_; k < count_; k += 2, to_ += kTileChannels) {
      _mm512_storeu_si512(to_, _mm512_setzero_si512());
    }
    next_ += stride_;
    of_panel_ = 0;
  }

  const PanelLayout& layout_;
  int64_t block_, count_, channels_, left_, stride_;
  int64_t of_block_ = 0, of_panel_ = 0;  // channels of the block that are left; of the panel, up to this block's end
  const uint8_t* at_ = nullptr;
  const uint8_t* next_;
  uint16_t* to_;
  V scale_, middle_, zero_;
};

// Where a tile of sums begins and ends: in the output, or, where that ends within the tile, in a copy.
struct Sums {
  float* at;
  int64_t stride;  // bytes
};

// Columns of a panel and rows of a tile that there are.
inline int64_t wide_of(const BlockCall& call, int64_t panel) {
  const int64_t left = call.columns - panel * kPanelColumns;
  return left < kPanelColumns ? left : kPanelColumns;
}
inline int64_t high_of(const BlockCall& call, int64_t tile) {
  const int64_t left = call.rows - tile * kTileHeight;
  return left < kTileHeight ? left : kTileHeight;
}

inline float* place_of(const BlockCall& call, int64_t tile, int64_t panel) {
  return call.out + tile * kTileHeight * call.columns + panel * kPanelColumns;
}

inline Sums sums_from(const BlockCall& call, int64_t tile, int64_t panel, bool copied, float* copy) {
  const int64_t high = high_of(call, tile), wide = wide_of(call, panel);
  if (high == kTileHeight && wide == kPanelColumns) return {place_of(call, tile, panel), call.columns * 4};
  for (int64_t r = 0; copied && r < high; ++r) {
    __builtin_memcpy(copy + r * kPanelColumns, place_of(call, tile, panel) + r * call.columns,
                     static_cast<size_t>(wide) * 4);
  }
  return {copy, 64};
}

inline void sums_to(const BlockCall& call, int64_t tile, int64_t panel, const Sums& sums, const float* copy) {
  if (sums.at != copy) return;
  const int64_t high = high_of(call, tile), wide = wide_of(call, panel);
  for (int64_t r = 0; r < high; ++r) {
    __builtin_memcpy(place_of(call, tile, panel) + r * call.columns, copy + r * kPanelColumns,
                     static_cast<size_t>(wide) * 4);
  }
}

// GELU of the sums of a few tiles, as rows of the next product, one line of memory each: some at a time, while the next
// tiles are multiplied.
class Activating {
 public:
  explicit Activating(const BlockCall& call) : call_(call) {}

  // Sums as `tiles_of` copies them, of whole tiles of rows; those of before are done.
  void begin(int64_t tile, int64_t tiles, int64_t panel, int panels, const float* copies) {
    low_ = first_lanes(wide_of(call_, panel));
    high_ = panels == 2 ? first_lanes(wide_of(call_, panel + 1)) : 0;
    from_ = copies;
    row_ = 0;
    left_ = tiles * kTileHeight;
    to_ = reinterpret_cast<uint16_t*>(call_.activated) + tile * kTileHeight * call_.activated_channels +
          panel * kTileHeight * kTileColumnsOf;
  }

  int64_t left() const { return left_; }

  PRECAST_INLINE void advance(int64_t rows) {
    if (rows > left_) rows = left_;
    left_ -= rows;
    for (; rows > 0; --rows, ++row_) {
      const int64_t tile = row_ / kTileHeight, row = row_ % kTileHeight;
      const float* from = from_ + tile * 2 * kTileFloats + row * kTileColumnsOf;
      const Side x{{_mm512_maskz_loadu_ps(low_, from), _mm512_maskz_loadu_ps(high_, from + kTileFloats)}};
      const Side y = call_.tanh ? short_gelu<true>(x) : short_gelu<false>(x);
      _mm512_storeu_si512(to_ + tile * kTileHeight * call_.activated_channels + row * kTileChannels,
                          narrowed(y.v[0], y.v[1]));
    }
  }

 private:
  const BlockCall& call_;
  const float* from_ = nullptr;
  uint16_t* to_ = nullptr;
  int64_t row_ = 0, left_ = 0;
  __mmask16 low_ = 0, high_ = 0;
};

// Two tiles of rows by two panels: 4 to 7 hold the sums, 0 and 1 rows, 2 and 3 weights. Sums begin with the bias, which
// is one row sixteen times, or with those of the span before.
template <int Rows, int Panels, typename Next>
void tiles_of(const BlockCall& call, int64_t tile, int64_t panel, int64_t begin, int64_t count, const uint16_t* weights,
              const float* bias, float* copies, Next& next, int64_t groups, Activating& activating) {
  const int64_t stride = kTileHeight * tile_channels(call);
  const uint16_t* rows = reinterpret_cast<const uint16_t*>(call.prepared) + tile * stride + begin * kTileHeight;
  Sums sums[4];
  const bool activated = call.activated != nullptr;
  // Those of the tiles before are done when these are multiplied, and their copies free again.
  const int64_t activations = (activating.left() * kTileChannels + count - 1) / count;
  // Lines that are far apart are fetched while tiles are multiplied, or each would be waited for at the end.
  for (int64_t r = tile * kTileHeight; !activated && r < (tile + Rows) * kTileHeight && r < call.rows; ++r) {
    const float* line = call.out + r * call.columns + panel * kPanelColumns;
    __builtin_prefetch(line, 1);
    if (Panels == 2) __builtin_prefetch(line + kPanelColumns, 1);
  }
  for (int r = 0; r < Rows; ++r) {
    for (int p = 0; p < Panels; ++p) {
      float* copy = copies + (2 * r + p) * kTileFloats;
      sums[2 * r + p] = activated ? Sums{copy, 64} : sums_from(call, tile + r, panel + p, begin != 0, copy);
    }
  }
  written();
  const bool first = begin == 0;
  _tile_loadd(4, first ? bias : sums[0].at, first ? 0 : sums[0].stride);
  if constexpr (Panels == 2) _tile_loadd(5, first ? bias + kPanelColumns : sums[1].at, first ? 0 : sums[1].stride);
  if constexpr (Rows == 2) _tile_loadd(6, first ? bias : sums[2].at, first ? 0 : sums[2].stride);
  if constexpr (Rows == 2 && Panels == 2) {
    _tile_loadd(7, first ? bias + kPanelColumns : sums[3].at, first ? 0 : sums[3].stride);
  }
  for (int64_t k = 0; k < count; k += kTileChannels, rows += kTileNumbers, weights += kTileNumbers) {
    next.advance(groups);
    activating.advance(activations);
    _tile_loadd(2, weights, 64);
    _tile_loadd(0, rows, 64);
    _tile_dpbf16ps(4, 0, 2);
    if constexpr (Panels == 2) {
      _tile_loadd(3, weights + count * kPanelColumns, 64);
      _tile_dpbf16ps(5, 0, 3);
    }
    if constexpr (Rows == 2) {
      _tile_loadd(1, rows + stride, 64);
      _tile_dpbf16ps(6, 1, 2);
      if constexpr (Panels == 2) _tile_dpbf16ps(7, 1, 3);
    }
  }
  _tile_stored(4, sums[0].at, sums[0].stride);
  if constexpr (Panels == 2) _tile_stored(5, sums[1].at, sums[1].stride);
  if constexpr (Rows == 2) _tile_stored(6, sums[2].at, sums[2].stride);
  if constexpr (Rows == 2 && Panels == 2) _tile_stored(7, sums[3].at, sums[3].stride);
  written();
  if (activated) return activating.begin(tile, Rows, panel, Panels, copies);
  for (int r = 0; r < Rows; ++r) {
    for (int p = 0; p < Panels; ++p) {
      const int i = 2 * r + p;
      sums_to(call, tile + r, panel + p, sums[i], copies + i * kTileFloats);
    }
  }
}

// A thread's own: copies of four tiles of sums, the bias of two panels, their weights and the next ones'.
constexpr int64_t kTileCopies = 4 * kTileFloats, kTileBias = 2 * kPanelColumns;

inline int64_t tile_weights(const BlockCall& call) { return 2 * tile_span(call) * kPanelColumns; }

size_t tiles_scratch(const BlockCall& call) {
  return static_cast<size_t>(kTileCopies + kTileBias + tile_weights(call));  // two of them, of half a float each
}

// Panels and channels of one step, whose weights are widened together.
struct TileStep {
  int64_t panel, panels, begin, count;
};

template <int Panels, typename Next>
void tiles_of_step(const BlockCall& call, const TileStep& step, int64_t first_tile, int64_t last_tile,
                   const uint16_t* weights, const float* bias, float* copies, Next& next, Activating& activating) {
  // Widening is spread evenly over the multiplications.
  const int64_t pairs = (last_tile - first_tile + 1) / 2, multiplications = pairs * (step.count / kTileChannels);
  const int64_t groups = (next.left() + multiplications - 1) / multiplications;
  int64_t tile = first_tile;
  for (; tile + 2 <= last_tile; tile += 2) {
    tiles_of<2, Panels>(call, tile, step.panel, step.begin, step.count, weights, bias, copies, next, groups,
                     activating);
  }
  if (tile < last_tile) {
    tiles_of<1, Panels>(call, tile, step.panel, step.begin, step.count, weights, bias, copies, next, groups,
                     activating);
  }
}

template <int Bits, int Kind>
void tiles(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile, float* scratch) {
  const PanelLayout layout(call.depth, call.block, Bits, Kind);
  const int64_t channels = tile_channels(call), span = tile_span(call);
  float* bias = scratch + kTileCopies;
  uint16_t* weights = reinterpret_cast<uint16_t*>(bias + kTileBias);
  uint16_t* others = weights + tile_weights(call);
  const auto step_at = [&](int64_t panel, int64_t begin) {
    return TileStep{panel, last - panel < 2 ? last - panel : 2, begin, channels - begin < span ? channels - begin : span};
  };
  const auto widening = [&](const TileStep& step, uint16_t* to) {
    return Widening<Bits, Kind>(call, layout, step.panel, step.panels, step.begin, step.count, to);
  };
  TileStep step = step_at(first, 0);
  Activating activating(call);
  auto now = widening(step, weights);
  now.advance(now.left());
  while (step.panels > 0) {
    if (step.begin == 0) {
      for (int64_t i = 0; i < kTileBias; ++i) {
        const int64_t column = step.panel * kPanelColumns + i;
        bias[i] = call.bias != nullptr && column < call.columns ? call.bias[column] : 0.0f;
      }
    }
    const bool ends = step.begin + step.count == channels;
    const TileStep after = ends ? step_at(step.panel + step.panels, 0) : step_at(step.panel, step.begin + step.count);
    auto next = widening(after, others);
    if (step.panels == 2) tiles_of_step<2>(call, step, first_tile, last_tile, weights, bias, scratch, next, activating);
    else tiles_of_step<1>(call, step, first_tile, last_tile, weights, bias, scratch, next, activating);
    next.advance(next.left());
    uint16_t* const widened = others;
    others = weights;
    weights = widened;
    step = after;
  }
  activating.advance(activating.left());
}

void block_tiles(const BlockCall& call, int64_t first, int64_t last, int64_t first_tile, int64_t last_tile,
                 float* scratch) {
  const Tiles tiles_are_mine;
  by_form(call, [&](auto bits, auto kind) {
    tiles<bits.value, kind.value>(call, first, last, first_tile, last_tile, scratch);
  });
}

}  // namespace
}  // namespace precast
