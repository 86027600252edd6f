// CachedAttention: shapes, the attention itself, and then the new keys and values into their slots.
#include <cstring>
#include <initializer_list>

#include "attention_run.h"
#include "operators.h"

namespace precast {
namespace {

// Floats that one thread writes sooner than it wakes another.
constexpr int64_t kSerialFloats = 32768;

// Channels in 8 bits, the largest of them 127, and their scale. Infinity and NaN leave a scale of NaN.
void round_block(const float* x, int64_t size, int8_t* out, int8_t* to_scale) {
  float most = 0.0f;
  bool finite = true;
  for (int64_t d = 0; d < size; ++d) {
    const float magnitude = __builtin_fabsf(x[d]);
    finite = finite && magnitude < __builtin_inff();
    most = magnitude > most ? magnitude : most;
  }
  // Below this 127 / most would overflow.
  const bool held = finite && most >= 1e-36f;
  const float scale = finite ? (held ? most / 127.0f : 0.0f) : __builtin_nanf(""), inverse = held ? 127.0f / most : 0.0f;
  for (int64_t d = 0; d < size; ++d) {
    const float step = held ? x[d] * inverse : 0.0f;
    out[d] = static_cast<int8_t>(step < 0.0f ? step - 0.5f : step + 0.5f);
  }
  std::memcpy(to_scale, &scale, sizeof scale);
}

void round_row(const float* x, int64_t size, int8_t* out) {
  for (int64_t d = 0; d < size; d += kCacheBlock) {
    const int64_t left = size - d < kCacheBlock ? size - d : kCacheBlock;
    round_block(x + d, left, out + d, out + size + d / kCacheBlock * 4);
  }
}

// The cache of one call. What it held is copied only where the caller did not bind the outputs to the inputs' memory.
struct Cache {
  const AttentionCall& call;
  const char* past[2];
  const float* fresh[2];
  char* present[2];
  bool integers;

  // Bytes of a slot.
  int64_t slot() const { return integers ? cache_row(call.size) : call.size * static_cast<int64_t>(sizeof(float)); }

  static void task(void* user, size_t index) {
    const Cache& self = *static_cast<const Cache*>(user);
    const AttentionCall& call = self.call;
    const int64_t at = static_cast<int64_t>(index), row = at / call.kv_heads, head = at % call.kv_heads;
    const int64_t bytes = self.slot(), block = call.slots * bytes, stride = call.kv_heads * call.size;
    for (int which = 0; which < 2; ++which) {
      if (self.present[which] == nullptr) continue;
      char* to = self.present[which] + at * block;
      const float* from = self.fresh[which] + (row * call.queries * call.kv_heads + head) * call.size;
      if (self.present[which] != self.past[which]) {
        std::memcpy(to, self.past[which] + at * block, static_cast<size_t>(block));
      }
      // Of more tokens than slots only the last remain.
      const int64_t length = call.lengths[row], past = call.past[row];
      for (int64_t j = length > call.slots ? length - call.slots : 0; j < length; ++j) {
        char* slot = to + (past + j) % call.slots * bytes;
        if (self.integers) round_row(from + j * stride, call.size, reinterpret_cast<int8_t*>(slot));
        else std::memcpy(slot, from + j * stride, static_cast<size_t>(bytes));
      }
    }
  }

