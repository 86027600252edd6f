"""What a model is tried on where nobody has given data: passages of `corpus` in its own tokens, random ones where it
has no tokenizer; and pictures and recordings that are made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from precast.calibration.corpus import PASSAGES
from precast.runtime.artifact import Component
from precast.runtime.backends.base import Array
from precast.runtime.generation.among import ROWS
from precast.runtime.generation.tiles import tiles_of
from precast.runtime.kinds import sample
from precast.runtime.parity import Case
from precast.runtime.ports import FINITE, Port
from precast.runtime.processors.text import PageTokenizer, Tokenizer

__all__ = ["generated", "kept_positions", "made_up", "natural", "perceives"]

# Per component, ids that a row of a port ends with, where its tokenizer does not say: where an output is read at that
# id, inputs hold it.
Ends = Mapping[str, Mapping[str, int]]
_NO_ENDS: Ends = MappingProxyType({})

_TEXTS = 24
_HEARD = 6  # where each is the answer to a recording, of thousands of frames
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
_LINE = 12  # words of a line, and lines of a page
_PROMPTS = 2  # of a picture, each of so many points
_FREE_SIZE = 64  # of a picture whose size may be chosen, and frames of a recording
_FREE_SAMPLES = 16_000  # of a recording


def made_up(
    components: Mapping[str, Component],
    tokenizer: Mapping[str, bytes],
    *,
    single: bool,
    ends: Ends = _NO_ENDS,
    join: Mapping[str, Any] | None = None,
) -> list[Case]:
    """Calls of a model of these components, in running order; ``tokenizer`` are its files, none where it has none.

    Args:
        single: a text has one answer, and not one for each of its tokens.
        join: how pictures stand among the tokens of its texts (``processing.join`` of a manifest), where they do.
    """
    last = list(components.values())[-1]
    if last.states:
        vocab, longest = _vocabulary(last), min(_LONGEST, last.longest or _LONGEST)
        texts = _HEARD if perceives(components) else _TEXTS
        rows = _tokens(tokenizer, vocab, longest, [passage for passage, _ in PASSAGES])[:texts]
        kept = kept_positions(len(rows), vocab)
        return [case for number, row in enumerate(rows) for case in generated(components, number, row, kept, join)]
    if len(components) > 1:
        return list(_towers(components, tokenizer, ends))
    return list(_calls(last, tokenizer, single=single))


def natural(components: Mapping[str, Component], tokenizer: Mapping[str, bytes]) -> bool:
    """Whether all that is made up for them is natural text, whose most likely answers say something: what beside it is
    random, or all of it, leaves near ties, and one of them that falls the other way is no loss."""
    reads = any(port.kind == "ids" for one in components.values() for port in one.given)
    return bool(tokenizer) and reads and not perceives(components)


def perceives(components: Mapping[str, Component]) -> bool:
    """Whether pictures, recordings or the like are given to them."""
    return any(port.kind in FINITE for one in components.values() for port in one.given)


def kept_positions(texts: int, vocab: int) -> int:
    """Positions of each of so many texts at which logits are held."""
    return max(1, min(_MOST, _HELD // (texts * vocab * 4)))


def _vocabulary(component: Component) -> int:
    assert component.vocab_size is not None, f"{component.name} reads no tokens"
    return component.vocab_size


def _tokens(tokenizer: Mapping[str, bytes], vocab: int, longest: int, texts: Sequence[str]) -> list[list[int]]:
    """The texts' tokens, those of short ones left out; random ones where there is no tokenizer."""
    if not tokenizer:
        rng = np.random.default_rng(7)
        return [rng.integers(0, vocab, size=min(longest, _LONGEST)).tolist() for _ in range(_TEXTS)]
    encode = Tokenizer.from_files(dict(tokenizer))
    rows = ([token for token in _encoded(encode, text) if token < vocab] for text in texts)
    return [row[:longest] for row in rows if len(row) >= min(16, longest)]


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text; of what reads words on pages, those of its words."""
    if not isinstance(tokenizer, PageTokenizer):
        return list(tokenizer(text)["input_ids"])
    words = text.split()
    return list(tokenizer(words, boxes=[(0, 0, 0, 0)] * len(words))["input_ids"])


def _joined() -> Iterator[str]:
    """Passages one after the other, as long as an encoder's texts are."""
    for start in range(0, _TEXTS, _PASSAGES):
        yield " ".join(passage for passage, _ in PASSAGES[start : start + _PASSAGES])


