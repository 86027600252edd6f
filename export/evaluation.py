"""The evaluation set of a model, for the metric that judges low precision: the passages of `demo_corpus` in its own
tokens, random ones where a checkpoint has no tokenizer; and pictures that are made up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from precast.export.demo_corpus import PASSAGES
from precast.export.evaluation_set import EvaluationSet
from precast.export.parity import ReferenceRunner
from precast.export.reference import Part
from precast.export.signatures import Signature
from precast.runtime.backends.base import Array
from precast.runtime.kinds import sample
from precast.runtime.metrics import METRICS, Metric
from precast.runtime.parity import Case, Recorded
from precast.runtime.ports import Port
from precast.runtime.processors.text import Tokenizer

__all__ = ["evaluation_set", "judged_reference"]

_TEXTS = 24
_LONGEST = 96
# Logits of a wide vocabulary are a megabyte a position: so many bytes of them are held, at evenly spaced positions.
_HELD = 320 << 20
_MOST = 32
# Where a text has one answer, pieces of passages instead: of so many words, one beginning in the middle of another.
_PIECE = 24
# Where it has one for each token, so many passages at a time, and at most so many tokens of them.
_PASSAGES, _LONGEST_CALL = 4, 256
_CALL = 512  # tokens of a call
_PICTURES, _PICTURES_A_CALL = 24, 8
_FREE_SIZE = 64  # of a picture whose size may be chosen


def judged_reference(evaluation: EvaluationSet, parts: Sequence[Part]) -> Metric:
    """How far the reference is from what it was, now that some of its weights are others."""
    made = ReferenceRunner(parts).through([item.case for item in evaluation.recorded])
    return evaluation.figures((item, outputs) for item, (_, outputs) in zip(evaluation.recorded, made, strict=True))


def evaluation_set(parts: Sequence[Part], tokenizer: Mapping[str, bytes], metric: str) -> EvaluationSet:
    """Inputs for a model of these parts, and its answers; ``tokenizer`` are its files, none where it has none."""
    last = parts[-1].signature
    answers = tuple(out for out in last.outs if out.kind in METRICS[metric].kinds)
    if last.states:
        longest = min(_LONGEST, last.longest or _LONGEST)
        rows = _tokens(tokenizer, last.vocab_size, longest, [passage for passage, _ in PASSAGES])[:_TEXTS]
        kept = max(1, min(_MOST, _HELD // (len(rows) * last.vocab_size * 4)))
        cases = [case for number, row in enumerate(rows) for case in _generated(parts, number, row, kept)]
    elif len(parts) > 1:
        cases = list(_towers(parts, tokenizer))
    else:
        cases = list(_calls(parts[-1], tokenizer, single=not any("sequence" in out.shape for out in answers)))
    # Rounding to low precision is orders above what float64 would tell apart.
    recorded = [Recorded(case, made, made) for case, made in ReferenceRunner(parts).through(cases)]
    reads = any(port.kind == "ids" for part in parts for port in part.signature.given)
    given = (np.ascontiguousarray(case.inputs[name]) for case in cases for name in sorted(case.inputs))
    digest = hashlib.sha256(b"".join(array.tobytes() for array in given)).hexdigest()
    return EvaluationSet(metric, answers, recorded, bool(tokenizer) and reads, digest)


def _tokens(tokenizer: Mapping[str, bytes], vocab: int, longest: int, texts: Sequence[str]) -> list[list[int]]:
    """The texts' tokens, those of short ones left out; random ones where there is no tokenizer."""
    if not tokenizer:
        rng = np.random.default_rng(7)
        return [rng.integers(0, vocab, size=min(longest, _LONGEST)).tolist() for _ in range(_TEXTS)]
    encode = Tokenizer.from_files(dict(tokenizer))
    rows = ([token for token in encode(text)["input_ids"] if token < vocab] for text in texts)
    return [row[:longest] for row in rows if len(row) >= min(16, longest)]


def _joined() -> Iterator[str]:
    """Passages one after the other, as long as an encoder's texts are."""
    for start in range(0, _TEXTS, _PASSAGES):
        yield " ".join(passage for passage, _ in PASSAGES[start : start + _PASSAGES])


