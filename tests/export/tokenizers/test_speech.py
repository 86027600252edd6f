"""Tokenizers of models that speak, against transformers' own classes, id for id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tokenizer_samples import ORDINARY, sentencepiece_model, write_json
from transformers import SpeechT5Tokenizer, VitsTokenizer

from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import CheckpointError, UnsupportedModelError
from precast.runtime.processors.text import Tokenizer

TEXTS = [
    "kick the Kettle, OK?",
    "  Hello - my dog's CUTE! ",
    "k",
    "kk a kk",
    "A k",
    "",
    "...",
    "\u0130stanbul \u021b \u0163 \u01c5 \u1e9e",
    "two\nlines\tand a k",
]
IDS = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
LETTERS = "kabcdefghijlmnopqrstuvwxyz' -\u0163i\u0307"


def folder(path: Path, vocabulary: dict[str, int], **stated: Any) -> Path:
    write_json(path / "vocab.json", vocabulary)
    settings = {"tokenizer_class": "VitsTokenizer", "phonemize": False, "unk_token": "<unk>", **stated}
    write_json(path / "tokenizer_config.json", settings)
    return path


def ours(path: Path) -> Tokenizer:
    return Tokenizer.from_files(runtime_files(path, "vits", {}))


def letters(first: str = "") -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys([*([first] if first else []), *LETTERS]))}


@pytest.mark.parametrize(
    "stated",
    [
        {"pad_token": "k"},
        {"pad_token": "<pad>"},
        {"pad_token": "a"},
        {"pad_token": "k", "add_blank": False},
        {"pad_token": "k", "language": "ron"},
        {"pad_token": "k", "added_tokens_decoder": {"0": {"content": "k", "special": True}}},
    ],
    ids=str,
)
def test_characters_are_upstreams(stated: dict[str, Any], tmp_path: Path) -> None:
    made = folder(tmp_path, letters("<pad>" if stated["pad_token"] == "<pad>" else ""), **stated)
    theirs, mine = VitsTokenizer.from_pretrained(made), ours(made)
    for text in TEXTS:
        assert mine(text)["input_ids"] == theirs(text)["input_ids"], text
    assert mine.pad_token_id == theirs.pad_token_id and mine.model_input_names == theirs.model_input_names
    assert mine(TEXTS[:2], padding=True)["attention_mask"] == theirs(TEXTS[:2], padding=True)["attention_mask"]


def test_an_older_checkpoint_is_read(tmp_path: Path) -> None:
    """As those of Massively Multilingual Speech are on the Hub."""
    made = folder(tmp_path, letters(), pad_token="k", clean_up_tokenization_spaces=True, language="eng")
    write_json(made / "added_tokens.json", {"<unk>": len(letters())})
    write_json(made / "special_tokens_map.json", {"pad_token": "k", "unk_token": "<unk>"})
    theirs, mine = VitsTokenizer.from_pretrained(made), ours(made)
    for text in TEXTS:
        assert mine(text)["input_ids"] == theirs(text)["input_ids"], text
    assert mine.unk_token_id == theirs.unk_token_id


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ({"phonemize": True}, "phonemizer and eSpeak"),
        ({"is_uroman": True}, "uroman, a program"),
        ({"normalize": False}, "leaves texts as they are"),
    ],
)
def test_what_needs_other_programs_is_refused(stated: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"VitsTokenizer cannot be expressed.*{why}.*pass token ids"):
        ours(folder(tmp_path, letters(), **stated))


def test_damaged_vocabularies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="capital letters beside small ones, 'K' the first"):
        ours(folder(tmp_path, {**letters(), "K": 99}))
    for content in ("{", json.dumps([1]), json.dumps({"a": "0"}), json.dumps({"a": 1})):
        made = folder(tmp_path, {})
        (made / "vocab.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"vocab\.json .* fetch"):
            ours(made)


def test_pieces_of_one_character_are_upstreams(tmp_path: Path) -> None:
    made = sentencepiece_model(tmp_path, "spm_char.model", model_type="char", **IDS)
    write_json(made / "tokenizer_config.json", {"tokenizer_class": "SpeechT5Tokenizer", "model_max_length": 600})
    size = SpeechT5Tokenizer.from_pretrained(made).vocab_size
    write_json(made / "added_tokens.json", {"<mask>": size, "<ctc_blank>": size + 1})
    theirs, mine = SpeechT5Tokenizer.from_pretrained(made), Tokenizer.from_files(runtime_files(made, "speecht5", {}))
    for text in (*TEXTS, *ORDINARY, "  two  spaces ", "\u4f60\u597d x \u4f60", "a</s>b"):
        assert mine(text)["input_ids"] == theirs(text)["input_ids"], text
    ids = mine(ORDINARY[0])["input_ids"]
    assert mine.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    write_json(made / "tokenizer_config.json", {"tokenizer_class": "SpeechT5Tokenizer", "normalize": True})
    with pytest.raises(UnsupportedModelError, match=r"spells numbers out with Python code"):
        runtime_files(made, "speecht5", {})


def test_phonemes_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", letters())
    with pytest.raises(UnsupportedModelError, match=r"FastSpeech2ConformerTokenizer cannot be expressed .*g2p_en"):
        runtime_files(tmp_path, "fastspeech2_conformer", {})
