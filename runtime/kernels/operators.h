// The operators of the domain ``precast.cpu``: attributes read once, then one function a call.
#pragma once

#include "kernels.h"
#include "ort_abi.h"

namespace precast {

// What a node keeps between calls. Attributes an operator does not have stay at their defaults.
struct Node {
  ort::Api api;
  const Kernels* kernels = nullptr;
  float epsilon = 1e-5f;
  float scale = 1.0f;
  float softcap = 0.0f;
  int64_t tanh = 0;
  char activation[16] = "silu";
  int64_t heads = 1;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t window_left = -1, window_right = -1;
  int64_t window = -1;
  int64_t bfloat16 = 0;  // products of many rows may be rounded to it
  int64_t row_bits = 12;  // of a block's largest, which many rows keep beside weights of 8 bits, at least
  int64_t float16 = 0;  // 16 bits are those of float16, else of bfloat16
  int64_t bits = 4, block = 32, in = 0, hidden = 0, out = 0, zeros = 0;  // of weights in blocks
};

ort::Status* add_layer_norm(const Node& node, ort::KernelContext* context);
ort::Status* layer_norm(const Node& node, ort::KernelContext* context);
ort::Status* rms_norm(const Node& node, ort::KernelContext* context);
ort::Status* add_rms_norm(const Node& node, ort::KernelContext* context);
ort::Status* bias_gelu(const Node& node, ort::KernelContext* context);
ort::Status* gated_activation(const Node& node, ort::KernelContext* context);
ort::Status* attention(const Node& node, ort::KernelContext* context);
ort::Status* cached_attention(const Node& node, ort::KernelContext* context);
ort::Status* cached_attention_int8(const Node& node, ort::KernelContext* context);
ort::Status* block_linear(const Node& node, ort::KernelContext* context);
ort::Status* block_feed_forward(const Node& node, ort::KernelContext* context);
ort::Status* block_embedding(const Node& node, ort::KernelContext* context);
ort::Status* half_linear(const Node& node, ort::KernelContext* context);
ort::Status* half_embedding(const Node& node, ort::KernelContext* context);

}  // namespace precast
