// Tiles of bfloat16 (AMX): what every product of them is made of.
#pragma once

#include "vector.h"

namespace precast {
namespace {

// A tile holds 16 rows of 64 bytes: 32 channels of a row in bfloat16; of what rows are multiplied by, 16 pairs of
// channels of 16 columns; of sums, 16 columns in float32.
constexpr int64_t kTileHeight = 16, kTileChannels = 32, kTileColumnsOf = 16;
constexpr int64_t kTileNumbers = kTileHeight * kTileChannels, kTileFloats = kTileHeight * kTileColumnsOf;

// Palette 1; 16 rows of 64 bytes in each of the eight tiles.
alignas(64) constexpr struct {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} kTiles;

// The processor's tiles, for as long as this lives. `_tile_loadconfig` tells GCC of 8 of the 64 bytes only.
struct Tiles {
  Tiles() { __asm__ volatile("ldtilecfg %0" ::"m"(kTiles)); }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// What the compiler does not know of tile instructions: that they read memory.
inline void written() { __asm__ volatile("" ::: "memory"); }

// 32 floats, the first 16 in the low half, rounded to the nearest.
inline __m512i narrowed(V low, V high) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)); }

}  // namespace
}  // namespace precast
