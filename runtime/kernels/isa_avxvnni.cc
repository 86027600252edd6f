// What AVX2 with AVX-VNNI does better than AVX2: products of bytes.
#define PRECAST_ISA_AVX2
#include "block_dots.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAvxVnni = {
    kRowTile, 384 * 1024, integers_prepared, quantize_tiles<kPlanesForm>, block_dots, no_scratch, nullptr,
};

}  // namespace precast
