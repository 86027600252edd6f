// The kernels, compiled for AVX2 with FMA.
#define PRECAST_ISA_AVX2
#include "attention.h"
#include "gelu.h"
#include "norm.h"

namespace precast {

extern const Kernels kAvx2 = {"avx2", norm_rows, gelu_rows, attention_scratch, attention_task};

}  // namespace precast
