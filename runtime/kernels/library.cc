// RegisterCustomOps: the entry point ONNX Runtime looks for, and the description of each operator.
#include <cstring>
#include <new>

#include "operators.h"

namespace precast {
namespace {

constexpr const char* kDomain = "precast.cpu";
// Positions a window may reach; keeps sums of positions far from overflow.
constexpr int64_t kFarthest = int64_t{1} << 40;

struct Definition : ort::CustomOp {
  const char* op_name;
  ort::Status* (*run)(const Node&, ort::KernelContext*);
  const char* inputs;  // one letter each: f float32, i int64, b uint8, c int8
  size_t required;
  const char* outputs;

  Definition(const char* op, ort::Status* (*function)(const Node&, ort::KernelContext*), const char* types,
             size_t least, const char* results);
};

int type_of(char letter) {
  return letter == 'i' ? ort::kInt64 : letter == 'b' ? ort::kUint8 : letter == 'c' ? ort::kInt8 : ort::kFloat;
}

const Definition& definition(const ort::CustomOp* op) { return *static_cast<const Definition*>(op); }

struct Kernel {
  Node node;
  ort::Status* (*run)(const Node&, ort::KernelContext*);
};

template <typename T>
void read(const ort::Api& api, const ort::KernelInfo* info, const char* name, T* value) {
  T found = *value;
  ort::Status* status = api.attribute(info, name, &found);
  // An attribute that is not there keeps its default.
  if (status != nullptr) api.release(status);
  else *value = found;
}

template <size_t Size>
void read(const ort::Api& api, const ort::KernelInfo* info, const char* name, char (*text)[Size]) {
  char found[Size];
  size_t size = Size;
  ort::Status* status = api.attribute(info, name, found, &size);
  if (status == nullptr) std::memcpy(*text, found, size);
  else api.release(status);
  // Longer than any that is known.
  if (size > Size) std::memcpy(*text, "?", 2);
}

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
  read(api, info, "epsilon", &node.epsilon);
  read(api, info, "scale", &node.scale);
  read(api, info, "softcap", &node.softcap);
  read(api, info, "tanh", &node.tanh);
  read(api, info, "activation", &node.activation);
  read(api, info, "heads", &node.heads);
  read(api, info, "kv_heads", &node.kv_heads);
  read(api, info, "window", &node.window);
  read(api, info, "window_left", &node.window_left);
  read(api, info, "window_right", &node.window_right);
  read(api, info, "bits", &node.bits);
  read(api, info, "block", &node.block);
  read(api, info, "in", &node.in);
  read(api, info, "out", &node.out);
  read(api, info, "zeros", &node.zeros);
  if (node.window_left > kFarthest) node.window_left = kFarthest;
  if (node.window_right > kFarthest) node.window_right = kFarthest;
  *out = kernel;
  return nullptr;
}

ort::Status* run_kernel(void* kernel, ort::KernelContext* context) {
  const Kernel& self = *static_cast<const Kernel*>(kernel);
  return self.run(self.node, context);
}

Definition::Definition(const char* op, ort::Status* (*function)(const Node&, ort::KernelContext*), const char* types,
                       size_t least, const char* results)
    : op_name(op), run(function), inputs(types), required(least), outputs(results) {
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

}  // namespace
}  // namespace precast

#define PRECAST_EXPORT extern "C" __attribute__((visibility("default")))

PRECAST_EXPORT precast::ort::Status* RegisterCustomOps(precast::ort::SessionOptions* options,
                                                       const precast::ort::ApiBase* base) {
  using namespace precast;
  // Kept until the process ends: sessions refer to them for as long as they live. One domain serves them all.
  static const Definition operators[] = {
      // x, residual, weight, beta?, bias? -> out, sum?
      {"AddLayerNorm", add_layer_norm, "fffff", 3, "ff"},
      // x, weight, beta?
      {"LayerNorm", layer_norm, "fff", 2, "f"},
      // x, residual, weight -> out, sum?
      {"AddRMSNorm", add_rms_norm, "fff", 3, "ff"},
      // x, weight
      {"RMSNorm", rms_norm, "ff", 2, "f"},
      // x, bias?
      {"BiasGelu", bias_gelu, "ff", 1, "f"},
      // gate, up
      {"GatedActivation", gated_activation, "ff", 2, "f"},
      // query (or packed query, key, value), key?, value?, qkv_bias?, mask?, attention_bias?
      {"Attention", attention, "ffffif", 1, "f"},
      // query, key, value, past_key, past_value, past_lengths, lengths, bias? -> output, present_key, present_value
      {"CachedAttention", cached_attention, "fffffiif", 7, "fff"},
      // The same with caches of integers, see `cache_row`.
      {"CachedAttentionInt8", cached_attention_int8, "fffcciif", 7, "fcc"},
      // x, weight, bias?
      {"BlockLinear", block_linear, "fbf", 2, "f"},
      // ids, weight
      {"BlockEmbedding", block_embedding, "ib", 2, "f"},
  };
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
    for (const Definition& op : operators) {
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
