"""Tokenizers of decoders and byte-level encoder-decoders from their own vocabulary files, against sentencepiece itself
and transformers' classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from support.tokenizer_samples import (
    CORPUS,
    ORDINARY,
    PAIRS,
    TEXTS,
    byte_level,
    copied,
    sentencepiece_model,
    suffix_bpe,
    tokenizer,
    write_json,
)
from transformers import AutoTokenizer, ByT5Tokenizer

from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import CheckpointError, UnsupportedModelError

LLAMA = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "vocab_size": 900} | {
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
}
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"} | {
    "add_dummy_prefix": False,
    "user_defined_symbols": ["\u2581\u2581", "\u2581\u2581\u2581", "\n\n", "<start_of_turn>"],
}
SPECIAL = ("<s>", "</s>", "<unk>")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentencepiece_model(tmp_path_factory.mktemp("llama"), "tokenizer.model", **LLAMA)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("gpt2"), ("<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"))


def assert_equal(theirs: Any, mine: Any, texts: list[Any]) -> None:
    for text in texts:
        first, second = (text, None) if isinstance(text, str) else text
        wanted = theirs(first, second)["input_ids"]
        assert mine(first, second)["input_ids"] == wanted, text
        assert mine.decode(wanted) == theirs.decode(wanted), text
        assert mine.decode(wanted, skip_special_tokens=True) == theirs.decode(wanted, skip_special_tokens=True), text


def test_llama(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    mine = tokenizer(folder, "llama")
    texts = [text for text in TEXTS if not any(token in text for token in SPECIAL)]
    for text in [*texts, *CORPUS, "   three before", "three after   ", "\u2581 sign"]:
        assert mine(text)["input_ids"] == [1, *spm.encode(text)], text
        assert mine.decode(spm.encode(text)) == spm.decode(spm.encode(text)), text
    assert mine.padding_side == "left"
    assert mine("a", "b")["input_ids"] == [1, *spm.encode("a"), 1, *spm.encode("b")]
    assert mine("a</s>b")["input_ids"] == [1, *spm.encode("a"), 2, *spm.encode("b")]
    both = tokenizer(folder, "mistral", add_bos_token=False, add_eos_token=True)
    assert both("Hello")["input_ids"] == [*spm.encode("Hello"), 2]


def test_llama_that_is_not_legacy(llama: Path, tmp_path: Path) -> None:
    """Only a text's beginning gets a space, not what follows a special token."""
    folder = copied(llama, tmp_path)
    write_json(folder / "config.json", {"model_type": "llama"})
    mine = tokenizer(folder, "llama", legacy=False, add_bos_token=True)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": False})
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in [*ORDINARY, "a</s>b", "<s>[INST] Hello [/INST]"]:
        assert mine(text, add_special_tokens=False)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]
    none = tokenizer(folder, "llama", add_prefix_space=False)
    assert mine.tokenize("Hello")[0][0] == "\u2581"
    assert none.tokenize("Hello")[0][0] == "H"


def test_gemma(tmp_path: Path) -> None:
    """Runs of spaces and line ends are pieces that a user defined: they are found first."""
    folder = sentencepiece_model(tmp_path, "tokenizer.model", **(LLAMA | GEMMA))
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    mine = tokenizer(folder, "gemma")
    texts = [text for text in TEXTS if not any(token in text for token in (*SPECIAL, "<pad>"))]
    for text in [*texts, *CORPUS, "a   b    c\n\n\n d", "<start_of_turn>user\nHi", "     "]:
        assert mine(text)["input_ids"] == [2, *spm.encode(text)], text
        assert mine.decode(spm.encode(text)) == spm.decode(spm.encode(text)), text
    assert mine.pad_token_id == 0
    assert mine.padding_side == "left"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"add_prefix_space": True},
        {"add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    ],
    ids=["gpt2", "prefix", "opt"],
)
def test_gpt2(settings: dict[str, Any], gpt2: Path, tmp_path: Path) -> None:
    folder = copied(gpt2, tmp_path)
    write_json(folder / "config.json", {"model_type": "gpt2"})
    mine = tokenizer(folder, "opt" if "bos_token" in settings else "gpt2", tokenizer_class="GPT2Tokenizer", **settings)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert_equal(theirs, mine, [*TEXTS, *PAIRS, "a<|endoftext|>b </s> c"])
    assert mine.special_tokens_map == theirs.special_tokens_map
    if "bos_token" in settings:
        assert mine("Hello")["input_ids"][0] == 2
    # With its tokenizer.json beside it.
    theirs.save_pretrained(tmp_path / "saved")
    write_json(tmp_path / "saved" / "config.json", {"model_type": "gpt2"})
    again = tokenizer(tmp_path / "saved", "gpt2", tokenizer_class="GPT2Tokenizer", **settings)
    assert_equal(AutoTokenizer.from_pretrained(tmp_path / "saved"), again, [*TEXTS, *PAIRS])


