"""Tokens of a model that writes what it hears, as a text and its chunks: timestamps among the tokens part them, windows
that overlap are made one, and words get the times of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from precast.runtime.recognition.words import words_of

__all__ = ["Heard", "Markup", "transcript"]

Span: TypeAlias = "tuple[float, float]"  # seconds


class Markup(NamedTuple):
    """What of a vocabulary is no text.

    Args:
        stamp: the id of the timestamp 0; those behind it are later by ``precision`` seconds each.
        special: ids of tokens that say what to do. start, previous: those in front of a transcript, and in front of
            what was said before.
        end: the id from which on all tokens are special.
        languages: by id. decode: makes text of ids.
        window: how many timestamps a window has.
    """

    stamp: int
    special: frozenset[int]
    start: int
    previous: int
    end: int
    languages: Mapping[int, str]
    decode: Callable[[list[int]], str]
    precision: float = 0.02
    window: int = 1500


class Heard(NamedTuple):
    """The tokens of a recording, or of a window of it.

    Args:
        times: when each begins to be said, in seconds from the window's beginning; None: nobody asked.
        part: of a window its seconds, and how many of them at the left and at the right others hear too.
    """

    tokens: Sequence[int]
    times: Sequence[float] | None = None
    part: tuple[float, float, float] | None = None


def transcript(
    heard: Sequence[Heard], markup: Markup, *, stamps: bool | str = False, language: bool = False
) -> dict[str, Any]:
    """``text``, and where ``stamps`` or ``language`` ask for them ``chunks``: the timestamps ``(start, end)`` of what
    stands between two (True) or of each word ("word"), and the language.

    A chunk that is not ended has the end None.
    """
    writer = _Writer(markup, stamps)
    for one in heard:
        writer.hear(one)
    writer.close()
    result: dict[str, Any] = {"text": "".join(chunk.text for chunk in writer.chunks)}
    if not stamps and not language:
        return result
    timed: list[tuple[str, tuple[float | None, float | None], str | None]]
    if stamps == "word":
        timed = [(text, span, chunk.language) for chunk in writer.chunks for text, span in chunk.words]
    else:
        timed = [(chunk.text, (chunk.start, chunk.end), chunk.language) for chunk in writer.chunks]
    result["chunks"] = [
        {"text": text, **({"timestamp": span} if stamps else {}), **({"language": spoken} if language else {})}
        for text, span, spoken in timed
    ]
    return result


class _Chunk:
    def __init__(self, language: str | None) -> None:
        self.language = language
        self.start: float | None = None
        self.end: float | None = None
        self.text = ""
        self.words: list[tuple[str, Span]] = []


class _Writer:
    """Chunks, token by token. ``held`` are the tokens of the chunk that is open, window by window: where two overlap,
    what both heard is found when it is closed."""

    def __init__(self, markup: Markup, stamps: bool | str) -> None:
        self.markup = markup
        self.stamps = stamps
        self.chunks: list[_Chunk] = []
        self.language: str | None = None
        self.offset = 0.0  # seconds in front of the window
        self.skip = False
        self.held: list[list[int]] = []
        self.held_spans: list[list[Span]] = []
        self.chunk = _Chunk(None)

    def hear(self, heard: Heard) -> None:
        markup, tokens = self.markup, self._said(heard.tokens)
        first, last = float(markup.stamp), None
        if heard.part is not None:
            length, left, right = heard.part
            self.offset -= left
            if left:
                first = left / markup.precision + markup.stamp
            if right:
                last = self._shared(tokens, length - right)
        clock = _Clock(markup)
        current: list[int] = []
        spans: list[Span] = []
        for place, token in enumerate(tokens):
            if token in markup.special:
                current = self._special(token, current)
            elif token >= markup.stamp:
                time = round(clock.at(tokens, place, self.offset), 2)
                if self._ends(token, time, first, last):
                    self.chunk.end = time
                    self._put(current, spans)
                    self._finish()
                    current, spans = [], []
            else:
                current.append(token)
                if heard.times is not None:
                    begin = heard.times[place - 1] if place else 0.0
                    spans.append((round(begin + self.offset, 2), round(heard.times[place] + self.offset, 2)))
        if heard.part is not None:
            self.offset += heard.part[0] - heard.part[2]
        if current:
            self._put(current, spans)
        elif not any(self.held):
            self._open()

    def close(self) -> None:
        """What no timestamp has ended."""
        if self.held:
            self._finish()

    def _said(self, tokens: Sequence[int]) -> list[int]:
        """Without what was said before, which a prompt may begin with."""
        made = [int(token) for token in tokens]
        if made and made[0] == self.markup.previous:
            return made[made.index(self.markup.start) :] if self.markup.start in made else []
        return made

    def _shared(self, tokens: list[int], right: float) -> int | None:
        """The first timestamp that the next window hears too: it, and what is behind it, is left to that."""
        last: int | None = None
        for token in reversed(tokens):
            if token >= self.markup.stamp:
                if last is not None and (token - self.markup.stamp) * self.markup.precision < right:
                    break
                last = token
        return last

    def _special(self, token: int, current: list[int]) -> list[int]:
        """What becomes of the tokens at hand where a token says the language, or something else."""
        language = self.markup.languages.get(token)
        if language is None:
            return current
        if self.language and language != self.language and not self.stamps:
            self._put(current, [])
            self._finish()
            current = []
        self.chunk.language = self.language = language
        return current

    def _ends(self, token: int, time: float, first: float, last: int | None) -> bool:
        """Whether a timestamp ends the chunk; otherwise it begins it, or is one of those that come in pairs or are
        another window's."""
        if last and token >= last:
            self.skip = True
        elif self.skip or (self.held and token < first):
            self.skip = False
        elif self.chunk.start is None:
            self.chunk.start = time
        else:
            return time != self.chunk.start
        return False

    def _put(self, tokens: list[int], spans: list[Span]) -> None:
        self.held.append(tokens)
        if self.stamps == "word":
            self.held_spans.append(spans)

    def _finish(self) -> None:
        """Close the chunk with all that is held."""
        tokens, spans = _merged(self.held, self.held_spans)
        self.chunk.text = self.markup.decode(tokens)
        if self.stamps == "word":
            self.chunk.words = [
                (word, (spans[places[0]][0], spans[places[-1]][1]))
                for word, places in words_of(tokens, self.language, self.markup.decode, self.markup.end)
            ]
        self.chunks.append(self.chunk)
        self._open()

    def _open(self) -> None:
        self.held, self.held_spans = [], []
        self.chunk = _Chunk(self.language)


