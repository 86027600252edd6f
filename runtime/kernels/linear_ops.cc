// Linear, BlockLinear and BlockEmbedding: shapes, and columns and rows divided among threads.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "operators.h"
#include "tensors.h"

namespace precast {
namespace {

// Bytes of weights of one task where rows are few: a few microseconds.
constexpr int64_t kTaskBytes = 48 * 1024;
// Rows of one task where they are many: what belongs to them stays in the second cache.
constexpr int64_t kTaskRows = 240;  // whole tiles of every instruction set
// From so many rows on float32 weights are turned into panels.
constexpr int64_t kManyRows = 12;
constexpr int64_t kLinearPanel = 16, kLinearScratch = 256 * 16;

int64_t ceiling(int64_t count, int64_t part) { return (count + part - 1) / part; }

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

// Columns in whole units times rows in whole units, as tasks of about equal size.
struct Grid {
  int64_t units, units_of_task, rows, rows_of_task;

  int64_t across() const { return ceiling(units, units_of_task); }
  size_t tasks() const { return static_cast<size_t>(across() * ceiling(rows, rows_of_task)); }
  void of(size_t index, int64_t* first, int64_t* last, int64_t* first_row, int64_t* last_row) const {
    const int64_t i = static_cast<int64_t>(index);
    *first = i % across() * units_of_task;
    *last = *first + units_of_task < units ? *first + units_of_task : units;
    *first_row = i / across() * rows_of_task;
    *last_row = *first_row + rows_of_task < rows ? *first_row + rows_of_task : rows;
  }
};

struct LinearWork {
  LinearCall arguments;
  const Kernels* kernels;
  Grid grid;
  bool many;
  std::atomic<bool> out_of_memory{false};

  static void task(void* user, size_t index) {
    LinearWork& self = *static_cast<LinearWork*>(user);
    int64_t first, last, first_row, last_row;
    self.grid.of(index, &first, &last, &first_row, &last_row);
    const int64_t unit = self.many ? kLinearPanel : 4, columns = self.arguments.columns;
    const int64_t end = last * unit < columns ? last * unit : columns;
    if (!self.many) return self.kernels->linear.few(self.arguments, first * unit, end);
    float* scratch = thread_scratch(kLinearScratch);
    if (scratch == nullptr) self.out_of_memory = true;
    else self.kernels->linear.many(self.arguments, first * unit, end, first_row, last_row, scratch);
  }
};

struct BlockWork {
  BlockCall arguments;
  const Kernels* kernels;
  Grid grid;
  int64_t tiles_of_task, tiles;

  static void quantize(void* user, size_t index) {
    const BlockWork& self = *static_cast<const BlockWork*>(user);
    const int64_t first = static_cast<int64_t>(index) * self.tiles_of_task, last = first + self.tiles_of_task;
    self.kernels->linear.quantize(self.arguments, first, last < self.tiles ? last : self.tiles);
  }

  static void product(void* user, size_t index) {
    const BlockWork& self = *static_cast<const BlockWork*>(user);
    int64_t first, last, first_tile, last_tile;
    self.grid.of(index, &first, &last, &first_tile, &last_tile);
    self.kernels->linear.block(self.arguments, first, last, first_tile, last_tile);
  }
};

struct EmbeddingWork {
  const int64_t* ids;
  const uint8_t* weight;
  float* out;
  PanelLayout layout;
  int64_t count, depth, block, bits, columns;
  bool zeros;
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
    for (int64_t b = 0; b < layout.blocks; ++b) {
      uint16_t half;
      std::memcpy(&half, panel + layout.scales + (b * kPanelColumns + c) * 2, sizeof half);
      const uint32_t shifted = static_cast<uint32_t>(half) << 13;
      float scale;
      std::memcpy(&scale, &shifted, sizeof scale);
      scale *= 5192296858534827628530496329220096.0f;  // 2^112: the difference of the exponents' offsets
      int zero = bits == 4 ? 8 : 0;
      if (zeros) {
        const uint8_t* stored = panel + layout.zeros + (b * kPanelColumns + c) * bits / 8;
        zero = bits == 4 ? *stored >> (c % 2 * 4) & 15 : static_cast<int8_t>(*stored);
      }
      const int64_t last = (b + 1) * block < depth ? (b + 1) * block : depth;
      for (int64_t k = b * block; k < last; ++k) {
        const int quant = bits == 4 ? panel[k / 8 * 32 + c * 4 + k % 4] >> (k / 4 % 2 * 4) & 15
                                    : static_cast<int8_t>(panel[k / 4 * 32 + c * 4 + k % 4]);
        out[i * depth + k] = static_cast<float>(quant - zero) * scale;
      }
    }
  }
};

// What both operators of block-wise weights check of them.
bool check_blocks(Call& call, const Node& node, const Tensor& weight) {
  call.check(node.bits == 4 || node.bits == 8, "bits must be 4 or 8, not %lld", (long long)node.bits);
  call.check(node.block >= 32 && node.block <= 256 && node.block % 32 == 0,
             "block must be a multiple of 32 up to 256, not %lld", (long long)node.block);
  call.check(node.in >= 1 && node.out >= 1, "in and out must be given: the channels and columns of the weight");
  if (!call.ok()) return false;
  const PanelLayout layout(node.in, node.block, node.bits, node.zeros != 0);
  const int64_t panels = ceiling(node.out, kPanelColumns);
  call.check(weight.rank == 2 && weight.dims[0] == panels && weight.dims[1] == layout.bytes,
             "weight must be [%lld, %lld] bytes: %lld columns in panels of 8, %lld channels in blocks of %lld",
             (long long)panels, (long long)layout.bytes, (long long)node.out, (long long)node.in,
             (long long)node.block);
  return call.ok();
}

}  // namespace

