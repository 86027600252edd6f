// Inputs and outputs of one call of an operator, checked: a wrong shape is a status, never a crash.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "ort_abi.h"

namespace precast {

constexpr size_t kMaxRank = 8;
// Elements no memory holds: with fewer, whatever is computed of a tensor's dimensions is far from overflow.
constexpr int64_t kMaxElements = int64_t{1} << 48;

inline int64_t ceiling(int64_t count, int64_t part) { return (count + part - 1) / part; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// A status of a message about an operator.
__attribute__((format(printf, 3, 0))) inline ort::Status* refusal(const ort::Api& api, const char* op,
                                                                  const char* message, std::va_list values) {
  char text[320];
  const int length = std::snprintf(text, sizeof text, "precast.cpu::%s: ", op);
  std::vsnprintf(text + length, sizeof text - static_cast<size_t>(length), message, values);
  return api.create_status(ort::kInvalidArgument, text);
}

// Null data: the optional tensor was not given.
struct Tensor {
  const void* data = nullptr;
  size_t rank = 0;
  int64_t dims[kMaxRank] = {};

  explicit operator bool() const { return data != nullptr; }
  const float* floats() const { return static_cast<const float*>(data); }
  const int64_t* ints() const { return static_cast<const int64_t*>(data); }
  int64_t last() const { return rank == 0 ? 1 : dims[rank - 1]; }
  int64_t elements() const {
    int64_t count = 1;
    for (size_t i = 0; i < rank; ++i) count *= dims[i];
    return count;
  }
  bool is_vector(int64_t length) const { return rank == 1 && dims[0] == length; }
  // Of a tensor without elements, its other dimensions count all the same: strides are made of them.
  bool is_holdable() const {
    int64_t count = 1;
    for (size_t i = 0; i < rank; ++i) {
      if (dims[i] != 0 && (__builtin_mul_overflow(count, dims[i], &count) || count > kMaxElements)) return false;
    }
    return true;
  }
};

// Reads tensors until something is wrong; from then on `status` says what, and every further call does nothing: what
// is refused reads as a tensor that was not given. What is computed of the shapes is computed after their checks.
class Call {
 public:
  Call(const ort::Api& api, ort::KernelContext* context, const char* op) : api_(api), context_(context), op_(op) {
    keep(api_.input_count(context_, &inputs_));
    keep(api_.output_count(context_, &outputs_));
  }

  bool ok() const { return status_ == nullptr; }
  ort::Status* status() const { return status_; }

  // The input at ``index`` in float32, or in int64 where that is said.
  Tensor input(size_t index, int type = ort::kFloat) {
    const ort::Value* value = nullptr;
    if (!ok() || index >= inputs_) return {};
    keep(api_.input(context_, index, &value));
    if (!ok() || value == nullptr) return {};
    ort::ShapeInfo* info = nullptr;
    keep(api_.shape_info(value, &info));
    if (!ok()) return {};
    Tensor tensor;
    int found = 0;
    keep(api_.element_type(info, &found));
    if (ok()) keep(api_.rank(info, &tensor.rank));
    check(found == type, "input %zu has element type %d instead of %d", index, found, type);
    check(tensor.rank <= kMaxRank, "input %zu has %zu dimensions, more than %zu", index, tensor.rank, kMaxRank);
    if (ok()) keep(api_.dims(info, tensor.dims, tensor.rank));
    api_.release(info);
    if (!ok()) return {};
    check(tensor.is_holdable(), "input %zu has dimensions whose product is above 2^48", index);
    void* data = nullptr;
    if (ok()) keep(api_.data(const_cast<ort::Value*>(value), &data));
    if (!ok()) return {};
    // A tensor without elements may come without memory; it was given all the same.
    static const int64_t nothing = 0;
    tensor.data = data == nullptr ? static_cast<const void*>(&nothing) : data;
    return tensor;
  }

  // Null where the graph does not ask for this output.
  float* output(size_t index, const int64_t* dims, size_t rank) {
    ort::Value* value = nullptr;
    void* data = nullptr;
    if (!ok() || index >= outputs_) return nullptr;
    keep(api_.output(context_, index, dims, rank, &value));
    if (ok() && value != nullptr) keep(api_.data(value, &data));
    return static_cast<float*>(data);
  }

  // Makes the message the call's status where the condition does not hold.
  __attribute__((format(printf, 3, 4))) void check(bool condition, const char* message, ...) {
    if (condition || !ok()) return;
    std::va_list values;
    va_start(values, message);
    status_ = refusal(api_, op_, message, values);
    va_end(values);
  }

  // Runs the tasks on the session's threads; a single one at once, without waking any.
  void parallel(void (*task)(void*, size_t), size_t count, void* user) {
    if (!ok() || count == 0) return;
    if (count == 1) return task(user, 0);
    keep(api_.parallel_for(context_, task, count, user));
  }

 private:
  void keep(ort::Status* status) {
    if (status == nullptr) return;
    if (status_ == nullptr) status_ = status;
    else api_.release(status);
  }

  const ort::Api& api_;
  ort::KernelContext* context_;
  const char* op_;
  size_t inputs_ = 0, outputs_ = 0;
  ort::Status* status_ = nullptr;
};

}  // namespace precast
