"""Every tokenizer class, from its own files and from tokenizer.json, against transformers' class on the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tokenizer_samples import PAIRS, TEXTS, byte_level, sentencepiece_model, suffix_bpe, wordpiece, write_json
from transformers import AutoTokenizer

from precast.export.tokenizers import files
from precast.export.tokenizers.files import runtime_files
from precast.export.tokenizers.kinds import KINDS
from precast.runtime.errors import CheckpointError, UnsafeFileError, UnsupportedModelError
from precast.runtime.processors.text import Tokenizer

BRACKETS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ANGLES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ALBERT = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "pad_piece": "<pad>",
    "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"],
}
DEBERTA = {
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": "[PAD]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "unk_piece": "[UNK]",
}
MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "BertTokenizer": ("bert", lambda folder: wordpiece(folder, BRACKETS)),
    "ElectraTokenizer": ("electra", lambda folder: wordpiece(folder, BRACKETS)),
    "DistilBertTokenizer": ("distilbert", lambda folder: wordpiece(folder, BRACKETS)),
    "MPNetTokenizer": ("mpnet", lambda folder: wordpiece(folder, ("<s>", "[UNK]", "<pad>", "</s>", "<mask>"))),
    "RobertaTokenizer": ("roberta", lambda folder: byte_level(folder, ANGLES)),
    "HerbertTokenizer": ("bert", lambda folder: suffix_bpe(folder, ANGLES)),
    "XLMRobertaTokenizer": ("xlm-roberta", lambda folder: sentencepiece_model(folder, "sentencepiece.bpe.model")),
    "CamembertTokenizer": ("camembert", lambda folder: sentencepiece_model(folder, "sentencepiece.bpe.model")),
    "AlbertTokenizer": ("albert", lambda folder: sentencepiece_model(folder, "spiece.model", **ALBERT)),
    "DebertaV2Tokenizer": ("deberta-v2", lambda folder: sentencepiece_model(folder, "spm.model", **DEBERTA)),
}


def token(content: str, **flags: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "rstrip": False, "single_word": False} | flags


# tokenizer_config.json and the older files beside it; a name without a dot is a key of tokenizer_config.json.
SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "cased": {"do_lower_case": False, "keep_accents": True},
    "accents": {"do_lower_case": True, "strip_accents": False, "split_by_punct": True},
    "chinese": {"tokenize_chinese_chars": False, "strip_accents": True, "do_lower_case": False},
    "prefix": {"add_prefix_space": True, "trim_offsets": False},
    "no prefix": {"add_prefix_space": False},
    "limits": {"model_max_length": 20, "padding_side": "left", "truncation_side": "left", "split_special_tokens": True},
    "huge limit": {"model_max_length": 1e30, "model_input_names": ["input_ids", "attention_mask", "token_type_ids"]},
    "extra": {"additional_special_tokens": ["<ent>", "</ent>"], "image_token": "<image>"},
    "extra as entries": {"extra_special_tokens": [token("<ent>", lstrip=True, normalized=False), "<b>"]},
    "extra by name": {"extra_special_tokens": {"entity_token": "<ent>"}},
    "clean up": {"clean_up_tokenization_spaces": True},
    "decoder": {
        "added_tokens_decoder": {
            "0": token("<first>", normalized=False, special=True),
            "900": token("tokenization", normalized=True, special=False),
            "901": token("World", single_word=True, normalized=False, special=False),
        }
    },
    "own tokens": {"cls_token": "<c>", "sep_token": token("<e>"), "bos_token": "<c>", "eos_token": "<e>"},
    "map": {
        "special_tokens_map.json": {
            "mask_token": {"content": "<m>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False},
            "additional_special_tokens": ["<x>"],
            "pad_token": "<p>",
        }
    },
    "added": {"added_tokens.json": {"wörld": 1000, "<ent>": 1001}, "additional_special_tokens": ["<ent>"]},
}


def checkpoint(folder: Path, name: str, settings: dict[str, Any], *, declare: bool = True) -> Path:
    model_type = MAKERS[name][0]
    write_json(folder / "config.json", {"model_type": model_type})
    config = {key: value for key, value in settings.items() if "." not in key}
    if declare:
        config["tokenizer_class"] = name
    if config:
        write_json(folder / "tokenizer_config.json", config)
    for key, value in settings.items():
        if "." in key:
            write_json(folder / key, value)
    return folder


def ours(folder: Path, model_type: str) -> Tokenizer:
    return Tokenizer.from_files(runtime_files(folder, model_type, {"model_type": model_type}))


def assert_equal(theirs: Any, mine: Tokenizer, texts: list[Any]) -> None:
    for what in (
        "special_tokens_map",
        "extra_special_tokens",
        "model_input_names",
        "model_max_length",
        "padding_side",
        "truncation_side",
        "split_special_tokens",
        "clean_up_tokenization_spaces",
        "added_tokens_decoder",
        "all_special_ids",
        "pad_token_id",
    ):
        wanted = getattr(theirs, what)
        got = mine._settings.split_special_tokens if what == "split_special_tokens" else getattr(mine, what)
        assert wanted == got, what
    assert theirs.get_vocab() == mine.get_vocab()
    assert repr(theirs.backend_tokenizer.get_added_tokens_decoder()) == repr(mine.added_tokens_decoder)
    options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    for text in texts:
        first, second = (text, None) if isinstance(text, str) else text
        wanted, got = theirs(first, second, verbose=False, **options), mine(first, second, **options)
        assert dict(wanted) == dict(got), text
        assert wanted.tokens() == got.tokens(), text
        assert wanted.word_ids() == got.word_ids(), text
        assert wanted.sequence_ids() == got.sequence_ids(), text
        ids = wanted["input_ids"]
        assert theirs.decode(ids) == mine.decode(ids), text
        assert theirs.decode(ids, skip_special_tokens=True) == mine.decode(ids, skip_special_tokens=True), text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per class a folder with its own vocabulary files alone."""
    base = tmp_path_factory.mktemp("vocabularies")
    return {name: make(base / name) for name, (_, make) in MAKERS.items()}


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_every_kind_is_tested() -> None:
    assert sorted(MAKERS) == sorted(KINDS)
    assert set(files._REGISTERED.values()) <= set(files._KINDS) | set(files._PYTHON_ONLY)


