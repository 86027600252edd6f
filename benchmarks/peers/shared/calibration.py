"""What static int8 is calibrated with, where the feeds are noise too; never the feeds themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["images", "recordings"]

_SEED = 20_261_121


def images(workload: dict[str, Any], count: int = 32) -> Iterator[dict[str, np.ndarray]]:
    """``pixel_values`` [1, 3, H, W] of the workload's size, as benchmarks/feeds.py makes them: patches of random
    colours under fine noise."""
    numbers, size = np.random.default_rng(_SEED), int(workload["points"]["single"][0].split("x")[1])
    for _ in range(count):
        shape = (1, 3, -(-size // 16), -(-size // 16))
        coarse = numbers.standard_normal(shape, dtype=np.float32)
        patches = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :size, :size]
        fine = numbers.standard_normal(patches.shape, dtype=np.float32)
        yield {"pixel_values": (patches + 0.3 * fine).astype(np.float32)}


def recordings(count: int = 16, seconds: float = 5.0) -> Iterator[dict[str, np.ndarray]]:
    """``input_values`` [1, T], normal, at 16 kHz."""
    numbers = np.random.default_rng(_SEED)
    for _ in range(count):
        yield {"input_values": numbers.standard_normal((1, round(seconds * 16_000)), dtype=np.float32)}
