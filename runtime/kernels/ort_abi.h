// The part of ONNX Runtime's C interface that a custom operator library needs, declared here because no package ships
// the header. The function table is append-only, so an index names one function in every release that has it
// (https://onnxruntime.ai/docs/api/c/struct_ort_api.html, in the order of its declaration).
#pragma once

#include <cstddef>
#include <cstdint>

namespace precast::ort {

// Version of the interface: the first with KernelContext_ParallelFor (ONNX Runtime 1.17).
constexpr uint32_t kApiVersion = 17;

struct Status;
struct Value;
struct ShapeInfo;
struct Domain;
struct SessionOptions;
struct KernelInfo;
struct KernelContext;

enum ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kUint16 = 4, kInt64 = 7 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version_string)();
};

// Typed access to the function table. Every call returns null or a status that the caller owns.
class Api {
  void* const* table_ = nullptr;

  // The argument types are those of the parameters below, which spell the interface.
  template <size_t Index, typename Result = Status*, typename... Arguments>
  Result call(Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(table_[Index])(arguments...);
  }

 public:
  using Task = void (*)(void* user, size_t index);

  Api() = default;
  explicit Api(const void* table) : table_(static_cast<void* const*>(table)) {}
  explicit operator bool() const { return table_ != nullptr; }

  Status* create_status(ErrorCode code, const char* message) const { return call<0>(code, message); }
  void release(Status* status) const { call<93, void>(status); }

  Status* create_domain(const char* name, Domain** out) const { return call<26>(name, out); }
  Status* add_op(Domain* domain, const struct CustomOp* op) const { return call<27>(domain, op); }
  Status* add_domain(SessionOptions* options, Domain* domain) const { return call<28>(options, domain); }

  Status* attribute(const KernelInfo* info, const char* name, float* out) const { return call<85>(info, name, out); }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const { return call<86>(info, name, out); }
  // Text with its final zero; `size` is the room for it, and becomes what it takes.
  Status* attribute(const KernelInfo* info, const char* name, char* out, size_t* size) const {
    return call<87>(info, name, out, size);
  }
  // Arrays; without `out`, their size alone.
  Status* attribute(const KernelInfo* info, const char* name, float* out, size_t* size) const {
    return call<162>(info, name, out, size);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out, size_t* size) const {
    return call<163>(info, name, out, size);
  }

  Status* input_count(const KernelContext* context, size_t* out) const { return call<88>(context, out); }
  Status* output_count(const KernelContext* context, size_t* out) const { return call<89>(context, out); }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return call<90>(context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* dims, size_t rank, Value** out) const {
    return call<91>(context, index, dims, rank, out);
  }
  Status* data(Value* value, void** out) const { return call<51>(value, out); }
  Status* shape_info(const Value* value, ShapeInfo** out) const { return call<65>(value, out); }
  Status* element_type(const ShapeInfo* info, int* out) const { return call<60>(info, out); }
  Status* rank(const ShapeInfo* info, size_t* out) const { return call<61>(info, out); }
  Status* dims(const ShapeInfo* info, int64_t* out, size_t rank) const { return call<62>(info, out, rank); }
  void release(ShapeInfo* info) const { call<99, void>(info); }

  // Runs task(user, 0 .. count - 1) on the session's threads and returns when all are done; tasks must not throw. As
  // many batches as tasks: an idle thread takes the next one, instead of shares that are fixed beforehand.
  Status* parallel_for(const KernelContext* context, Task task, size_t count, void* user) const {
    return call<274>(context, task, count, count, user);
  }
};

// The callbacks that describe one operator; null where the default is meant. The order is the interface.
struct CustomOp {
  uint32_t version = kApiVersion;
  void* (*create_kernel)(const CustomOp*, const void*, const KernelInfo*) = nullptr;
  const char* (*name)(const CustomOp*) = nullptr;
  const char* (*provider)(const CustomOp*) = nullptr;
  int (*input_type)(const CustomOp*, size_t) = nullptr;
  size_t (*input_count)(const CustomOp*) = nullptr;
  int (*output_type)(const CustomOp*, size_t) = nullptr;
  size_t (*output_count)(const CustomOp*) = nullptr;
  void (*compute)(void*, KernelContext*) = nullptr;
  void (*destroy)(void*) = nullptr;
  int (*input_characteristic)(const CustomOp*, size_t) = nullptr;
  int (*output_characteristic)(const CustomOp*, size_t) = nullptr;
  int (*input_memory)(const CustomOp*, size_t) = nullptr;
  int (*variadic_input_minimum)(const CustomOp*) = nullptr;
  int (*variadic_input_homogeneous)(const CustomOp*) = nullptr;
  int (*variadic_output_minimum)(const CustomOp*) = nullptr;
  int (*variadic_output_homogeneous)(const CustomOp*) = nullptr;
  Status* (*create_kernel_v2)(const CustomOp*, const void*, const KernelInfo*, void**) = nullptr;
  Status* (*compute_v2)(void*, KernelContext*) = nullptr;
  Status* (*infer_shapes)(const CustomOp*, void*) = nullptr;
  int (*first_version)(const CustomOp*) = nullptr;
  int (*last_version)(const CustomOp*) = nullptr;
  void* later_fields[8] = {};  // of interfaces after 17; null means "not used"
};

}  // namespace precast::ort
