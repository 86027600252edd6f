// The kernels, compiled for any processor.
#include "attention.h"
#include "block_linear.h"
#include "few_queries.h"
#include "gated.h"
#include "gelu.h"
#include "half_linear.h"
#include "norm.h"

namespace precast {

extern const Kernels kPortable = {
    "portable",           norm_rows<norm_row>, norm_rows<rms_row>, gelu_rows, gated_rows,
    attention_scratch, attention_task,      few_scratch,        few_task,  few_merge,
    {quantize_tiles, block_linear},
    {half_product, half_column, kHalfScratch},
};

}  // namespace precast