class _Clock:
    """When timestamps are, where they begin anew within a recording that was heard window by window."""

    def __init__(self, markup: Markup) -> None:
        self.markup = markup
        self.latest = self.before = self.windows = 0.0

    def at(self, tokens: list[int], place: int, offset: float) -> float:
        """Seconds of the timestamp at a place."""
        stamp, precision = self.markup.stamp, self.markup.precision
        time = float((tokens[place] - stamp) * precision)
        if time < self.latest:
            paired = place >= 1 and tokens[place - 1] >= stamp and tokens[place - 2] >= stamp
            if place >= 2 and not paired:
                self.windows += precision * self.markup.window  # nothing was said behind it: the window was heard
            else:
                self.latest = self.before
                self.windows += self.before
        self.before, self.latest = self.latest, time
        return (tokens[place] - stamp) * precision + offset + self.windows


def _merged(parts: Sequence[list[int]], spans: Sequence[list[Span]]) -> tuple[list[int], list[Span]]:
    """Tokens of windows that overlap as one: of where two agree the most, the left half is the left one's."""
    left, left_spans = parts[0], spans[0] if spans else []
    tokens: list[int] = []
    times: list[Span] = []
    for number, right in enumerate(parts[1:], start=1):
        right_spans = spans[number] if spans else []
        start, stop, right_start, right_stop = _overlap(left, right, left_spans, right_spans)
        middle, right_middle = (start + stop) // 2, (right_start + right_stop) // 2
        tokens += left[:middle]
        times += left_spans[:middle]
        left, left_spans = right[right_middle:], right_spans[right_middle:]
    return tokens + left, times + left_spans


def _overlap(
    left: list[int], right: list[int], left_spans: list[Span], right_spans: list[Span]
) -> tuple[int, int, int, int]:
    """Where the end of one and the beginning of the other agree best: the largest share of equal tokens, two at least,
    and a little more for longer ones. Places of the left and of the right."""
    best, found = 0.0, (len(left), len(left), 0, 0)
    ours, theirs = np.asarray(left), np.asarray(right)
    for shift in range(1, len(left) + len(right)):
        start, stop = max(0, len(left) - shift), min(len(left), len(left) + len(right) - shift)
        right_start, right_stop = max(0, shift - len(left)), min(len(right), shift)
        same = ours[start:stop] == theirs[right_start:right_stop]
        if left_spans or right_spans:
            matches = sum(
                left_spans[start + place] <= right_spans[right_start + place] for place in np.flatnonzero(same)
            )
        else:
            matches = int(same.sum())
        share = matches / shift + shift / 10000.0
        if matches > 1 and share > best:
            best, found = share, (start, stop, right_start, right_stop)
    return found
