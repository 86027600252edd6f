// Attention of few queries, such as a decoder's next token, over many keys: bound by how fast these can be read.
//
// Keys and values are read where they lie, once for all the queries that share them, and row after row from the first
// float to the last: memory gives even two rows side by side at half the speed. A task is a span of positions, whose
// partial result needs another span's only to be merged (https://arxiv.org/abs/1805.02867). Spans begin at multiples of
// their length, and each query goes through the same arithmetic whichever others stand beside it: its result depends
// neither on them nor on the number of threads.
#pragma once

#include "attention.h"

namespace precast {
namespace {

constexpr int64_t kLongest = 512;           // keys of a span at most
constexpr int64_t kStride = kLongest + 16;  // from one row of scores to the next
constexpr int64_t kSlab = 16;               // query rows whose scores are kept at a time
constexpr int64_t kAtOnce = 8;              // keys of a step, at most

struct FewLayout {
  int64_t width;  // head size, padded to whole vectors
  int64_t block;  // keys that are still in the nearest cache when the next rows read them
  size_t q, scores, sums, positions, k, v, room, floats;

  explicit FewLayout(const AttentionCall& call)
      : width(padded(call.size, kWidth)), block(call.size <= 64 ? 64 : call.size <= 128 ? 32 : 16) {
    static_assert(sizeof(const float*) <= 2 * sizeof(float), "a pointer takes the room of two floats");
    size_t at = 0;
    const auto take = [&](int64_t floats_wanted) {
      const size_t begin = at;
      at += static_cast<size_t>(padded(floats_wanted, 16));
      return begin;
    };
    q = take(kSlab * width);
    scores = take(kSlab * kStride);
    sums = take(kSlab * width);
    positions = take(kLongest);
    k = take(2 * kLongest);
    v = take(2 * kLongest);
    room = take(call.k_bytes == nullptr ? 0 : block * width);
    floats = at;
  }
};

// The head that stands for all that share its keys: the spans its row's queries see between them.
struct Shared {
  Head head;
  int64_t group, rows, from, to, first, spans;  // rows: the queries of all these heads

  Shared(const AttentionCall& call, int64_t index)
      : head(call, index / call.kv_heads, index % call.kv_heads * (call.heads / call.kv_heads)),
        group(call.heads / call.kv_heads), rows(head.queries * group), from(head.first_seen(call, 0)),
        to(head.last_seen(call, head.queries)), first(from / call.span),
        spans(to > from ? (to + call.span - 1) / call.span - first : 0) {}

  // Row r is a query of a head: neighbouring rows are heads of one query.
  int64_t query(int64_t r) const { return r / group; }
  float* out(const AttentionCall& call, int64_t r) const {
    return head.out + (query(r) * call.heads + r % group) * call.size;
  }
};

// out[r][j] = q[r] . k[j] for `Rows` queries, `width` floats apart, and `count` keys, a multiple of kAtOnce.
template <int Rows>
void dots(const float* q, int64_t width, int64_t size, const float* const* k, int64_t count, float* out) {
  constexpr int kKeys = Rows == 1 ? 8 : Rows == 2 ? 4 : 2;
  const int64_t whole = size / kWidth * kWidth;
  for (int64_t j = 0; j < count; j += kKeys) {
    V sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = splat(0.0f);
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) {
      const float* from = k[j + i];
      for (int64_t d = 0; d < whole; d += kWidth) {
        const V x = load(from + d);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[r * kKeys + i] = fma(load(q + r * width + d), x, sums[r * kKeys + i]);
      }
      if (whole == size) continue;
      const V x = load_part(from + whole, size - whole);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        sums[r * kKeys + i] = fma(load(q + r * width + whole), x, sums[r * kKeys + i]);
      }
    }
    float lanes[8];
    sums_of_eight(sums, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) __builtin_memcpy(out + r * kStride + j, lanes + r * kKeys, kKeys * sizeof(float));
  }
}

// out[r] += p[r] @ v, value after value: for those that come from memory.
template <int Rows>
void mix_first(const float* p, const float* const* v, int64_t count, int64_t size, float* out, int64_t width) {
  const int64_t whole = size / kWidth * kWidth;
  for (int64_t j = 0; j < count; ++j) {
    const float* from = v[j];
    V y[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) y[r] = splat(p[r * kStride + j]);
    for (int64_t d = 0; d < whole; d += kWidth) {
      const V x = load(from + d);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) store(out + r * width + d, fma(y[r], x, load(out + r * width + d)));
    }
    if (whole == size) continue;
    const V x = load_part(from + whole, size - whole);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) store(out + r * width + whole, fma(y[r], x, load(out + r * width + whole)));
  }
}

// The same over `Vectors` vectors of channels from d on, the sums in registers: for values that have just been read.
template <int Rows, int Vectors>
inline void mix_columns(const float* p, const float* const* v, int64_t count, int64_t d, float* out, int64_t width) {
  V sums[Rows][Vectors];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) sums[r][i] = load(out + r * width + d + i * kWidth);
  }
  for (int64_t j = 0; j < count; ++j) {
    const float* from = v[j] + d;
    V x[Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) x[i] = load(from + i * kWidth);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const V y = splat(p[r * kStride + j]);
#pragma GCC unroll 8
      for (int i = 0; i < Vectors; ++i) sums[r][i] = fma(y, x[i], sums[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) store(out + r * width + d + i * kWidth, sums[r][i]);
  }
}

