// Attention in tiles of bfloat16 (AMX), for those who allow 8 bits of mantissa: sums and softmax are float32, what is
// softened and the values are rounded, by at most 1/256 of each. Queries and keys are two numbers each, together 16 bits:
// scores stand in an exponent, where 8 bits of a score of 20 would be a factor of 1.04.
//
// Tasks, and what each row sees, are those of attention.h.
#pragma once

#include "attention_head.h"
#include "tiles.h"

namespace precast {
namespace {

constexpr int64_t kTileQueries = 2 * kTileHeight;  // of a block
static_assert(kTileColumns == kTileChannels, "what is seen begins and ends with a tile of softened scores");

// Where the parts of a task's scratch memory begin, in floats; numbers of 16 bits take half of one.
struct TileLayout {
  int64_t columns;   // keys, padded to whole tiles
  int64_t channels;  // of a head, padded to whole tiles
  size_t keys, k, v, q, scores, softened, sums, room, floats;

  explicit TileLayout(const AttentionCall& call)
      : columns(padded(most_seen(call, call.chunk), kTileChannels)), channels(padded(call.size, kTileChannels)) {
    size_t at = 0;
    const auto take = [&](int64_t wanted) {
      const size_t begin = at;
      at += static_cast<size_t>(padded(wanted, 16));
      return begin;
    };
    keys = take(columns);
    k = take(columns * channels);
    v = take(columns * channels / 2);
    q = take(kTileQueries * channels);
    scores = take(kTileQueries * columns);
    softened = take(kTileQueries * columns / 2);
    sums = take(4 * kTileFloats);
    room = take(call.k_bytes == nullptr ? 0 : channels);
    floats = at;
  }
};

// Up to 16 floats, plus a bias.
inline V some_floats(const float* from, const float* bias, int64_t count) {
  const __mmask16 mask = count >= 16 ? 0xffff : count > 0 ? static_cast<__mmask16>((1 << count) - 1) : 0;
  const V x = _mm512_maskz_loadu_ps(mask, from);
  return bias == nullptr ? x : add(x, _mm512_maskz_loadu_ps(mask, bias));
}

// 32 channels from the `done`-th of a row on, times a factor, in two parts: their nearest numbers of 8 bits, and those of
// what is left. Nothing is left of infinity.
struct Parts {
  __m512i high, low;
};

inline Parts parts_of(const float* row, const float* bias, int64_t done, int64_t size, float factor) {
  V x[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const int64_t at = done + 16 * i;
    x[i] = at < size ? mul(some_floats(row + at, bias == nullptr ? nullptr : bias + at, size - at), splat(factor))
                     : splat(0.0f);
  }
  const __m512i high = narrowed(x[0], x[1]);
  const __m256i halves[2] = {_mm512_castsi512_si256(high), _mm512_extracti64x4_epi64(high, 1)};
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const V held = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves[i]), 16));
    const __mmask16 finite = _mm512_cmp_ps_mask(absolute(held), splat(kInfinity), _CMP_LT_OQ);
    x[i] = _mm512_maskz_sub_ps(finite, x[i], held);
  }
  return {high, narrowed(x[0], x[1])};
}

