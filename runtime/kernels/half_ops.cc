// HalfLinear and HalfEmbedding: shapes, and columns and rows divided among threads.
#include <atomic>

#include "operators.h"
#include "tensors.h"

namespace precast {
namespace {

// Bytes of weights of one task for few rows: a few microseconds.
constexpr int64_t kTaskBytes = 48 * 1024;
// Rows of one task where they are many, at most: a span of their channels stays in the second cache.
constexpr int64_t kTaskRows = 96;
// Panels of such a task.
constexpr int64_t kTaskPanels = 8;

struct HalfWork {
  HalfCall arguments;
  const Kernels* kernels;
  int64_t panels, panels_of_task, across, rows_of_task;
  std::atomic<bool> full{false};

  static void task(void* user, size_t index) {
    HalfWork& self = *static_cast<HalfWork*>(user);
    const int64_t i = static_cast<int64_t>(index);
    const int64_t first = i % self.across * self.panels_of_task, row = i / self.across * self.rows_of_task;
    float* scratch = thread_scratch(self.kernels->half->scratch);
    if (scratch == nullptr) {
      self.full = true;
      return;
    }
    self.kernels->half->product(self.arguments, first, smaller(first + self.panels_of_task, self.panels), row,
                               smaller(row + self.rows_of_task, self.arguments.rows), scratch);
  }
};

struct EmbeddingWork {
  HalfCall arguments;
  const Kernels* kernels;
  const int64_t* ids;
  int64_t count;
  std::atomic<bool> outside{false};

  static constexpr int64_t kTokens = 64;  // of one task

  static void task(void* user, size_t index) {
    EmbeddingWork& self = *static_cast<EmbeddingWork*>(user);
    const HalfCall& call = self.arguments;
    const int64_t first = static_cast<int64_t>(index) * kTokens;
    for (int64_t i = first; i < self.count && i < first + kTokens; ++i) {
      if (self.ids[i] < 0 || self.ids[i] >= call.columns) self.outside = true;
      else self.kernels->half->column(call, self.ids[i], call.out + i * call.depth);
    }
  }
};

// What both operators check of a weight.
bool check_weight(Call& call, const Node& node, const Tensor& weight) {
  const int64_t panels = ceiling(node.out, kHalfPanel);
  call.check(weight.rank == 3 && weight.dims[0] == panels && weight.dims[1] == node.in &&
                 weight.dims[2] == kHalfPanel,
             "weight must be [%lld, %lld, 16]: %lld columns in panels of 16, %lld channels",
             static_cast<long long>(panels), static_cast<long long>(node.in), static_cast<long long>(node.out),
             static_cast<long long>(node.in));
  return call.ok();
}

HalfCall call_of(const Node& node, const Tensor& weight) {
  HalfCall made{};
  made.weight = static_cast<const uint16_t*>(weight.data);
  made.depth = node.in;
  made.columns = node.out;
  made.kind = node.float16 != 0 ? kFloat16 : kBfloat16;
  return made;
}

}  // namespace

ort::Status* half_linear(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "HalfLinear");
  const Tensor x = call.input(0), weight = call.input(1, ort::kUint16), bias = call.input(2);
  call.check(x && weight, "x or weight is missing");
  if (!call.ok() || !check_weight(call, node, weight)) return call.status();
  call.check(x.rank >= 1 && x.last() == node.in, "x must have %lld channels, as the weight has",
             static_cast<long long>(node.in));
  call.check(!bias || bias.is_vector(node.out), "bias must be a vector of %lld elements",
             static_cast<long long>(node.out));
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < x.rank; ++i) shape[i] = x.dims[i];
  shape[x.rank - 1] = node.out;
  HalfWork work{call_of(node, weight), node.kernels, ceiling(node.out, kHalfPanel), kTaskPanels, 1, 1};
  HalfCall& to = work.arguments;
  to.x = x.floats();
  to.bias = bias.floats();
  to.rows = x.elements() / node.in;
  to.out = call.output(0, shape, x.rank);
  if (!call.ok() || to.rows == 0) return call.status();
  const int64_t bytes = node.in * kHalfPanel * 2;
  // Of few rows, panels that lie side by side in registers belong to one task.
  if (to.rows <= kTaskPanels) work.panels_of_task = ceiling(ceiling(kTaskBytes, bytes), 4) * 4;
  work.across = ceiling(work.panels, work.panels_of_task);
  // Tasks of one size, as the threads share their number; of whole tiles on every instruction set.
  work.rows_of_task = ceiling(ceiling(to.rows, ceiling(to.rows, kTaskRows)), 24) * 24;
  const int64_t down = ceiling(to.rows, work.rows_of_task);
  call.parallel(HalfWork::task, static_cast<size_t>(work.across * down), &work);
  call.check(!work.full, "no memory for %zu floats of a thread's own", node.kernels->half->scratch);
  return call.status();
}

ort::Status* half_embedding(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "HalfEmbedding");
  const Tensor ids = call.input(0, ort::kInt64), weight = call.input(1, ort::kUint16);
  call.check(ids && weight, "ids or weight is missing");
  if (!call.ok() || !check_weight(call, node, weight)) return call.status();
  call.check(ids.rank < kMaxRank, "ids have %zu dimensions", ids.rank);
  if (!call.ok()) return call.status();
  int64_t shape[kMaxRank];
  for (size_t i = 0; i < ids.rank; ++i) shape[i] = ids.dims[i];
  shape[ids.rank] = node.in;
  EmbeddingWork work{call_of(node, weight), node.kernels, ids.ints(), ids.elements()};
  work.arguments.out = call.output(0, shape, ids.rank + 1);
  call.parallel(EmbeddingWork::task, static_cast<size_t>(ceiling(work.count, EmbeddingWork::kTokens)), &work);
  call.check(!work.outside, "an id is outside of [0, %lld)", static_cast<long long>(node.out));
  return call.status();
}

}  // namespace precast
