"""T1 of models that speak: their components, and what the runtime lays out between them, against upstream in
float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import TensorSource, apart, float64, sources, upstream, widened

from precast.export.families import find_family, model_types
from precast.export.heads import TEXT_TO_SPECTROGRAM, TEXT_TO_WAVEFORM, VOCODER, VOICE_CONVERSION, Head
from precast.export.reference import Reference, build
from precast.runtime.errors import ConfigError
from precast.runtime.fields import Fields
from precast.runtime.kinds import absent, sample
from precast.runtime.spectrogram import Frames, Limits
from precast.runtime.speech import Alignment

STEPPED = ("bark", "speecht5")  # which say frame by frame, or in stages (test_stages.py)
CONFIGS = [
    (name, head, index)
    for name in model_types()
    for head in find_family(name).heads
    if head in (TEXT_TO_WAVEFORM, TEXT_TO_SPECTROGRAM) and name not in STEPPED
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
    plain = alignment.counts(found[alignment.durations], given["attention_mask"].numpy(), 1.0)
    return {**made, "counts": counts, "duration_outputs": plain, "sequence_lengths": totals * alignment.hop}


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


def _zeros(zeros: Any, *size: Any, dtype: Any = None, **options: Any) -> torch.Tensor:
    """Numbers are of the default type, whatever upstream's code asks for."""
    made: torch.Tensor = zeros(*size, dtype=None if dtype is torch.float32 else dtype, **options)
    return made


