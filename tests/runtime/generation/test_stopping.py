"""Stop strings across the borders of tokens, against upstream's StopStringCriteria."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.generation_tokenizers import KINDS, tiny_tokenizer
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation.stopping_criteria import StopStringCriteria

from precast.runtime.errors import InputError
from precast.runtime.generation.history import History
from precast.runtime.generation.stopping import StopStrings, UntilStop
from precast.runtime.generation.token_bytes import TokenBytes
from precast.runtime.processors.text import Tokenizer as Ours
from precast.runtime.processors.tokenizer_settings import Settings


def _upstream(backend: Tokenizer, strings: list[str]) -> StopStringCriteria:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend.to_str()), clean_up_tokenization_spaces=False
    )
    return StopStringCriteria(tokenizer, strings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_stop_at_the_same_token_as_upstream(kind: str) -> None:
    """Strings are cut out of what random tokens spell, so that they begin and end anywhere in a token."""
    backend = tiny_tokenizer(kind)
    spelt = TokenBytes(backend)
    rng = np.random.default_rng(7)
    size = backend.get_vocab_size()
    hits = misses = 0
    for _ in range(16):
        rows = rng.integers(0, size, size=(4, 14))
        strings = []
        for row in rows[:3]:
            text = b"".join(spelt[int(token)] for token in row).decode("utf-8", "ignore")
            start = int(rng.integers(0, max(len(text) - 4, 1)))
            strings.append(text[start : start + int(rng.integers(1, 9))] or "x")
        criterion, upstream = StopStrings(strings, backend), _upstream(backend, strings)
        for length in range(1, rows.shape[1] + 1):
            history = History([row[:length] for row in rows])
            ours = criterion(history)
            theirs = upstream(torch.from_numpy(rows[:, :length]), None).numpy()
            assert ours.tolist() == theirs.tolist(), (strings, rows[:, :length])
            hits, misses = hits + int(ours.sum()), misses + int((~ours).sum())
    assert hits > 30 and misses > 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_spells_what_upstream_cleans_it_to(kind: str) -> None:
    backend = tiny_tokenizer(kind)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()))
    mode = StopStringCriteria._get_stop_string_matching_mode(tokenizer)
    texts, ids = StopStringCriteria.clean_tokenizer_vocab(tokenizer, stop_string_matching_mode=mode)
    spelt = TokenBytes(backend)
    assert len(ids) > 90
    for text, index in zip(texts, ids, strict=True):
        assert spelt[index] == (text if isinstance(text, bytes) else text.encode()), index


def test_overlaps_of_every_kind() -> None:
    """Upstream's own examples: the string has to touch the last token, and may hang over at both ends."""
    backend = Tokenizer.from_str(tiny_tokenizer("byte_level").to_str())
    backend.add_tokens(["st", "stop", "opera", "sto", "pper", "las", "topper", "pped", "to", "tion"])
    criterion = StopStrings(["stop"], backend)

    def stops(*pieces: str) -> bool:
        return bool(criterion(History([[backend.token_to_id(piece) for piece in pieces]]))[0])

    for pieces in (
        ["st", "o", "p"],
        ["stop"],
        ["st", "opera"],
        ["sto", "pper"],
        ["las", "topper"],
        ["s", "to", "pped"],
    ):
        assert stops(*pieces), pieces
    for pieces in (["stop", "a"], ["st", "o", "p", "a"], ["st", "opera", "tion"], ["to", "pped"], ["s", "t"], ["las"]):
        assert not stops(*pieces), pieces


def test_a_character_split_over_tokens_is_found() -> None:
    backend = tiny_tokenizer("byte_level")
    ids = [backend.token_to_id(byte) for byte in pre_tokenizers.ByteLevel(False).pre_tokenize_str("👏")[0][0]]
    assert len(ids) == 4
    criterion = StopStrings(["👏"], backend)
    assert [bool(criterion(History([ids[:length]]))[0]) for length in range(5)] == [False, False, False, False, True]


def test_prompts_special_tokens_and_ids_without_a_token_count_as_upstream_counts_them() -> None:
    backend = tiny_tokenizer("byte_level")
    s, t = backend.token_to_id("s"), backend.token_to_id("t")
    history = History([[s], [s], [s]])
    history.append([t, 0, 10**6])
    assert StopStrings(["st", "</s>"], backend)(history).tolist() == [True, True, False]
    history.append([s, s, t])
    assert StopStrings(["st"], backend)(history).tolist() == [False, False, False]


def test_our_tokenizer_serves_as_well() -> None:
    backend = tiny_tokenizer("wordpiece")
    tokenizer = Ours(backend, Settings.from_kwargs({}))
    row = backend.encode("the top", add_special_tokens=False).ids
    assert (
        StopStrings([" t"], tokenizer)(History([row[: len(row)]])).tolist()
        == StopStrings([" t"], backend)(History([row])).tolist()
    )


def test_what_cannot_be_looked_for() -> None:
    with pytest.raises(InputError, match=r"needs a tokenizer, and this model has none; got \['x'\]"):
        StopStrings(["x"], None)
    for strings in ([], ["a", ""]):
        with pytest.raises(InputError, match="one string or more, none empty"):
            StopStrings(strings, tiny_tokenizer("byte_level"))


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (["stop"], "go on; stop here", "go on; "),
        (["stop"], "go on; sto", "go on; sto"),
        (["ab", "b"], "xxabxx", "xx"),
        (["aab"], "aaaaab", "aaa"),
        (["\n\n", "END"], "line\nline\n\nmore END", "line\nline"),
        (["a"], "a", ""),
        ([], "anything", "anything"),
    ],
)
def test_a_text_ends_before_its_stop_string_however_it_comes_in_pieces(
    strings: list[str], text: str, expected: str
) -> None:
    for size in range(1, len(text) + 1):
        until = UntilStop(strings)
        given = [until.push(text[place : place + size]) for place in range(0, len(text), size)]
        # Nothing that is given out is ever taken back.
        assert "".join(given) == expected[: len("".join(given))]
        assert "".join(given) + until.finish(stopped=False) == expected, size


def test_a_stop_string_with_a_special_token_in_it_is_cut_off_as_far_as_it_shows() -> None:
    until = UntilStop(["bye</s>"])
    assert until.push("good bye") == "good "
    assert until.finish(stopped=True) == ""
