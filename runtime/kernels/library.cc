// RegisterCustomOps: the entry point ONNX Runtime looks for, and the description of each operator.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <new>

#include "operators.h"
#include "tensors.h"

namespace precast {
namespace {

constexpr const char* kDomain = "precast.cpu";
// Positions a window may reach; keeps sums of positions far from overflow.
constexpr int64_t kFarthest = int64_t{1} << 40;

struct Definition : ort::CustomOp {
  const char* op_name;
  ort::Status* (*run)(const Node&, ort::KernelContext*);
  const char* inputs;  // one letter each: f float32, i int64, b uint8, c int8, h uint16
  size_t required;
  const char* outputs;
  const char* attributes;  // names with a space between them

  Definition(const char* op, ort::Status* (*function)(const Node&, ort::KernelContext*), const char* types,
             size_t least, const char* results, const char* names);
};

int type_of(char letter) {
  switch (letter) {
    case 'i': return ort::kInt64;
    case 'b': return ort::kUint8;
    case 'c': return ort::kInt8;
    case 'h': return ort::kUint16;
    default: return ort::kFloat;
  }
}

const Definition& definition(const ort::CustomOp* op) { return *static_cast<const Definition*>(op); }

struct Kernel {
  Node node;
  ort::Status* (*run)(const Node&, ort::KernelContext*);
};

// The attributes there are, each with the range outside of which no node is made.
struct Integer {
  const char* name;
  int64_t Node::*field;
  int64_t least, most;
};
struct Real {
  const char* name;
  float Node::*field;
  float least;  // and no infinity
};
constexpr Integer kIntegers[] = {
    {"tanh", &Node::tanh, 0, 1},
    {"bfloat16", &Node::bfloat16, 0, 1},
    {"row_bits", &Node::row_bits, 8, 12},
    {"float16", &Node::float16, 0, 1},
    {"heads", &Node::heads, 1, INT32_MAX},
    {"kv_heads", &Node::kv_heads, 0, INT32_MAX},
    {"window", &Node::window, -1, INT64_MAX},
    {"window_left", &Node::window_left, -1, INT64_MAX},
    {"window_right", &Node::window_right, -1, INT64_MAX},
    {"bits", &Node::bits, INT64_MIN, INT64_MAX},    // which of them go together
    {"block", &Node::block, INT64_MIN, INT64_MAX},  // is asked where they are used
    {"zeros", &Node::zeros, INT64_MIN, INT64_MAX},
    {"in", &Node::in, 1, INT32_MAX},
    {"hidden", &Node::hidden, 1, INT32_MAX},
    {"out", &Node::out, 1, INT32_MAX},
};
constexpr float kLowest = -3.402823466e38f;
constexpr Real kReals[] = {
    {"epsilon", &Node::epsilon, 0.0f},
    {"scale", &Node::scale, kLowest},
    {"softcap", &Node::softcap, 0.0f},
};

// Whether an operator with these attributes has one of that name.
bool has(const char* attributes, const char* name) {
  const size_t length = std::strlen(name);
  for (const char* at = attributes; (at = std::strstr(at, name)) != nullptr; at += length) {
    const bool begins = at == attributes || at[-1] == ' ', ends = at[length] == ' ' || at[length] == '\0';
    if (begins && ends) return true;
  }
  return false;
}

// Reads attributes until one is refused: no node is made then, and nothing computed from it.
class Attributes {
 public:
  Attributes(const ort::Api& api, const ort::KernelInfo* info, const Definition& op)
      : api_(api), info_(info), op_(op) {}

  ort::Status* status() const { return status_; }

  void read(const Integer& attribute, Node& node) {
    int64_t& value = node.*attribute.field;
    const bool given = found(attribute.name, &value, "an integer");
    check(given || value >= attribute.least, "%s must be given", attribute.name);
    check(value >= attribute.least && value <= attribute.most, "%s must be from %lld to %lld, not %lld", attribute.name,
          static_cast<long long>(attribute.least), static_cast<long long>(attribute.most),
          static_cast<long long>(value));
  }

  void read(const Real& attribute, Node& node) {
    float& value = node.*attribute.field;
    found(attribute.name, &value, "a float");
    const bool fits = value >= attribute.least && value <= -kLowest;
    check(fits, attribute.least == 0.0f ? "%s must be a finite number of at least 0, not %g"
                                        : "%s must be a finite number, not %g",
          attribute.name, static_cast<double>(value));
  }