@pytest.mark.parametrize("name", MAKERS)
def test_without_a_declared_class(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    """The class then follows from model_type."""
    if name in ("DistilBertTokenizer", "ElectraTokenizer", "HerbertTokenizer"):
        name = "BertTokenizer"
    folder = checkpoint(copy(trained[name], tmp_path / "c"), name, {}, declare=False)
    assert_equal(AutoTokenizer.from_pretrained(folder), ours(folder, MAKERS[name][0]), TEXTS + PAIRS)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", MAKERS)
def test_own_files_and_tokenizer_json(name: str, settings: str, trained: dict[str, Path], tmp_path: Path) -> None:
    """First from vocabulary files, then from the tokenizer.json that upstream saves of it, with the same settings."""
    model_type = MAKERS[name][0]
    folder = checkpoint(copy(trained[name], tmp_path / "c"), name, SETTINGS[settings])
    if (name, settings) == ("AlbertTokenizer", "own tokens"):  # upstream: a TypeError of the library
        with pytest.raises(CheckpointError, match="the vocabulary must hold <c> and <e>"):
            ours(folder, model_type)
        return
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = (TEXTS + PAIRS) if settings == "nothing" else (TEXTS + PAIRS)[::2]
    texts = [*texts, "tokenization World <ent> wörld <image>x <c>a<e> <m> b <first>"]
    assert_equal(theirs, ours(folder, model_type), texts)

    theirs.save_pretrained(tmp_path / "saved")
    write_json(tmp_path / "saved" / "config.json", {"model_type": model_type})
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert_equal(AutoTokenizer.from_pretrained(tmp_path / "saved"), ours(tmp_path / "saved", model_type), texts[::2])

    # tokenizer.json beside a tokenizer_config.json that says something else: the class decides what counts.
    checkpoint(tmp_path / "saved", name, SETTINGS["cased"] | SETTINGS["no prefix"])
    assert_equal(AutoTokenizer.from_pretrained(tmp_path / "saved"), ours(tmp_path / "saved", model_type), texts[::3])


@pytest.mark.parametrize("name", MAKERS)
def test_as_written(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    """A class of no particular kind takes tokenizer.json as it is; so does modernbert whatever class is declared."""
    folder = checkpoint(copy(trained[name], tmp_path / "c"), name, SETTINGS["extra"])
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "s")
    content = json.loads((tmp_path / "s" / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    content["post_processor"] = None
    write_json(tmp_path / "s" / "tokenizer.json", content)
    for model_type, declared in (("bert", "PreTrainedTokenizerFast"), ("modernbert", name)):
        write_json(tmp_path / "s" / "config.json", {"model_type": model_type})
        config = {"tokenizer_class": declared, "pad_token": "<pad>", "add_bos_token": True, "bos_token": "<s>"}
        write_json(tmp_path / "s" / "tokenizer_config.json", config)
        theirs = AutoTokenizer.from_pretrained(tmp_path / "s")
        assert theirs.truncation_side == "left"
        assert_equal(theirs, ours(tmp_path / "s", model_type), (TEXTS + PAIRS)[::2])


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), second=st.none() | st.text(max_size=20))
def test_any_text(oracle: dict[str, tuple[Any, Tokenizer]], text: str, second: str | None) -> None:
    for name, (theirs, mine) in oracle.items():
        wanted = theirs(text, second, return_offsets_mapping=True, return_special_tokens_mask=True)
        got = mine(text, second, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert dict(wanted) == dict(got), name


@pytest.fixture(scope="module")
def oracle(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Tokenizer]]:
    base = tmp_path_factory.mktemp("oracle")
    folders = {name: checkpoint(copy(trained[name], base / name), name, {}) for name in MAKERS}
    return {
        name: (AutoTokenizer.from_pretrained(folder), ours(folder, MAKERS[name][0])) for name, folder in folders.items()
    }


def test_equal_bytes_in_every_process(trained: dict[str, Path]) -> None:
    """Two exports, one digest: also where the library hashes with another seed."""
    code = (
        "import sys, hashlib; from pathlib import Path;"
        "from precast.export.tokenizers.files import runtime_files;"
        "print([hashlib.sha256(b''.join(runtime_files(Path(f), m, {}).values())).hexdigest()"
        " for f, m in zip(sys.argv[1::2], sys.argv[2::2])]);"
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    names = [name for name in MAKERS if name != "HerbertTokenizer"]
    arguments = [part for name in names for part in (str(trained[name]), MAKERS[name][0])]
    command = [sys.executable, "-c", code, *arguments]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.splitlines()[1] == "[]"
    assert runs[0].stderr == ""


def test_what_an_artifact_says(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = checkpoint(copy(trained["BertTokenizer"], tmp_path / "c"), "BertTokenizer", SETTINGS["limits"])
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    files = runtime_files(folder, "bert", {})
    assert sorted(files) == ["tokenizer.json", "tokenizer_config.json"]
    assert json.loads(files["tokenizer_config.json"]) == {
        "precast_tokenizer": 1,
        "chat_template": "{{ messages }}",
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": 20,
        "pad_token": "[PAD]",
        "padding_side": "left",
        "sep_token": "[SEP]",
        "split_special_tokens": True,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "truncation_side": "left",
        "unk_token": "[UNK]",
    }
    assert Tokenizer.from_files(files).files() == files


def test_no_tokenizer_is_no_error(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    assert runtime_files(tmp_path, "bert", {}) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BertJapaneseTokenizer", "cuts words with MeCab"),
        ("BertweetTokenizer", "rewrites tweets with Python code"),
        ("PhobertTokenizer", "merges lead through pieces that have no id"),
    ],
)
def test_what_cannot_be_expressed(name: str, reason: str, trained: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(trained["BertTokenizer"], tmp_path / "c")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name})
    with pytest.raises(UnsupportedModelError, match=f"{name} cannot be expressed as a tokenizer.json: .*{reason}"):
        runtime_files(folder, "bert", {})
    assert runtime_files(folder, "bert", {}, strict=False) == {}


def test_code_is_never_run(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(trained["BertTokenizer"], tmp_path / "c")
    auto_map = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (folder / "own.py").write_text("raise SystemExit('executed')")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "OwnTokenizer", **auto_map})
    with pytest.raises(UnsafeFileError, match="OwnTokenizer is Python code of the checkpoint, which is never executed"):
        runtime_files(folder, "bert", {})
    # A class we know needs no code: the key is ignored, as upstream does without trust_remote_code.
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **auto_map})
    assert_equal(
        AutoTokenizer.from_pretrained(checkpoint(copy(trained["BertTokenizer"], tmp_path / "d"), "BertTokenizer", {})),
        ours(folder, "bert"),
        TEXTS[:5],
    )


