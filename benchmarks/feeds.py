"""The inputs of a workload's points, made from its table and a fixed seed, as .npz files that every peer reads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import Workload
from precast.runtime.bench.points import make_point, parse_length
from precast.runtime.bench.session import Point

__all__ = ["images", "points"]

_POINT = re.compile(r"(\d+)x(.+)")
_RATE = 16_000  # samples a second, what every speech model here takes


def points(
    workload: Workload,
    folder: Path,
    *,
    scenarios: Sequence[str] = ("single", "offline", "server"),
    speech: Callable[[Path], None] | None = None,
) -> list[Point]:
    """The workload's points, smallest first within a scenario, with their feeds in ``folder``.

    ``speech`` writes the recording of a speech workload to a path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _point(workload, scenario, entry, folder, speech)
        for scenario, entries in workload.points.items()
        if scenario in scenarios
        for entry in entries
    ]


def _point(workload: Workload, scenario: str, entry: str, folder: Path, speech: Callable[[Path], None] | None) -> Point:
    match = _POINT.fullmatch(entry)
    if match is None:
        raise SystemExit(f"{workload.name}: a point is BATCHxLENGTH, such as 1x128; found {entry!r}.")
    batch, length = int(match[1]), match[2]
    if workload.kind in ("encoder", "decoder", "seq2seq", "pictured"):
        point = make_point(scenario, batch, parse_length(length, workload.name), folder, _text(workload))
        if workload.kind == "encoder":
            return point
        new = int(workload.table["generate"]["new_tokens"])
        return point._replace(scenario="generate", amounts={"tokens": batch * new})
    path = folder / f"{entry}.npz"
    if workload.kind == "image":
        size = int(length)
        _save(path, {"pixel_values": images(batch, size, np.random.default_rng(0))})
        return Point(scenario, batch, length, (os.fspath(path),), {"images": batch})
    if workload.kind == "ctc":
        seconds = float(length.removesuffix("s"))
        sound = np.random.default_rng(0).standard_normal((batch, round(seconds * _RATE)), dtype=np.float32)
        _save(path, {"input_values": sound})
        return Point(scenario, batch, length, (os.fspath(path),), {"seconds_of_sound": batch * seconds})
    if speech is None:
        raise SystemExit(f"{workload.name}: a speech workload's script has a function feed(out).")
    if not path.exists():
        speech(path)
    with np.load(path) as arrays:
        seconds = len(arrays["waveform"]) / _RATE
    return Point("generate", batch, length, (os.fspath(path),), {"seconds_of_sound": seconds})


def images(batch: int, size: int, rng: np.random.Generator) -> Any:
    """Patches of random colours under fine noise, float32 [B, 3, S, S]: noise alone would make all images alike."""
    coarse = rng.standard_normal((batch, 3, -(-size // 16), -(-size // 16)), dtype=np.float32)
    patches = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :size, :size]
    return (patches + 0.3 * rng.standard_normal(patches.shape, dtype=np.float32)).astype(np.float32)


def _text(workload: Workload) -> Callable[[Sequence[int], np.random.Generator], Mapping[str, Any]]:
    """Random ids within the workload's range, zeros in the padding."""
    low, high = workload.table["inputs"]["vocab"]
    left = workload.kind in ("decoder", "pictured")
    seen = workload.table["inputs"].get("picture")

    def make(lengths: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        places = np.arange(max(lengths))
        sizes = np.reshape(lengths, (-1, 1))
        real = places >= max(lengths) - sizes if left else places < sizes
        ids = rng.integers(low, high, real.shape, dtype=np.int64)
        text = {"input_ids": np.where(real, ids, 0), "attention_mask": real.astype(np.int64)}
        return text if seen is None else _behind_pictures(text, seen, rng)

    return make


def _behind_pictures(text: Mapping[str, Any], seen: Mapping[str, int], rng: np.random.Generator) -> dict[str, Any]:
    """Texts [B, S] of one length behind a picture each: ``places`` times ``token``, and pixels of ``size``."""
    rows = len(text["input_ids"])
    before = {"input_ids": seen["token"], "attention_mask": 1}
    made = {
        name: np.concatenate([np.full((rows, seen["places"]), value, np.int64), text[name]], axis=1)
        for name, value in before.items()
    }
    return {**made, "pixel_values": images(rows, seen["size"], rng)}


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    if not path.exists():
        np.savez(path, **arrays)
