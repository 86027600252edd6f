// The work of an attention divided: heads and queries, or, for few queries, heads and spans of keys.
#include "attention_run.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace precast {
namespace {

// Queries of a task are divided only where batch and heads do not give this many tasks: each copies its keys again.
constexpr int64_t kTasks = 32;
constexpr int64_t kSmallestChunk = 96;
constexpr int64_t kFewQueries = 12;

struct Work {
  const AttentionCall& arguments;
  const AttentionKernels& kernels;
  size_t floats;
  std::atomic<int32_t>* left;  // spans to come of each key/value head; null: nothing is to be merged
  std::atomic<bool> out_of_memory{false};

  static void chunk(void* user, size_t index) {
    Work& self = *static_cast<Work*>(user);
    float* scratch = thread_scratch(self.floats);
    if (scratch != nullptr) self.kernels.task(self.arguments, static_cast<int64_t>(index), scratch);
    else self.out_of_memory = true;
  }

  static void span(void* user, size_t index) {
    Work& self = *static_cast<Work*>(user);
    float* scratch = thread_scratch(self.floats);
    if (scratch == nullptr) {
      self.out_of_memory = true;
      return;
    }
    const int64_t task = static_cast<int64_t>(index), head = task / self.arguments.spans;
    self.kernels.few(self.arguments, task, scratch);
    // Whoever comes last merges, in the order of the spans.
    if (self.left != nullptr && self.left[head].fetch_sub(1) == 1) {
      self.kernels.few_merge(self.arguments, head, scratch);
    }
  }
};

void run_chunks(Call& call, const AttentionKernels& kernels, AttentionCall& to) {
  const int64_t heads = to.batch * to.heads;
  int64_t parts = heads == 0 ? 1 : (kTasks + heads - 1) / heads;
  if (parts > to.queries / kSmallestChunk) parts = to.queries / kSmallestChunk;
  if (parts < 1) parts = 1;
  to.chunk = ceiling(ceiling(to.queries, parts), kernels.block) * kernels.block;
  to.chunks = to.chunk == 0 ? 0 : (to.queries + to.chunk - 1) / to.chunk;
  Work work{to, kernels, kernels.scratch(to), nullptr};
  call.parallel(Work::chunk, static_cast<size_t>(heads * to.chunks), &work);
  call.check(!work.out_of_memory, "no memory for %zu bytes of scratch", work.floats * sizeof(float));
}

// Some microseconds of work each, and long enough to be read at memory's full speed: that begins slowly. Spans begin at
// whole multiples of their length, so that the keys a row's queries see may lie in one more.
int64_t most_spans(const AttentionCall& to) {
  int64_t most = 1;
  for (int64_t row = 0; row < to.batch; ++row) {
    const int64_t queries = to.past == nullptr ? to.queries : to.lengths[row];
    const int64_t keys = to.past == nullptr ? to.keys : to.past[row] + queries;
    int64_t from = to.window_left < 0 ? 0 : keys - queries - to.window_left;
    if (from < 0) from = 0;
    const int64_t spans = (keys + to.span - 1) / to.span - from / to.span;
    if (spans > most) most = spans;
    if (to.past == nullptr) break;
  }
  return most;
}

void run_spans(Call& call, const AttentionKernels& kernels, AttentionCall& to) {
  to.span = to.size <= 64 ? 512 : to.size <= 128 ? 256 : 128;
  to.spans = most_spans(to);
  const size_t heads = static_cast<size_t>(to.batch * to.kv_heads);
  Work work{to, kernels, kernels.few_scratch(to), nullptr};
  void* memory = nullptr;
  if (to.spans > 1 && heads > 0) {
    const size_t rows = heads * static_cast<size_t>(to.queries * (to.heads / to.kv_heads));
    const size_t row = static_cast<size_t>(to.spans * (to.size + 2)) * sizeof(float);
    size_t parts = 0;
    const bool too_many = __builtin_mul_overflow(rows, row, &parts);
    memory = too_many ? nullptr : std::malloc(parts + heads * sizeof(std::atomic<int32_t>));
    call.check(memory != nullptr, "no memory for %zu partial results of %zu bytes", rows, row);
    if (!call.ok()) return;
    to.parts = static_cast<float*>(memory);
    work.left = reinterpret_cast<std::atomic<int32_t>*>(static_cast<char*>(memory) + parts);
    for (size_t i = 0; i < heads; ++i) new (work.left + i) std::atomic<int32_t>(static_cast<int32_t>(to.spans));
  }
  call.parallel(Work::span, heads * static_cast<size_t>(to.spans), &work);
  std::free(memory);
  call.check(!work.out_of_memory, "no memory for %zu bytes of scratch", work.floats * sizeof(float));
}

}  // namespace

void run_attention(Call& call, const Kernels& kernels, AttentionCall& to) {
  if (!call.ok() || to.queries == 0 || to.batch == 0) return;
  const bool halves = to.bfloat16 && kernels.attention_of_bfloat16 != nullptr;
  if (to.queries <= kFewQueries) run_spans(call, *kernels.attention, to);
  else run_chunks(call, halves ? *kernels.attention_of_bfloat16 : *kernels.attention, to);
}

}  // namespace precast