  void read_activation(Node& node) {
    char text[sizeof node.activation];
    size_t size = sizeof text;
    ort::Status* status = api_.attribute(info_, "activation", text, &size);
    if (status == nullptr) std::memcpy(node.activation, text, size);
    else api_.release(status);
    // Longer than any that is known.
    if (size > sizeof text) std::memcpy(node.activation, "?", 2);
    else if (status != nullptr) refuse_others("activation", "a string");
  }

 private:
  // Whether the node has it; one that is not there keeps its default.
  template <typename T>
  bool found(const char* name, T* value, const char* kind) {
    T given = *value;
    ort::Status* status = status_ == nullptr ? api_.attribute(info_, name, &given) : nullptr;
    if (status == nullptr) {
      *value = given;
      return true;
    }
    api_.release(status);
    refuse_others(name, kind);
    return false;
  }

  // The interface does not tell an attribute of another kind from one that is missing: it is asked for every kind.
  void refuse_others(const char* name, const char* kind) {
    int64_t integer;
    float real;
    size_t size = 0;
    ort::Status* failed[] = {
        api_.attribute(info_, name, &integer), api_.attribute(info_, name, &real),
        api_.attribute(info_, name, static_cast<char*>(nullptr), &size),
        api_.attribute(info_, name, static_cast<float*>(nullptr), &size),
        api_.attribute(info_, name, static_cast<int64_t*>(nullptr), &size)};
    bool missing = true;
    for (ort::Status* status : failed) {
      if (status == nullptr) missing = false;
      else api_.release(status);
    }
    check(missing, "%s must be %s", name, kind);
  }

  __attribute__((format(printf, 3, 4))) void check(bool condition, const char* message, ...) {
    if (condition || status_ != nullptr) return;
    std::va_list values;
    va_start(values, message);
    status_ = refusal(api_, op_.op_name, message, values);
    va_end(values);
  }

  const ort::Api& api_;
  const ort::KernelInfo* info_;
  const Definition& op_;
  ort::Status* status_ = nullptr;
};

ort::Status* create(const ort::CustomOp* op, const void* table, const ort::KernelInfo* info, void** out) {
  const ort::Api api(table);
  const Kernels* kernels = choose_kernels();
  if (kernels == nullptr) {
    return api.create_status(ort::kInvalidArgument,
                             "precast.cpu: PRECAST_KERNELS_ISA names no instruction set of this processor");
  }
  Kernel* kernel = new (std::nothrow) Kernel;
  if (kernel == nullptr) return api.create_status(ort::kFail, "precast.cpu: no memory for a node");
  kernel->run = definition(op).run;
  Node& node = kernel->node;
  node.api = api;
  node.kernels = kernels;
  const char* names = definition(op).attributes;
  Attributes attributes(api, info, definition(op));
  for (const Integer& attribute : kIntegers) {
    if (has(names, attribute.name)) attributes.read(attribute, node);
  }
  for (const Real& attribute : kReals) {
    if (has(names, attribute.name)) attributes.read(attribute, node);
  }
  if (has(names, "activation")) attributes.read_activation(node);
  if (attributes.status() != nullptr) {
    delete kernel;
    return attributes.status();
  }
  for (int64_t* window : {&node.window, &node.window_left, &node.window_right}) {
    if (*window > kFarthest) *window = kFarthest;
  }
  *out = kernel;
  return nullptr;
}

ort::Status* run_kernel(void* kernel, ort::KernelContext* context) {
  const Kernel& self = *static_cast<const Kernel*>(kernel);
  return self.run(self.node, context);
}

Definition::Definition(const char* op, ort::Status* (*function)(const Node&, ort::KernelContext*), const char* types,
                       size_t least, const char* results, const char* names)
    : op_name(op), run(function), inputs(types), required(least), outputs(results), attributes(names) {
  name = [](const ort::CustomOp* self) { return definition(self).op_name; };
  provider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  input_type = [](const ort::CustomOp* self, size_t index) -> int { return type_of(definition(self).inputs[index]); };
  ort::CustomOp::input_count = [](const ort::CustomOp* self) { return std::strlen(definition(self).inputs); };
  output_type = [](const ort::CustomOp* self, size_t index) -> int { return type_of(definition(self).outputs[index]); };
  ort::CustomOp::output_count = [](const ort::CustomOp* self) { return std::strlen(definition(self).outputs); };
  destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  input_characteristic = [](const ort::CustomOp* self, size_t index) -> int {
    return index < definition(self).required ? ort::kRequired : ort::kOptional;
  };
  output_characteristic = [](const ort::CustomOp*, size_t index) -> int {
    return index == 0 ? ort::kRequired : ort::kOptional;
  };
  input_memory = [](const ort::CustomOp*, size_t) { return 0; };
  variadic_input_minimum = variadic_output_minimum = [](const ort::CustomOp*) { return 1; };
  variadic_input_homogeneous = variadic_output_homogeneous = [](const ort::CustomOp*) { return 1; };
  create_kernel_v2 = create;
  compute_v2 = run_kernel;
  first_version = [](const ort::CustomOp*) { return 1; };
  last_version = [](const ort::CustomOp*) { return INT32_MAX; };
}

// Kept until the process ends: sessions refer to them for as long as they live. One domain serves them all.
const auto& operators() {
  static const Definition all[] = {
      // x, residual, weight, beta?, bias? -> out, sum?
      {"AddLayerNorm", add_layer_norm, "fffff", 3, "ff", "epsilon"},
      // x, weight, beta?
      {"LayerNorm", layer_norm, "fff", 2, "f", "epsilon"},
      // x, residual, weight -> out, sum?
      {"AddRMSNorm", add_rms_norm, "fff", 3, "ff", "epsilon"},
      // x, weight
      {"RMSNorm", rms_norm, "ff", 2, "f", "epsilon"},
      // x, bias?
      {"BiasGelu", bias_gelu, "ff", 1, "f", "tanh"},
      // gate, up
      {"GatedActivation", gated_activation, "ff", 2, "f", "activation"},
      // query (or packed query, key, value), key?, value?, qkv_bias?, mask?, attention_bias?
      {"Attention", attention, "ffffif", 1, "f", "heads kv_heads scale softcap window_left window_right bfloat16"},
      // query, key, value, past_key, past_value, past_lengths, lengths, bias? -> output, present_key, present_value
      {"CachedAttention", cached_attention, "fffffiif", 7, "fff", "heads kv_heads scale softcap window bfloat16"},
      // The same with caches of integers, see `cache_row`.
      {"CachedAttentionInt8", cached_attention_int8, "fffcciif", 7, "fcc", "heads kv_heads scale softcap window bfloat16"},
      // x, weight, bias?
      {"BlockLinear", block_linear, "fbf", 2, "f", "bits block zeros in out bfloat16 row_bits"},
      // x, up, down, up_bias?, down_bias?
      {"BlockFeedForward", block_feed_forward, "fbbff", 3, "f", "bits block zeros in hidden out tanh bfloat16 row_bits"},
      // ids, weight
      {"BlockEmbedding", block_embedding, "ib", 2, "f", "bits block zeros in out"},
      // x, weight, bias?
      {"HalfLinear", half_linear, "fhf", 2, "f", "float16 in out"},
      // ids, weight
      {"HalfEmbedding", half_embedding, "ih", 2, "f", "float16 in out"},
  };
  return all;
}

}  // namespace
}  // namespace precast

