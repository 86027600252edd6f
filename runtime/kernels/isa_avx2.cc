// The kernels, compiled for AVX2 with FMA.
#define PRECAST_ISA_AVX2
#include "attention.h"
#include "block_linear.h"
#include "few_queries.h"
#include "gated.h"
#include "gelu.h"
#include "half_linear.h"
#include "norm.h"

namespace precast {

extern const RowKernels kRowsAvx2 = {norm_rows<norm_row>, norm_rows<rms_row>, gelu_rows, gated_rows};
extern const AttentionKernels kAttentionAvx2 = {
    kBlock, attention_scratch, attention_task, few_scratch, few_task, few_merge,
};
extern const BlockKernels kBlockAvx2 = kBlockPanels;
extern const HalfKernels kHalfAvx2 = {half_product, half_column, kHalfScratch};

}  // namespace precast