def test_openai_gpt(tmp_path: Path) -> None:
    folder = suffix_bpe(tmp_path, ("<unk>",))
    write_json(folder / "config.json", {"model_type": "openai-gpt"})
    mine = tokenizer(folder, "openai-gpt")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert_equal(theirs, mine, [*TEXTS, *PAIRS])
    assert mine("HELLO")["input_ids"] == mine("hello")["input_ids"]


def test_bart_and_blenderbot(gpt2: Path, tmp_path: Path) -> None:
    folder = copied(gpt2, tmp_path)
    write_json(folder / "config.json", {"model_type": "bart"})
    mine = tokenizer(folder, "bart", tokenizer_class="BartTokenizer")
    assert_equal(AutoTokenizer.from_pretrained(folder), mine, [*TEXTS, *PAIRS])
    bare = tokenizer(folder, "bart")
    assert bare("Hello")["input_ids"] == mine("Hello")["input_ids"]
    blenderbot = tokenizer(folder, "blenderbot")
    inner = mine(" Hello world", add_special_tokens=False)["input_ids"]
    assert blenderbot("Hello world")["input_ids"] == [*inner, blenderbot.eos_token_id]


def test_byt5(tmp_path: Path) -> None:
    """There is no vocabulary file: bytes are all it knows."""
    mine = tokenizer(tmp_path, "t5", tokenizer_class="ByT5Tokenizer")
    theirs = ByT5Tokenizer()
    assert len(mine) == 384
    for text in [*TEXTS, *PAIRS, "a<extra_id_0> b </s>  c", "x" * 1000]:
        first, second = (text, None) if isinstance(text, str) else text
        wanted = theirs(first, second)["input_ids"]
        assert mine(first, second)["input_ids"] == wanted, text
        assert mine.decode(wanted, skip_special_tokens=True) == theirs.decode(wanted, skip_special_tokens=True), text
    assert mine.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_124>"]) == [
        0,
        1,
        2,
        259,
        383,
    ]
    assert mine.decode([3 + 0xC3, 3 + 0x41]) == theirs.decode([3 + 0xC3, 3 + 0x41]) == "A"
    assert len(tokenizer(tmp_path, "t5", tokenizer_class="ByT5Tokenizer", extra_ids=2)) == 261
    with pytest.raises(CheckpointError, match=r"extra_ids is a whole number of 0 to 65536; .* has 'many'"):
        tokenizer(tmp_path, "t5", tokenizer_class="ByT5Tokenizer", extra_ids="many")
    with pytest.raises(CheckpointError, match=r"extra_ids is a whole number of 0 to 65536; .* has 2147483648"):
        tokenizer(tmp_path, "t5", tokenizer_class="ByT5Tokenizer", extra_ids=2**31)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BartphoTokenizer", "pieces .* that its dictionary lacks count as unknown"),
        ("BioGptTokenizer", "Moses's rules"),
        ("BlenderbotSmallTokenizer", "marked where a word goes on"),
        ("CTRLTokenizer", "marked where a word goes on"),
        ("CpmTokenizer", "cuts words with jieba"),
        ("GPTNeoXJapaneseTokenizer", "normalises addresses, numbers and emoji"),
        ("GPTSw3Tokenizer", "drops unprintable characters"),
    ],
)
def test_what_cannot_be_expressed(name: str, reason: str, gpt2: Path, tmp_path: Path) -> None:
    folder = copied(gpt2, tmp_path)
    with pytest.raises(UnsupportedModelError, match=f"{name} cannot be expressed as a tokenizer.json: .*{reason}"):
        tokenizer(folder, "gpt2", tokenizer_class=name)
    assert runtime_files(folder, "gpt2", {}, strict=False) == {}


def test_a_broken_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00not")
    with pytest.raises(CheckpointError, match=r"tokenizer.model is not a sentencepiece model, or is cut short"):
        tokenizer(tmp_path, "llama")
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"BPE or characters with pieces; its model_type is 1, and it has 0"):
        tokenizer(tmp_path, "llama")
