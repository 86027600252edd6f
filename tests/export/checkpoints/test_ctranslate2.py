"""Whispers that CTranslate2 converted: weight by weight what they were made of, and hostile files refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import tiny_sounds
from support.ctranslate2_samples import variables, whisper, written

from precast.export.checkpoints import ctranslate2
from precast.export.checkpoints.mapped_file import MappedFile
from precast.export.checkpoints.open import open_checkpoint
from precast.export.reference import build
from precast.runtime.errors import CheckpointError, ConfigError, PrecastError, UnsafeFileError, UnsupportedModelError


@pytest.fixture(scope="module")
def source() -> Path:
    return tiny_sounds.writer_checkpoint()


@pytest.fixture(scope="module")
def values(source: Path) -> dict[str, Any]:
    return variables(source)


@pytest.fixture
def folder(tmp_path: Path, source: Path) -> Path:
    return whisper(tmp_path / "tiny", source)


def test_it_is_what_it_was_made_of(folder: Path, source: Path) -> None:
    found = open_checkpoint(folder)
    weights = load_file(source / "model.safetensors")
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    assert found.tensors.keys() == weights.keys()
    for name, value in weights.items():
        one = found.tensors[name]
        assert (one.name, one.shape) == (name, tuple(value.shape))
        torch.testing.assert_close(one.load(), value, rtol=0, atol=0)
    config = json.loads((source / "config.json").read_text())
    assert {name: config.get(name) for name in found.config if name != "bos_token_id"} == {
        name: value for name, value in found.config.items() if name != "bos_token_id"
    }
    stated = json.loads((source / "generation_config.json").read_text())
    told = found.read_json("generation_config.json")
    different = {"lang_to_id", "task_to_id", "is_multilingual"}  # a vocabulary as small as this has one language
    assert {**stated, **told, "is_multilingual": True} == stated and stated.keys() - told.keys() < different
    bins = config["num_mel_bins"]
    assert found.read_json("preprocessor_config.json")["feature_size"] == bins
    assert build(found.config, found.tensors, "speech-seq2seq").model_type == "whisper"
    assert set(found.digests()) == {"config.json", "model.bin", "tokenizer.json"}
    assert set(found.tokenizer_files("whisper")) == {"tokenizer.json", "tokenizer_config.json"}


def test_halves_and_a_projection_of_its_own(folder: Path, values: dict[str, Any]) -> None:
    halves = {
        name: value.astype(np.float16) if getattr(value, "dtype", None) == np.float32 else value
        for name, value in values.items()
    }
    halves["decoder/projection/weight"] = halves["decoder/embeddings/weight"] * np.float16(2)
    (folder / "model.bin").write_bytes(written(halves))
    found = open_checkpoint(folder)
    assert found.config["tie_word_embeddings"] is False
    words, projection = (
        found.tensors[name].load() for name in ("model.decoder.embed_tokens.weight", "proj_out.weight")
    )
    assert words.dtype == torch.float16 and torch.equal(projection, words * 2)
    query, value = (found.tensors[f"model.encoder.layers.1.self_attn.{one}_proj.weight"].load() for one in "qv")
    whole = torch.from_numpy(halves["encoder/layer_1/self_attention/linear_0/weight"])
    assert torch.equal(query, whole[: len(query)]) and torch.equal(value, whole[-len(value) :])


def test_languages_and_tasks(folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "_MULTILINGUAL", 1000)
    told = open_checkpoint(folder).read_json("generation_config.json")
    stated = json.loads((source / "generation_config.json").read_text())
    assert {name: told[name] for name in ("lang_to_id", "task_to_id", "is_multilingual")} == {
        name: stated[name] for name in ("lang_to_id", "task_to_id", "is_multilingual")
    }


def test_null_says_nothing(folder: Path) -> None:
    keys = ("alignment_heads", "lang_ids", "suppress_ids", "suppress_ids_begin")
    (folder / "config.json").write_text(json.dumps(dict.fromkeys(keys)))
    told = open_checkpoint(folder).read_json("generation_config.json")
    assert told["suppress_tokens"] == told["begin_suppress_tokens"] == [] and "alignment_heads" not in told


def test_a_feature_extractor_that_lies_there_is_the_models(folder: Path, source: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"feature_extractor_type": "Mine"}')
    found = open_checkpoint(folder)
    assert found.read_json("preprocessor_config.json") == {"feature_extractor_type": "Mine"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"decoder/activation": np.int8(0)}, UnsupportedModelError, "decoder/activation is 3 of a Whisper; received 0"),
        ({"decoder/pre_norm": np.int8(0)}, UnsupportedModelError, "decoder/pre_norm is 1"),
        ({"decoder/relative": np.int8(0)}, UnsupportedModelError, "holds what no Whisper has here: decoder/relative"),
        ({"encoder/conv1/bias": None}, CheckpointError, r"model.bin has no encoder/conv1/bias"),
        ({"encoder/conv1/bias": np.zeros((2, 2), np.float32)}, CheckpointError, r"has 1 dimensions; received \[2, 2\]"),
        ({"encoder/num_heads": None}, CheckpointError, "2 layers of None heads"),
        ({"encoder/num_heads": np.zeros(2, np.int16)}, CheckpointError, "is one integer"),
        (
            {"encoder/layer_0/self_attention/linear_0/bias": np.ones(96, np.float32)},
            UnsupportedModelError,
            "gives keys a bias",
        ),
        (
            {"encoder/layer_0/ffn/linear_0/weight": np.ones((48, 32), np.int8)},
            UnsupportedModelError,
            "is of int8, and rounded weights say nothing",
        ),
        ({"decoder/projection/weight": "decoder/nothing"}, CheckpointError, "stands for decoder/nothing, which is not"),
        (
            {"encoder/layer_0/self_attention/linear_0/weight": np.ones((95, 32), np.float32)},
            CheckpointError,
            "has 95 rows, which 3 layers share",
        ),
    ],
)
def test_models_that_are_none(
    folder: Path, values: dict[str, Any], changes: dict[str, Any], error: type[PrecastError], message: str
) -> None:
    changed = {name: value for name, value in {**values, **changes}.items() if value is not None}
    (folder / "model.bin").write_bytes(written(changed))
    with pytest.raises(error, match=message):
        open_checkpoint(folder)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = written({"a": np.ones((2, 3), np.float32), "b": np.int8(1), "c": "a"})
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert list(ctranslate2.read_variables(MappedFile(path))) == ["a", "b", "c"]
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        with pytest.raises((CheckpointError, UnsupportedModelError)):
            ctranslate2.read_variables(MappedFile(path))
    path.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match="1 bytes are behind the model"):
        ctranslate2.read_variables(MappedFile(path))


def test_bytes_that_lie_are_refused_without_a_crash(tmp_path: Path) -> None:
    data = written({"a": np.ones((2, 3), np.float32), "b": np.int8(1), "c": "a"})
    path = tmp_path / "model.bin"
    for place in range(len(data)):
        if data[:place].count(b"\x00\x00\x80?") and place < data.rindex(b"\x00\x00\x80?"):
            continue  # a value, which may be any
        for value in (0, 1, 0x7F, 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            try:
                ctranslate2.read_variables(MappedFile(path))
            except PrecastError:
                continue


@pytest.mark.parametrize(
    ("written_as", "message"),
    [
        ({"version": 5}, "binary format of version 6; its version is 5"),
        ({"kind": "TransformerSpec"}, "WhisperSpec 3 is read here; model.bin is a TransformerSpec 3"),
        ({"revision": 4}, "model.bin is a WhisperSpec 4"),
    ],
)
def test_other_models_of_ctranslate2s(folder: Path, written_as: dict[str, Any], message: str) -> None:
    (folder / "model.bin").write_bytes(written({}, **written_as))
    with pytest.raises(UnsupportedModelError, match=message):
        open_checkpoint(folder)


def test_twice_and_types_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(written({"a": np.int8(1), "b": np.int8(1)}).replace(b"b\0", b"a\0"))
    with pytest.raises(CheckpointError, match="has a twice"):
        ctranslate2.read_variables(MappedFile(path))
    path.write_bytes(written({"a": np.int8(1)}).replace(b"a\0\0\1", b"a\0\0\t"))
    with pytest.raises(CheckpointError, match="is of the type 9, which is none"):
        ctranslate2.read_variables(MappedFile(path))
    path.write_bytes(written({"a": np.ones((1,) * 9, np.int8)}))
    with pytest.raises(CheckpointError, match="has 9 dimensions, and 8 are the most"):
        ctranslate2.read_variables(MappedFile(path))


def test_files_beside_it_are_held_to_rules(folder: Path) -> None:
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "config.json").write_text('{"suppress_ids": [-1]}')
    with pytest.raises(ConfigError, match="suppress_ids must be a list of token ids"):
        open_checkpoint(folder)
    (folder / "config.json").write_text('{"alignment_heads": [[1]]}')
    with pytest.raises(ConfigError, match="alignment_heads must be a list of pairs"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json is not valid"):
        open_checkpoint(folder)
    (folder / "config.json").write_bytes(kept["config.json"])
    (folder / "tokenizer.json").write_text('{"added_tokens": []}')
    with pytest.raises(CheckpointError, match=r"tokenizer.json has no <\|startoftranscript\|>"):
        open_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        open_checkpoint(folder)
    (folder / "tokenizer.json").write_bytes(kept["tokenizer.json"])
    outside = folder.parent / "outside.bin"
    outside.write_bytes(kept["model.bin"])
    (folder / "model.bin").unlink()
    os.symlink(outside, folder / "model.bin")
    with pytest.raises(UnsafeFileError, match=r"model.bin is a link to a place outside"):
        open_checkpoint(folder)