  bool copies() const {
    return (present[0] != nullptr && present[0] != past[0]) || (present[1] != nullptr && present[1] != past[1]);
  }
};

void check_rows(Call& call, const AttentionCall& to, int64_t window) {
  for (int64_t row = 0; row < to.batch; ++row) {
    const long long past = to.past[row], length = to.lengths[row], slots = to.slots;
    call.check(length >= 0 && length <= to.queries, "lengths[%lld] is %lld, but there are %lld new tokens",
               (long long)row, length, (long long)to.queries);
    if (!call.ok()) return;
    call.check(past >= 0 && past <= INT32_MAX - length, "past_lengths[%lld] is %lld", (long long)row, past);
    if (!call.ok()) return;
    call.check(past + length <= slots || (window > 0 && window <= slots),
               "row %lld holds %lld tokens and gets %lld more, but the cache has %lld slots; only a window of at most "
               "as many positions lets the oldest go, and it is %lld",
               (long long)row, past, length, slots, (long long)window);
    if (!call.ok()) return;
  }
}

ort::Status* attend(const Node& node, ort::KernelContext* context, bool integers) {
  Call call(node.api, context, integers ? "CachedAttentionInt8" : "CachedAttention");
  const int held_type = integers ? ort::kInt8 : ort::kFloat;
  const Tensor q = call.input(0), k = call.input(1), v = call.input(2);
  const Tensor past_k = call.input(3, held_type), past_v = call.input(4, held_type);
  const Tensor past = call.input(5, ort::kInt64), lengths = call.input(6, ort::kInt64), bias = call.input(7);
  const int64_t heads = node.heads, kv_heads = node.kv_heads == 0 ? heads : node.kv_heads;
  call.check(q && k && v && past_k && past_v && past && lengths, "an input that is required is missing");
  call.check(heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  call.check(node.window != 0, "window must be -1 or at least 1, not 0");
  call.check(q.rank == 3 && k.rank == 3 && v.rank == 3,
             "query, key and value must have 3 dimensions [batch, tokens, channels]");
  call.check(past_k.rank == 4 && past_v.rank == 4, "past_key and past_value must be [batch, kv_heads, slots, size]");
  call.check(q.dims[2] > 0 && q.dims[2] % heads == 0, "%lld channels do not divide among %lld heads",
             (long long)q.dims[2], (long long)heads);
  if (!call.ok()) return call.status();

  AttentionCall to{};
  to.heads = heads;
  to.kv_heads = kv_heads;
  to.batch = q.dims[0];
  to.queries = q.dims[1];
  to.size = q.dims[2] / heads;
  to.slots = past_k.dims[2];
  const int64_t kv_hidden = kv_heads * to.size, row = integers ? cache_row(to.size) : to.size;
  for (const Tensor* fresh : {&k, &v}) {
    call.check(fresh->dims[0] == to.batch && fresh->dims[1] == to.queries && fresh->dims[2] == kv_hidden,
               "key and value must be [%lld, %lld, %lld]", (long long)to.batch, (long long)to.queries,
               (long long)kv_hidden);
  }
  for (const Tensor* held : {&past_k, &past_v}) {
    call.check(held->dims[0] == to.batch && held->dims[1] == kv_heads && held->dims[2] == to.slots &&
                   held->dims[3] == row,
               "past_key and past_value must be [%lld, %lld, slots, %lld]", (long long)to.batch, (long long)kv_heads,
               (long long)row);
  }
  call.check(past.is_vector(to.batch) && lengths.is_vector(to.batch),
             "past_lengths and lengths must be vectors of %lld elements", (long long)to.batch);
  call.check(!bias || (bias.rank == 4 && (bias.dims[0] == 1 || bias.dims[0] == to.batch) &&
                       (bias.dims[1] == 1 || bias.dims[1] == heads) &&
                       (bias.dims[2] == 1 || bias.dims[2] == to.queries) && bias.dims[3] == to.slots),
             "bias must be [batch or 1, heads or 1, tokens or 1, slots]");
  if (!call.ok()) return call.status();
  to.past = past.ints();
  to.lengths = lengths.ints();
  check_rows(call, to, node.window);
  if (!call.ok()) return call.status();

  for (int64_t row = 0; row < to.batch; ++row) {
    if (to.past[row] + to.lengths[row] > to.keys) to.keys = to.past[row] + to.lengths[row];
  }
  to.q = q.floats();
  if (integers) {
    to.k_bytes = static_cast<const int8_t*>(past_k.data);
    to.v_bytes = static_cast<const int8_t*>(past_v.data);
  } else {
    to.k = past_k.floats();
    to.v = past_v.floats();
  }
  to.new_k = k.floats();
  to.new_v = v.floats();
  to.q_stride = heads * to.size;
  to.k_stride = to.v_stride = row;
  to.k_head_stride = to.v_head_stride = to.slots * row;
  to.k_batch_stride = to.v_batch_stride = kv_heads * to.slots * row;
  if (bias) {
    const int64_t table = bias.dims[2] * to.slots;
    to.bias = bias.floats();
    to.bias_query_stride = bias.dims[2] == 1 ? 0 : to.slots;
    to.bias_head_stride = bias.dims[1] == 1 ? 0 : table;
    to.bias_batch_stride = bias.dims[0] == 1 ? 0 : bias.dims[1] * table;
  }
  to.window_left = node.window < 0 ? -1 : node.window - 1;
  to.window_right = 0;
  to.scale = node.scale;
  to.softcap = node.softcap;
  to.bfloat16 = node.bfloat16 != 0;
  to.out = call.output(0, q.dims, 3);
  const char* held[2] = {static_cast<const char*>(past_k.data), static_cast<const char*>(past_v.data)};
  Cache cache{to, {held[0], held[1]}, {to.new_k, to.new_v}, {}, integers};
  for (size_t which = 0; which < 2; ++which) {
    cache.present[which] = reinterpret_cast<char*>(call.output(1 + which, past_k.dims, 4));
  }
  run_attention(call, *node.kernels, to);

  // Only now: in a ring the new tokens take the place of some that the queries have just seen.
  const int64_t blocks = to.batch * kv_heads;
  if (!call.ok() || to.slots == 0) return call.status();
  if (cache.copies() || to.batch * to.queries * kv_hidden > kSerialFloats) {
    call.parallel(Cache::task, static_cast<size_t>(blocks), &cache);
  } else {
    for (int64_t i = 0; i < blocks; ++i) Cache::task(&cache, static_cast<size_t>(i));
  }
  return call.status();
}

}  // namespace

ort::Status* cached_attention(const Node& node, ort::KernelContext* context) { return attend(node, context, false); }

ort::Status* cached_attention_int8(const Node& node, ort::KernelContext* context) {
  return attend(node, context, true);
}

}  // namespace precast