template <int Rows, int Vectors>
int64_t mix_wide(const float* p, const float* const* v, int64_t count, int64_t d, int64_t size, float* out,
                 int64_t width) {
  for (; d + Vectors * kWidth <= size; d += Vectors * kWidth) {
    mix_columns<Rows, Vectors>(p, v, count, d, out, width);
  }
  if constexpr (Vectors > 1) d = mix_wide<Rows, Vectors / 2>(p, v, count, d, size, out, width);
  return d;
}

template <int Rows>
void mix(const float* p, const float* const* v, int64_t count, int64_t size, float* out, int64_t width) {
  const int64_t d = mix_wide<Rows, (Rows == 3 ? 2 : 8 / Rows)>(p, v, count, 0, size, out, width);
  if (d == size) return;
  for (int64_t j = 0; j < count; ++j) {
    const V x = load_part(v[j] + d, size - d);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      float* to = out + r * width + d;
      store(to, fma(splat(p[r * kStride + j]), x, load(to)));
    }
  }
}

// Calls function(first row, constant of how many) over all rows, four at a time.
template <int Rows>
struct Count {
  static constexpr int value = Rows;
};

template <typename Function>
inline void by_rows(int64_t rows, Function function) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) function(r, Count<4>());
  if (rows - r == 3) function(r, Count<3>());
  if (rows - r == 2) function(r, Count<2>());
  if (rows - r == 1) function(r, Count<1>());
}

void write_row(const AttentionCall& call, const Shared& shared, int64_t r, const float* sums, float divisor) {
  float* out = shared.out(call, r);
  const float* bias = shared.head.v_bias;  // of the key/value head
  for (int64_t d = 0; d < call.size; ++d) {
    const float value = divisor == 0.0f ? 0.0f : sums[d] / divisor;
    out[d] = bias == nullptr || divisor == 0.0f ? value : value + bias[d];
  }
}

inline float* part_of(const AttentionCall& call, const Shared& shared, int64_t index, int64_t r, int64_t span) {
  return call.parts + ((index * call.queries * shared.group + r) * call.spans + span) * (call.size + 2);
}

// Where each key stands. Most stand one behind the other, without a new one or the end of a ring between them.
inline void rows_of(const Source& source, const int32_t* positions, int64_t count, const float** rows) {
  const int64_t low = positions[0], high = positions[count - 1];
  int64_t j = 0;
  if (high - low == count - 1 && low < source.past && low % source.slots + high - low < source.slots) {
    const float* from = source.at(low);
    const int64_t held = high < source.past ? count : source.past - low;
    for (; j < held; ++j, from += source.stride) rows[j] = from;
  }
  for (; j < count; ++j) rows[j] = source.at(positions[j]);
}

// Rows [j, j + some) of a cache of integers as floats; what is asked for beyond `count` is the last once more.
inline void widen_rows(const Source& source, const int32_t* positions, int64_t j, int64_t some, int64_t count,
                       int64_t size, int64_t width, float* room, const float** rows) {
  for (int64_t i = 0; i < some; ++i) {
    const int64_t at = j + i < count ? j + i : count - 1;
    rows[j + i] = source.row(positions[at], size, 0, size, room + i * width);
  }
}