def _pieces() -> Iterator[str]:
    words = [word for passage, _ in PASSAGES for word in passage.split()]
    for start in range(0, len(words) - _PIECE, _PIECE // 2):
        yield " ".join(words[start : start + _PIECE])


def generated(
    components: Mapping[str, Component],
    number: int,
    row: Sequence[int],
    kept: int,
    join: Mapping[str, Any] | None = None,
) -> list[Case]:
    """A text for what generates: one call, and that of the encoder in front where there is one; logits at ``kept``
    positions of it. Where pictures stand among tokens, one is in front of the text, if the model has room for it."""
    *before, last = components.values()
    pictures, standing = _standing(join)
    if last.longest is not None and len(standing) + len(row) > last.longest:
        standing = standing[:0]
    if join is not None:
        row = [int(join["token"])] * len(standing) + list(row)
    ids = np.array([row], dtype=np.int64)
    count = len(row)
    wanted: Array = np.unique(np.linspace(min(4, count - 1), count - 1, kept).astype(np.int64))[None]
    inputs = {
        "input_ids": ids,
        "past_lengths": np.zeros(1, np.int64),
        "lengths": np.full(1, count, np.int64),
        "logit_positions": wanted,
    }
    if last.input("position_ids") is not None:
        inputs["position_ids"] = np.arange(count)[None]
    if join is not None:
        inputs[ROWS] = np.full((1, count), -1, np.int64)
        inputs[ROWS][0, : len(standing)] = standing
    name = f"text-{number}"
    if not before:
        return [Case(name, inputs, last.name, capacity=count)]
    [reader] = before
    if any(port.kind == "ids" for port in reader.given):
        source = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    else:
        rng = np.random.default_rng(number)
        source = {port.name: _perceived(rng, reader, port, pictures) for port in reader.given}
    read = {f"{reader.name}.{key}": array for key, array in source.items()}
    inputs |= {port.name: read[port.source] for port in last.inputs if port.source in read}
    first = Case(f"{name}-source", source, reader.name)
    return [first, Case(name, inputs, last.name, (first.name,), capacity=count)]


def _standing(join: Mapping[str, Any] | None) -> tuple[int, Array]:
    """How many pictures make the features of one, and which of them stand at its places."""
    if join is None:
        return 1, np.zeros(0, np.int64)
    tiles = tiles_of(join)
    if tiles is None:
        return 1, np.arange(int(join["count"]))
    count = tiles.count(tiles.tile, tiles.tile)
    return count, tiles.orders(np.array([[tiles.tile, tiles.tile]]), count)


def _calls(component: Component, tokenizer: Mapping[str, bytes], single: bool) -> Iterator[Case]:
    """Texts, pictures or recordings for what remembers nothing. Several make a call, texts of one length, so that few
    calls read all of a model's weights; of several choices each is a text.

    Args:
        single: a text has one answer, and not one for each of its tokens.
    """
    ids = next((port for port in component.given if port.kind == "ids"), None)
    if ids is None:
        rng = np.random.default_rng(7)
        for number in range(_PICTURES // _PICTURES_A_CALL):
            inputs = {port.name: _perceived(rng, component, port, _PICTURES_A_CALL) for port in component.given}
            yield Case(f"made-{number}", inputs, component.name)
        return
    longest = min(_LONGEST_CALL, component.longest or _LONGEST_CALL)
    texts = list(_pieces()) if single else list(_joined())
    rows = sorted(_tokens(tokenizer, _vocabulary(component), longest, texts), key=len)
    choices = 1 if len(ids.shape) == 2 else 2
    together = max(1, _CALL // len(rows[-1]) // choices) * choices
    for number, start in enumerate(range(0, len(rows) - choices + 1, together)):
        some = rows[start : start + together]
        some = some[: len(some) // choices * choices]
        length = min(map(len, some))
        tokens = np.array([row[:length] for row in some], dtype=np.int64)
        tokens = tokens if choices == 1 else tokens.reshape(-1, choices, length)
        sizes = dict(zip(map(str, ids.shape), tokens.shape, strict=True))
        inputs = {port.name: _beside(component, port, sizes) for port in component.given}
        yield Case(f"text-{number}", {**inputs, ids.name: tokens}, component.name)


def _beside(component: Component, port: Port, sizes: Mapping[str, int]) -> Array:
    """An input beside ids, of so many rows and tokens: words stand on their page in lines, and are seen there."""
    shape = [_size(component, dim, sizes) for dim in port.shape]
    if port.kind == "pixels":
        return _perceived(np.random.default_rng(7), component, port, shape[0])
    if port.kind == "boxes" and port.below is not None:
        line, place = np.divmod(np.arange(shape[-2]), _LINE)
        x, y = place / _LINE, (line % _LINE) / _LINE
        boxes = np.stack((x, y, x + 0.8 / _LINE, y + 0.5 / _LINE), axis=-1) * (port.below - 1)
        return np.broadcast_to(boxes, shape).astype(port.dtype)
    return np.full(shape, 1 if port.kind == "mask" else port.default or 0, port.dtype)


def _towers(components: Mapping[str, Component], tokenizer: Mapping[str, bytes], ends: Ends) -> Iterator[Case]:
    """Texts and pictures for components that feed others: one call each, of many rows, so that what compares them has
    many answers. Texts are cut to one length, and end as theirs do."""
    for component in components.values():
        sources = sorted({port.origin[0] for port in component.inputs if port.origin is not None})
        if sources:
            after = tuple(f"{source}-0" for source in sources)
            yield Case(f"{component.name}-0", _prompts(component), component.name, after)
            continue
        some = [case.inputs for case in _calls(component, tokenizer, single=True)]
        end = _end(tokenizer)
        known = {port.name: end for port in component.given if port.kind == "ids" and end is not None}
        last = {**known, **ends.get(component.name, {})}
        inputs = {}
        for port in component.given:
            arrays = [inputs_of[port.name] for inputs_of in some]
            common = np.min([array.shape[1:] for array in arrays], axis=0)
            cut = tuple(slice(size) for size in common)
            inputs[port.name] = np.concatenate([array[(slice(None), *cut)] for array in arrays])[:_PICTURES]
            if port.name in last:
                inputs[port.name][:, -1] = last[port.name]
        yield Case(f"{component.name}-0", inputs, component.name)


def _prompts(component: Component) -> dict[str, Array]:
    """What a call brings itself beside pictures: prompts of each."""
    rng = np.random.default_rng(7)
    named = {str(dim) for port in component.given for dim in port.shape[1:] if isinstance(dim, str)}
    sizes = {name: component.dim(name).at(_PROMPTS) or 1 for name in named}
    sizes |= {str(port.shape[0]): _PICTURES for port in component.given}
    return {port.name: sample(rng, port, sizes) for port in component.given}


def _end(tokenizer: Mapping[str, bytes]) -> int | None:
    """The token that a tokenizer puts behind every text, or None."""
    if not tokenizer:
        return None
    found = {ids[-1] for ids in Tokenizer.from_files(dict(tokenizer))(["One", "of two texts"])["input_ids"] if ids}
    return found.pop() if len(found) == 1 else None


def _size(component: Component, dim: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    heard = any(port.kind == "waveform" and dim in port.shape[1:] for port in component.given)
    return sizes.get(dim) or component.dim(dim).at(_FREE_SAMPLES if heard else _FREE_SIZE) or 1


def _perceived(rng: np.random.Generator, component: Component, port: Port, rows: int) -> Array:
    """An input of a call without text. Pictures and recordings are noise whose strength falls with its fineness, as
    that of natural ones does (https://doi.org/10.1364/JOSAA.4.002379, https://doi.org/10.1038/258317a0), of mean 0 and
    standard deviation 1 each."""
    sizes = {str(dim): rows for dim in port.shape[:1]}
    shape = [_size(component, dim, sizes) for dim in port.shape]
    if port.kind == "sample_mask":
        return np.ones(shape, port.dtype)
    if port.kind not in ("pixels", "waveform"):
        return sample(rng, port, {str(dim): size for dim, size in zip(port.shape, shape, strict=True)})
    axes = shape[-2:] if port.kind == "pixels" else shape[-1:]
    radius = np.sqrt(sum(each**2 for each in np.meshgrid(*map(np.fft.fftfreq, axes), indexing="ij")))
    radius[(0,) * len(axes)] = np.inf  # no brightness in common
    over = tuple(range(-len(axes), 0))
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape), axes=over) / radius, axes=over).real
    contrast = noise.std(axis=tuple(range(1, noise.ndim)), keepdims=True)
    return np.asarray(noise / np.maximum(contrast, 1e-12), np.float32)
