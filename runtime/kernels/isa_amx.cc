// What tiles of bfloat16 do better than AVX-512 VNNI: products of many rows.
#define PRECAST_ISA_AVX512
#include "block_tiles.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAmx = {
    kTileRowsOf, 64, tiles_prepared, prepare_tiles, block_tiles, tiles_scratch,
};

}  // namespace precast
