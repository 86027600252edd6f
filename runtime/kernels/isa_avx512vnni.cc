// What AVX-512 VNNI does better than AVX-512F: products of bytes.
#define PRECAST_ISA_AVX512
#include "block_bytes.h"
#include "block_dots.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAvx512Vnni = {
    Rounding::kNone, kSmallestBlock, kRowTile, 384 * 1024, integers_prepared, quantize_tiles<kPlanesForm>, block_dots,
    no_scratch, nullptr,
};

extern const BlockKernels kBytesAvx512Vnni = {
    Rounding::kBytes, kByteGroup,    kByteRows,   384 * 1024,
    bytes_prepared,   prepare_bytes, block_bytes, bytes_scratch, byte_channels,
};

}  // namespace precast
