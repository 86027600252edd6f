// Attention of one block of queries over all keys it may see (https://arxiv.org/abs/1706.03762).
//
// A task is one head of one batch row and a chunk of its queries. It copies the keys and values that may be seen, and
// only those, into panels that the register tiles read front to back; then, for a few query rows at a time whose scores
// stay in the cache: scores, softmax over the whole row, and the product with the values. A row's result does not
// depend on how queries are divided among tasks.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace precast {
namespace {

constexpr int kTileColumns = 2 * kWidth;
constexpr int kGroups = 24 / kTileRows;               // register tiles of a query block
constexpr int kBlock = kGroups * kTileRows;           // query rows of a block
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 1.4426950408889634f;

inline int64_t padded(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Where the parts of a task's scratch memory begin.
struct Layout {
  int64_t columns;  // keys, padded to whole panels
  int64_t width;    // head size, padded to whole panels
  size_t keys, k, v, q, scores, floats;

  explicit Layout(const AttentionCall& call)
      : columns(padded(call.keys, kTileColumns)), width(padded(call.size, kTileColumns)) {
    size_t at = 0;
    const auto take = [&](int64_t floats_wanted) {
      const size_t begin = at;
      at += static_cast<size_t>(padded(floats_wanted, 16));
      return begin;
    };
    keys = take(call.keys);
    k = take(columns * call.size);
    v = take(call.keys * width);
    q = take(kBlock * call.size);
    scores = take(kBlock * columns);
    floats = at;
  }
};

// out[kTileRows, 2 vectors] = a @ b over `depth`; a's rows lie a_row floats apart, b is one panel.
inline void tile(const float* a, int64_t a_row, const float* b, int64_t depth, V (&sums)[kTileRows][2]) {
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r) sums[r][0] = sums[r][1] = splat(0.0f);
  for (int64_t d = 0; d < depth; ++d) {
    const V b0 = load(b), b1 = load(b + kWidth);
    b += kTileColumns;
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
      const V x = splat(a[r * a_row + d]);
      sums[r][0] = fma(x, b0, sums[r][0]);
      sums[r][1] = fma(x, b1, sums[r][1]);
    }
  }
}

// Keys as panels [columns / kTileColumns][size][kTileColumns], the bias added, zeros behind the last.
void pack_keys(const AttentionCall& call, const float* k, const float* bias, const int32_t* keys, int64_t count,
               float* out) {
  constexpr int64_t kBy = 8;
  for (int64_t base = 0; base < padded(count, kTileColumns); base += kBy) {
    float* panel = out + base / kTileColumns * kTileColumns * call.size + base % kTileColumns;
    const int64_t rows = count - base < kBy ? count - base : kBy;
    int64_t done = 0;
#ifdef PRECAST_TRANSPOSES
    if (rows == kBy) {
      const float* from[kBy];
      for (int64_t j = 0; j < kBy; ++j) from[j] = k + keys[base + j] * call.k_stride;
      for (; done + kBy <= call.size; done += kBy) {
        transpose_8x8(from, bias == nullptr ? nullptr : bias + done, panel + done * kTileColumns, kTileColumns);
        for (int64_t j = 0; j < kBy; ++j) from[j] += kBy;
      }
    }
#endif
    for (int64_t j = 0; j < kBy; ++j) {
      const float* from = j < rows ? k + keys[base + j] * call.k_stride : nullptr;
      for (int64_t d = done; d < call.size; ++d) {
        panel[d * kTileColumns + j] = from == nullptr ? 0.0f : bias == nullptr ? from[d] : from[d] + bias[d];
      }
    }
  }
}

// Values as panels [width / kTileColumns][count][kTileColumns], zeros behind the head's last channel.
void pack_values(const AttentionCall& call, const float* v, const int32_t* keys, int64_t count, float* out) {
  for (int64_t base = 0; base < call.size; base += kTileColumns) {
    const int64_t wide = call.size - base < kTileColumns ? call.size - base : kTileColumns;
    for (int64_t j = 0; j < count; ++j, out += kTileColumns) {
      const float* from = v + keys[j] * call.v_stride + base;
      if (wide == kTileColumns) {
        store(out, load(from));
        store(out + kWidth, load(from + kWidth));
      } else {
        for (int64_t d = 0; d < kTileColumns; ++d) out[d] = d < wide ? from[d] : 0.0f;
      }
    }
  }
}