def test_a_file_of_another_model_than_the_class_is_taken_as_it_is(trained: dict[str, Path], tmp_path: Path) -> None:
    """Upstream would build a WordPiece out of BPE pieces; the file knows better."""
    folder = checkpoint(copy(trained["RobertaTokenizer"], tmp_path / "c"), "RobertaTokenizer", {})
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "s")
    (tmp_path / "s" / "tokenizer_config.json").unlink()
    mine = ours(tmp_path / "s", "bert")
    for text in TEXTS:
        assert mine(text)["input_ids"] == theirs(text)["input_ids"]


BROKEN: list[tuple[str, dict[str, bytes | None], type[Exception], str]] = [
    ("RobertaTokenizer", {"merges.txt": None}, CheckpointError, "made of vocab.json, merges.txt.*lacks merges.txt"),
    ("RobertaTokenizer", {"vocab.json": b"{"}, CheckpointError, "the vocabulary of this tokenizer cannot be used"),
    (
        "RobertaTokenizer",
        {"vocab.json": b'{"a": 0}'},
        CheckpointError,
        "the vocabulary of this tokenizer cannot be used",
    ),
    (
        "RobertaTokenizer",
        {"merges.txt": b"a b c d\nx"},
        CheckpointError,
        "the vocabulary of this tokenizer cannot be used",
    ),
    ("BertTokenizer", {"vocab.txt": b"\xff\xfe"}, CheckpointError, "the vocabulary of this tokenizer cannot be used"),
    ("XLMRobertaTokenizer", {"sentencepiece.bpe.model": b"\x00not"}, CheckpointError, "is not a sentencepiece model"),
    ("BertTokenizer", {"tokenizer.json": b"{}"}, CheckpointError, "tokenizer.json must be a complete file"),
    ("BertTokenizer", {"tokenizer_config.json": b"nope"}, CheckpointError, "tokenizer_config.json must hold JSON"),
    (
        "BertTokenizer",
        {"tokenizer_config.json": b'{"tokenizer_class": 3}'},
        CheckpointError,
        "tokenizer_class is a name",
    ),
    ("BertTokenizer", {"tokenizer_config.json": b'{"cls_token": null}'}, CheckpointError, "puts its cls_token around"),
    (
        "BertTokenizer",
        {"tokenizer_config.json": b'{"tokenizer_class": "StrangeTokenizer"}'},
        UnsupportedModelError,
        "no conversion to tokenizer.json for StrangeTokenizer from vocab.txt. Add the checkpoint's tokenizer.json",
    ),
    (
        "BertTokenizer",
        {"tokenizer_config.json": b'{"fast_tokenizer_files": ["tokenizer.4.0.0.json", "tokenizer.json"]}'},
        UnsupportedModelError,
        "for each library version",
    ),
]