// Sixteen rows of sixteen pairs become columns.
inline void transpose_pairs(__m512i (&rows)[16]) {
  __m512i next[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    next[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    next[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(next[4 * i], next[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(next[4 * i], next[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(next[4 * i + 1], next[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(next[4 * i + 1], next[4 * i + 3]);
  }
  // Row 4 i + j holds, of rows 4 i to 4 i + 3, columns j, j + 4, j + 8, j + 12, one in each quarter.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88), b = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
    next[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    next[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    next[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    next[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = next[i];
}

// Keys as [columns / 16][channels / 32][2 parts][16 pairs of channels][16 keys][2], zeros behind the last.
void tile_keys(const AttentionCall& call, const Source& k, const float* bias, const int32_t* keys, int64_t count,
               float* room, uint16_t* to) {
  for (int64_t base = 0; base < padded(count, kTileChannels); base += kTileColumnsOf) {
    for (int64_t done = 0; done < call.size; done += kTileChannels, to += 2 * kTileNumbers) {
      __m512i high[16], low[16];
      for (int64_t j = 0; j < kTileColumnsOf; ++j) {
        Parts parts{_mm512_setzero_si512(), _mm512_setzero_si512()};
        if (base + j < count) {
          const int64_t end = done + kTileChannels < call.size ? done + kTileChannels : call.size;
          const float* row = k.row(keys[base + j], call.size, done, end, room);
          parts = parts_of(row, bias == nullptr ? nullptr : bias + done, 0, end - done, 1.0f);
        }
        high[j] = parts.high;
        low[j] = parts.low;
      }
      transpose_pairs(high);
      transpose_pairs(low);
      for (int64_t i = 0; i < 16; ++i) {
        _mm512_storeu_si512(to + i * kTileChannels, high[i]);
        _mm512_storeu_si512(to + kTileNumbers + i * kTileChannels, low[i]);
      }
    }
  }
}

// Values as [channels / 16][columns / 32][16 pairs of keys][16 channels][2], zeros behind the last key and channel.
void tile_values(const AttentionCall& call, const Source& v, const int32_t* keys, int64_t count, int64_t channels,
                 float* room, uint16_t* to) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder);
  for (int64_t base = 0; base < channels; base += kTileColumnsOf) {
    const int64_t left = call.size - base, end = left < kTileColumnsOf ? call.size : base + kTileColumnsOf;
    for (int64_t j = 0; j < padded(count, kTileChannels); j += 2, to += kTileChannels) {
      V pair[2];
      for (int64_t i = 0; i < 2; ++i) {
        const bool there = left > 0 && j + i < count;
        pair[i] = there ? some_floats(v.row(keys[j + i], call.size, base, end, room), nullptr, end - base) : splat(0.0f);
      }
      _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, narrowed(pair[0], pair[1])));
    }
  }
}

// Tiles 0 and 1 hold rows, 2 and 3 what they are multiplied by, 4 to 7 sums: one or two tiles of rows by two of columns.
template <int Rows>
PRECAST_INLINE void clear_sums() {
  _tile_zero(4);
  _tile_zero(5);
  if constexpr (Rows == 2) {
    _tile_zero(6);
    _tile_zero(7);
  }
}

template <int Rows>
PRECAST_INLINE void load_rows(const uint16_t* from, int64_t stride) {
  _tile_loadd(0, from, 64);
  if constexpr (Rows == 2) _tile_loadd(1, from + stride, 64);
}

PRECAST_INLINE void load_columns(const uint16_t* from, int64_t stride) {
  _tile_loadd(2, from, 64);
  _tile_loadd(3, from + stride, 64);
}

template <int Rows>
PRECAST_INLINE void add_products() {
  _tile_dpbf16ps(4, 0, 2);
  _tile_dpbf16ps(5, 0, 3);
  if constexpr (Rows == 2) {
    _tile_dpbf16ps(6, 1, 2);
    _tile_dpbf16ps(7, 1, 3);
  }
}

template <int Rows>
PRECAST_INLINE void store_sums(float* to, int64_t row, int64_t column, int64_t stride) {
  _tile_stored(4, to, stride * 4);
  _tile_stored(5, to + column, stride * 4);
  if constexpr (Rows == 2) {
    _tile_stored(6, to + row, stride * 4);
    _tile_stored(7, to + row + column, stride * 4);
  }
}

// scores[., left to right) = q @ k.T: the product of both high parts, and of each with the other's low one.
template <int Rows>
void tile_scores(const uint16_t* q, const uint16_t* k, int64_t channels, int64_t left, int64_t right, int64_t stride,
                 float* scores) {
  const int64_t part = kTileNumbers, of_row = 2 * kTileHeight * channels;
  for (int64_t column = left; column < right; column += kTileChannels) {
    clear_sums<Rows>();
    const uint16_t* of_keys = k + column * 2 * channels;
    for (int64_t d = 0; d < channels; d += kTileChannels) {
      const uint16_t* rows = q + d * 2 * kTileHeight;
      const uint16_t* columns = of_keys + d * 2 * kTileColumnsOf;
      load_rows<Rows>(rows, of_row);
      load_columns(columns, of_row);
      add_products<Rows>();
      load_columns(columns + part, of_row);
      add_products<Rows>();
      load_rows<Rows>(rows + part, of_row);
      load_columns(columns, of_row);
      add_products<Rows>();
    }
    store_sums<Rows>(scores + column, kTileHeight * stride, kTileColumnsOf, stride);
  }
  written();
}

// sums = softened[., left to right) @ the values of 32 channels.
template <int Rows>
void tile_mix(const uint16_t* softened, const uint16_t* v, int64_t left, int64_t right, int64_t stride, float* sums) {
  clear_sums<Rows>();
  for (int64_t j = left; j < right; j += kTileChannels) {
    load_rows<Rows>(softened + j * kTileHeight, kTileHeight * stride);
    load_columns(v + j * kTileColumnsOf, kTileColumnsOf * stride);
    add_products<Rows>();
  }
  store_sums<Rows>(sums, kTileHeight * kTileChannels, kTileColumnsOf, kTileChannels);
  written();
}

constexpr float kLargest = 3.402823466e38f;

// Softened scores [begin, end) of a row in bfloat16, each tile's 32 at `to` + 16 times their place, and their sum.
inline float soften_to(const float* scores, int64_t begin, int64_t end, uint16_t* to) {
  Side high = each([](int) { return splat(-kInfinity); });
  for (int64_t i = begin; i < end; i += kTileChannels) {
    high = each([&](int j) { return greater(high.v[j], load(scores + i + j * kWidth)); });
  }
  const float largest = largest_of(greater(high.v[0], high.v[1]));
  bool empty = largest == -kInfinity;
  // A comparison passes over NaN: a row of nothing else is not empty, and its NaN must come out.
  for (int64_t i = begin; empty && i < end; ++i) empty = scores[i] == scores[i];
  // A row that sees nothing has zeros: no exponent is above that of 0.
  const V shift = splat(empty ? kLargest : largest == -kInfinity ? 0.0f : largest);
  Side sums = each([](int) { return splat(0.0f); });
  for (int64_t i = begin; i < end; i += kTileChannels) {
    const Side p = short_power_of_two(each([&](int j) { return sub(load(scores + i + j * kWidth), shift); }));
    sums = each([&](int j) { return add(sums.v[j], p.v[j]); });
    _mm512_storeu_si512(to + i * kTileHeight, narrowed(p.v[0], p.v[1]));
  }
  return sum_of(add(sums.v[0], sums.v[1]));
}

void attention_tiles(const AttentionCall& call, int64_t task, float* scratch) {
  const TileLayout layout(call);
  const Tiles tiles_are_mine;
  const HeadTask of(call, task);
  const Head& head = of.head;
  const int64_t size = call.size, begin = of.begin, end = of.end, channels = layout.channels;

  int32_t* keys = reinterpret_cast<int32_t*>(scratch + layout.keys);
  const int64_t count = of.seen(call, keys);
  uint16_t* k = reinterpret_cast<uint16_t*>(scratch + layout.k);
  uint16_t* v = reinterpret_cast<uint16_t*>(scratch + layout.v);
  uint16_t* q = reinterpret_cast<uint16_t*>(scratch + layout.q);
  uint16_t* softened = reinterpret_cast<uint16_t*>(scratch + layout.softened);
  float* scores = scratch + layout.scores;
  float* sums = scratch + layout.sums;
  tile_keys(call, head.k, head.k_bias, keys, count, scratch + layout.room, k);
  tile_values(call, head.v, keys, count, channels, scratch + layout.room, v);
  const int64_t stride = padded(count, kTileChannels);

  for (int64_t first = begin; first < end; first += kTileQueries) {
    const int64_t rows = end - first < kTileQueries ? end - first : kTileQueries;
    const bool two = rows > kTileHeight;
    int64_t low[kTileQueries], high[kTileQueries];
    const Seen seen = seen_by(call, head, first, rows, keys, count, low, high);
    if (seen.left >= seen.right) {
      for (int64_t r = 0; r < rows; ++r) of.clear(first + r);
      continue;
    }
    const float factor = score_factor(call);
    for (int64_t r = 0; r < (two ? kTileQueries : kTileHeight); ++r) {
      uint16_t* to = q + (r / kTileHeight * channels * kTileHeight * 2) + r % kTileHeight * kTileChannels;
      for (int64_t d = 0; d < channels; d += kTileChannels, to += 2 * kTileNumbers) {
        const float* row = head.q + (first + (r < rows ? r : 0)) * call.q_stride;
        const Parts parts = parts_of(row, head.q_bias, d, r < rows ? size : 0, factor);
        _mm512_storeu_si512(to, parts.high);
        _mm512_storeu_si512(to + kTileNumbers, parts.low);
      }
    }
    written();
    if (two) tile_scores<2>(q, k, channels, seen.left, seen.right, stride, scores);
    else tile_scores<1>(q, k, channels, seen.left, seen.right, stride, scores);

    float total[kTileQueries] = {};
    for (int64_t r = 0; r < rows; ++r) {
      float* line = scores + r * stride;
      finish_scores(call, head, first + r, keys, seen.left, seen.right, low[r], high[r], line);
      uint16_t* to = softened + r / kTileHeight * kTileHeight * stride + r % kTileHeight * kTileChannels;
      total[r] = soften_to(line, seen.left, seen.right, to);
    }
    written();
    for (int64_t base = 0; base < size; base += kTileChannels) {
      if (two) tile_mix<2>(softened, v + base * stride, seen.left, seen.right, stride, sums);
      else tile_mix<1>(softened, v + base * stride, seen.left, seen.right, stride, sums);
      for (int64_t r = 0; r < rows; ++r) {
        const bool sees = total[r] != 0.0f;
        const V share = splat(sees ? 1.0f / total[r] : 1.0f);
        for (int64_t d = base; d < size && d < base + kTileChannels; d += kWidth) {
          V part = mul(load(sums + r * kTileChannels + d - base), share);
          if (head.v_bias != nullptr && sees) part = add(part, some_floats(head.v_bias + d, nullptr, size - d));
          float* to = of.out(first + r) + d;
          if (size - d >= kWidth) store(to, part);
          else _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << (size - d)) - 1), part);
        }
      }
    }
  }
}

size_t attention_tiles_scratch(const AttentionCall& call) { return TileLayout(call).floats; }

}  // namespace
}  // namespace precast
