"""Checkpoints from strangers: whatever their files hold, reading them gives a model or a PrecastError.

A part is drawn; every field with every value, of every family, is tried by ``PRECAST_EXHAUSTIVE=1 pytest tests -k
hostile``.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import oracle, tiny_artifacts
from support.hostile_json import EXHAUSTIVE, attempt, mutations, outcomes, texts
from support.tokenizer_samples import write_json

from precast.export.checkpoints.open import open_checkpoint
from precast.export.exporter import export_model
from precast.export.families import find_family, model_types
from precast.export.heads import BASE, CAUSAL_LM
from precast.export.processing import write_processing
from precast.export.reference import build
from precast.runtime.auto import AutoTokenizer
from precast.runtime.errors import ConfigError, PrecastError

FAMILIES = model_types() if EXHAUSTIVE else ("bert", "llama", "t5")


class Kept(dict[str, bytes]):
    """A writer that keeps what it is given."""

    def write_bytes(self, name: str, data: bytes) -> None:
        self[name] = data


def read(folder: Path) -> None:
    """All of an export that looks at the checkpoint's files; tracing and what follows see the model alone."""
    checkpoint = open_checkpoint(folder)
    reference = build(checkpoint.config, checkpoint.tensors)
    for part in reference.parts:
        part.signature.example()
    write_processing(checkpoint, reference, Kept())
    checkpoint.digests()
    AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with every file that is read, and its weights in shards."""
    folder = tmp_path_factory.mktemp("hostile") / "embedder"
    shutil.copytree(tiny_artifacts.checkpoint("feature-extraction"), folder)
    modules = json.loads((folder / "modules.json").read_bytes())
    dense = {"in_features": 32, "out_features": 8, "bias": True}
    write_json(
        folder / "modules.json",
        [*modules, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}],
    )
    (folder / "2_Dense").mkdir()
    write_json(folder / "2_Dense" / "config.json", {**dense, "activation_function": "torch.nn.modules.activation.Tanh"})
    layer = {"linear.weight": torch.ones(8, 32), "linear.bias": torch.ones(8)}
    oracle.save_file(layer, folder / "2_Dense" / "model.safetensors")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", prompts)
    token = {"content": "[PAD]", "special": True, "lstrip": False}
    write_json(
        folder / "tokenizer_config.json",
        {"pad_token": "[PAD]", "model_max_length": 64, "added_tokens_decoder": {"0": token}, "do_lower_case": True},
    )
    write_json(folder / "special_tokens_map.json", {"pad_token": token, "cls_token": "[CLS]"})
    write_json(folder / "added_tokens.json", {"<extra>": 506})
    with (folder / "model.safetensors").open("rb") as file:
        [size] = struct.unpack("<Q", file.read(8))
        names = [name for name in json.loads(file.read(size)) if name != "__metadata__"]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    write_json(folder / "model.safetensors.index.json", index)
    read(folder)
    return folder


@pytest.mark.parametrize("model_type", FAMILIES)
def test_hostile_configs(model_type: str) -> None:
    config, model = oracle.upstream(model_type, next(iter(find_family(model_type).heads)))
    tensors = oracle.sources(model)

    def made(changed: dict[str, Any]) -> None:
        for part in build(changed, tensors).parts:
            part.signature.example()

    outcomes(attempt(what, partial(made, changed)) for what, changed in mutations(config, most=30))


DOCUMENTS = (
    *("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("model.safetensors.index.json", "config.json"),
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_hostile_folders(embedder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(embedder, tmp_path / "checkpoint")
    whole = json.loads((folder / name).read_bytes())

    def tried() -> Iterator[str | None]:
        for what, changed in mutations(whole, most=10):
            (folder / name).write_text(json.dumps(changed))
            yield attempt(what, lambda: read(folder))
        for text in texts():
            (folder / name).write_bytes(text)
            yield attempt(repr(text[:30]), lambda: read(folder))

    outcomes(tried())


def test_hostile_generation_configs(tmp_path: Path) -> None:
    config, model = oracle.upstream("llama", CAUSAL_LM)
    folder = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    whole = {"eos_token_id": [2, 3], "bos_token_id": 1, "temperature": 0.7, "top_k": 20, "do_sample": True,
             "max_length": 40, "bad_words_ids": [[4, 5]], "suppress_tokens": [7], "forced_eos_token_id": 2}  # fmt: skip
    checkpoint = open_checkpoint(folder)
    reference = build(checkpoint.config, checkpoint.tensors)

    def tried() -> Iterator[str | None]:
        changes = [json.dumps(changed).encode() for _, changed in mutations(whole, most=80)]
        for text in (*changes, *texts()):
            (folder / "generation_config.json").write_bytes(text)
            yield attempt(repr(text[:80]), lambda: write_processing(checkpoint, reference, Kept()))

    outcomes(tried())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2**31}, "'num_hidden_layers' is 2147483648, expected 1000 at most"),
        ({"num_hidden_layers": 100_000}, "'num_hidden_layers' is 100000, expected 1000 at most"),
        ({"hidden_size": 2**62}, "'hidden_size' is 4611686018427387904, expected 2147483647 at most"),
        ({"hidden_size": 2**31 - 1, "intermediate_size": 2**31 - 1}, "make no model of model_type 'llama'"),
        ({"num_attention_heads": 0}, "make no model of model_type 'llama'|'num_attention_heads'"),
    ],
)
def test_sizes_are_bounded_before_anything_is_made(changes: dict[str, Any], message: str) -> None:
    config, model = oracle.upstream("llama", CAUSAL_LM)
    with pytest.raises(ConfigError, match=message):
        build({**config, **changes}, oracle.sources(model))


@pytest.mark.parametrize("changes", [{"layer_norm_eps": 1e308}, {"id2label": {"0": None}}])
def test_hostile_exports(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Values that make a model: what is computed is compared, and what is nothing is refused."""
    folder = shutil.copytree(tiny_artifacts.checkpoint("text-classification"), tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", {**config, **changes})
    assert attempt(str(changes), lambda: export_model(folder, tmp_path / "out")) is None
    assert not (tmp_path / "out").exists() or (tmp_path / "out" / "precast.json").is_file()


def test_tables_are_bounded_before_they_are_filled() -> None:
    config, model = oracle.upstream("modernbert", BASE)
    with pytest.raises(ConfigError, match=r"a table of 2147483647 x 4 numbers is made from config\.json"):
        build({**config, "max_position_embeddings": 2**31 - 1}, oracle.sources(model))


def test_a_config_that_is_a_list(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifacts.checkpoint("text-classification"), tmp_path / "checkpoint")
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="it holds a list where an object belongs"):
        open_checkpoint(folder)
    with pytest.raises(PrecastError, match="must hold an object; it holds a list"):
        AutoTokenizer.from_pretrained(folder)
