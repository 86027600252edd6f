"""Where features of tiles stand: as upstream packs them, of pictures of any size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel, image_size_to_num_patches

from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.fields import Fields
from precast.runtime.generation.among import COUNTS, Among
from precast.runtime.generation.tiles import Tiles
from precast.runtime.ports import Port

SIZES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
TILES = Tiles.read(Fields({"tile": 336, "side": 24, "sizes": SIZES}, "tiles"))
# Small and large, square, wide and high; and so narrow that lines are lost but for one, or all.
PICTURES = [(1, 1), (336, 336), (480, 640), (640, 480), (337, 671), (1500, 333), (90, 2000), (13, 1700), (1999, 7)]


def test_features_stand_where_upstream_packs_them() -> None:
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=336, patch_size=14), image_grid_pinpoints=SIZES)
    counts = [image_size_to_num_patches(list(size), SIZES, 336) for size in PICTURES]
    assert counts == [TILES.count(*size) for size in PICTURES]
    numbers = 1 + torch.arange(sum(counts) * 576).view(-1, 576, 1)
    packed, lengths = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config),  # type: ignore[arg-type]
        list(torch.split(numbers, counts)),
        torch.tensor(PICTURES),
        "default",
        torch.zeros(1, dtype=torch.int64),
    )
    assert [len(TILES.order(*size)) for size in PICTURES] == lengths.tolist()
    np.testing.assert_array_equal(TILES.orders(np.array(PICTURES), sum(counts)), torch.cat(packed)[:, 0].numpy())


def test_tiles_come_by_picture_with_the_sizes_these_had() -> None:
    port = Port("pixel_values", "float32", ("images", 3, 2, 2), "pixels")
    among = Among((port,), {}, 9, Tiles(2, 1, [(2, 2), (2, 4)]))
    pixels = np.ones((2, 3, 3, 2, 2), np.float32)
    pixels[0, 2] = 0
    prompts = [[9] * 3, [9] * 4]
    read = among.read(prompts, {"pixel_values": pixels, "image_sizes": [[5, 5], [2, 4]]})
    assert read is not None and read["pixel_values"].shape == (5, 3, 2, 2)
    assert read[COUNTS].tolist() == [3, 4]
    rows = np.empty((2, 4), np.int64)
    among.placed(np.zeros((6, 8), np.float32), read).fill(prompts, [0, 0], rows)
    assert rows.tolist() == [[1, 2, 0, -1], [3, 4, 5, 0]]
    few = among.read(prompts, {"pixel_values": pixels, "image_sizes": [[5, 5], [5, 5]]})
    assert few is not None
    with pytest.raises(InputError, match="have 4 tiles, and 5 came with them"):
        among.placed(np.zeros((6, 8), np.float32), few)
    with pytest.raises(InputError, match="'image_sizes' is needed"):
        among.read(prompts, {"pixel_values": pixels})


def test_sizes_that_are_no_whole_tiles_are_refused() -> None:
    with pytest.raises(ArtifactError, match="must be a list of pairs of multiples of 336"):
        Tiles.read(Fields({"tile": 336, "side": 24, "sizes": [[336, 500]]}, "tiles"))
