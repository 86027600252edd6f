"""The grid: batch sizes and lengths, fixed or drawn from a distribution, and the inputs that stand for them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from precast.runtime.artifact import Component
from precast.runtime.bench.session import Point
from precast.runtime.errors import InputError
from precast.runtime.kinds import sample
from precast.runtime.ports import Port

__all__ = [
    "SCENARIOS",
    "artifact_inputs",
    "artifact_pictured",
    "artifact_prompts",
    "batches",
    "make_point",
    "parse_length",
    "parse_lengths",
    "parse_numbers",
    "parse_scenarios",
    "port_sizes",
]

SCENARIOS = ("single", "offline", "server")
_UNIFORM = re.compile(r"uniform:(\d+)-(\d+)")
_MIXED = (64, 8)  # texts at least, and batches at least, that stand for a distribution
_FORMS = "a whole number, natural (lengths of English sentences), or uniform:LOW-HIGH"


def parse_numbers(text: str, option: str) -> list[int]:
    """``"1,8"`` as numbers; InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise InputError(f"{option} takes whole numbers separated by commas, such as 1,8; received {text!r}.")
    return [int(part) for part in parts]


def parse_scenarios(text: str) -> list[str]:
    """``"single,offline"`` as scenarios."""
    names = [part.strip() for part in text.split(",")]
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise InputError(f"--scenario takes {', '.join(SCENARIOS)}; received {unknown[0]!r}.")
    return names


def parse_lengths(text: str, option: str = "--length") -> list[int | str]:
    """``"16,128,natural"`` as lengths."""
    return [parse_length(part.strip(), option) for part in text.split(",")]


def parse_length(text: str, option: str = "--length") -> int | str:
    """One length: a number, ``natural`` or ``uniform:LOW-HIGH``."""
    if text.isdigit() and int(text):
        return int(text)
    match = _UNIFORM.fullmatch(text)
    if text == "natural" or (match and 1 <= int(match[1]) <= int(match[2])):
        return text
    raise InputError(f"{option} takes {_FORMS}, separated by commas; received {text!r}.")


def batches(
    batch: int, length: int | str, *, together: bool, longest: int | None = None, seed: int = 0
) -> list[list[int]]:
    """The lengths of the texts of every batch that stands for a point; a single batch for a fixed length.

    Args:
        together: whether texts of like length share a batch, as whoever has all texts at hand would do it.
        longest: longer texts are cut to it, as a tokenizer cuts them.

    Raises:
        InputError: a fixed length is more than ``longest``.
    """
    if isinstance(length, int):
        if longest is not None and length > longest:
            raise InputError(f"This model takes {longest} tokens; --length has {length}. Leave that out.")
        return [[length] * batch]
    count = batch * max(-(-_MIXED[0] // batch), _MIXED[1])
    source = _distribution(length)
    # Evenly spaced quantiles, shuffled: few texts stand for the whole distribution, its tail included.
    drawn = [source[min(len(source) - 1, int((i + 0.5) / count * len(source)))] for i in range(count)]
    drawn = [min(value, longest) if longest else value for value in drawn]
    rng = random.Random(seed)
    rng.shuffle(drawn)
    if together and batch > 1:
        drawn.sort()
    made = [drawn[i : i + batch] for i in range(0, count, batch)]
    rng.shuffle(made)
    return made


def make_point(
    scenario: str,
    batch: int,
    length: int | str,
    folder: Path,
    make: Callable[[Sequence[int], np.random.Generator], Mapping[str, Any]],
    *,
    longest: int | None = None,
    bound: float | None = None,
) -> Point:
    """A point with its feeds written into ``folder``; ``make`` turns the lengths of one batch into arrays."""
    name = f"{batch}x{str(length).replace(':', '-')}"
    offline = scenario == "offline"
    paths, texts, tokens = [], 0, 0
    for number, lengths in enumerate(batches(batch, length, together=offline, longest=longest)):
        path = folder / f"{name}{'-together' if offline else ''}-{number}.npz"
        if not path.exists():
            np.savez(path, **make(lengths, np.random.default_rng(number)))
        paths.append(os.fspath(path))
        texts, tokens = texts + len(lengths), tokens + sum(lengths)
    amounts = {"texts": texts / len(paths), "tokens": tokens / len(paths)}
    return Point(scenario, batch, length, tuple(paths), amounts, bound)


def port_sizes(component: Component, port: Port, rows: int, length: int) -> dict[str, int]:
    """The size of each named dimension of a port: the first counts rows, the others measure them."""
    first, *others = port.shape
    sizes = {dim: component.dim(dim).at(length) or 1 for dim in others if isinstance(dim, str)}
    return {**sizes, **({"choices": 2} if "choices" in sizes else {}), str(first): rows}


def artifact_inputs(components: Sequence[Component]) -> Callable[[Sequence[int], np.random.Generator], dict[str, Any]]:
    """How to make what a caller gives an artifact's components: random values of each port's kind, of texts the mask of
    each one's length."""

    ports = [(component, port) for component in components for port in component.inputs if port.source is None]

    def make(lengths: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        longest = max(lengths)
        inputs: dict[str, Any] = {}
        for component, port in ports:
            made = sample(rng, port, port_sizes(component, port, len(lengths), longest))
            if port.kind in ("ids", "mask", "types"):
                real = np.arange(longest) < np.reshape(lengths, (-1, *[1] * (made.ndim - 1)))
                made = np.where(real, 0 if port.kind == "types" else made, 0)
            inputs[port.name] = made
        return inputs

    return make


def artifact_prompts(component: Any, *, left: bool) -> Callable[[Sequence[int], np.random.Generator], dict[str, Any]]:
    """How to make what ``generate`` reads of a component: random ids, and the mask of each prompt's length where they
    differ; int64 [B, S]. ``left``: padding comes first, as decoders take it."""

    def make(lengths: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        longest = max(lengths)
        ids = rng.integers(0, component.vocab_size or 1, (len(lengths), longest), dtype=np.int64)
        mask = (np.arange(longest) < np.reshape(lengths, (-1, 1))).astype(np.int64)
        if left:
            mask = mask[:, ::-1].copy()
        return {"input_ids": ids} if mask.all() else {"input_ids": ids, "attention_mask": mask}

    return make


def artifact_pictured(
    components: Sequence[Component], token: int, count: int
) -> Callable[[Sequence[int], np.random.Generator], dict[str, Any]]:
    """The same of a decoder, the last of these, whose prompts begin with one picture each: ``count`` times ``token``,
    and behind them texts of the lengths; and what the others take of so many pictures."""
    *before, decoder = components
    texts, pictures = artifact_prompts(decoder, left=True), artifact_inputs(before)

    def make(lengths: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        made = texts(lengths, rng)
        ids, mask = made["input_ids"], made.get("attention_mask")
        ids[ids == token] = token - 1 if token else 1
        shown = np.ones_like(ids) if mask is None else mask
        rows = [
            np.concatenate((row[real == 0], [token] * count, row[real != 0]))
            for row, real in zip(ids, shown, strict=True)
        ]
        masks = [np.concatenate((real[real == 0], [1] * count, real[real != 0])) for real in shown]
        text = {"input_ids": np.stack(rows)} | ({} if mask is None else {"attention_mask": np.stack(masks)})
        return {**text, **pictures(lengths, rng)}

    return make


def _distribution(length: str) -> Sequence[int]:
    match = _UNIFORM.fullmatch(length)
    if match:
        return range(int(match[1]), int(match[2]) + 1)
    from precast.runtime.bench.natural import LENGTHS

    return sorted(LENGTHS)
