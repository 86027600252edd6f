"""int8 of what remembers nothing: encoders of texts and of pictures, every head that has a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from support import oracle
from typer.testing import CliRunner

import precast
from precast.calibration.corpus import PASSAGES
from precast.export.checkpoints.open import open_checkpoint
from precast.export.evaluation import evaluation_set
from precast.export.exporter import export_model
from precast.export.heads import (
    BASE,
    DEPTH_ESTIMATION,
    IMAGE_CLASSIFICATION,
    MASK_GENERATION,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    OBJECT_DETECTION,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    UNIVERSAL_SEGMENTATION,
    ZERO_SHOT_IMAGE,
    Head,
)
from precast.export.reference import build
from precast.runtime.artifact import Artifact
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.cli.app import app
from precast.runtime.errors import InputError
from precast.runtime.metrics import METRICS

HEADS = [
    *(("bert", head) for head in (BASE, MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)),
    *(("bert", head) for head in (QUESTION_ANSWERING, MULTIPLE_CHOICE, NEXT_SENTENCE)),
    ("vit", IMAGE_CLASSIFICATION),
    ("resnet", IMAGE_CLASSIFICATION),
    ("clip", ZERO_SHOT_IMAGE),
    ("yolos", OBJECT_DETECTION),
    ("dpt", DEPTH_ESTIMATION),
    ("maskformer", UNIVERSAL_SEGMENTATION),
    ("sam", MASK_GENERATION),
]
VARIANTS = ("cpu-int8", "cpu-int8-native")


def checkpoint(folder: Path, model_type: str, head: Head, **sizes: int) -> Path:
    config, model = oracle.upstream(model_type, head, sizes)
    oracle.calm(model)
    return oracle.save_checkpoint(folder, config, model)


def inputs_of(path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    sizes = {"batch": 2, "choices": 2, "sequence": 9, "texts": 3, "images": 2, "height": 41, "width": 30}
    found = {}
    for component in Artifact.open(path).manifest.components.values():
        for port in component.inputs:
            if port.default is not None:
                continue
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in port.shape]
            if port.kind == "pixels":
                found[port.name] = rng.standard_normal(shape, np.float32)
            elif port.kind == "ids":
                found[port.name] = rng.integers(0, port.below or 2, shape)
    return found


@pytest.mark.parametrize(("model_type", "head"), HEADS, ids=lambda value: getattr(value, "task", value))
def test_each_head_is_held_to_its_metric(model_type: str, head: Head, tmp_path: Path) -> None:
    source, path = checkpoint(tmp_path / "checkpoint", model_type, head), tmp_path / "out"
    export_model(source, path, precision="int8")
    export_model(source, path, add=True)
    metric = CATALOGUE[head.task].metric
    assert metric is not None
    found = {name: precast.load(path, variant=name, threads=1)(**inputs_of(path)) for name in (*VARIANTS, "cpu-fp32")}
    artifact = Artifact.open(path)
    for variant in artifact.variants(artifact.component_for(None).name):
        if variant.precision != "int8":
            assert not set(METRICS) & set(variant.parity)
            continue
        record = variant.parity[metric]
        METRICS[metric].in_words(record)
        for name, exact in found["cpu-fp32"].items():
            ours = found[variant.name][name]
            moved = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
            assert 0 < moved < 0.03, (variant.name, name)
    assert {entry["status"] for entry in precast.verify(path)["variants"].values()} == {"verified"}


def test_what_the_artifact_says(tmp_path: Path) -> None:
    source, path = checkpoint(tmp_path / "checkpoint", "bert", BASE), tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(source), str(path), "--precision", "int8"])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    for name in VARIANTS:
        assert f"{name}, beside eager PyTorch: cosine 0.999" in done.stdout
        assert f"{name} beside the reference: cosine 0.999" in shown.stdout
    assert "at worst over " in done.stdout and "of random tokens" in done.stdout


def test_inputs_that_are_made_up(tmp_path: Path) -> None:
    """Pictures are as contrasty as normalised ones, and coarse rather than fine; choices are texts of one length."""
    opened = open_checkpoint(checkpoint(tmp_path / "vit", "vit", IMAGE_CLASSIFICATION))
    found = evaluation_set(build(opened.config, opened.tensors).parts, {}, "divergence")
    assert not found.text and len(found.recorded) == 3
    for pixels in (picture for item in found.recorded for picture in item.case.inputs["pixel_values"]):
        assert pixels.std() == pytest.approx(1, rel=1e-5)
        fine, coarse = (np.abs(pixels[..., by:] - pixels[..., :-by]).mean() for by in (1, pixels.shape[-1] // 2))
        assert fine < 0.8 * coarse
    again = evaluation_set(build(opened.config, opened.tensors).parts, {}, "divergence")
    assert again.data == found.data
    opened = open_checkpoint(checkpoint(tmp_path / "bert", "bert", MULTIPLE_CHOICE))
    found = evaluation_set(build(opened.config, opened.tensors).parts, {}, "divergence")
    for item in found.recorded:
        assert item.case.inputs["input_ids"].shape[1] == 2
        assert item.case.inputs["attention_mask"].all() and not item.case.inputs["token_type_ids"].any()


def test_texts_and_pictures_are_compared_all_with_all(tmp_path: Path) -> None:
    opened = open_checkpoint(checkpoint(tmp_path / "clip", "clip", ZERO_SHOT_IMAGE))
    parts = build(opened.config, opened.tensors).parts
    found = evaluation_set(parts, {}, "divergence")
    made = {item.case.component: item for item in found.recorded}
    assert list(made) == [part.name for part in parts]
    *_, last = made.values()
    assert last.reference["logits_per_image"].shape == last.reference["logits_per_text"].shape == (24, 24)
    [(name, end)] = parts[0].signature.ends.items()
    assert (made[parts[0].name].case.inputs[name][:, -1] == end).all()


@pytest.mark.parametrize(("head", "answers"), [(SEQUENCE_CLASSIFICATION, 100), (TOKEN_CLASSIFICATION, 800)], ids=str)
def test_texts_are_many_and_calls_are_few(head: Head, answers: int, tmp_path: Path) -> None:
    """Each call reads all weights, which the search for sensitive ones rounds anew every time."""
    opened = open_checkpoint(checkpoint(tmp_path / "bert", "bert", head, vocab_size=1200, max_position_embeddings=300))
    words = {word: index for index, word in enumerate(sorted({w for text, _ in PASSAGES for w in text.split()}))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="the"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    parts = build(opened.config, opened.tensors).parts
    found = evaluation_set(parts, {"tokenizer.json": made.to_str().encode()}, "divergence")
    assert found.text and len(found.recorded) <= 8
    assert sum(item.reference["logits"][..., 0].size for item in found.recorded) >= answers
    lengths = [item.case.inputs["input_ids"].shape[1] for item in found.recorded]
    assert max(lengths) <= 256 and all(item.case.inputs["attention_mask"].all() for item in found.recorded)


def test_a_model_without_what_is_rounded_is_refused(tmp_path: Path) -> None:
    """Convolutions stay as they are: of the maps alone nothing would be int8."""
    source = checkpoint(tmp_path / "checkpoint", "resnet", BASE)
    with pytest.raises(InputError, match=r"'int8' is made of .* a resnet for feature-extraction has none of these: it"):
        export_model(source, tmp_path / "out", precision="int8")
    assert not (tmp_path / "out").exists()
