// The kernels, compiled for AVX-512F.
#define PRECAST_ISA_AVX512
#include "attention.h"
#include "few_queries.h"
#include "gated.h"
#include "gelu.h"
#include "half_linear.h"
#include "norm.h"

namespace precast {

extern const RowKernels kRowsAvx512 = {norm_rows<norm_row>, norm_rows<rms_row>, gelu_rows, gated_rows};
extern const AttentionKernels kAttentionAvx512 = {
    kBlock, attention_scratch, attention_task, few_scratch, few_task, few_merge,
};
extern const HalfKernels kHalfAvx512 = {half_product, half_column, kHalfScratch};

}  // namespace precast
