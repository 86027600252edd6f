"""Labels by an encoder-decoder that reads a text twice, zero-shot and plain: as upstream's pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from support import oracle
from support.generation_tokenizers import tiny_tokenizer
from support.tokenizer_samples import write_json
from tokenizers import processors

import precast
from precast.export.heads import SEQUENCE_CLASSIFICATION

TEXTS = ["stop the top of abc", "of", "the top stops the stop of the top"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and its artifact beside it."""
    made = tmp_path_factory.mktemp("bart")
    tokenizer = tiny_tokenizer("byte_level")
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", end)]
    )
    names = ["contradiction", "neutral", "entailment"]
    overrides: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(), "eos_token_id": end, "id2label": dict(enumerate(names)),
        "pad_token_id": tokenizer.token_to_id("<pad>"), "label2id": {name: index for index, name in enumerate(names)},
    }  # fmt: skip
    config, model = oracle.upstream("bart", SEQUENCE_CLASSIFICATION, overrides)
    source = oracle.save_checkpoint(made / "checkpoint", config, model)
    tokenizer.save(str(source / "tokenizer.json"))
    write_json(
        source / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    )
    precast.export_model(source, made / "artifact")
    return made


def close(got: Any, want: Any) -> None:
    assert got["labels"] == want["labels"] and got["sequence"] == want["sequence"]
    assert got["scores"] == pytest.approx(want["scores"], abs=1e-5)


def test_labels_are_upstreams(folder: Path) -> None:
    ours = precast.pipeline("text-classification", folder / "artifact")
    theirs = transformers.pipeline("text-classification", str(folder / "checkpoint"))
    for got, want in zip(ours(TEXTS, top_k=3), theirs(TEXTS, top_k=3), strict=True):
        assert [each["label"] for each in got] == [each["label"] for each in want]
        assert [each["score"] for each in got] == pytest.approx([each["score"] for each in want], abs=1e-5)


def test_candidates_are_upstreams(folder: Path) -> None:
    ours = precast.pipeline("zero-shot-classification", folder / "artifact")
    theirs = transformers.pipeline("zero-shot-classification", str(folder / "checkpoint"))
    candidates = ["top", "stop abc", "the"]
    for text in TEXTS:
        close(ours(text, candidates), theirs(text, candidates))
        close(ours(text, candidates, multi_label=True), theirs(text, candidates, multi_label=True))
