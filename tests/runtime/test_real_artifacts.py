"""The whole way with a tokenizer: exported artifacts behind every pipeline, against upstream on the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from support import doubles
from support.oracle import save_checkpoint

import precast

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
CONTEXT = " ".join(text for text in doubles.texts() if text.strip())


def exported(tmp_path: Path, head: str, **config: Any) -> tuple[Any, Path]:
    """(upstream model, artifact) of a tiny random BERT with the real MiniLM tokenizer."""
    model = doubles.tiny_bert(head, seed=3, scale=4.0, **config)
    written = json.loads(model.config.to_json_string(use_diff=False))
    written["architectures"] = [head]
    source = save_checkpoint(tmp_path / "source", written, model)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (doubles.minilm() / name).is_file():
            shutil.copy(doubles.minilm() / name, source / name)
    return model, precast.export_model(source, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("task", "head", "config", "calls"),
    [
        (
            "text-classification",
            "BertForSequenceClassification",
            {"id2label": {0: "bad", 1: "so-so", 2: "good"}},
            [((doubles.texts(),), {"top_k": None})],
        ),
        (
            "token-classification",
            "BertForTokenClassification",
            {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}},
            [((doubles.texts(),), {"aggregation_strategy": name}) for name in ("none", "simple", "average")],
        ),
        ("fill-mask", "BertForMaskedLM", {}, [((["The [MASK] is blue.", "[MASK] and [MASK] are here."],), {})]),
        (
            "zero-shot-classification",
            "BertForSequenceClassification",
            {"id2label": NLI, "label2id": {name: index for index, name in NLI.items()}},
            [
                ((doubles.texts()[3:8], ["sport", "politics", "tea"]), {}),
                (("A text.", "one, two"), {"multi_label": True}),
            ],
        ),
        ("feature-extraction", "BertModel", {}, [(("A single text.",), {}), ((doubles.texts()[2:6],), {})]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pipelines_on_artifacts_equal_upstream(
    task: str, head: str, config: dict[str, Any], calls: list[Any], tmp_path: Path
) -> None:
    model, artifact = exported(tmp_path, head, **config)
    theirs = transformers.pipeline(task, model=model, tokenizer=doubles.upstream_tokenizer(), device="cpu")
    ours = precast.pipeline(task, artifact)
    for arguments, parameters in calls:
        doubles.assert_same(ours(*arguments, **parameters), theirs(*arguments, **parameters))


def test_question_answering_on_an_artifact(tmp_path: Path) -> None:
    """Upstream 5 has no such pipeline: the same task on upstream's model is the measure (itself held to recordings)."""
    model, artifact = exported(tmp_path, "BertForQuestionAnswering")
    double = doubles.UpstreamModel(model, ("question-answering",), doubles.tokenizer())
    theirs, ours = (precast.pipeline("question-answering", entry) for entry in (double, artifact))
    for question in ("Who lives in New York?", "What is unbelievable?"):
        for parameters in ({}, {"top_k": 3}, {"doc_stride": 32, "max_seq_len": 96}):
            one, other = (entry(question=question, context=CONTEXT, **parameters) for entry in (ours, theirs))
            doubles.assert_same(one, other)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return precast.export_model(doubles.minilm(), tmp_path_factory.mktemp("minilm") / "artifact")


def test_minilm_equals_sentence_transformers(minilm: Path) -> None:
    """Real weights: cosine >= 0.999999 and max abs <= 1e-5."""
    from sentence_transformers import SentenceTransformer

    texts = doubles.texts(300)[:300]
    expected = SentenceTransformer(str(doubles.minilm()), device="cpu").encode(texts, batch_size=32)
    got = precast.load(minilm).encode(texts)
    assert got.shape == (300, 384)
    assert float(np.abs(got - expected).max()) <= 1e-5
    assert float((got * expected).sum(axis=1).min()) >= 0.999999


def test_every_variant_of_minilm_is_verified(minilm: Path) -> None:
    report = precast.verify(minilm)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
    from precast.runtime import kernels

    assert kernels.available(), kernels.why_not()
    assert precast.load(minilm).variant.isa == kernels.KNOWN[1]