// The first of the sorted `keys` that is not below `position`.
inline int64_t first_from(const int32_t* keys, int64_t count, int64_t position) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < position) low = middle + 1;
    else high = middle;
  }
  return low;
}

// 2^(scores - largest) in place over [begin, end); returns the sum, 0 where the row sees nothing.
inline float soften(float* scores, int64_t begin, int64_t end) {
  V high = splat(-kInfinity);
  for (int64_t i = begin; i < end; i += kWidth) high = greater(high, load(scores + i));
  const float largest = largest_of(high);
  bool empty = largest == -kInfinity;
  // A comparison passes over NaN: a row of nothing else is not empty, and its NaN must come out.
  for (int64_t i = begin; empty && i < end; ++i) empty = scores[i] == scores[i];
  if (empty) {
    for (int64_t i = begin; i < end; i += kWidth) store(scores + i, splat(0.0f));
    return 0.0f;
  }
  const V shift = splat(largest == -kInfinity ? 0.0f : largest);
  Side sums = each([](int) { return splat(0.0f); });
  static_assert(kTileColumns == kSide * kWidth, "rows end with a panel");
  for (int64_t i = begin; i < end; i += kTileColumns) {
    const Side p = power_of_two(each([&](int j) { return sub(load(scores + i + j * kWidth), shift); }));
    sums = each([&](int j) {
      store(scores + i + j * kWidth, p.v[j]);
      return add(sums.v[j], p.v[j]);
    });
  }
  return sum_of(add(sums.v[0], sums.v[1]));
}

