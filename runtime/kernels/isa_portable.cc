// The kernels, compiled for any processor.
#include "attention.h"
#include "block_linear.h"
#include "few_queries.h"
#include "gated.h"
#include "gelu.h"
#include "half_linear.h"
#include "norm.h"

namespace precast {

extern const RowKernels kRowsPortable = {norm_rows<norm_row>, norm_rows<rms_row>, gelu_rows, gated_rows};
extern const AttentionKernels kAttentionPortable = {
    kBlock, attention_scratch, attention_task, few_scratch, few_task, few_merge,
};
extern const BlockKernels kBlockPortable = kBlockPanels;
extern const HalfKernels kHalfPortable = {half_product, half_column, kHalfScratch};

}  // namespace precast
