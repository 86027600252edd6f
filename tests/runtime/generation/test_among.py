"""What a caller gives beside prompts that have pictures among their tokens."""

from __future__ import annotations

import numpy as np
import pytest

from precast.runtime.errors import InputError
from precast.runtime.generation.among import COUNTS, Among
from precast.runtime.ports import Port

PORTS = (
    Port("pixel_values", "float32", ("images", 3, 4, 4), "pixels"),
    Port("pixel_attention_mask", "int64", ("images", 4, 4), "pixel_mask", default=1),
)
PIXELS = np.random.default_rng(0).standard_normal((2, 3, 3, 4, 4), dtype=np.float32)


def test_pictures_come_by_the_text_they_belong_to() -> None:
    """As upstream's processors of tiles give them: texts with fewer have pictures of zeros behind their own."""
    pixels, mask = PIXELS.copy(), np.ones((2, 3, 4, 4), np.int64)
    pixels[0, 1:], mask[0, 1:] = 0, 0
    read = Among(PORTS, {}, 9).read([[9, 1], [9, 9, 9]], {"pixel_values": pixels, "pixel_attention_mask": mask})
    assert read is not None
    np.testing.assert_array_equal(read["pixel_values"], np.stack([PIXELS[0, 0], *PIXELS[1]]))
    assert read["pixel_attention_mask"].shape == (4, 4, 4) and read["pixel_attention_mask"].all()
    assert read[COUNTS].tolist() == [1, 3]
    single = Among(PORTS, {}, 9).read([[9]], {"pixel_values": PIXELS[0]})
    assert single is not None and single["pixel_values"].shape == (3, 3, 4, 4)


def test_pictures_of_strange_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="'pixel_values' has 4 dimensions; received shape"):
        Among(PORTS, {}, 9).read([[9]], {"pixel_values": PIXELS[None]})
    with pytest.raises(InputError, match="'pixel_values' has 4 dimensions"):
        Among(PORTS, {}, 9).read([[9]], {"pixel_values": np.zeros_like(PIXELS)})