def _pieces() -> Iterator[str]:
    words = [word for passage, _ in PASSAGES for word in passage.split()]
    for start in range(0, len(words) - _PIECE, _PIECE // 2):
        yield " ".join(words[start : start + _PIECE])


def _generated(parts: Sequence[Part], number: int, row: list[int], kept: int) -> list[Case]:
    """A text for what generates: one call, and that of the encoder in front where there is one."""
    ids = np.array([row], dtype=np.int64)
    count = len(row)
    wanted: Array = np.unique(np.linspace(min(4, count - 1), count - 1, kept).astype(np.int64))[None]
    inputs = {
        "input_ids": ids,
        "past_lengths": np.zeros(1, np.int64),
        "lengths": np.full(1, count, np.int64),
        "logit_positions": wanted,
    }
    if parts[-1].signature.port("position_ids") is not None:
        inputs["position_ids"] = np.arange(count)[None]
    name = f"text-{number}"
    if len(parts) == 1:
        return [Case(name, inputs, parts[-1].name, capacity=count)]
    reader, decoder = parts
    source = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    read = {f"{reader.name}.{key}": array for key, array in source.items()}
    inputs |= {port.name: read[port.source] for port in decoder.signature.ports if port.source in read}
    before = Case(f"{name}-source", source, reader.name)
    return [before, Case(name, inputs, decoder.name, (before.name,), capacity=count)]


def _calls(part: Part, tokenizer: Mapping[str, bytes], single: bool) -> Iterator[Case]:
    """Texts or pictures for what remembers nothing. Several make a call, texts of one length, so that few calls read
    all of a model's weights; of several choices each is a text.

    Args:
        single: a text has one answer, and not one for each of its tokens.
    """
    signature = part.signature
    ids = next((port for port in signature.given if port.kind == "ids"), None)
    if ids is None:
        rng = np.random.default_rng(7)
        for number in range(_PICTURES // _PICTURES_A_CALL):
            inputs = {port.name: _pictures(rng, signature, port) for port in signature.given}
            yield Case(f"picture-{number}", inputs, part.name)
        return
    longest = min(_LONGEST_CALL, signature.longest or _LONGEST_CALL)
    texts = list(_pieces()) if single else list(_joined())
    rows = sorted(_tokens(tokenizer, ids.below or signature.vocab_size, longest, texts), key=len)
    choices = 1 if len(ids.shape) == 2 else 2
    together = max(1, _CALL // len(rows[-1]) // choices) * choices
    for number, start in enumerate(range(0, len(rows) - choices + 1, together)):
        some = rows[start : start + together]
        some = some[: len(some) // choices * choices]
        length = min(map(len, some))
        tokens = np.array([row[:length] for row in some], dtype=np.int64)
        tokens = tokens if choices == 1 else tokens.reshape(-1, choices, length)
        sizes = dict(zip(map(str, ids.shape), tokens.shape, strict=True))
        inputs = {
            port.name: np.full(
                [_size(signature, dim, sizes) for dim in port.shape],
                1 if port.kind == "mask" else port.default or 0,
                port.dtype,
            )
            for port in signature.given
        }
        yield Case(f"text-{number}", {**inputs, ids.name: tokens}, part.name)


def _towers(parts: Sequence[Part], tokenizer: Mapping[str, bytes]) -> Iterator[Case]:
    """Texts and pictures for components that feed others: one call each, of many rows, so that what compares them has
    many answers. Texts are cut to one length, and end as theirs do."""
    for part in parts:
        signature = part.signature
        sources = sorted({port.origin[0] for port in signature.ports if port.origin is not None})
        if sources:
            yield Case(f"{part.name}-0", {}, part.name, tuple(f"{source}-0" for source in sources))
            continue
        some = [case.inputs for case in _calls(part, tokenizer, single=True)]
        inputs = {}
        for port in signature.given:
            arrays = [inputs_of[port.name] for inputs_of in some]
            common = np.min([array.shape[1:] for array in arrays], axis=0)
            cut = tuple(slice(size) for size in common)
            inputs[port.name] = np.concatenate([array[(slice(None), *cut)] for array in arrays])[:_PICTURES]
            if port.name in signature.ends:
                inputs[port.name][:, -1] = signature.ends[port.name]
        yield Case(f"{part.name}-0", inputs, part.name)


def _size(signature: Signature, dim: int | str, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else sizes.get(dim) or signature.dim(dim).at(_FREE_SIZE) or 1


def _pictures(rng: np.random.Generator, signature: Signature, port: Port) -> Array:
    """An input of a call without text. Pictures are noise whose contrast falls with its fineness, as that of natural
    ones does (https://doi.org/10.1364/JOSAA.4.002379), of mean 0 and standard deviation 1 each."""
    sizes = {str(dim): _PICTURES_A_CALL for dim in port.shape[:1]}
    shape = [_size(signature, dim, sizes) for dim in port.shape]
    if port.kind != "pixels":
        return sample(rng, port, {str(dim): size for dim, size in zip(port.shape, shape, strict=True)})
    fine = [np.fft.fftfreq(size) for size in shape[-2:]]
    radius = np.hypot(*np.meshgrid(*fine, indexing="ij"))
    radius[0, 0] = np.inf  # no brightness in common
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) / radius).real
    contrast = noise.std(axis=tuple(range(1, noise.ndim)), keepdims=True)
    return np.asarray(noise / np.maximum(contrast, 1e-12), np.float32)