ort::Status* linear(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "Linear");
  const Tensor x = call.input(0), weight = call.input(1), bias = call.input(2);
  call.check(x && weight, "x or weight is missing");
  call.check(x.rank >= 1, "x has no dimension to multiply");
  call.check(weight.rank == 2 && weight.dims[1] == x.last(), "weight must be [columns, %lld], the width of x",
             (long long)x.last());
  if (!call.ok()) return call.status();
  LinearCall to{x.floats(), weight.floats(), bias.floats(), nullptr, 0, x.last(), weight.dims[0]};
  call.check(!bias || bias.is_vector(to.columns), "bias must be a vector of %lld elements", (long long)to.columns);
  if (!call.ok()) return call.status();
  to.rows = to.depth == 0 ? 0 : x.elements() / to.depth;
  call.check(to.depth > 0, "x has no channels");
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < x.rank; ++i) shape[i] = x.dims[i];
  shape[x.rank - 1] = to.columns;
  to.out = call.output(0, shape, x.rank);
  if (!call.ok() || to.rows == 0 || to.columns == 0) return call.status();

  const bool many = to.rows >= kManyRows;
  Grid grid{};
  grid.units = ceiling(to.columns, many ? kLinearPanel : 4);
  const int64_t unit_bytes = to.depth * 4 * (many ? kLinearPanel : 4);
  grid.units_of_task = unit_bytes >= kTaskBytes * 4 ? 1 : kTaskBytes * 4 / unit_bytes;
  grid.rows = to.rows;
  grid.rows_of_task = many ? kTaskRows : to.rows;
  LinearWork work{to, node.kernels, grid, many};
  call.parallel(LinearWork::task, grid.tasks(), &work);
  call.check(!work.out_of_memory, "no memory for a panel of the weight");
  return call.status();
}

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
  to.zeros = node.zeros != 0;
  to.out = call.output(0, shape, x.rank);
  if (!call.ok() || to.rows == 0) return call.status();

  static thread_local Shared shared;
  const PanelLayout layout(to.depth, to.block, to.bits, to.zeros);
  const size_t scales = static_cast<size_t>(to.rows * layout.blocks) * 2 * sizeof(float);
  const size_t quants = static_cast<size_t>(to.rows * layout.blocks * to.block);
  void* memory = shared.reserve(scales + quants);
  call.check(memory != nullptr, "no memory for %zu bytes of quantised rows", scales + quants);
  if (!call.ok()) return call.status();
  to.scales = static_cast<float*>(memory);
  to.quants = static_cast<int8_t*>(memory) + scales;

  BlockWork work{to, node.kernels, {}, 8, ceiling(to.rows, kRowTile)};
  call.parallel(BlockWork::quantize, static_cast<size_t>(ceiling(work.tiles, work.tiles_of_task)), &work);
  work.grid.units = ceiling(to.columns, kPanelColumns);
  work.grid.units_of_task = layout.bytes >= kTaskBytes ? 1 : kTaskBytes / layout.bytes;
  work.grid.rows = work.tiles;
  work.grid.rows_of_task = kTaskRows / kRowTile;
  call.parallel(BlockWork::product, work.grid.tasks(), &work);
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
  const bool zeros = node.zeros != 0;
  EmbeddingWork work{ids.ints(), static_cast<const uint8_t*>(weight.data), call.output(0, shape, ids.rank + 1),
                     PanelLayout(node.in, node.block, node.bits, zeros), ids.elements(), node.in, node.block,
                     node.bits, node.out, zeros};
  call.parallel(EmbeddingWork::task, static_cast<size_t>(ceiling(work.count, EmbeddingWork::kTokens)), &work);
  call.check(!work.outside, "an id is outside of [0, %lld)", (long long)node.out);
  return call.status();
}

}  // namespace precast