@pytest.mark.parametrize(("name", "files", "error", "message"), BROKEN)
def test_broken_checkpoints(
    name: str,
    files: dict[str, bytes | None],
    error: type[Exception],
    message: str,
    trained: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = copy(trained[name], tmp_path / "c")
    for file, data in files.items():
        if data is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(data)
    with pytest.raises(error, match=message):
        runtime_files(folder, MAKERS[name][0], {})


@pytest.mark.parametrize("name", ["BertTokenizer", "RobertaTokenizer"])
def test_an_id_far_beyond_the_table_is_refused_before_anything_counts_up_to_it(
    name: str, trained: dict[str, Path], tmp_path: Path
) -> None:
    """The library would serialise 2^31 ids one by one. A few ids without a token are found in the field."""
    folder = copy(trained[name], tmp_path / "c")
    files = runtime_files(folder, MAKERS[name][0], {})
    content = json.loads(files["tokenizer.json"])
    vocab = content["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for far, refused in ((vocab[last] + 1000, False), (2**31, True)):
        (folder / "tokenizer.json").write_text(
            json.dumps({**content, "added_tokens": [], "model": {**content["model"], "vocab": {**vocab, last: far}}})
        )
        if not refused:
            assert Tokenizer.from_files(runtime_files(folder, MAKERS[name][0], {})).get_vocab()[last] == far
            continue
        with pytest.raises(
            CheckpointError, match=r"a vocabulary of \d+ tokens has ids up to .* the id 2147483648\. No"
        ):
            runtime_files(folder, MAKERS[name][0], {})
        with pytest.raises(CheckpointError, match="the id 2147483648"):
            Tokenizer.from_folder(folder).save_pretrained(tmp_path / "saved")


def test_tokens_made_up_by_a_number_are_bounded(tmp_path: Path) -> None:
    folder = sentencepiece_model(tmp_path, "spiece.model")
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 2147483648}')
    with pytest.raises(CheckpointError, match=r"extra_ids is a whole number of 0 to 65536; .* has 2147483648"):
        runtime_files(folder, "t5", {})


def test_a_bpe_sentencepiece_model_is_refused_where_unigram_is_meant(tmp_path: Path) -> None:
    folder = sentencepiece_model(tmp_path, "sentencepiece.bpe.model", model_type="bpe")
    with pytest.raises(CheckpointError, match="must be a unigram model, as this tokenizer class expects"):
        runtime_files(folder, "xlm-roberta", {})
