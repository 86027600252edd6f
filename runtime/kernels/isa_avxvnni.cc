// What AVX2 with AVX-VNNI does better than AVX2: products of bytes.
#define PRECAST_ISA_AVX2
#include "block_bytes.h"
#include "block_dots.h"
#include "kernels.h"

namespace precast {

extern const BlockKernels kBlockAvxVnni = {
    Rounding::kNone, kSmallestBlock, kRowTile, 384 * 1024, integers_prepared, quantize_tiles<kPlanesForm>, block_dots,
    no_scratch, nullptr,
};

extern const BlockKernels kBytesAvxVnni = {
    Rounding::kBytes, kByteGroup,    kByteRows,   384 * 1024,
    bytes_prepared,   prepare_bytes, block_bytes, bytes_scratch, nullptr,
};

}  // namespace precast
