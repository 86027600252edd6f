"""Codecs: recordings as codes and codes as recordings, layer by layer as upstream; and codes that are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import states
from support.oracle import apart, float64, save_checkpoint, sources, upstream, widened
from torch import Tensor

import precast
from precast.export.exporter import export_model
from precast.export.families import find_family, model_types
from precast.export.heads import AUDIO_TOKENIZATION
from precast.export.reference import build
from precast.runtime.errors import ConfigError, InputError, ParityError
from precast.runtime.gates import gate, measure
from precast.runtime.outs import Out

CODECS = [name for name in model_types() if AUDIO_TOKENIZATION in find_family(name).heads]
CONFIGS = [(name, index) for name in CODECS for index in range(1 + len(find_family(name).variations))]


def changed(name: str, index: int) -> dict[str, Any]:
    return dict(find_family(name).variations[index - 1]) if index else {}


@pytest.mark.parametrize(("name", "index"), CONFIGS)
def test_every_layer_equals_upstream(name: str, index: int) -> None:
    config, narrow = upstream(name, AUDIO_TOKENIZATION, changed(name, index), seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    encoder, decoder = (part.module for part in ours.parts)
    generator = torch.Generator().manual_seed(index)
    least: Any = encoder.samples.least  # type: ignore[union-attr]
    for number, samples in enumerate((least, least + 1, least + 5, 333)):
        x = 0.3 * torch.randn(2, encoder.channels, samples, generator=generator, dtype=torch.float64)  # type: ignore[arg-type]
        mask = torch.ones(2, samples, dtype=torch.int64)
        mask[0, least + number :] = 0
        kept, hooks = states(ours.model, encoder.layers)  # type: ignore[arg-type]
        theirs, others = states(model, model.encoder.layers)
        with torch.no_grad():
            made = encoder(input_values=x, padding_mask=mask)
        with float64():
            found = model.encode(x, padding_mask=mask, bandwidth=config["target_bandwidths"][-1])
        sure = made["audio_codes"] >= 0
        assert sure.double().mean() > 0.9
        assert torch.equal(made["audio_codes"][sure], found.audio_codes[0][sure])
        assert [scale is not None for scale in found.audio_scales] == ["audio_scales" in made]
        scales = found.audio_scales[0]
        if scales is not None:
            assert apart(made["audio_scales"], scales) <= 1
        compare(kept, theirs, hooks + others)
        table = encoder.codebooks.tables  # type: ignore[union-attr]
        count = 1 + number % len(table)  # type: ignore[arg-type]
        frames = decoder.frames.least + number  # type: ignore[union-attr, operator]
        codes = torch.randint(0, table.shape[1], (2, count, frames), generator=generator)  # type: ignore[union-attr]
        kept, hooks = states(ours.model, decoder.layers)  # type: ignore[arg-type]
        theirs, others = states(model, model.decoder.layers)
        with torch.no_grad():
            values = decoder(codes, *(() if scales is None else (scales,)))["audio_values"]
        with float64():
            expected = model.decode(codes[None], [scales]).audio_values
        assert apart(values, expected) <= 1
        compare(kept, theirs, hooks + others)


def compare(ours: list[Tensor], theirs: list[Tensor], hooks: list[Any]) -> None:
    for hook in hooks:
        hook.remove()
    assert len(ours) == len(theirs) > 5
    for number, (made, wanted) in enumerate(zip(ours, theirs, strict=True)):
        assert apart(made, wanted) <= 1, f"layer {number}: {apart(made, wanted):.2f} times the gate"


@pytest.mark.parametrize("name", CODECS)
def test_an_artifact_encodes_and_decodes(name: str, tmp_path: Path) -> None:
    config, model = upstream(name, AUDIO_TOKENIZATION, changed(name, 1), seed=1)
    source, path = save_checkpoint(tmp_path / "checkpoint", config, model), tmp_path / "out"
    export_model(source, path)
    loaded = precast.load(path)
    recording = 0.3 * np.random.default_rng(0).standard_normal((2, 2, 300), dtype=np.float32)
    found = loaded(input_values=recording)
    assert list(found) == ["audio_values", "audio_codes", "audio_scales"]
    with torch.no_grad():
        expected: Any = model.encode(torch.from_numpy(recording), bandwidth=config["target_bandwidths"][-1])
        values: Any = model.decode(expected.audio_codes, expected.audio_scales).audio_values
    np.testing.assert_array_equal(found["audio_codes"], expected.audio_codes[0])
    np.testing.assert_allclose(found["audio_scales"], expected.audio_scales[0], rtol=1e-5)
    np.testing.assert_allclose(found["audio_values"], values, rtol=0, atol=2e-5)
    # Fewer codes are a narrower bandwidth, and are decoded alone.
    codes, scales = found["audio_codes"][:, :1], found["audio_scales"]
    again = loaded(audio_codes=codes, audio_scales=scales)
    with torch.no_grad():
        values = model.decode(torch.from_numpy(codes)[None], [torch.from_numpy(scales)]).audio_values
    assert list(again) == ["audio_values"]
    np.testing.assert_allclose(again["audio_values"], values, rtol=0, atol=2e-5)
    with pytest.raises(InputError, match="600"):
        loaded(input_values=np.zeros((1, 2, 601), np.float32))  # more than a chunk
    with pytest.raises(InputError, match="audio_codes must be 0 to 31; received 32"):
        loaded(audio_codes=np.full((1, 1, 5), 32), audio_scales=np.ones((1, 1), np.float32))
    report: Any = precast.verify(path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}


def test_what_codes_are_judged_by() -> None:
    """Codes are float64's where it is sure, whatever eager float32 found; where it is not, either one is right."""
    out, exact = Out("codes", ("batch", 2, "frames"), "codes", dtype="int64"), np.array([[[3, 4, -1], [5, -1, -1]]])
    ours = np.array([[[3, 4, 7], [5, 8, 1]]])
    gate("fp32", [measure(out, "case", ours, ours + 1, exact)], "v")
    for wrong in (ours + 1, np.where(ours == 5, 6, ours)):
        with pytest.raises(ParityError, match=r"codes case: other codes .* at \d+\.\d+% of 6 places"):
            gate("fp32", [measure(out, "case", wrong, wrong, exact)], "v")


def test_contradictions_are_refused() -> None:
    family = find_family("encodec")
    for wrong, reason in (
        ({"codebook_dim": 5}, "'codebook_dim' 5 must be 'hidden_size' 12"),
        ({"use_causal_conv": False, "trim_right_ratio": 0.5}, "'trim_right_ratio' is 1"),
        ({"pad_mode": "constant"}, "only 'reflect' is honoured"),
        ({"codebook_size": 0}, "make no model"),
        ({"upsampling_ratios": [0]}, "make no model"),
    ):
        config = {"model_type": "encodec", "architectures": ["EncodecModel"], **family.tiny, **wrong}
        with pytest.raises(ConfigError, match=reason):
            build(config, {})
