"""Recordings of any length by a model that hears windows of one length: what it writes of one says where the next
begins, and what it is not sure of it writes again at a higher temperature. https://arxiv.org/abs/2212.04356, 4.5"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

__all__ = ["Answer", "Features", "Rules", "Window", "transcribed"]

Array: TypeAlias = "np.ndarray[Any, Any]"

_PRECISION = 0.02  # seconds of a timestamp
_STRIDE = 2  # frames of a timestamp
_SURE = 0.5  # temperature below which what was said is what the next window begins with


class Features(Protocol):
    """[bins, frames], of which some columns are asked for, nearly always further on: an array, or what makes them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, where: tuple[slice, slice], /) -> Any: ...


class Answer(NamedTuple):
    """What a model writes of a window.

    Args:
        tokens: behind the prompt, without padding. ended: the last of them is the end. sure: the mean of their
            log-probabilities, where rules ask for it. times: seconds at which each begins, where they are told.
    """

    tokens: list[int]
    ended: bool
    sure: float = 0.0
    times: list[float] | None = None


class Rules(NamedTuple):
    """How windows follow each other.

    Args:
        stamp: the id of the timestamp 0; None: there are none.
        window: frames of a window. vocabulary: how many tokens there are.
        temperatures: tried in order, until an answer is good enough.
        compression: how well an answer may compress; more is repetition. sure: the least mean log-probability. silent:
            the probability that nobody speaks from which on an answer that is not sure is none.
        continued: windows begin with what was said before, behind ``previous``; of that at most ``longest`` tokens.
        prompt: what the first window, or with ``prompted`` every one, begins with, ``previous`` left out.
    """

    stamp: int | None
    window: int
    vocabulary: int
    temperatures: tuple[float | None, ...] = (None,)
    compression: float | None = None
    sure: float | None = None
    silent: float | None = None
    continued: bool = False
    previous: int | None = None
    longest: int = 0
    prompt: tuple[int, ...] | None = None
    prompted: bool = False

    def poor(self, answer: Answer) -> bool:
        """Whether an answer is to be tried again."""
        if self.compression is not None and _compression(answer.tokens, self.vocabulary) > self.compression:
            return True
        return self.sure is not None and answer.sure < self.sure


class Window(NamedTuple):
    """What is written of: features [bins, W] behind a prompt, of which ``left`` frames are the recording's."""

    features: Array
    prompt: list[int]
    left: int


# Windows at a temperature: an answer each.
Write: TypeAlias = Callable[[Sequence[Window], "float | None"], Sequence[Answer]]
# How likely it is that nobody speaks in each.
Silence: TypeAlias = Callable[[Sequence[Window]], Sequence[float]]