void attention_task(const AttentionCall& call, int64_t task, float* scratch) {
  const Layout layout(call);
  const int64_t chunk = task % call.chunks, head = task / call.chunks % call.heads;
  const int64_t row = task / call.chunks / call.heads;
  const int64_t kv_head = head / (call.heads / call.kv_heads), size = call.size;
  const int64_t begin = chunk * call.chunk;
  const int64_t end = begin + call.chunk < call.queries ? begin + call.chunk : call.queries;
  const float* q = call.q + row * call.queries * call.q_stride + head * size;
  const float* k = call.k + row * call.keys * call.k_stride + kv_head * size;
  const float* v = call.v + row * call.keys * call.v_stride + kv_head * size;
  const float* q_bias = call.q_bias == nullptr ? nullptr : call.q_bias + head * size;
  const float* k_bias = call.k_bias == nullptr ? nullptr : call.k_bias + kv_head * size;
  const float* v_bias = call.v_bias == nullptr ? nullptr : call.v_bias + kv_head * size;
  const float* bias =
      call.bias == nullptr ? nullptr : call.bias + row * call.bias_batch_stride + head * call.bias_head_stride;
  const int64_t out_stride = call.heads * size;
  float* out = call.out + row * call.queries * out_stride + head * size;

  // Queries are the last positions of the keys. What no query of this task may see is not even copied.
  const int64_t offset = call.keys - call.queries;
  int64_t from = call.window_left < 0 ? 0 : begin + offset - call.window_left;
  int64_t to = call.window_right < 0 ? call.keys : end + offset + call.window_right;
  from = from < 0 ? 0 : from;
  to = to > call.keys ? call.keys : to;
  int32_t* keys = reinterpret_cast<int32_t*>(scratch + layout.keys);
  const int64_t* mask = call.mask == nullptr ? nullptr : call.mask + row * call.keys;
  int64_t count = 0;
  for (int64_t t = from; t < to; ++t) {
    if (mask == nullptr || mask[t] != 0) keys[count++] = static_cast<int32_t>(t);
  }
  const bool dense = count > 0 && keys[count - 1] - keys[0] == count - 1;

  float* k_panels = scratch + layout.k;
  float* v_panels = scratch + layout.v;
  float* q_panels = scratch + layout.q;
  float* scores = scratch + layout.scores;
  pack_keys(call, k, k_bias, keys, count, k_panels);
  pack_values(call, v, keys, count, v_panels);
  const int64_t stride = padded(count, kTileColumns);

  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t rows = end - first < kBlock ? end - first : kBlock;
    const int64_t groups = (rows + kTileRows - 1) / kTileRows;
    // The keys each row sees are [low, high) of the list; the block computes the panels that hold any of them.
    int64_t low[kBlock], high[kBlock], lowest = count, highest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t position = first + r + offset;
      low[r] = call.window_left < 0 ? 0 : first_from(keys, count, position - call.window_left);
      high[r] = call.window_right < 0 ? count : first_from(keys, count, position + call.window_right + 1);
      if (low[r] < high[r]) {
        lowest = low[r] < lowest ? low[r] : lowest;
        highest = high[r] > highest ? high[r] : highest;
      }
    }
    if (lowest >= highest) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t d = 0; d < size; ++d) out[(first + r) * out_stride + d] = 0.0f;
      }
      continue;
    }
    const int64_t left = lowest / kTileColumns * kTileColumns, right = padded(highest, kTileColumns);

    // Scores are wanted as powers of two: their factor carries log2(e).
    const float scale = call.scale * kLog2E;
    for (int64_t r = 0; r < groups * kTileRows; ++r) {
      float* packed = q_panels + r * size;
      const float* source = q + (first + r) * call.q_stride;
      for (int64_t d = 0; d < size; ++d) {
        packed[d] = r >= rows ? 0.0f : (q_bias == nullptr ? source[d] : source[d] + q_bias[d]) * scale;
      }
    }
    V sums[kTileRows][2];
    for (int64_t column = left; column < right; column += kTileColumns) {
      for (int64_t group = 0; group < groups; ++group) {
        tile(q_panels + group * kTileRows * size, size, k_panels + column * size, size, sums);
        float* to_row = scores + group * kTileRows * stride + column;
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
          store(to_row + r * stride, sums[r][0]);
          store(to_row + r * stride + kWidth, sums[r][1]);
        }
      }
    }

    float total[kBlock] = {};
    for (int64_t r = 0; r < rows; ++r) {
      float* line = scores + r * stride;
      if (bias != nullptr) {
        const float* added = bias + (first + r) * call.keys;
        if (dense) {
          for (int64_t i = low[r]; i < high[r]; ++i) line[i] += kLog2E * added[keys[0] + i];
        } else {
          for (int64_t i = low[r]; i < high[r]; ++i) line[i] += kLog2E * added[keys[i]];
        }
      }
      for (int64_t i = left; i < low[r] && i < right; ++i) line[i] = -kInfinity;
      for (int64_t i = high[r] > left ? high[r] : left; i < right; ++i) line[i] = -kInfinity;
      total[r] = soften(line, left, right);
    }

    const int64_t depth = (right < count ? right : count) - left;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t base = 0; base < size; base += kTileColumns) {
        const float* panel = v_panels + base * count + left * kTileColumns;
        tile(scores + group * kTileRows * stride + left, stride, panel, depth, sums);
        const int64_t wide = size - base < kTileColumns ? size - base : kTileColumns;
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
          const int64_t at = group * kTileRows + r;
          if (at >= rows) break;
          float* to_row = out + (first + at) * out_stride + base;
          const bool sees = total[at] != 0.0f;
          const V divisor = splat(sees ? total[at] : 1.0f);
          V part[2] = {div(sums[r][0], divisor), div(sums[r][1], divisor)};
          if (v_bias != nullptr && sees && wide == kTileColumns) {
            part[0] = add(part[0], load(v_bias + base));
            part[1] = add(part[1], load(v_bias + base + kWidth));
          }
          if (wide == kTileColumns) {
            store(to_row, part[0]);
            store(to_row + kWidth, part[1]);
            continue;
          }
          float lanes[kTileColumns];
          store(lanes, part[0]);
          store(lanes + kWidth, part[1]);
          for (int64_t d = 0; d < wide; ++d) {
            to_row[d] = v_bias != nullptr && sees ? lanes[d] + v_bias[base + d] : lanes[d];
          }
        }
      }
    }
  }
}

size_t attention_scratch(const AttentionCall& call) { return Layout(call).floats; }

}  // namespace
}  // namespace precast
