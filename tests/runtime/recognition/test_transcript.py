"""Tokens as texts, chunks and words: the same as upstream makes of them, whatever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words, _decode_asr

from precast.runtime.recognition.transcript import Heard, Markup, transcript
from precast.runtime.recognition.words import words_of

# Bytes of texts, as byte-level tokens are: words, punctuation, and characters of several tokens.
PIECES = [
    *(piece.encode() for piece in (" he", "llo", " wor", "ld", ",", ".", " (", ")", ' "', "!", " ", "a", "\n", "。")),
    *(bytes([one]) for one in "語é".encode()),
    " 日".encode(),
]
WORDS = len(PIECES)
START, ENGLISH, FRENCH, TRANSCRIBE, PREVIOUS, SILENT, PLAIN = range(WORDS + 1, WORDS + 8)
END, STAMP = WORDS, PLAIN + 1
SPECIAL = {START, ENGLISH, FRENCH, TRANSCRIBE, PREVIOUS, SILENT, PLAIN, END}


class Theirs:
    """What upstream's function asks of a tokenizer."""

    all_special_ids = sorted(SPECIAL)
    eos_token_id = END
    language = None

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<|notimestamps|>": PLAIN, "<|startofprev|>": PREVIOUS, "<|startoftranscript|>": START}[token]

    def _strip_prompt(self, tokens: list[int], prompt: int, start: int) -> list[int]:
        if tokens and tokens[0] == prompt:
            return tokens[tokens.index(start) :] if start in tokens else []
        return tokens

    def decode(self, tokens: list[int], decode_with_timestamps: bool = False) -> str:
        return decode([int(token) for token in tokens])


def decode(tokens: list[int]) -> str:
    named = {ENGLISH: b"<|en|>", FRENCH: b"<|fr|>"}
    return b"".join(
        PIECES[token] if token < WORDS else named.get(token, b"<|do|>") if token < STAMP else b"" for token in tokens
    ).decode(errors="replace")


MARKUP = Markup(
    stamp=STAMP,
    special=frozenset(SPECIAL),
    start=START,
    previous=PREVIOUS,
    end=END,
    languages={ENGLISH: "english", FRENCH: "french"},
    decode=decode,
)


def compare(heard: list[Heard], stamps: bool | str, language: bool) -> None:
    outputs: list[dict[str, Any]] = []
    for one in heard:
        output: dict[str, Any] = {"tokens": np.asarray([one.tokens], np.int64)}
        if one.part is not None:
            output["stride"] = one.part
        if one.times is not None:
            output["token_timestamps"] = np.asarray([one.times])
        outputs.append(output)
    text, optional = _decode_asr(
        Theirs(), outputs, return_timestamps=stamps, return_language=language, time_precision=0.02
    )
    assert transcript(heard, MARKUP, stamps=stamps, language=language) == {"text": text, **optional}


words = st.integers(0, WORDS - 1)
stamp = st.integers(STAMP, STAMP + 1500)
token = st.one_of(words, words, words, stamp, st.sampled_from(sorted(SPECIAL)))
spoken = st.lists(
    st.tuples(st.integers(0, 700), st.lists(words, min_size=1, max_size=6), st.integers(0, 700), st.booleans()),
    max_size=4,
)


def segments(parts: list[tuple[int, list[int], int, bool]]) -> list[int]:
    """As models write them: a timestamp, words, a timestamp, in order; sometimes the last one is left out."""
    made: list[int] = []
    at = 0
    for start, said, length, ended in parts:
        at = min(1500, at + start)
        made += [STAMP + at, *said]
        at = min(1500, at + length)
        made += [STAMP + at] if ended else []
    return made


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(token, max_size=14), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_whatever_tokens_there_are(several: list[list[int]], stamps: bool, language: bool) -> None:
    compare([Heard(tokens) for tokens in several], stamps, language)


@settings(deadline=None, max_examples=150)
@given(st.lists(spoken, min_size=1, max_size=4), st.booleans(), st.booleans(), st.sampled_from(["stamps", "none"]))
def test_windows_that_overlap(several: Any, stamps: bool, language: bool, marked: str) -> None:
    heard = []
    for number, parts in enumerate(several):
        tokens = segments(parts)
        if marked == "none":
            tokens = [one for one in tokens if one < STAMP]
        sides = (0.0 if number == 0 else 5.0, 0.0 if number == len(several) - 1 else 5.0)
        heard.append(Heard([ENGLISH, *tokens] if number % 2 == 0 else tokens, None, (30.0, *sides)))
    compare(heard, stamps, language)


@settings(deadline=None, max_examples=100)
@given(st.lists(spoken, min_size=1, max_size=3), st.booleans(), st.integers(0, 1000))
def test_words_have_times(several: Any, language: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    heard = []
    for number, parts in enumerate(several):
        tokens = segments(parts)
        times = np.sort(rng.uniform(0, 29, len(tokens))).tolist()
        sides = (0.0 if number == 0 else 5.0, 0.0 if number == len(several) - 1 else 5.0)
        heard.append(Heard(tokens, times, (30.0, *sides) if len(several) > 1 else None))
    compare(heard, "word", language)


@settings(deadline=None, max_examples=200)
@given(st.lists(words, min_size=1, max_size=20), st.sampled_from([None, "english", "japanese"]))
def test_words_are_upstreams(tokens: list[int], language: str | None) -> None:
    said, _, places = _combine_tokens_into_words(Theirs(), tokens, language)
    assert words_of(tokens, language, decode, END) == list(zip(said, places, strict=True))
