"""T1 of models that speak: their components, and what the runtime lays out between them, against upstream in
float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import apart, float64, sources, upstream, widened

from precast.export.families import find_family, model_types
from precast.export.heads import TEXT_TO_SPECTROGRAM, TEXT_TO_WAVEFORM, Head
from precast.export.reference import Reference, build
from precast.runtime.fields import Fields
from precast.runtime.speech import Alignment

CONFIGS = [
    (name, head, index)
    for name in model_types()
    for head in find_family(name).heads
    if head in (TEXT_TO_WAVEFORM, TEXT_TO_SPECTROGRAM)
    for index in range(1 + len(find_family(name).variations))
]


def ident(value: Any) -> str:
    return value.task if isinstance(value, Head) else str(value)


def variation(model_type: str, index: int) -> dict[str, Any]:
    return dict(find_family(model_type).variations[index - 1]) if index else {}


def drawn(*shape: int, seed: int = 7) -> torch.Tensor:
    """The same numbers whenever these are asked for."""
    return torch.empty(shape, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(seed))


def said(ours: Reference, inputs: dict[str, torch.Tensor], stretch: float | None = None) -> dict[str, Any]:
    """All outputs of both components, frames laid out between them as the runtime does, with the noise of `drawn`."""
    text, speech = ours.parts
    alignment = Alignment.read(Fields(text.module.processing()["alignment"], "alignment"))  # type: ignore[operator]
    given = dict(inputs)
    if text.signature.port("duration_noise") is not None:
        given["duration_noise"] = alignment.duration_noise * drawn(
            len(given["input_ids"]), 2, given["input_ids"].shape[1]
        )
    with torch.no_grad():
        made = text.module(**{port.name: given[port.name] for port in text.signature.ports})
    found = {name: value.numpy() for name, value in made.items()}
    counts = alignment.counts(found[alignment.durations], given["attention_mask"].numpy(), stretch)
    totals = counts.sum(axis=1)
    noise = None
    if alignment.log_variances:
        width = found[alignment.frames].shape[2]
        wide = drawn(len(counts), width, int(totals.max())).numpy() * alignment.noise
        noise = [row.T[:total] for row, total in zip(wide, totals, strict=True)]
    laid = alignment.laid_out(found, counts, noise)
    given |= {name: torch.from_numpy(value) for name, value in laid.items()}
    with torch.no_grad():
        made |= speech.module(**{port.name: given[port.name] for port in speech.signature.ports})
    return {**made, "counts": counts, "sequence_lengths": totals * alignment.hop}


def ids_of(ours: Reference, rows: int, length: int, padding: str) -> dict[str, torch.Tensor]:
    text = ours.parts[0].signature
    ids = torch.from_numpy(np.random.default_rng(length).integers(1, text.vocab_size, (rows, length)))
    mask = torch.ones_like(ids)
    for row in range(rows - 1 if padding != "none" else 0):
        real = max(1, length // 2 + row)
        mask[row, real:] = 0
        if padding == "left":
            mask[row] = mask[row].flip(0)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("shape", [(1, 1, "none"), (3, 7, "right"), (2, 12, "left")], ids=str)
@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_speech_is_upstreams(
    model_type: str, head: Head, index: int, shape: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, narrow = upstream(model_type, head, variation(model_type, index), seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    inputs = ids_of(ours, *shape)
    speaker = ours.parts[0].signature.port("speaker_id")
    asked: list[int | None] = [None] if speaker is None else [None, 0, speaker.below - 1]  # type: ignore[operator]
    counted = set[int]()
    for one, rate in itertools.product(asked, [None, 0.15]):
        given = dict(inputs)
        if speaker is not None:
            given["speaker_id"] = torch.full((shape[0],), -1 if one is None else one)
        found = said(ours, given, None if rate is None else 1 / rate)
        counted |= set(found["counts"].flat)
        with float64(), monkeypatch.context() as patch:
            patch.setattr(torch, "randn", drawn)
            patch.setattr(torch, "randn_like", lambda like: drawn(*like.shape))
            expected = model(
                **inputs,
                **({} if one is None else {"speaker_id": one}),
                **({} if rate is None else {"speaking_rate": rate}),
            )
        for name, value in expected.items():
            if name == "sequence_lengths":
                np.testing.assert_array_equal(found[name], value)
                continue
            excess = apart(found[name], value)
            assert excess <= 1, f"{name} of {shape}: {excess:.2f} times the gate"
        assert {"waveform", "spectrogram"} & expected.keys()
    assert len(counted) > 1 or shape[1] == 1
