// What AVX-512 VNNI does better than AVX-512F: products of bytes.
#define PRECAST_ISA_AVX512
#include "block_dots.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAvx512Vnni = {
    kRowTile, 384 * 1024, integers_prepared, quantize_tiles<kPlanesForm>, block_dots, no_scratch, nullptr,
};

}  // namespace precast
