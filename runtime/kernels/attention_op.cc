// Attention: shapes and strides.
#include "attention_run.h"
#include "operators.h"

namespace precast {

ort::Status* attention(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "Attention");
  const Tensor q = call.input(0), k = call.input(1), v = call.input(2), qkv_bias = call.input(3);
  const Tensor mask = call.input(4, ort::kInt64), bias = call.input(5);
  const int64_t heads = node.heads, kv_heads = node.kv_heads == 0 ? heads : node.kv_heads;
  const bool packed = !k && !v;
  call.check(static_cast<bool>(q), "query is missing");
  call.check(packed || (k && v), "key and value are given both or, with packed projections, neither");
  call.check(heads % kv_heads == 0, "heads must be a multiple of kv_heads");
  call.check(q.rank == 3, "query has %zu dimensions instead of 3 [batch, positions, channels]", q.rank);
  if (!call.ok()) return call.status();

  AttentionCall to{};
  to.heads = heads;
  to.kv_heads = kv_heads;
  to.batch = q.dims[0];
  to.queries = q.dims[1];
  const int64_t all_heads = packed ? heads + 2 * kv_heads : heads;
  call.check(q.dims[2] > 0 && q.dims[2] % all_heads == 0, "%lld channels do not divide among %lld heads",
             (long long)q.dims[2], (long long)all_heads);
  if (!call.ok()) return call.status();
  to.size = q.dims[2] / all_heads;
  const int64_t hidden = heads * to.size, kv_hidden = kv_heads * to.size;
  to.q = q.floats();
  to.q_stride = to.k_stride = to.v_stride = q.dims[2];
  if (packed) {
    to.keys = to.queries;
    to.k = to.q + hidden;
    to.v = to.k + kv_hidden;
  } else {
    call.check(k.rank == 3 && v.rank == 3, "key and value must have 3 dimensions");
    to.keys = k.dims[1];
    call.check(k.dims[0] == to.batch && v.dims[0] == to.batch && v.dims[1] == to.keys,
               "batch or length of query, key and value differ");
    call.check(k.dims[2] == kv_hidden && v.dims[2] == kv_hidden, "key and value must have %lld channels",
               (long long)kv_hidden);
    to.k = k.floats();
    to.v = v.floats();
    to.k_stride = to.v_stride = kv_hidden;
  }
  call.check(to.keys <= INT32_MAX, "more keys than 2^31");
  call.check(!qkv_bias || qkv_bias.is_vector(hidden + 2 * kv_hidden), "qkv_bias must be a vector of %lld elements",
             (long long)(hidden + 2 * kv_hidden));
  call.check(!mask || (mask.rank == 2 && mask.dims[0] == to.batch && mask.dims[1] == to.keys),
             "mask must be [batch, keys]");
  call.check(!bias || (bias.rank == 4 && (bias.dims[0] == 1 || bias.dims[0] == to.batch) &&
                       (bias.dims[1] == 1 || bias.dims[1] == heads) && bias.dims[2] == to.queries &&
                       bias.dims[3] == to.keys),
             "attention_bias must be [batch or 1, heads or 1, queries, keys]");
  if (!call.ok()) return call.status();

  if (qkv_bias) {
    to.q_bias = qkv_bias.floats();
    to.k_bias = to.q_bias + hidden;
    to.v_bias = to.k_bias + kv_hidden;
  }
  to.mask = mask.ints();
  if (bias) {
    to.bias = bias.floats();
    to.bias_query_stride = to.keys;
    to.bias_head_stride = bias.dims[1] == 1 ? 0 : to.queries * to.keys;
    to.bias_batch_stride = bias.dims[0] == 1 ? 0 : bias.dims[1] * to.queries * to.keys;
  }
  to.k_batch_stride = to.keys * to.k_stride;
  to.v_batch_stride = to.keys * to.v_stride;
  to.k_head_stride = to.v_head_stride = to.size;
  to.window_left = node.window_left;
  to.window_right = node.window_right;
  to.scale = node.scale;
  to.softcap = node.softcap;
  to.bfloat16 = node.bfloat16 != 0;
  const int64_t shape[3] = {to.batch, to.queries, hidden};
  to.out = call.output(0, shape, 3);
  run_attention(call, *node.kernels, to);
  return call.status();
}

}  // namespace precast