@pytest.mark.parametrize("shape", [(1, 1, "none"), (3, 7, "right"), (2, 12, "left")], ids=str)
@pytest.mark.parametrize(("model_type", "head", "index"), CONFIGS, ids=ident)
def test_speech_is_upstreams(
    model_type: str, head: Head, index: int, shape: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, narrow = upstream(model_type, head, variation(model_type, index), seed=index)
    for module in narrow.modules():
        if hasattr(module, "log_domain_offset") and hasattr(module, "linear"):
            module.linear.bias.data.add_(1)  # type: ignore[union-attr, operator] # tokens that are heard
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    inputs = ids_of(ours, *shape)
    ports = [port for port in ours.parts[0].signature.given if port.name.startswith(("speaker", "lang"))]
    rng, counted = np.random.default_rng(3), set[int]()
    # One for all rows: upstream's VITS takes no more.
    voices = {port.name: sample(rng, port, {"batch": 1}).repeat(shape[0], axis=0) for port in ports}
    asked = [{}, *({name: value} for name, value in voices.items()), voices]
    rates = [None, 0.15] if "speaking_rate" in config else [None]
    for some, rate in itertools.product(asked if voices else [{}], rates):
        chosen = {name: torch.from_numpy(value) for name, value in some.items()}
        chosen = {name: value.double() if value.is_floating_point() else value for name, value in chosen.items()}
        given = inputs | {port.name: torch.from_numpy(absent(port, {"batch": shape[0]})) for port in ports} | chosen
        given = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
        found = said(ours, given, None if rate is None else 1 / rate)
        counted |= set(found["counts"].flat)
        with float64(), monkeypatch.context() as patch:
            patch.setattr(torch, "randn", drawn)
            patch.setattr(torch, "randn_like", lambda like: drawn(*like.shape))
            patch.setattr(torch, "zeros", functools.partial(_zeros, torch.zeros))
            theirs = {name: int(value[0]) if name == "speaker_id" else value for name, value in chosen.items()}
            expected = model(**inputs, **theirs, **({} if rate is None else {"speaking_rate": rate}))
        assert {"waveform", "spectrogram"} & expected.keys() & found.keys()
        for name, value in expected.items():
            if name in ("sequence_lengths", "duration_outputs"):
                np.testing.assert_array_equal(found[name], value)
            elif name in found:
                excess = apart(found[name], value)
                assert excess <= 1, f"{name} of {shape}: {excess:.2f} times the gate"
    assert len(counted) > 1 or shape[1] == 1


def recordings(rows: int, frames: int, ours: Reference) -> dict[str, torch.Tensor]:
    """So many frames of sound; all rows but the last are shorter, and silent behind their end."""
    module: Any = ours.parts[0].module
    longest, least = (module.prenet.frames.samples(count) for count in (frames, 1))
    sound = torch.from_numpy(np.random.default_rng(frames).normal(0, 0.1, (rows, longest)))
    ends = torch.tensor([*(max(least, longest // 2 + row) for row in range(rows - 1)), longest])
    mask = (torch.arange(longest) < ends[:, None]).to(torch.int64)
    return {"input_values": sound * mask, "attention_mask": mask}


LIMITS = [(0.5, 0.0, 3.0), (0.3, 1.0, 20.0), (5.0, 0.0, 2.0)]
SPOKEN = [(TEXT_TO_SPECTROGRAM, 1, 1), (TEXT_TO_SPECTROGRAM, 3, 7), (VOICE_CONVERSION, 1, 1), (VOICE_CONVERSION, 3, 6)]


@pytest.mark.parametrize(("head", "rows", "length"), SPOKEN, ids=ident)
@pytest.mark.parametrize("index", range(2))
def test_spectrograms_said_frame_by_frame_are_upstreams(
    index: int, head: Head, rows: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, narrow = upstream("speecht5", head, variation("speecht5", index), seed=index)
    narrow.speech_decoder_postnet.prob_out.weight.data.mul_(2)  # type: ignore[union-attr, operator]
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    encoder, step, postnet = ours.parts
    frames = Frames.read(Fields(step.module.processing()["frames"], "frames"))  # type: ignore[operator]
    heard = head is VOICE_CONVERSION
    inputs = recordings(rows, length, ours) if heard else ids_of(ours, rows, length, "right")
    voice = drawn(rows, config["speaker_embedding_dim"])
    with torch.no_grad():
        made = encoder.module(**inputs)
    assert made["cross"].shape[1] == length
    mask = made["cross_mask"] if heard else inputs["attention_mask"]
    given = {"cross": made["cross"], "speaker_embeddings": voice, "cross_mask": mask}

    def computed(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            made = step.module(**{name: torch.from_numpy(value) for name, value in given.items()})
        return {name: value.numpy() for name, value in made.items()}

    for threshold, low, high in LIMITS if index == 0 else LIMITS[:1]:
        chances = np.random.default_rng(5)
        taken: list[np.ndarray] = []

        def draw(chances: Any = chances, taken: list[np.ndarray] = taken) -> np.ndarray:
            taken.append(chances.random(frames.kept))
            return taken[-1]

        bounds = Limits(threshold, int(length * low / frames.reduction), int(length * high / frames.reduction))
        found = frames.said(computed, {name: value.numpy() for name, value in given.items()}, bounds, draw)
        again = itertools.chain.from_iterable(taken)  # a layer after the other, a step after the other

        def kept(like: torch.Tensor, p: float, again: Any = again) -> torch.Tensor:
            return (torch.from_numpy(next(again)) < p).to(like.dtype).expand(like.shape)

        limits = {"threshold": threshold, "minlenratio": low, "maxlenratio": high}
        with float64(), monkeypatch.context() as patch:
            patch.setattr(torch, "bernoulli", kept)
            expected, lengths = model.generate_speech(
                **inputs, speaker_embeddings=voice, return_output_lengths=True, **limits
            )
        assert [len(row) for row in found] == lengths and next(again, None) is None
        for row, theirs in zip(found, expected, strict=True):
            with torch.no_grad():
                mended = postnet.module(frames=torch.from_numpy(row[None]))["spectrogram"][0]
            assert apart(mended, theirs[: len(row)]) <= 1


VOCODERS = [
    (name, index)
    for name in model_types()
    if VOCODER in find_family(name).heads
    for index in range(1 + len(find_family(name).variations))
]


@pytest.mark.parametrize(("model_type", "index"), VOCODERS)
def test_sound_of_spectrograms_is_upstreams(model_type: str, index: int) -> None:
    config, narrow = upstream(model_type, VOCODER, variation(model_type, index), seed=index)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    for rows, length in ((1, 1), (3, 13)):
        spectrogram = drawn(rows, length, config["model_in_dim"])
        with float64():
            expected = model(spectrogram)
        with torch.no_grad():
            assert apart(ours.model(spectrogram)["waveform"], expected) <= 1


@pytest.mark.parametrize("model_type", ["vits", "speecht5_hifigan"])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"upsample_rates": [3, 2, 2]}, "are lists of one length; received 3 and 2"),
        ({"resblock_kernel_sizes": [3, 4]}, r"'resblock_kernel_sizes' are odd; received \[3, 4\]"),
        ({"upsample_kernel_sizes": [7, 3]}, "or larger by an even number"),
        ({"upsample_rates": [3, 0]}, "it is a list of numbers, 1 or more"),
    ],
)
def test_what_no_vocoder_is_is_refused(model_type: str, said: dict[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({**family.tiny, **said})


@pytest.mark.parametrize(
    ("model_type", "said", "message"),
    [
        ("vits", {"flow_size": 7}, "'flow_size' is even; received 3, 5 and 7"),
        ("vits", {"window_size": 0}, "are 1 or more; received 0"),
        ("vits", {"num_speakers": 4}, "4 speakers need a 'speaker_embedding_size'"),
        ("vits", {"speaking_rate": 0.0}, "'speaking_rate' is above 0"),
        ("fastspeech2_conformer", {"encoder_kernel_size": 4}, "kernels are odd; received {'encoder_kernel_size': 4}"),
        ("fastspeech2_conformer", {"speaking_speed": -1.0}, "'speaking_speed' is above 0"),
        ("fastspeech2_conformer_with_hifigan", {"vocoder_config": {"model_in_dim": 8}}, "one number; received 9 and 8"),
    ],
)
def test_what_cannot_speak_is_refused(model_type: str, said: dict[str, Any], message: str) -> None:
    family = find_family(model_type)
    with pytest.raises(ConfigError, match=message):
        family.read({**family.tiny, **said})


def test_older_names_of_norms_are_read() -> None:
    """Of the norms of weights as torch once called them, and of a vocoder that still has them."""
    config, model = upstream("vits", TEXT_TO_WAVEFORM, {})
    tensors = sources(model)
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in tensors.items()
    }
    name = "decoder.resblocks.0.convs1.0.weight"
    kernel = older.pop(name).load()
    length = kernel.norm(dim=(1, 2), keepdim=True)
    older |= {f"{name}_g": TensorSource(length), f"{name}_v": TensorSource(3 * kernel)}
    first, second = build(config, tensors).model.state_dict(), build(config, older).model.state_dict()
    assert first.keys() == second.keys() and older.keys() != tensors.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-6, atol=1e-7)
