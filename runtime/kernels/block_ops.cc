// BlockLinear, BlockFeedForward and BlockEmbedding: shapes, and columns and rows divided among threads.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "operators.h"
#include "tensors.h"

namespace precast {
namespace {

// Bytes of weights of one task: a few microseconds for one row.
constexpr int64_t kTaskBytes = 48 * 1024;
// Panels that some instruction sets multiply side by side: a task has whole pairs.
constexpr int64_t kPanelsTogether = 2;
// Rows of one task that prepares them, at least.
constexpr int64_t kPreparedRows = 32;
// Memory of the calling thread that all tasks of a call read; its own scratch is for its tasks.
struct Shared {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Shared() { std::free(memory); }

  void* reserve(size_t wanted) {
    if (bytes < wanted) {
      std::free(memory);
      bytes = (wanted + 4095) / 4096 * 4096;
      memory = std::aligned_alloc(64, bytes);
      if (memory == nullptr) bytes = 0;
    }
    return memory;
  }
};

struct BlockWork {
  BlockCall arguments;
  const BlockKernels* kernels;
  int64_t tiles, panels;
  int64_t tiles_at_once;  // of one task that prepares them
  int64_t panels_of_task = 1, tiles_of_task = 1;
  size_t scratch = 0;
  std::atomic<bool> full{false};

  BlockWork(const BlockKernels& way, const BlockCall& call)
      : arguments(call), kernels(&way), tiles(ceiling(call.rows, way.row_tile)),
        panels(ceiling(call.columns, kPanelColumns)), tiles_at_once(ceiling(kPreparedRows, way.row_tile)) {}

  int64_t across() const { return ceiling(panels, panels_of_task); }

  static void prepare(void* user, size_t index) {
    const BlockWork& self = *static_cast<const BlockWork*>(user);
    const int64_t first = static_cast<int64_t>(index) * self.tiles_at_once;
    self.kernels->prepare(self.arguments, first, smaller(first + self.tiles_at_once, self.tiles));
  }

  static void product(void* user, size_t index) {
    BlockWork& self = *static_cast<BlockWork*>(user);
    const int64_t i = static_cast<int64_t>(index);
    const int64_t first = i % self.across() * self.panels_of_task, tile = i / self.across() * self.tiles_of_task;
    float* scratch = self.scratch == 0 ? nullptr : thread_scratch(self.scratch);
    if (self.scratch != 0 && scratch == nullptr) {
      self.full = true;
      return;
    }
    self.kernels->product(self.arguments, first, smaller(first + self.panels_of_task, self.panels), tile,
                          smaller(tile + self.tiles_of_task, self.tiles), scratch);
  }
};

struct GeluWork {
  GeluCall arguments;
  const Kernels* kernels;
  int64_t rows;

  static constexpr int64_t kRows = 16;  // of one task

  static void task(void* user, size_t index) {
    const GeluWork& self = *static_cast<const GeluWork*>(user);
    const int64_t first = static_cast<int64_t>(index) * kRows;
    self.kernels->rows->gelu(self.arguments, first, smaller(first + kRows, self.rows));
  }
};

struct EmbeddingWork {
  const int64_t* ids;
  const uint8_t* weight;
  float* out;
  PanelLayout layout;
  int64_t count, depth, block, bits, columns, zeros;
  std::atomic<bool> outside{false};

  static constexpr int64_t kTokens = 64;  // of one task

  static void task(void* user, size_t index) {
    EmbeddingWork& self = *static_cast<EmbeddingWork*>(user);
    const int64_t first = static_cast<int64_t>(index) * kTokens;
    for (int64_t i = first; i < self.count && i < first + kTokens; ++i) self.token(i);
  }

