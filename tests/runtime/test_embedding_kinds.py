"""Sentence embeddings beside the usual: SPLADE's over the vocabulary, static tables, bodies of masked LMs, each as
sentence-transformers computes it; and folders of it that cannot be served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SpladePooling
from support import tiny_artifacts
from tokenizers import Tokenizer

import precast
from precast.export.checkpoints.open import open_checkpoint
from precast.export.embedding import declared_task, read_modules
from precast.runtime.embedding import pool
from precast.runtime.errors import CheckpointError, ConfigError, UnsupportedTaskError, WeightsError

TEXTS = ["a b c", "the cat sat on the mat", "x", "the the the " * 9, "", "it is a long way to go from here " * 3]


def masked_lm() -> Path:
    return tiny_artifacts.checkpoint("fill-mask")


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splade") / "checkpoint"
    theirs = SparseEncoder(
        modules=[Transformer(str(masked_lm()), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )
    theirs.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static") / "checkpoint"
    tokenizer = Tokenizer.from_file(str(tiny_artifacts.artifact("text-classification") / "tokenizer.json"))
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    modules = [StaticEmbedding(tokenizer, embedding_weights=table), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def test_splade_is_served(splade: Path, tmp_path: Path) -> None:
    ours = precast.load(precast.export_model(splade, tmp_path / "artifact"))
    theirs = SparseEncoder(str(splade), device="cpu")
    expected = theirs.encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    assert (expected > 0).any() and (expected == 0).any()
    close(ours.encode(TEXTS), expected)
    close(ours.encode(TEXTS, batch_size=1), expected)
    close(ours.encode(TEXTS[1]), expected[1])
    assert ours.encode([]).shape == (0, expected.shape[1])
    assert ours.tasks == ("fill-mask",)
    again = precast.load(ours.path)
    again.embedding["max_active_dims"] = 5
    close(again.encode(TEXTS), theirs.encode(TEXTS, convert_to_sparse_tensor=False, max_active_dims=5).numpy())
    ours_dot = ours.similarity(expected[:2], expected[2:])
    np.testing.assert_allclose(ours_dot, expected[:2] @ expected[2:].T, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("function", ["relu", "log1p_relu"])
def test_splade_pools_as_upstream(strategy: Any, function: Any) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 7, 20)).astype(np.float32) * 4
    mask = np.array([[1] * 7, [1] * 3 + [0] * 4, [0] * 2 + [1] * 5])
    theirs = SpladePooling(strategy, function).eval()
    features = {"token_embeddings": torch.from_numpy(logits.copy()), "attention_mask": torch.from_numpy(mask)}
    mode = f"splade_{strategy}" + ("_log1p" if function == "log1p_relu" else "")
    close(pool(logits, mask, [mode]), theirs(features)["sentence_embedding"].numpy())


def test_splade_of_old_folders_and_what_is_not_honoured(splade: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(splade, tmp_path / "old")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    pooling = folder / modules[1]["path"] / "config.json"
    pooling.write_text(
        '{"pooling_strategy": "sum", "activation_function": "log1p_relu", "word_embedding_dimension": 9}'
    )
    found = read_modules(open_checkpoint(folder))
    assert found is not None
    assert (found["pooling"], found["output"], found["similarity"]) == (["splade_sum_log1p"], "logits", "dot")
    settings = folder / "config_sentence_transformers.json"
    settings.write_text('{"max_active_dims": 7, "similarity_fn_name": "cosine"}')
    found = read_modules(open_checkpoint(folder))
    assert found is not None and (found["max_active_dims"], found["similarity"]) == (7, "cosine")
    settings.write_text('{"max_active_dims": 0}')
    with pytest.raises(ConfigError, match="max_active_dims must be an integer from 1"):
        read_modules(open_checkpoint(folder))
    settings.unlink()
    assert declared_task(open_checkpoint(folder)) == "fill-mask"
    pooling.write_text('{"pooling_strategy": "mean"}')
    with pytest.raises(ConfigError, match=r"pooling_strategy of max or sum .* found 'mean' and 'relu'"):
        read_modules(open_checkpoint(folder))
    pooling.write_text('{"top": 5}')
    with pytest.raises(ConfigError, match="SpladePooling sets 'top', which is not honoured"):
        read_modules(open_checkpoint(folder))
    # A Transformer that is not told to be a masked LM gives hidden states, which SpladePooling would pool.
    modules[0]["type"] = "sentence_transformers.models.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling.write_text("{}")
    with pytest.raises(ConfigError, match=r"sets transformer_task to 'feature-extraction', which is not honoured"):
        read_modules(open_checkpoint(folder))
    sparse = [*modules[:1], {"idx": 1, "path": "", "type": "sentence_transformers.models.SparseAutoEncoder"}]
    (folder / "modules.json").write_text(json.dumps(sparse))
    with pytest.raises(ConfigError, match=r"the module 'SparseAutoEncoder' of modules\.json is not honoured"):
        read_modules(open_checkpoint(folder))


def test_a_static_table_is_served(static: Path, tmp_path: Path) -> None:
    artifact = precast.export_model(static, tmp_path / "artifact")
    ours, theirs = precast.load(artifact), SentenceTransformer(str(static), device="cpu")
    expected = theirs.encode(TEXTS)
    assert not expected[TEXTS.index("")].any()
    close(ours.encode(TEXTS), expected)
    close(ours.encode("", normalize=True), expected[TEXTS.index("")])
    close(ours.encode(TEXTS, truncate_dim=5), theirs.encode(TEXTS, truncate_dim=5))
    assert ours.encode("", output="token_embeddings").shape == (0, 16)
    assert precast.verify(artifact)["variants"]
    assert ours.tasks == ("feature-extraction",)


def test_a_static_table_in_other_forms(static: Path, tmp_path: Path) -> None:
    """In a folder of its own, cut by tokenizer.json itself; and tables that are none."""
    folder = shutil.copytree(static, tmp_path / "moved")
    (folder / "0_StaticEmbedding").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_StaticEmbedding" / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps(modules))
    place = folder / "0_StaticEmbedding" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(place))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(place))
    # sentence-transformers reads no such file, so it says nothing.
    (folder / "0_StaticEmbedding" / "tokenizer_config.json").write_text('{"model_max_length": 2}')
    ours = precast.load(precast.export_model(folder, tmp_path / "artifact"))
    close(ours.encode(TEXTS), SentenceTransformer(str(folder), device="cpu").encode(TEXTS))
    weights = folder / "0_StaticEmbedding" / "model.safetensors"
    table = load_file(weights)["embedding.weight"]
    save_file({"embeddings": table, "mapping": torch.arange(len(table))}, weights)
    with pytest.raises(WeightsError, match=r"shares or weighs its rows \(mapping\)"):
        open_checkpoint(folder)
    save_file({"table": table}, weights)
    with pytest.raises(
        WeightsError, match=r"table of \[tokens, size\] under embedding\.weight or embeddings; found: ta"
    ):
        open_checkpoint(folder)


def test_modules_json_decides_over_config_json(tmp_path: Path) -> None:
    """As of all-mpnet-base-v2: config.json names a masked LM, and what the folder is for are embeddings."""
    folder = tmp_path / "checkpoint"
    theirs = SentenceTransformer(modules=[transformer := Transformer(str(masked_lm())), Pooling(32)], device="cpu")
    assert transformer.get_embedding_dimension() == 32
    theirs.save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    ours = precast.load(precast.export_model(folder, tmp_path / "artifact"))
    assert ours.tasks == ("feature-extraction",)
    close(ours.encode(TEXTS), theirs.encode(TEXTS))
    # Another task, asked for, is exported without embeddings; encode says what is there and how to get the other.
    shutil.copyfile(masked_lm() / "model.safetensors", folder / "model.safetensors")
    other = precast.load(precast.export_model(folder, tmp_path / "other", task="fill-mask"))
    with pytest.raises(UnsupportedTaskError, match=r"It serves: fill-mask\. The checkpoint of one .* without --task"):
        other.encode("x")


def test_a_cross_encoder_is_what_its_config_json_says(tmp_path: Path) -> None:
    CrossEncoder(str(tiny_artifacts.checkpoint("text-classification")), device="cpu").save_pretrained(str(tmp_path))
    assert (tmp_path / "modules.json").exists()
    assert declared_task(open_checkpoint(tmp_path)) is None


def test_a_router_is_named(static: Path, tmp_path: Path) -> None:
    table = SentenceTransformer(str(static), device="cpu")[0]
    SentenceTransformer(modules=[Router.for_query_document([table], [table])], device="cpu").save_pretrained(
        str(tmp_path)
    )
    with pytest.raises(CheckpointError, match=r"modules\.json names a Router, which sends queries and documents"):
        open_checkpoint(tmp_path)
