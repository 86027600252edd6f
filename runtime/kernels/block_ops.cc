// BlockLinear and BlockEmbedding: shapes, and columns and rows divided among threads.
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
  int64_t panels_of_task = 1, tiles_of_task = 1, tiles_at_once = 1;
  size_t scratch = 0;
  std::atomic<bool> full{false};

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
      const int64_t count = smaller(block, depth - b * block);
      for (int64_t k = 0; k < count; ++k) {
        const int quant = bits == 4 ? panel[k / 8 * 4 * kPanelColumns + c * 4 + k % 4] >> (k / 4 % 2 * 4) & 15
                                    : static_cast<int8_t>(panel[k / 4 * 4 * kPanelColumns + c * 4 + k % 4]);
        out[i * depth + b * block + k] = (static_cast<float>(quant) - zero) * scale;
      }
    }
  }
};

// What both operators of block-wise weights check of them.
bool check_blocks(Call& call, const Node& node, const Tensor& weight) {
  call.check(node.bits == 4 || node.bits == 8, "bits must be 4 or 8, not %lld", (long long)node.bits);
  const bool smallest = node.block == kSmallestBlock && node.bits == 8;
  call.check(smallest || (node.block >= kFold && node.block <= 256 && node.block % kFold == 0),
             "block must be a multiple of 32 up to 256, or 16 with 8 bits, not %lld", (long long)node.block);
  call.check(node.zeros >= kMiddle && node.zeros <= kHalves, "zeros must be 0 (none), 1 (integers) or 2 (floats), not %lld",
             (long long)node.zeros);
  if (!call.ok()) return false;
  const PanelLayout layout(node.in, node.block, node.bits, node.zeros);
  const int64_t panels = ceiling(node.out, kPanelColumns);
  call.check(weight.rank == 2 && weight.dims[0] == panels && weight.dims[1] == layout.bytes,
             "weight must be [%lld, %lld] bytes: %lld columns in panels of 16, %lld channels in blocks of %lld",
             (long long)panels, (long long)layout.bytes, (long long)node.out, (long long)node.in,
             (long long)node.block);
  return call.ok();
}

}  // namespace

ort::Status* block_linear(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BlockLinear");
  const Tensor x = call.input(0), weight = call.input(1, ort::kUint8), bias = call.input(2);
  call.check(x && weight, "x or weight is missing");
  if (!call.ok() || !check_blocks(call, node, weight)) return call.status();
  call.check(x.rank >= 1 && x.last() == node.in, "x must have %lld channels, as the weight has", (long long)node.in);
  call.check(!bias || bias.is_vector(node.out), "bias must be a vector of %lld elements", (long long)node.out);
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < x.rank; ++i) shape[i] = x.dims[i];
  shape[x.rank - 1] = node.out;
  BlockCall to{};
  to.x = x.floats();
  to.weight = static_cast<const uint8_t*>(weight.data);
  to.bias = bias.floats();
  to.rows = x.elements() / node.in;
  to.depth = node.in;
  to.columns = node.out;
  to.block = node.block;
  to.bits = node.bits;
  to.zeros = node.zeros;
  to.out = call.output(0, shape, x.rank);
  if (!call.ok() || to.rows == 0) return call.status();

  const BlockKernels* kernels = node.kernels->block;
  if (node.kernels->block_of_many != nullptr && to.rows >= kManyRows) kernels = node.kernels->block_of_many;
  static thread_local Shared shared;
  const size_t bytes = kernels->prepared(to);
  to.prepared = static_cast<uint8_t*>(shared.reserve(bytes));
  call.check(to.prepared != nullptr, "no memory for %zu bytes of prepared rows", bytes);
  if (!call.ok()) return call.status();

  BlockWork work{to, kernels, ceiling(to.rows, kernels->row_tile), ceiling(to.columns, kPanelColumns)};
  work.scratch = kernels->scratch(to);
  work.tiles_at_once = ceiling(kPreparedRows, kernels->row_tile);
  // Tasks of one size, as threads share their number.
  const int64_t tile_bytes = ceiling(static_cast<int64_t>(bytes), work.tiles);
  work.tiles_of_task = ceiling(work.tiles, ceiling(work.tiles * tile_bytes, kernels->task_bytes));
  const PanelLayout layout(to.depth, to.block, to.bits, to.zeros);
  const int64_t across = ceiling(work.panels * layout.bytes, kTaskBytes);
  work.panels_of_task = ceiling(ceiling(work.panels, across), kPanelsTogether) * kPanelsTogether;
  call.parallel(BlockWork::prepare, static_cast<size_t>(ceiling(work.tiles, work.tiles_at_once)), &work);
  call.parallel(BlockWork::product, static_cast<size_t>(work.across() * ceiling(work.tiles, work.tiles_of_task)), &work);
  call.check(!work.full, "no memory for %zu floats of a thread's own", work.scratch);
  return call.status();
}

ort::Status* block_embedding(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BlockEmbedding");
  const Tensor ids = call.input(0, ort::kInt64), weight = call.input(1, ort::kUint8);
  call.check(ids && weight, "ids or weight is missing");
  if (!call.ok() || !check_blocks(call, node, weight)) return call.status();
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
