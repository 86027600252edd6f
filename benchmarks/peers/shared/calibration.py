"""What static int8 is calibrated with, where the feeds are noise too; never the feeds themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["images", "recordings"]

_SEED = 20_261_121


def images(config: dict[str, Any], count: int = 32) -> Iterator[dict[str, np.ndarray]]:
    """``pixel_values`` [1, C, H, W], normal: an image is 224 pixels on a side unless the config says otherwise."""
    numbers, size = np.random.default_rng(_SEED), config.get("image_size", 224)
    for _ in range(count):
        yield {"pixel_values": numbers.standard_normal((1, config["num_channels"], size, size), dtype=np.float32)}


def recordings(count: int = 16, seconds: float = 5.0) -> Iterator[dict[str, np.ndarray]]:
    """``input_values`` [1, T], normal, at 16 kHz."""
    numbers = np.random.default_rng(_SEED)
    for _ in range(count):
        yield {"input_values": numbers.standard_normal((1, round(seconds * 16_000)), dtype=np.float32)}