#define PRECAST_EXPORT extern "C" __attribute__((visibility("default")))

PRECAST_EXPORT precast::ort::Status* RegisterCustomOps(precast::ort::SessionOptions* options,
                                                       const precast::ort::ApiBase* base) {
  using namespace precast;
  const ort::Api api(base->get_api(ort::kApiVersion));
  // Without a table there is no way to make a status either; the backend checks the version before.
  if (!api) return nullptr;
  struct Registration {
    ort::Domain* domain = nullptr;
    ort::Status* status = nullptr;
  };
  static const Registration registration = [&] {
    Registration made;
    made.status = api.create_domain(kDomain, &made.domain);
    for (const Definition& op : operators()) {
      if (made.status == nullptr) made.status = api.add_op(made.domain, &op);
    }
    return made;
  }();
  if (registration.status != nullptr) {
    return api.create_status(ort::kFail, "precast.cpu: the operators cannot be registered");
  }
  return api.add_domain(options, registration.domain);
}

// The instruction sets this processor has kernels for, best first: the index-th name, or null.
PRECAST_EXPORT const char* precast_kernels_isa(int index) {
  const precast::Kernels* const* list = precast::available_kernels();
  for (int i = 0; list[i] != nullptr; ++i) {
    if (i == index) return list[i]->name;
  }
  return nullptr;
}

// The operators, for tests of all of them: of the index-th its name, the types of its inputs, how many of these are
// required, the types of its outputs and its attributes, separated by spaces; or null.
PRECAST_EXPORT const char* precast_kernels_operator(int index) {
  static thread_local char text[256];
  int at = 0;
  for (const precast::Definition& op : precast::operators()) {
    if (at++ != index) continue;
    std::snprintf(text, sizeof text, "%s %s %zu %s %s", op.op_name, op.inputs, op.required, op.outputs, op.attributes);
    return text;
  }
  return nullptr;
}