@dataclass
class _Recording:
    features: Features
    begin: list[int]
    real: int  # frames that are no silence behind a short one
    at: int = 0
    segments: list[list[int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    continued: bool = False

    @property
    def left(self) -> int:
        return int(self.features.shape[-1]) - self.at


def transcribed(
    recordings: Sequence[Features],
    begins: Sequence[list[int]],
    rules: Rules,
    write: Write,
    silence: Silence,
    heard: Callable[[int, int, list[int]], None] = lambda done, total, tokens: None,
    reals: Sequence[int] | None = None,
) -> list[tuple[list[int], list[float]]]:
    """The tokens of recordings [bins, frames], timestamps among them; and seconds of each, where answers tell them.

    Args:
        begins: what the answers of each begin with.
        heard: told how many frames have been heard, of how many, and the first one's tokens so far.
        reals: frames of each that are no silence behind a short one; None: all.
    """
    real = [one.shape[-1] for one in recordings] if reals is None else reals
    made = [
        _Recording(features, begin, frames, continued=rules.continued)
        for features, begin, frames in zip(recordings, begins, real, strict=True)
    ]
    total = sum(one.left for one in made)
    while running := [one for one in made if one.left > 0]:
        said = [token for segment in made[0].segments for token in segment]
        heard(total - sum(one.left for one in running), total, said)
        windows = [Window(_cut(one, rules.window), _prompt(one, rules), one.real - one.at) for one in running]
        for one, answer in zip(running, _answers(running, windows, rules, write, silence), strict=True):
            frames = min(one.left, rules.window)
            if answer is None:
                one.at += frames
                continue
            tokens = answer.tokens[:-1] if answer.ended else answer.tokens
            segments, seen = _segments(tokens, frames, rules)
            if answer.times is not None:
                begun = one.at * _PRECISION / _STRIDE
                kept = sum(map(len, segments))
                one.times += [begun + time for time in answer.times[:kept]]
            one.segments += segments
            one.at += seen
    return [([token for segment in one.segments for token in segment], one.times) for one in made]


def _cut(one: _Recording, window: int) -> Array:
    """The next window; what is behind the recording is 0."""
    cut: Array = one.features[:, one.at : one.at + window]
    return np.pad(cut, ((0, 0), (0, window - cut.shape[-1])))


def _prompt(one: _Recording, rules: Rules) -> list[int]:
    """What an answer begins with: what was said before, where that is asked for."""
    first = [rules.previous] if rules.previous is not None else []
    told = list(rules.prompt or ())
    said = [token for segment in one.segments for token in _unpaired(segment, rules)]
    if one.continued and (said or (told and not rules.prompted)):
        front = [*first, *told] if rules.prompted else first
        before = said if rules.prompted else [*told, *said]
        return [*front, *before[-rules.longest :], *one.begin]
    return [*first, *told, *one.begin] if told else list(one.begin)


def _unpaired(segment: list[int], rules: Rules) -> list[int]:
    """Without the second of two timestamps at its end, which begins what comes."""
    paired = rules.stamp is not None and len(segment) > 2 and segment[-2] >= rules.stamp
    return segment[:-1] if paired else segment


def _answers(
    running: Sequence[_Recording], windows: Sequence[Window], rules: Rules, write: Write, silence: Silence
) -> list[Answer | None]:
    """One for each window, good enough or the last one tried; None: nobody speaks."""
    found: list[Answer | None] = [None] * len(running)
    nobody = silence(windows) if rules.silent is not None else ()
    rest = list(range(len(running)))
    for number, temperature in enumerate(rules.temperatures):
        again = []
        for place, answer in zip(rest, write([windows[one] for one in rest], temperature), strict=True):
            found[place] = answer
            running[place].continued = rules.continued and (temperature is None or temperature < _SURE)
            unsure = rules.sure is not None and answer.sure < rules.sure
            if rules.silent is not None and unsure and nobody[place] > rules.silent:
                found[place] = None
            elif rules.poor(answer) and number + 1 < len(rules.temperatures):
                again.append(place)
        rest = again
        if not rest:
            break
    return found


def _segments(tokens: list[int], frames: int, rules: Rules) -> tuple[list[list[int]], int]:
    """What is kept of an answer, cut where two timestamps meet, and how many frames that is: what stands behind the
    last such place is heard again, in the next window."""
    stamps = [rules.stamp is not None and token >= rules.stamp for token in tokens]
    ends = [place + 1 for place in range(len(tokens) - 1) if stamps[place] and stamps[place + 1]]
    if not ends:
        return [tokens], frames
    single = stamps[-2:] == [False, True]
    if single:  # nobody speaks behind it
        ends.append(len(tokens))
    else:
        ends[-1] += 1  # the second one of the last pair tells that it was one
    segments = [tokens[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if single:
        return segments, frames
    assert rules.stamp is not None
    return segments, (tokens[ends[-1] - 2] - rules.stamp) * _STRIDE


def _compression(tokens: list[int], vocabulary: int) -> float:
    """How many times as long tokens are as what compresses them."""
    size = int(math.log2(vocabulary) / 8) + 1
    data = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))