  void token(int64_t i) {
    const int64_t id = ids[i];
    if (id < 0 || id >= columns) {
      outside = true;
      return;
    }
    const int64_t c = id % kPanelColumns;
    const uint8_t* panel = weight + id / kPanelColumns * layout.bytes;
    for (int64_t b = 0; b < layout.blocks; ++b, panel += layout.of_block) {
      uint16_t code;
      std::memcpy(&code, panel + layout.scales + c * 2, sizeof code);
      const uint32_t scale_bits = (code + kScaleOffset) << kScaleShift;
      float scale;
      std::memcpy(&scale, &scale_bits, sizeof scale);
      const float zero = zero_point(panel + layout.zeros, c, bits, zeros);
      float* to = out + i * depth + b * block;
      const int64_t count = smaller(block, depth - b * block);
      for (int64_t k = 0; k < count; k += 4) {
        uint8_t four[4];  // channels that lie together
        std::memcpy(four, panel + (bits == 4 ? k / 8 : k / 4) * 4 * kPanelColumns + c * 4, sizeof four);
        const int shift = bits == 4 ? static_cast<int>(k / 4 % 2 * 4) : 0;
        for (int64_t j = 0; j < smaller(4, count - k); ++j) {
          const int quant = bits == 4 ? four[j] >> shift & 15 : static_cast<int8_t>(four[j]);
          to[k + j] = (static_cast<float>(quant) - zero) * scale;
        }
      }
    }
  }
};

// What both operators of block-wise weights check of them.
bool check_blocks(Call& call, const Node& node, const Tensor& weight, int64_t in, int64_t out) {
  call.check(node.bits == 4 || node.bits == 8, "bits must be 4 or 8, not %lld", (long long)node.bits);
  const bool smallest = node.block == kSmallestBlock && node.bits == 8;
  call.check(smallest || (node.block >= kFold && node.block <= 256 && node.block % kFold == 0),
             "block must be a multiple of 32 up to 256, or 16 with 8 bits, not %lld", (long long)node.block);
  call.check(node.zeros >= kMiddle && node.zeros <= kHalves, "zeros must be 0 (none), 1 (integers) or 2 (floats), not %lld",
             (long long)node.zeros);
  if (!call.ok()) return false;
  const PanelLayout layout(in, node.block, node.bits, node.zeros);
  const int64_t panels = ceiling(out, kPanelColumns);
  call.check(weight.rank == 2 && weight.dims[0] == panels && weight.dims[1] == layout.bytes,
             "weight must be [%lld, %lld] bytes: %lld columns in panels of 16, %lld channels in blocks of %lld",
             (long long)panels, (long long)layout.bytes, (long long)out, (long long)in,
             (long long)node.block);
  return call.ok();
}

BlockCall product_of(const Node& node, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t in,
                     int64_t out) {
  BlockCall to{};
  to.x = x.floats();
  to.weight = static_cast<const uint8_t*>(weight.data);
  to.bias = bias.floats();
  to.rows = x.elements() / x.last();
  to.depth = in;
  to.columns = out;
  to.block = node.block;
  to.bits = node.bits;
  to.zeros = node.zeros;
  return to;
}

const BlockKernels& block_kernels(const Node& node, int64_t rows) {
  const BlockKernels* many = node.kernels->block_of_many;
  if (many == nullptr || rows < kManyRows || node.block < many->smallest_block) return *node.kernels->block;
  const bool bytes = node.bits == 4 || node.row_bits == 8;
  const bool allowed = many->rounding == Rounding::kBytes ? bytes : node.bfloat16 != 0;
  return allowed ? *many : *node.kernels->block;
}

// Makes what is multiplied of x, in memory that is kept; false: there is none.
bool prepare(Call& call, const BlockKernels& kernels, Shared& shared, BlockCall& to) {
  const size_t bytes = kernels.prepared(to);
  to.prepared = static_cast<uint8_t*>(shared.reserve(bytes));
  call.check(to.prepared != nullptr, "no memory for %zu bytes of prepared rows", bytes);
  if (!call.ok()) return false;
  BlockWork work(kernels, to);
  call.parallel(BlockWork::prepare, static_cast<size_t>(ceiling(work.tiles, work.tiles_at_once)), &work);
  return call.ok();
}

void multiply(Call& call, const BlockKernels& kernels, const BlockCall& to) {
  BlockWork work(kernels, to);
  work.scratch = kernels.scratch(to);
  // Tasks of one size, as threads share their number.
  const int64_t tile_bytes = ceiling(static_cast<int64_t>(kernels.prepared(to)), work.tiles);
  work.tiles_of_task = ceiling(work.tiles, ceiling(work.tiles * tile_bytes, kernels.task_bytes));
  const PanelLayout layout(to.depth, to.block, to.bits, to.zeros);
  const int64_t across = ceiling(work.panels * layout.bytes, kTaskBytes);
  work.panels_of_task = ceiling(ceiling(work.panels, across), kPanelsTogether) * kPanelsTogether;
  call.parallel(BlockWork::product, static_cast<size_t>(work.across() * ceiling(work.tiles, work.tiles_of_task)), &work);
  call.check(!work.full, "no memory for %zu floats of a thread's own", work.scratch);
}

}  // namespace

ort::Status* block_linear(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BlockLinear");
  const Tensor x = call.input(0), weight = call.input(1, ort::kUint8), bias = call.input(2);
  call.check(x && weight, "x or weight is missing");
  if (!call.ok() || !check_blocks(call, node, weight, node.in, node.out)) return call.status();
  call.check(x.rank >= 1 && x.last() == node.in, "x must have %lld channels, as the weight has", (long long)node.in);
  call.check(!bias || bias.is_vector(node.out), "bias must be a vector of %lld elements", (long long)node.out);
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < x.rank; ++i) shape[i] = x.dims[i];
  shape[x.rank - 1] = node.out;
  BlockCall to = product_of(node, x, weight, bias, node.in, node.out);
  to.out = call.output(0, shape, x.rank);
  if (!call.ok() || to.rows == 0) return call.status();
  const BlockKernels& kernels = block_kernels(node, to.rows);
  static thread_local Shared shared;
  if (prepare(call, kernels, shared, to)) multiply(call, kernels, to);
  return call.status();
}