void few_task(const AttentionCall& call, int64_t task, float* scratch) {
  const FewLayout layout(call);
  const int64_t index = task / call.spans, span = task % call.spans, size = call.size, width = layout.width;
  const Shared shared(call, index);
  const Head& head = shared.head;
  if (span == 0) {
    // Queries that are not real, and those of a row without keys.
    for (int64_t r = shared.spans == 0 ? 0 : shared.rows; r < call.queries * shared.group; ++r) {
      float* out = shared.out(call, r);
      for (int64_t d = 0; d < size; ++d) out[d] = 0.0f;
    }
  }
  if (span >= shared.spans) return;

  float* q = scratch + layout.q;
  float* scores = scratch + layout.scores;
  float* sums = scratch + layout.sums;
  int32_t* positions = reinterpret_cast<int32_t*>(scratch + layout.positions);
  const float** k = reinterpret_cast<const float**>(scratch + layout.k);
  const float** v = reinterpret_cast<const float**>(scratch + layout.v);
  const int64_t begin = (shared.first + span) * call.span;
  const int64_t from = shared.from > begin ? shared.from : begin;
  const int64_t to = shared.to < begin + call.span ? shared.to : begin + call.span;
  // A key's place in a vector is that of its position, whatever comes before it: the sum over keys has one order. The
  // places in front are nobody's; so are those behind, up to a whole step.
  const int64_t lead = (from - begin) % kTileColumns;
  int64_t count = lead;
  for (int64_t t = from; t < to; ++t) {
    if (head.mask == nullptr || head.mask[t] != 0) positions[count++] = static_cast<int32_t>(t);
  }
  const bool none = count == lead;
  for (int64_t j = 0; j < lead && !none; ++j) positions[j] = positions[lead];
  const bool integers = head.k.bytes != nullptr;
  if (!none && !integers) {
    rows_of(head.k, positions, count, k);
    rows_of(head.v, positions, count, v);
  }
  const int64_t steps = none ? 0 : padded(count, kAtOnce);
  for (int64_t j = count; j < steps && !integers; ++j) k[j] = k[count - 1];
  const int64_t columns = none ? 0 : padded(count, kTileColumns);
  const int64_t block = layout.block;
  float* room = scratch + layout.room;

  for (int64_t first = 0; first < shared.rows; first += kSlab) {
    const int64_t rows = shared.rows - first < kSlab ? shared.rows - first : kSlab;
    const float factor = score_factor(call);
    float shift[kSlab];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t of_head = (first + r) % shared.group * size;
      const float* source = head.q + shared.query(first + r) * call.q_stride + of_head;
      float* packed = q + r * width;
      for (int64_t d = 0; d < width; ++d) {
        if (d >= size) packed[d] = 0.0f;
        else packed[d] = (head.q_bias == nullptr ? source[d] : source[d] + head.q_bias[of_head + d]) * factor;
      }
      shift[r] = 0.0f;
      for (int64_t d = 0; d < size && head.k_bias != nullptr; ++d) shift[r] += packed[d] * head.k_bias[d];
      for (int64_t d = 0; d < width; ++d) sums[r * width + d] = 0.0f;
    }

    for (int64_t j = 0; j < steps; j += block) {
      const int64_t some = steps - j < block ? steps - j : block;
      if (integers) widen_rows(head.k, positions, j, some, count, size, width, room, k);
      by_rows(rows, [&](int64_t r, auto n) {
        dots<decltype(n)::value>(q + r * width, width, size, k + j, some, scores + r * kStride + j);
      });
    }
    float total[kSlab], largest[kSlab];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = shared.query(first + r), position = i + head.offset;
      const int32_t* list = positions + lead;
      const int64_t low = call.window_left < 0 ? 0 : first_from(list, count - lead, position - call.window_left);
      const int64_t high =
          call.window_right < 0 ? count - lead : first_from(list, count - lead, position + call.window_right + 1);
      float* line = scores + r * kStride;
      if (head.k_bias != nullptr) {
        for (int64_t j = lead; j < count; ++j) line[j] += shift[r];
      }
      for (int64_t j = steps; j < columns; ++j) line[j] = 0.0f;
      Head own = head;
      if (head.bias != nullptr) own.bias += (first + r) % shared.group * call.bias_head_stride;
      finish_scores(call, own, i, positions, 0, columns, lead + low, lead + high, line);
      const Softmax softmax = soften(line, 0, columns);
      total[r] = softmax.sum;
      largest[r] = softmax.largest;
    }
    for (int64_t j = lead; j < count; j += block) {
      const int64_t some = count - j < block ? count - j : block;
      if (integers) widen_rows(head.v, positions, j, some, count, size, width, room, v);
      by_rows(rows, [&](int64_t r, auto n) {
        const auto add = r == 0 ? mix_first<decltype(n)::value> : mix<decltype(n)::value>;
        add(scores + r * kStride + j, v + j, some, size, sums + r * width, width);
      });
    }

    for (int64_t r = 0; r < rows; ++r) {
      if (call.parts == nullptr) {
        write_row(call, shared, first + r, sums + r * width, total[r]);
        continue;
      }
      float* part = part_of(call, shared, index, first + r, span);
      for (int64_t d = 0; d < size; ++d) part[d] = sums[r * width + d];
      part[size] = largest[r];
      part[size + 1] = total[r];
    }
  }
}

// Merges the spans of one key/value head, when all of them are done.
void few_merge(const AttentionCall& call, int64_t index, float* scratch) {
  const Shared shared(call, index);
  const int64_t size = call.size;
  for (int64_t r = 0; shared.spans > 0 && r < shared.rows; ++r) {
    const float* parts = part_of(call, shared, index, r, 0);
    float largest = -kInfinity, total = 0.0f;
    for (int64_t s = 0; s < shared.spans; ++s) {
      const float* part = parts + s * (size + 2);
      if (part[size + 1] != 0.0f && !(part[size] <= largest)) largest = part[size];
    }
    for (int64_t d = 0; d < size; ++d) scratch[d] = 0.0f;
    for (int64_t s = 0; s < shared.spans; ++s) {
      const float* part = parts + s * (size + 2);
      if (part[size + 1] == 0.0f) continue;
      // Equal infinities stand side by side: their difference is no number, and neither are the sums.
      const V away = splat(part[size] == largest ? 0.0f : part[size] - largest);
      float weight[kWidth];
      store(weight, power_of_two(each([&](int) { return away; })).v[0]);
      total += weight[0] * part[size + 1];
      for (int64_t d = 0; d < size; ++d) scratch[d] += weight[0] * part[d];
    }
    write_row(call, shared, r, scratch, total);
  }
}

size_t few_scratch(const AttentionCall& call) { return FewLayout(call).floats; }

}  // namespace
}  // namespace precast
