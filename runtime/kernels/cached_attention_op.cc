// CachedAttention: shapes, the attention itself, and then the new keys and values into their slots.
#include <cstring>
#include <initializer_list>

#include "attention_run.h"
#include "operators.h"

namespace precast {
namespace {

// Floats that one thread writes sooner than it wakes another.
constexpr int64_t kSerialFloats = 32768;

// The cache of one call. What it held is copied only where the caller did not bind the outputs to the inputs' memory.
struct Cache {
  const AttentionCall& call;
  const float *past[2], *fresh[2];
  float* present[2];

  static void task(void* user, size_t index) {
    const Cache& self = *static_cast<const Cache*>(user);
    const AttentionCall& call = self.call;
    const int64_t at = static_cast<int64_t>(index), row = at / call.kv_heads, head = at % call.kv_heads;
    const int64_t block = call.slots * call.size, stride = call.kv_heads * call.size;
    const size_t bytes = static_cast<size_t>(call.size) * sizeof(float);
    for (int which = 0; which < 2; ++which) {
      if (self.present[which] == nullptr) continue;
      float* to = self.present[which] + at * block;
      const float* from = self.fresh[which] + (row * call.queries * call.kv_heads + head) * call.size;
      if (self.present[which] != self.past[which]) {
        std::memcpy(to, self.past[which] + at * block, static_cast<size_t>(block) * sizeof(float));
      }
      // Of more tokens than slots only the last remain.
      const int64_t length = call.lengths[row], past = call.past[row];
      for (int64_t j = length > call.slots ? length - call.slots : 0; j < length; ++j) {
        std::memcpy(to + (past + j) % call.slots * call.size, from + j * stride, bytes);
      }
    }
  }

  bool copies() const {
    return (present[0] != nullptr && present[0] != past[0]) || (present[1] != nullptr && present[1] != past[1]);
  }
};

void check_rows(Call& call, const AttentionCall& to, int64_t window) {
  for (int64_t row = 0; row < to.batch && call.ok(); ++row) {
    const long long past = to.past[row], length = to.lengths[row], slots = to.slots;
    call.check(length >= 0 && length <= to.queries, "lengths[%lld] is %lld, but there are %lld new tokens",
               (long long)row, length, (long long)to.queries);
    call.check(past >= 0 && past <= INT32_MAX - length, "past_lengths[%lld] is %lld", (long long)row, past);
    call.check(past + length <= slots || (window > 0 && window <= slots),
               "row %lld holds %lld tokens and gets %lld more, but the cache has %lld slots; only a window of at most "
               "as many positions lets the oldest go, and it is %lld",
               (long long)row, past, length, slots, (long long)window);
  }
}

}  // namespace

ort::Status* cached_attention(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "CachedAttention");
  const Tensor q = call.input(0), k = call.input(1), v = call.input(2), past_k = call.input(3), past_v = call.input(4);
  const Tensor past = call.input(5, ort::kInt64), lengths = call.input(6, ort::kInt64), bias = call.input(7);
  const int64_t heads = node.heads, kv_heads = node.kv_heads == 0 ? heads : node.kv_heads;
  call.check(q && k && v && past_k && past_v && past && lengths, "an input that is required is missing");
  call.check(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  call.check(node.window == -1 || node.window >= 1, "window must be -1 or at least 1, not %lld",
             (long long)node.window);
  call.check(node.softcap >= 0.0f, "softcap must not be negative");
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
  const int64_t kv_hidden = kv_heads * to.size;
  for (const Tensor* fresh : {&k, &v}) {
    call.check(fresh->dims[0] == to.batch && fresh->dims[1] == to.queries && fresh->dims[2] == kv_hidden,
               "key and value must be [%lld, %lld, %lld]", (long long)to.batch, (long long)to.queries,
               (long long)kv_hidden);
  }
  for (const Tensor* held : {&past_k, &past_v}) {
    call.check(held->dims[0] == to.batch && held->dims[1] == kv_heads && held->dims[2] == to.slots &&
                   held->dims[3] == to.size,
               "past_key and past_value must be [%lld, %lld, slots, %lld]", (long long)to.batch, (long long)kv_heads,
               (long long)to.size);
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
  to.k = past_k.floats();
  to.v = past_v.floats();
  to.new_k = k.floats();
  to.new_v = v.floats();
  to.q_stride = heads * to.size;
  to.k_stride = to.v_stride = to.size;
  to.k_head_stride = to.v_head_stride = to.slots * to.size;
  to.k_batch_stride = to.v_batch_stride = kv_heads * to.slots * to.size;
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
  to.out = call.output(0, q.dims, 3);
  Cache cache{to, {to.k, to.v}, {to.new_k, to.new_v}, {}};
  for (size_t which = 0; which < 2; ++which) cache.present[which] = call.output(1 + which, past_k.dims, 4);
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

}  // namespace precast
