// Attention of one block of queries over all keys it may see (https://arxiv.org/abs/1706.03762).
//
// A task is one head of one batch row and a chunk of its queries. It copies the keys and values that may be seen, and
// only those, into panels that the register tiles read front to back; then, for a few query rows at a time whose scores
// stay in the cache: scores, softmax over the whole row, and the product with the values. A row's result does not
// depend on how queries are divided among tasks.
#pragma once

#include "attention_head.h"

namespace precast {
namespace {

constexpr int kGroups = 24 / kTileRows;               // register tiles of a query block
constexpr int kBlock = kGroups * kTileRows;           // query rows of a block
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

void attention_task(const AttentionCall& call, int64_t task, float* scratch) {
  const Layout layout(call);
  const HeadTask of(call, task);
  const Head& head = of.head;
  const int64_t size = call.size, begin = of.begin, end = of.end;

  int32_t* keys = reinterpret_cast<int32_t*>(scratch + layout.keys);
  const int64_t count = of.seen(call, keys);
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
    int64_t low[kBlock], high[kBlock];
    const auto [left, right] = seen_by(call, head, first, rows, keys, count, low, high);
    if (left >= right) {
      for (int64_t r = 0; r < rows; ++r) of.clear(first + r);
      continue;
    }

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
          float* to_row = of.out(first + at) + base;
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
