// The kernels, compiled for any processor.
#include "attention.h"
#include "gelu.h"
#include "norm.h"

namespace precast {

extern const Kernels kPortable = {"portable", norm_rows, gelu_rows, attention_scratch, attention_task};

}  // namespace precast
