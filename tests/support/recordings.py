"""Recordings of the kinds a task may be given, made from numbers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import soundfile

__all__ = ["encoded", "recording"]


def recording(samples: int, seed: int = 0, loud: float = 0.3) -> np.ndarray:
    """Float32 [samples]: a few tones that come and go, in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    made = 0.02 * rng.standard_normal(samples)
    for _ in range(4):
        pitch, wobble, phase = rng.uniform(90, 3000), rng.uniform(0.5, 6), rng.uniform(0, 6)
        made += np.sin(2 * np.pi * pitch * time + phase) * np.sin(2 * np.pi * wobble * time + phase) ** 2 / 4
    return (loud * made / max(1e-6, np.abs(made).max())).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16000, **how: str) -> bytes:
    """The content of a file: ``format`` and ``subtype`` as soundfile names them."""
    file = BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **how})
    return file.getvalue()
