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

// Where the keys or values of one head lie: position p of `past` ones in slot p % slots, the others behind each other.
struct Source {
  const float* held;
  const float* fresh;
  int64_t stride, fresh_stride, past, slots;
  const int8_t* bytes;  // instead of held: integers, and their scales behind them

  const float* at(int64_t position) const {
    if (position >= past) return fresh + (position - past) * fresh_stride;
    return held + (position < slots ? position : position % slots) * stride;
  }

  // Channels [from, to) of a position's row, where they lie or, of integers, in `room`.
  const float* row(int64_t position, int64_t size, int64_t from, int64_t to, float* room) const {
    if (bytes == nullptr || position >= past) return at(position) + from;
    const int8_t* line = bytes + (position < slots ? position : position % slots) * stride;
    for (int64_t d = from; d < to;) {
      const int64_t block = d / kCacheBlock, end = (block + 1) * kCacheBlock < to ? (block + 1) * kCacheBlock : to;
      float scale;
      __builtin_memcpy(&scale, line + size + block * 4, sizeof scale);
      for (; d < end; ++d) room[d - from] = static_cast<float>(line[d]) * scale;
    }
    return room;
  }
};

// One head of one batch row. `queries` of the call's are real; query i stands at position i + offset.
struct Head {
  int64_t queries, offset, keys, slots;
  const float *q, *q_bias, *k_bias, *v_bias, *bias;
  const int64_t* mask;
  float* out;
  Source k, v;

  Head(const AttentionCall& call, int64_t row, int64_t head) {
    const int64_t size = call.size, kv_head = head / (call.heads / call.kv_heads);
    queries = call.past == nullptr ? call.queries : call.lengths[row];
    keys = call.past == nullptr ? call.keys : call.past[row] + queries;
    offset = keys - queries;
    slots = call.past == nullptr ? call.keys : call.slots;
    q = call.q + row * call.queries * call.q_stride + head * size;
    out = call.out + (row * call.queries * call.heads + head) * size;
    q_bias = call.q_bias == nullptr ? nullptr : call.q_bias + head * size;
    k_bias = call.k_bias == nullptr ? nullptr : call.k_bias + kv_head * size;
    v_bias = call.v_bias == nullptr ? nullptr : call.v_bias + kv_head * size;
    mask = call.mask == nullptr ? nullptr : call.mask + row * call.keys;
    bias = call.bias == nullptr ? nullptr : call.bias + row * call.bias_batch_stride + head * call.bias_head_stride;
    const int64_t k_from = row * call.k_batch_stride + kv_head * call.k_head_stride;
    const int64_t v_from = row * call.v_batch_stride + kv_head * call.v_head_stride;
    k = {nullptr, nullptr, call.k_stride, 0, keys, slots, nullptr};
    v = {nullptr, nullptr, call.v_stride, 0, keys, slots, nullptr};
    if (call.k_bytes == nullptr) {
      k.held = call.k + k_from;
      v.held = call.v + v_from;
    } else {
      k.bytes = call.k_bytes + k_from;
      v.bytes = call.v_bytes + v_from;
    }
    if (call.past == nullptr) return;
    k.past = v.past = offset;
    k.fresh_stride = v.fresh_stride = call.kv_heads * size;
    k.fresh = call.new_k + row * call.queries * k.fresh_stride + kv_head * size;
    v.fresh = call.new_v + row * call.queries * v.fresh_stride + kv_head * size;
  }

  // The positions that queries [begin, end) may see between them.
  int64_t first_seen(const AttentionCall& call, int64_t begin) const {
    const int64_t from = call.window_left < 0 ? 0 : begin + offset - call.window_left;
    return from < 0 ? 0 : from;
  }
  int64_t last_seen(const AttentionCall& call, int64_t end) const {
    const int64_t to = call.window_right < 0 ? keys : end + offset + call.window_right;
    return to > keys ? keys : to;
  }
};

// The keys that `queries` neighbours may see at most.
inline int64_t most_seen(const AttentionCall& call, int64_t queries) {
  if (call.window_left < 0 || call.window_right < 0) return call.keys;
  const int64_t reach = queries + call.window_left + call.window_right;
  return reach < call.keys ? reach : call.keys;
}

constexpr int64_t kRowsOfPanel = 8;  // keys that are turned into columns at a time

// Where the parts of a task's scratch memory begin.
struct Layout {
  int64_t columns;  // keys, padded to whole panels
  int64_t width;    // head size, padded to whole panels
  size_t keys, k, v, q, scores, room, floats;

