// What the operators ask of the arithmetic, and the table through which the instruction set is chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block_calls.h"
#include "half_calls.h"

namespace precast {

// LayerNorm or RMSNorm of rows, after the sum with a residual and a bias where they are given. [rows, width] each.
struct NormCall {
  const float* x;
  const float* residual;  // null: none
  const float* bias;      // [width], added to the sum; null: none
  const float* weight;    // [width]
  const float* beta;      // [width]; null: none
  float* out;
  float* sum;             // null: not asked for
  int64_t width;
  int64_t x_rows;         // x and residual repeat after so many rows: that is how they broadcast over the batch
  int64_t residual_rows;
  float epsilon;
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

// act(gate) * up, element by element.
struct GatedCall {
  const float* gate;
  const float* up;
  float* out;
  int64_t elements, width;
  Activation activation;
};

struct GeluCall {
  const float* x;
  const float* bias;  // [width]; null: none
  float* out;
  int64_t width;
  bool tanh;
};

// Channels of a cache of integers that share a scale. A row is its channels, and then a float32 for each block of them.
constexpr int64_t kCacheBlock = 32;
constexpr int64_t cache_row(int64_t size) { return size + (size + kCacheBlock - 1) / kCacheBlock * 4; }

// softmax(softcap(scale * q @ k.T) + bias) @ v for every batch row and head. Strides count floats. The queries of a row
// stand at the last of its positions. With a cache, k and v are rings: position p is in slot p % slots until a row's
// `past`, and the positions from there on are in new_k and new_v.
struct AttentionCall {
  const float* q;
  const float* k;
  const float* v;
  const int8_t* k_bytes;  // caches of integers, see `cache_row`; null: floats
  const int8_t* v_bytes;
  const float* q_bias;  // [heads * size] and so on; null: none
  const float* k_bias;
  const float* v_bias;
  const int64_t* mask;  // [batch, keys], not zero where a key may be seen; null: all
  const float* bias;    // [batch or 1, heads or 1, queries or 1, keys, or slots of a cache]; null: none
  float* out;           // [batch, queries, heads * size]
  int64_t q_stride, k_stride, v_stride;  // from one position to the next; of caches of integers, in bytes
  int64_t k_head_stride, v_head_stride, k_batch_stride, v_batch_stride;
  int64_t bias_batch_stride, bias_head_stride, bias_query_stride;
  int64_t batch, queries, keys, heads, kv_heads, size;  // keys: those of the longest row
  int64_t window_left, window_right;  // positions seen before and after; -1: all
  float scale, softcap;               // softcap 0: off
  bool bfloat16;                      // 8 bits of mantissa are enough for what is softened and for values

  // The cache. A row that has fewer new tokens than queries gives zeros for the others.
  const float* new_k;  // [batch, queries, kv_heads * size]
  const float* new_v;
  const int64_t* past;     // [batch]; null: there is no cache
  const int64_t* lengths;  // [batch]
  int64_t slots;

  // How the work is divided: queries of a task and tasks of a head, where every task copies its keys; or, for few
  // queries, spans of keys, whose partial results of each query are kept in `parts` and then merged.
  int64_t chunk, chunks;
  int64_t span, spans;  // keys of a span, at most 512; spans of a head
  float* parts;  // [batch, kv_heads, queries * heads / kv_heads, spans, size + 2]; null: one span
};

struct RowKernels {
  void (*norm)(const NormCall&, int64_t first, int64_t last);      // rows
  void (*rms_norm)(const NormCall&, int64_t first, int64_t last);  // rows; without a mean and beta
  void (*gelu)(const GeluCall&, int64_t first, int64_t last);      // rows
  void (*gated)(const GatedCall&, int64_t first, int64_t last);    // rows
};

struct AttentionKernels {
  int64_t block;                                                    // queries that are computed together
  size_t (*scratch)(const AttentionCall&);                          // floats
  void (*task)(const AttentionCall&, int64_t task, float* scratch);  // batch * heads * chunks tasks
  // The same for few queries: keys and values are read where they lie, once for all heads that share them.
  size_t (*few_scratch)(const AttentionCall&);                             // floats
  void (*few)(const AttentionCall&, int64_t task, float* scratch);         // batch * kv_heads * spans tasks
  void (*few_merge)(const AttentionCall&, int64_t index, float* scratch);  // batch * kv_heads, after its spans
};

// Rows from which on weights in blocks are widened for all of them.
constexpr int64_t kManyRows = 8;

// What one instruction set runs: it shares most parts with the one it extends.
struct Kernels {
  const char* name;
  const RowKernels* rows;
  const AttentionKernels* attention;
  const BlockKernels* block;
  const HalfKernels* half;
  const BlockKernels* block_of_many = nullptr;  // takes over from kManyRows rows on, where its rounding is allowed
  const AttentionKernels* attention_of_bfloat16 = nullptr;  // for many queries, where bfloat16 is allowed
};

// Each in a file that is compiled with the flags of its instruction set.
extern const RowKernels kRowsPortable, kRowsAvx2, kRowsAvx512;
extern const AttentionKernels kAttentionPortable, kAttentionAvx2, kAttentionAvx512, kAttentionAmx;
extern const BlockKernels kBlockPortable, kBlockAvx2, kBlockAvxVnni, kBlockAvx512Vnni, kBlockAmx;
extern const BlockKernels kBytesAvxVnni, kBytesAvx512Vnni;
extern const HalfKernels kHalfPortable, kHalfAvx2, kHalfAvx512;

// The kernels this processor runs, best first, ended by null; `choose` takes the first, or the one named by
// the environment variable PRECAST_KERNELS_ISA (null where this processor has no such).
const Kernels* const* available_kernels();
const Kernels* choose_kernels();

// At least ``floats`` floats of this thread's own, aligned to 64 bytes, kept until the thread ends. Null: no memory.
float* thread_scratch(size_t floats);

}  // namespace precast
