"""Pictures of any size among tokens: their patches and positions as upstream's have them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from precast.runtime.errors import ArtifactError, InputError
from precast.runtime.fields import Fields
from precast.runtime.generation.among import COUNTS, Among
from precast.runtime.generation.grids import GRID, KINDS, Grids, walked
from precast.runtime.ports import Port

GRIDS = Grids.read(Fields({"patch": 4, "merge": 2, "channels": 3, "frames": 2}, "grid"))
PORT = Port("pixel_values", "float32", ("images", 3, "height", "width"), "pixels")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((8, 24), (8, 24), (32, 16))]


@pytest.fixture(scope="module")
def upstream(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    processor = Qwen2VLImageProcessorPil(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    made: Any = processor([Image.fromarray(picture) for picture in pictures], return_tensors="np")
    return {"pixel_values": made["pixel_values"].astype(np.float32), GRID: made[GRID]}


def test_patches_are_pictures_again(pictures: list[np.ndarray], upstream: dict[str, np.ndarray]) -> None:
    groups = list(GRIDS.pictures(upstream["pixel_values"], upstream[GRID]))
    assert [group.shape for group in groups] == [(2, 3, 8, 24), (1, 3, 32, 16)]
    for got, picture in zip([one for group in groups for one in group], pictures, strict=True):
        np.testing.assert_array_equal(got, picture.transpose(2, 0, 1))
    again = [GRIDS.patches(group) for group in groups]
    for name, expected in upstream.items():
        np.testing.assert_array_equal(np.concatenate([each[name] for each in again]), expected)


def test_positions_go_in_height_and_width_as_upstreams(upstream: dict[str, np.ndarray]) -> None:
    sizes = GRIDS.features(upstream[GRID])
    kinds = [0] * 3 + [1] * 3 + [0] * 2 + [1] * 3 + [0] + [1] * 8 + [0] * 4
    theirs: Any = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)))
    theirs.get_vision_position_ids = lambda *given, **named: Qwen2VLModel.get_vision_position_ids(
        theirs, *given, **named
    )
    expected, _ = Qwen2VLModel.get_rope_index(
        theirs, torch.zeros(1, len(kinds), dtype=torch.int64), torch.tensor([kinds]), torch.from_numpy(upstream[GRID])
    )
    stands = [(start, *size) for start, size in zip((3, 8, 12), sizes, strict=True)]
    np.testing.assert_array_equal(walked(0, len(kinds), stands), expected[:, 0].T.numpy())
    np.testing.assert_array_equal(walked(9, 5, stands), expected[:, 0, 9:14].T.numpy())


def test_rows_have_their_own_pictures(upstream: dict[str, np.ndarray]) -> None:
    among = Among((PORT,), {}, 9, grids=GRIDS)
    prompts = [[1, 9, 9, 9, 2], [9, 9, 9, *[9] * 8]]
    given: dict[str, Any] = {**upstream, KINDS: [[0]]}
    read = among.read(prompts, given)
    assert read is not None and read[COUNTS].tolist() == [3, 11] and KINDS not in read
    placed = among.placed(np.zeros((14, 4), np.float32), read)
    rows = np.empty((2, 11), np.int64)
    placed.fill(prompts, [0, 0], rows)
    positions = placed.positions([0, 0], 11)
    assert positions[0, :5].tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [4, 4, 4]]
    assert positions[1, 3].tolist() == [3, 3, 3] and positions[1, 10].tolist() == [3, 6, 4]
    placed.select([1, 0])
    assert placed.positions([11, 5], 1).tolist() == [[[7] * 3], [[5] * 3]]


def test_what_is_no_patches_of_pictures_is_refused(upstream: dict[str, np.ndarray]) -> None:
    among = Among((PORT,), {}, 9, grids=GRIDS)
    for grid, message in (
        ([[1, 2, 6], [1, 2, 6]], "have 24 patches, and 56 came with them"),
        ([[2, 2, 6], [1, 2, 6], [1, 5, 4]], "multiples of 2; received"),
        ([[2, 2, 6], [1, 8, 4]], "of 1 patch in time each"),
    ):
        with pytest.raises(InputError, match=message):
            among.read([[9]], {**upstream, GRID: grid})
    shifted = among.read([[9] * 4, [9] * 10], upstream)
    assert shifted is not None
    with pytest.raises(InputError, match=r"have \[4, 10\] places .* of \[3, 3, 8\] features do not end with them"):
        among.placed(np.zeros((14, 4), np.float32), shifted)
    with pytest.raises(InputError, match="whose sides are multiples of 8"):
        among.read([[9]], {"pixel_values": np.zeros((1, 3, 8, 12), np.float32)})
    with pytest.raises(InputError, match="'image_grid_thw' is needed"):
        among.read([[9]], {"pixel_values": upstream["pixel_values"]})
    with pytest.raises(ArtifactError, match=r"grid\.merge must be an integer from 1"):
        Grids.read(Fields({"patch": 4, "merge": 0, "channels": 3, "frames": 2}, "grid"))
