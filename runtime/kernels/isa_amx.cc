// What tiles of bfloat16 do better than AVX-512 VNNI: products of many rows.
#define PRECAST_ISA_AVX512
#include "attention_tiles.h"
#include "block_tiles.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAmx = {
    Rounding::kBfloat16, kSmallestBlock, kTileHeight, 768 * 1024,
    tiles_prepared, prepare_tiles, block_tiles, tiles_scratch, tile_channels,
};

extern const AttentionKernels kAttentionAmx = {
    kTileQueries, attention_tiles_scratch, attention_tiles, nullptr, nullptr, nullptr,
};

}  // namespace precast