  explicit Layout(const AttentionCall& call)
      : columns(padded(most_seen(call, call.chunk), kTileColumns)), width(padded(call.size, kTileColumns)) {
    size_t at = 0;
    const auto take = [&](int64_t floats_wanted) {
      const size_t begin = at;
      at += static_cast<size_t>(padded(floats_wanted, 16));
      return begin;
    };
    keys = take(columns);
    k = take(columns * call.size);
    v = take(columns * width);
    q = take(kBlock * call.size);
    scores = take(kBlock * columns);
    room = take(call.k_bytes == nullptr ? 0 : kRowsOfPanel * call.size);
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

constexpr int64_t kSpan = 128;  // positions whose values are summed before they join the others

// sums = p @ v over the keys [begin, end) of the list. One sum over a thousand values is three times as far from the
// truth as the sum of its parts; these begin at multiples of kSpan, so that they are the same whoever sees them.
inline void mix(const float* p, int64_t p_row, const float* panel, const int32_t* keys, int64_t begin, int64_t end,
                V (&sums)[kTileRows][2]) {
  for (int64_t at = begin, next = at; at < end; at = next) {
    const int64_t border = (keys[at] / kSpan + 1) * kSpan;
    while (next < end && keys[next] < border) ++next;
    V part[kTileRows][2];
    tile(p + at, p_row, panel + at * kTileColumns, next - at, part);
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
      sums[r][0] = at == begin ? part[r][0] : add(sums[r][0], part[r][0]);
      sums[r][1] = at == begin ? part[r][1] : add(sums[r][1], part[r][1]);
    }
  }
}

// Keys as panels [columns / kTileColumns][size][kTileColumns], the bias added, zeros behind the last.
void pack_keys(const AttentionCall& call, const Source& k, const float* bias, const int32_t* keys, int64_t count,
               float* room, float* out) {
  constexpr int64_t kBy = kRowsOfPanel;
  for (int64_t base = 0; base < padded(count, kTileColumns); base += kBy) {
    float* panel = out + base / kTileColumns * kTileColumns * call.size + base % kTileColumns;
    const int64_t rows = count - base < kBy ? count - base : kBy;
    const float* found[kBy];
    for (int64_t j = 0; j < rows; ++j) found[j] = k.row(keys[base + j], call.size, 0, call.size, room + j * call.size);
    int64_t done = 0;
#ifdef PRECAST_TRANSPOSES
    if (rows == kBy) {
      const float* from[kBy];
      for (int64_t j = 0; j < kBy; ++j) from[j] = found[j];
      for (; done + kBy <= call.size; done += kBy) {
        transpose_8x8(from, bias == nullptr ? nullptr : bias + done, panel + done * kTileColumns, kTileColumns);
        for (int64_t j = 0; j < kBy; ++j) from[j] += kBy;
      }
    }
#endif
    for (int64_t j = 0; j < kBy; ++j) {
      const float* from = j < rows ? found[j] : nullptr;
      for (int64_t d = done; d < call.size; ++d) {
        panel[d * kTileColumns + j] = from == nullptr ? 0.0f : bias == nullptr ? from[d] : from[d] + bias[d];
      }
    }
  }
}

// Values as panels [width / kTileColumns][count][kTileColumns], zeros behind the head's last channel.
void pack_values(const AttentionCall& call, const Source& v, const int32_t* keys, int64_t count, float* out) {
  for (int64_t base = 0; base < call.size; base += kTileColumns) {
    const int64_t wide = call.size - base < kTileColumns ? call.size - base : kTileColumns;
    for (int64_t j = 0; j < count; ++j, out += kTileColumns) {
      float room[kTileColumns];
      const float* from = v.row(keys[j], call.size, base, base + wide, room);
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

// The softmax of a row in powers of two: 2^(scores - largest) in place over [begin, end), which are whole panels, and
// what the values' sum is to be divided by, 0 where the row sees nothing.
struct Softmax {
  float largest, sum;
};

inline Softmax soften(float* scores, int64_t begin, int64_t end) {
  V high = splat(-kInfinity);
  for (int64_t i = begin; i < end; i += kWidth) high = greater(high, load(scores + i));
  const float largest = largest_of(high);
  bool empty = largest == -kInfinity;
  // A comparison passes over NaN: a row of nothing else is not empty, and its NaN must come out.
  for (int64_t i = begin; empty && i < end; ++i) empty = scores[i] == scores[i];
  if (empty) {
    for (int64_t i = begin; i < end; i += kWidth) store(scores + i, splat(0.0f));
    return {largest, 0.0f};
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
  return {largest, sum_of(add(sums.v[0], sums.v[1]))};
}

// Scores are wanted as powers of two: their factor carries log2(e). A cap is applied to scores / softcap.
inline float score_factor(const AttentionCall& call) {
  return call.softcap == 0.0f ? call.scale * kLog2E : call.scale / call.softcap;
}

// What stands between the products [begin, end) (whole panels) of query i and their softmax: the cap, the bias, and
// -inf outside the keys it sees, [low, high) of the list.
void finish_scores(const AttentionCall& call, const Head& head, int64_t i, const int32_t* keys, int64_t begin,
                   int64_t end, int64_t low, int64_t high, float* line) {
  low = low < begin ? begin : low > end ? end : low;
  high = high < low ? low : high > end ? end : high;
  if (call.softcap != 0.0f) {
    const V cap = splat(call.softcap * kLog2E);
    for (int64_t at = begin; at < end; at += kTileColumns) {
      const Side capped = hyperbolic_tangent(each([&](int j) { return load(line + at + j * kWidth); }));
#pragma GCC unroll 4
      for (int j = 0; j < kSide; ++j) store(line + at + j * kWidth, mul(capped.v[j], cap));
    }
  }
  if (head.bias != nullptr && low < high) {
    const float* added = head.bias + i * call.bias_query_stride;
    if (keys[high - 1] < head.slots && keys[high - 1] - keys[low] == high - 1 - low) {
      for (int64_t at = low; at < high; ++at) line[at] += kLog2E * added[keys[low] + at - low];
    } else {
      for (int64_t at = low; at < high; ++at) line[at] += kLog2E * added[keys[at] % head.slots];
    }
  }
  for (int64_t at = begin; at < low; ++at) line[at] = -kInfinity;
  for (int64_t at = high; at < end; ++at) line[at] = -kInfinity;
}

void attention_task(const AttentionCall& call, int64_t task, float* scratch) {
  const Layout layout(call);
  const int64_t chunk = task % call.chunks, size = call.size;
  const Head head(call, task / call.chunks / call.heads, task / call.chunks % call.heads);
  const int64_t out_stride = call.heads * size;
  const auto clear = [&](int64_t query) {
    for (int64_t d = 0; d < size; ++d) head.out[query * out_stride + d] = 0.0f;
  };
  const int64_t begin = chunk * call.chunk;
  int64_t end = begin + call.chunk < call.queries ? begin + call.chunk : call.queries;
  for (int64_t i = head.queries < begin ? begin : head.queries; i < end; ++i) clear(i);
  end = end < head.queries ? end : head.queries;

  // What no query of this task may see is not even copied.
  const int64_t from = head.first_seen(call, begin), to = head.last_seen(call, end);
  int32_t* keys = reinterpret_cast<int32_t*>(scratch + layout.keys);
  int64_t count = 0;
  for (int64_t t = from; t < to && begin < end; ++t) {
    if (head.mask == nullptr || head.mask[t] != 0) keys[count++] = static_cast<int32_t>(t);
  }

  float* k_panels = scratch + layout.k;
  float* v_panels = scratch + layout.v;
  float* q_panels = scratch + layout.q;
  float* scores = scratch + layout.scores;
  pack_keys(call, head.k, head.k_bias, keys, count, scratch + layout.room, k_panels);
  pack_values(call, head.v, keys, count, v_panels);
  const int64_t stride = padded(count, kTileColumns);

  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t rows = end - first < kBlock ? end - first : kBlock;
    const int64_t groups = (rows + kTileRows - 1) / kTileRows;
    // The keys each row sees are [low, high) of the list; the block computes the panels that hold any of them.
    int64_t low[kBlock], high[kBlock], lowest = count, highest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t position = first + r + head.offset;
      low[r] = call.window_left < 0 ? 0 : first_from(keys, count, position - call.window_left);
      high[r] = call.window_right < 0 ? count : first_from(keys, count, position + call.window_right + 1);
      if (low[r] < high[r]) {
        lowest = low[r] < lowest ? low[r] : lowest;
        highest = high[r] > highest ? high[r] : highest;
      }
    }
    if (lowest >= highest) {
      for (int64_t r = 0; r < rows; ++r) clear(first + r);
      continue;
    }
    const int64_t left = lowest / kTileColumns * kTileColumns, right = padded(highest, kTileColumns);

    const float factor = score_factor(call);
    for (int64_t r = 0; r < groups * kTileRows; ++r) {
      float* packed = q_panels + r * size;
      const float* source = head.q + (first + r) * call.q_stride;
      for (int64_t d = 0; d < size; ++d) {
        packed[d] = r >= rows ? 0.0f : (head.q_bias == nullptr ? source[d] : source[d] + head.q_bias[d]) * factor;
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
      finish_scores(call, head, first + r, keys, left, right, low[r], high[r], line);
      total[r] = soften(line, left, right).sum;
    }

    const int64_t seen = right < count ? right : count;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t base = 0; base < size; base += kTileColumns) {
        mix(scores + group * kTileRows * stride, stride, v_panels + base * count, keys, left, seen, sums);
        const int64_t wide = size - base < kTileColumns ? size - base : kTileColumns;
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
          const int64_t at = group * kTileRows + r;
          if (at >= rows) break;
          float* to_row = head.out + (first + at) * out_stride + base;
          const bool sees = total[at] != 0.0f;
          const V divisor = splat(sees ? total[at] : 1.0f);
          V part[2] = {div(sums[r][0], divisor), div(sums[r][1], divisor)};
          if (head.v_bias != nullptr && sees && wide == kTileColumns) {
            part[0] = add(part[0], load(head.v_bias + base));
            part[1] = add(part[1], load(head.v_bias + base + kWidth));
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
            to_row[d] = head.v_bias != nullptr && sees ? lanes[d] + head.v_bias[base + d] : lanes[d];
          }
        }
      }
    }
  }
}

size_t attention_scratch(const AttentionCall& call) { return Layout(call).floats; }

}  // namespace
}  // namespace precast
