// Norms and activations: shapes, and rows divided among threads.
#include <cstring>

#include "operators.h"
#include "tensors.h"

namespace precast {
namespace {

// Elements of one task: some microseconds of work, below which waking a thread costs more than it brings.
constexpr int64_t kTaskElements = 8192;

template <typename Arguments>
struct Rows {
  Arguments arguments;
  void (*run)(const Arguments&, int64_t, int64_t);
  int64_t rows, rows_of_task;

  static void task(void* user, size_t index) {
    const Rows& self = *static_cast<const Rows*>(user);
    const int64_t first = static_cast<int64_t>(index) * self.rows_of_task;
    const int64_t last = first + self.rows_of_task < self.rows ? first + self.rows_of_task : self.rows;
    self.run(self.arguments, first, last);
  }
};

template <typename Arguments>
void over_rows(Call& call, const Arguments& arguments, void (*run)(const Arguments&, int64_t, int64_t), int64_t rows) {
  if (!call.ok() || rows == 0 || arguments.width == 0) return;
  const int64_t wanted = kTaskElements / arguments.width;
  Rows<Arguments> work{arguments, run, rows, wanted < 1 ? 1 : wanted};
  call.parallel(Rows<Arguments>::task, static_cast<size_t>((rows + work.rows_of_task - 1) / work.rows_of_task), &work);
}

void check_vector(Call& call, const char* name, const Tensor& vector, int64_t width) {
  call.check(!vector || vector.is_vector(width), "%s must be a vector of %lld elements, the width of x", name,
             static_cast<long long>(width));
}

// Rows after which ``tensor`` repeats when it is broadcast to ``shape``: only leading dimensions may be 1 or missing.
int64_t repeating_rows(Call& call, const char* name, const Tensor& tensor, const Tensor& shape) {
  bool fits = tensor.rank >= 1 && tensor.rank <= shape.rank && tensor.last() == shape.last();
  bool leading = true;
  for (size_t i = 0; fits && i + 1 < tensor.rank; ++i) {
    const int64_t have = tensor.dims[i], want = shape.dims[i + shape.rank - tensor.rank];
    leading = leading && have == 1;
    fits = have == want || leading;
  }
  call.check(fits, "%s does not broadcast over the leading dimensions of the other", name);
  return call.ok() && tensor.last() > 0 ? tensor.elements() / tensor.last() : 1;
}

// Whether `a` is the shape of a sum of the two: more dimensions, or more than the other's 1 where they differ first.
bool is_larger(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return a.rank > b.rank;
  for (size_t i = 0; i < a.rank; ++i) {
    if (a.dims[i] != b.dims[i]) return b.dims[i] == 1;
  }
  return false;
}

ort::Status* normalise(const Node& node, ort::KernelContext* context, const char* op, bool residual_given,
                       void (*rows)(const NormCall&, int64_t, int64_t)) {
  Call call(node.api, context, op);
  const size_t shift = residual_given ? 1 : 0;
  const Tensor x = call.input(0);
  const Tensor residual = residual_given ? call.input(1) : Tensor();
  const Tensor weight = call.input(1 + shift), beta = call.input(2 + shift);
  const Tensor bias = residual_given ? call.input(4) : Tensor();
  call.check(x && weight && (residual || !residual_given), "an input that is required is missing");
  call.check(x.rank >= 1, "x has no dimension to normalise");
  if (!call.ok()) return call.status();
  const int64_t width = x.last();
  check_vector(call, "weight", weight, width);
  check_vector(call, "beta", beta, width);
  check_vector(call, "bias", bias, width);
  if (!call.ok()) return call.status();

  const Tensor& shape = residual && is_larger(residual, x) ? residual : x;
  NormCall arguments{};
  arguments.x_rows = repeating_rows(call, "x", x, shape);
  arguments.residual_rows = residual ? repeating_rows(call, "residual", residual, shape) : 1;
  if (!call.ok()) return call.status();
  arguments.x = x.floats();
  arguments.residual = residual.floats();
  arguments.bias = bias.floats();
  arguments.weight = weight.floats();
  arguments.beta = beta.floats();
  arguments.width = width;
  arguments.epsilon = node.epsilon;
  arguments.out = call.output(0, shape.dims, shape.rank);
  arguments.sum = residual_given ? call.output(1, shape.dims, shape.rank) : nullptr;
  over_rows(call, arguments, rows, width == 0 ? 0 : shape.elements() / width);
  return call.status();
}

}  // namespace

ort::Status* add_layer_norm(const Node& node, ort::KernelContext* context) {
  return normalise(node, context, "AddLayerNorm", true, node.kernels->rows->norm);
}

ort::Status* layer_norm(const Node& node, ort::KernelContext* context) {
  return normalise(node, context, "LayerNorm", false, node.kernels->rows->norm);
}

ort::Status* add_rms_norm(const Node& node, ort::KernelContext* context) {
  return normalise(node, context, "AddRMSNorm", true, node.kernels->rows->rms_norm);
}

ort::Status* rms_norm(const Node& node, ort::KernelContext* context) {
  return normalise(node, context, "RMSNorm", false, node.kernels->rows->rms_norm);
}

ort::Status* gated_activation(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "GatedActivation");
  const Tensor gate = call.input(0), up = call.input(1);
  static constexpr const char* kNames[] = {"silu", "gelu", "gelu_tanh", "relu"};
  int which = 0;
  while (which < 4 && std::strcmp(kNames[which], node.activation) != 0) ++which;
  call.check(which < 4, "activation must be silu, gelu, gelu_tanh or relu, not %s", node.activation);
  call.check(gate && up, "gate or up is missing");
  if (!call.ok()) return call.status();
  bool same = gate.rank == up.rank;
  for (size_t i = 0; same && i < gate.rank; ++i) same = gate.dims[i] == up.dims[i];
  call.check(same, "gate and up must have the same shape");
  if (!call.ok()) return call.status();
  // Every element stands for itself: a row is what a task takes, and the last one is shorter.
  const int64_t elements = gate.elements();
  GatedCall arguments{gate.floats(), up.floats(), call.output(0, gate.dims, gate.rank), elements, kTaskElements,
                      static_cast<Activation>(which)};
  over_rows(call, arguments, node.kernels->rows->gated, (elements + kTaskElements - 1) / kTaskElements);
  return call.status();
}

ort::Status* bias_gelu(const Node& node, ort::KernelContext* context) {
  Call call(node.api, context, "BiasGelu");
  const Tensor x = call.input(0), bias = call.input(1);
  call.check(static_cast<bool>(x), "x is missing");
  if (!call.ok()) return call.status();
  const int64_t width = x.last();
  check_vector(call, "bias", bias, width);
  if (!call.ok()) return call.status();
  GeluCall arguments{x.floats(), bias.floats(), call.output(0, x.dims, x.rank), width, node.tanh != 0};
  over_rows(call, arguments, node.kernels->rows->gelu, width == 0 ? 0 : x.elements() / width);
  return call.status();
}

}  // namespace precast
