// What every way to compute attention needs of a head: where its keys and values lie, which of them a query sees, and what
// stands between the products of queries and keys and those with the values.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace precast {
namespace {

constexpr int kTileColumns = 2 * kWidth;
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
inline void finish_scores(const AttentionCall& call, const Head& head, int64_t i, const int32_t* keys, int64_t begin,
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

// The keys that queries [begin, end) see between them, and how many: what none of a task may see is not even copied.
inline int64_t seen_keys(const AttentionCall& call, const Head& head, int64_t begin, int64_t end, int32_t* keys) {
  int64_t count = 0;
  for (int64_t t = head.first_seen(call, begin); t < head.last_seen(call, end); ++t) {
    if (head.mask == nullptr || head.mask[t] != 0) keys[count++] = static_cast<int32_t>(t);
  }
  return count;
}

// Whole panels of the list.
struct Seen {
  int64_t left, right;
};

// Of rows from `first` on, the keys that each sees, [low, high) of the list, and the panels that hold any of them.
inline Seen seen_by(const AttentionCall& call, const Head& head, int64_t first, int64_t rows, const int32_t* keys,
                    int64_t count, int64_t* low, int64_t* high) {
  int64_t lowest = count, highest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = first + r + head.offset;
    low[r] = call.window_left < 0 ? 0 : first_from(keys, count, position - call.window_left);
    high[r] = call.window_right < 0 ? count : first_from(keys, count, position + call.window_right + 1);
    if (low[r] < high[r]) {
      lowest = low[r] < lowest ? low[r] : lowest;
      highest = high[r] > highest ? high[r] : highest;
    }
  }
  if (lowest >= highest) return {0, 0};
  return {lowest / kTileColumns * kTileColumns, padded(highest, kTileColumns)};
}

// A task: one head of one batch row, and the chunk [begin, end) of its queries that are real; those behind are zero.
struct HeadTask {
  Head head;
  int64_t size, stride;  // of a head and of all of them
  int64_t begin, end;

  HeadTask(const AttentionCall& call, int64_t task)
      : head(call, task / call.chunks / call.heads, task / call.chunks % call.heads), size(call.size),
        stride(call.heads * call.size), begin(task % call.chunks * call.chunk) {
    end = begin + call.chunk < call.queries ? begin + call.chunk : call.queries;
    for (int64_t i = head.queries < begin ? begin : head.queries; i < end; ++i) clear(i);
    end = end < head.queries ? end : head.queries;
  }

  float* out(int64_t query) const { return head.out + query * stride; }

  void clear(int64_t query) const {
    for (int64_t d = 0; d < size; ++d) out(query)[d] = 0.0f;
  }

  int64_t seen(const AttentionCall& call, int32_t* keys) const {
    return begin < end ? seen_keys(call, head, begin, end, keys) : 0;
  }
};

}  // namespace
}  // namespace precast
