"""Whether a peer computes what upstream computes: held before anything is timed, and recorded beside every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from precast.runtime.bench.contender import Contender
from precast.runtime.bench.session import Point
from precast.runtime.errors import BenchmarkError

__all__ = ["checked"]

# What must hold before a peer is timed: outputs of one model, not equal ones. The figures themselves are in the record.
_CLOSE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 2e-1}  # max abs difference, at the reference's scale
_ALIKE = 0.8  # cosine, for int8 and int4
_AGREE = 0.5  # share of tokens before the first that differs, fp32


def checked(contender: Contender, point: Point, path: Path, expected: Path) -> dict[str, Any]:
    """The outputs against upstream's; BenchmarkError where they are those of another model."""
    precision = contender.options["precision"]
    with np.load(path) as ours, np.load(expected / Path(point.feeds[0]).name) as reference:
        name = reference.files[0]
        if name not in ours.files:
            raise BenchmarkError(f"{contender.engine} has no output {name!r}: {', '.join(ours.files)}.")
        mine, exact = ours[name], reference[name]
    if name == "tokens":
        return _agreement(contender, mine, exact, precision)
    if mine.shape != exact.shape:
        raise BenchmarkError(f"{contender.engine} computes {name} of shape {mine.shape}; upstream {exact.shape}.")
    with np.load(point.feeds[0]) as feed:
        mask = feed["attention_mask"].astype(bool) if "attention_mask" in feed.files else None
    texts = [
        (mine[i][mask[i]], exact[i][mask[i]]) if mask is not None else (mine[i], exact[i]) for i in range(len(mine))
    ]
    worst = max(float(np.abs(a - b).max()) for a, b in texts)
    cosine = min(_cosine(a, b) for a, b in texts)
    scale = max(1.0, float(np.abs(exact).max()))
    wrong = worst > _CLOSE[precision] * scale if precision in _CLOSE else cosine < _ALIKE
    if not np.isfinite(worst) or wrong:
        raise BenchmarkError(
            f"{contender.engine} computes something else at {point.label}: max abs difference {worst:.2e}, "
            f"cosine {cosine:.4f} to upstream in float64."
        )
    return {"against": "upstream in float64", "max_abs": float(f"{worst:.3g}"), "cosine": round(cosine, 10)}


def _agreement(contender: Contender, mine: Any, exact: Any, precision: str) -> dict[str, Any]:
    """The share of tokens before the first that differs, over all rows."""
    mine, exact = np.atleast_2d(mine), np.atleast_2d(exact)
    width = min(mine.shape[1], exact.shape[1])
    same = np.cumprod(mine[:, :width] == exact[:, :width], axis=1).sum(axis=1)
    share = float(same.mean() / exact.shape[1])
    if precision == "fp32" and share < _AGREE:
        raise BenchmarkError(
            f"{contender.engine} generates other tokens: {share:.0%} agree before the first difference."
        )
    return {"against": "upstream's tokens in float32", "agreement": round(share, 4)}


def _cosine(a: Any, b: Any) -> float:
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