// GELU(x @ up + bias) @ down + bias. What lies between is never written as floats where the product can activate it.
ort::Status* block_feed_forward(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BlockFeedForward");
  const Tensor x = call.input(0), up = call.input(1, ort::kUint8), down = call.input(2, ort::kUint8);
  const Tensor up_bias = call.input(3), down_bias = call.input(4);
  call.check(x && up && down, "x, up or down is missing");
  if (!call.ok() || !check_blocks(call, node, up, node.in, node.hidden)) return call.status();
  if (!check_blocks(call, node, down, node.hidden, node.out)) return call.status();
  call.check(x.rank >= 1 && x.last() == node.in, "x must have %lld channels, as the weight has", (long long)node.in);
  call.check(!up_bias || up_bias.is_vector(node.hidden), "up's bias must be a vector of %lld elements",
             (long long)node.hidden);
  call.check(!down_bias || down_bias.is_vector(node.out), "down's bias must be a vector of %lld elements",
             (long long)node.out);
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < x.rank; ++i) shape[i] = x.dims[i];
  shape[x.rank - 1] = node.out;
  float* out = call.output(0, shape, x.rank);
  BlockCall first = product_of(node, x, up, up_bias, node.in, node.hidden);
  BlockCall second = product_of(node, x, down, down_bias, node.hidden, node.out);
  second.out = out;
  if (!call.ok() || first.rows == 0) return call.status();
  call.check(first.rows <= kMaxElements / node.hidden, "%lld rows of %lld channels are more than any memory holds",
             (long long)first.rows, (long long)node.hidden);
  if (!call.ok()) return call.status();

  const BlockKernels& kernels = block_kernels(node, first.rows);
  static thread_local Shared rows, between;
  const int64_t channels = kernels.channels == nullptr ? 0 : kernels.channels(second);
  const size_t wanted =
      channels != 0 ? kernels.prepared(second) : static_cast<size_t>(first.rows * node.hidden) * sizeof(float);
  uint8_t* hidden = static_cast<uint8_t*>(between.reserve(wanted));
  call.check(hidden != nullptr, "no memory for %zu bytes between two products", wanted);
  if (!call.ok() || !prepare(call, kernels, rows, first)) return call.status();
  if (channels != 0) {
    first.activated = second.prepared = hidden;
    first.activated_channels = channels;
    first.tanh = node.tanh != 0;
    // Behind the last channel, where no panel writes.
    if (first.activated_channels != ceiling(node.hidden, 2 * kPanelColumns) * 2 * kPanelColumns) {
      std::memset(hidden, 0, wanted);
    }
    multiply(call, kernels, first);
    multiply(call, kernels, second);
    return call.status();
  }
  GeluWork gelu{{reinterpret_cast<float*>(hidden), up_bias.floats(), reinterpret_cast<float*>(hidden), node.hidden,
                 node.tanh != 0},
                node.kernels, first.rows};
  first.out = reinterpret_cast<float*>(hidden);
  first.bias = nullptr;
  multiply(call, kernels, first);
  call.parallel(GeluWork::task, static_cast<size_t>(ceiling(first.rows, GeluWork::kRows)), &gelu);
  second.x = reinterpret_cast<float*>(hidden);
  if (prepare(call, kernels, rows, second)) multiply(call, kernels, second);
  return call.status();
}

ort::Status* block_embedding(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BlockEmbedding");
  const Tensor ids = call.input(0, ort::kInt64), weight = call.input(1, ort::kUint8);
  call.check(ids && weight, "ids or weight is missing");
  if (!call.ok() || !check_blocks(call, node, weight, node.in, node.out)) return call.status();
  call.check(ids.rank < kMaxRank, "ids have %zu dimensions", ids.rank);
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < ids.rank; ++i) shape[i] = ids.dims[i];
  shape[ids.rank] = node.in;
  EmbeddingWork work{ids.ints(), static_cast<const uint8_t*>(weight.data), call.output(0, shape, ids.rank + 1),
                     PanelLayout(node.in, node.block, node.bits, node.zeros), ids.elements(), node.in, node.block,
                     node.bits, node.out, node.zeros};
  call.parallel(EmbeddingWork::task, static_cast<size_t>(ceiling(work.count, EmbeddingWork::kTokens)), &work);
  call.check(!work.outside, "an id is outside of [0, %lld)", (long long)node.out);
  return call.status();
}

}  // namespace precast
