"""Zero-shot object detection against upstream's pipeline on the same weights; what is computed once, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_sample_images
from support import tiny_artifacts
from support.command_line import good, refused
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

import precast
from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture

TASK = "zero-shot-object-detection"
KINDS: dict[str, Any] = {"owlvit": OwlViTImageProcessorPil, "owlv2": Owlv2ImageProcessorPil}
KINDS["grounding-dino"] = GroundingDinoImageProcessorPil
LABELS = ["a cat", "two dogs", "the sea at night"]
SURE = 0.2  # as many random objects are, and others are not


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files: one lying, and one upright in what its EXIF data says."""
    folder = tmp_path_factory.mktemp("photographs")
    china, flower = (Image.fromarray(each).resize((97, 64)) for each in load_sample_images().images)
    exif = flower.getexif()
    exif[0x0112] = 6
    china.save(folder / "china.png")
    flower.save(folder / "flower.png", exif=exif)
    return [str(folder / name) for name in ("china.png", "flower.png")]


@pytest.fixture(scope="module")
def detect() -> Any:
    return precast.pipeline(TASK, tiny_artifacts.pictures("owlvit"))


def assert_alike(ours: list[Any], theirs: list[Any]) -> None:
    """The same objects, the surest first; of two whose scores are one within rounding, either."""
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in theirs], rtol=0, atol=1e-5)
    for one in ours:
        near = [
            other for other in theirs if abs(other["score"] - one["score"]) < 1e-5 and other["label"] == one["label"]
        ]
        edges = [list(other["box"].values()) for other in near]
        # A corner is another pixel only where float32 cannot tell between two.
        assert any(np.abs(np.subtract(list(one["box"].values()), edge)).max() <= 1 for edge in edges)
        assert list(one) == ["score", "label", "box"] and list(one["box"]) == list(theirs[0]["box"])


@pytest.mark.parametrize("model_type", list(KINDS))
def test_objects_are_upstreams(model_type: str, photographs: list[str]) -> None:
    source, model = tiny_artifacts.pictures_checkpoint(model_type)
    if model_type == "grounding-dino":  # whose eager form adds a mask of true and false to scores
        model.model.text_backbone.config._attn_implementation = "sdpa"
    theirs = transformers.pipeline(
        TASK,
        model=model,
        image_processor=KINDS[model_type].from_pretrained(source),
        tokenizer=transformers.AutoTokenizer.from_pretrained(source),
    )
    ours = precast.pipeline(TASK, tiny_artifacts.pictures(model_type))
    sure = 0.0 if model_type == "grounding-dino" else SURE
    with torch.no_grad():
        expected = [theirs(path, candidate_labels=LABELS, threshold=sure) for path in photographs]
        best = theirs(photographs[0], candidate_labels=LABELS, threshold=sure, top_k=2)
    found = ours(photographs, LABELS, threshold=sure)
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other)
    same = sum(a["box"] == b["box"] for pair in zip(found, expected, strict=True) for a, b in zip(*pair, strict=True))
    assert same > 0.9 * sum(map(len, expected))
    assert_alike(ours(photographs[0], candidate_labels=LABELS, threshold=sure, top_k=2), best)
    assert ours(image=photographs[0], text_queries=", ".join(LABELS), threshold=sure) == found[0]


def test_pictures_have_labels_of_their_own(detect: Any, photographs: list[str]) -> None:
    expected = [detect(path, labels) for path, labels in zip(photographs, (LABELS[:1], LABELS[1:]), strict=True)]
    assert detect(photographs, [LABELS[:1], LABELS[1:]]) == expected
    items = [
        {"image": path, "candidate_labels": labels}
        for path, labels in zip(photographs, (LABELS[:1], LABELS[1:]), strict=True)
    ]
    assert detect(items) == expected and detect(items[1]) == expected[1]
    assert list(detect(iter(items))) == expected
    assert detect({"image": photographs[0]}, LABELS[:1]) == expected[0]


def test_texts_and_pictures_are_encoded_once(photographs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = precast.load(tiny_artifacts.pictures("owlvit"))
    read: list[tuple[str, int]] = []
    for name, part in model.flow.parts.items():

        def counted(inputs: Any, run: Any = part.runner.run, name: str = name) -> Any:
            read.append((name, len(next(iter(inputs.values())))))
            return run(inputs)

        monkeypatch.setattr(part.runner, "run", counted)
    ask = precast.pipeline(TASK, model)
    several = ask([photographs[0]] * 3, [LABELS, LABELS[:1], LABELS])
    assert several[0] == several[2] and len(several[1]) < len(several[0])
    assert [entry for entry in read if entry[0] != "detector"] == [("vision", 1), ("text", 3), ("text", 1)]
    ask(photographs, LABELS)
    assert [entry for entry in read if entry[0] != "detector"][3:] == [("vision", 2)]


def test_what_is_refused(detect: Any, photographs: list[str], tmp_path: Path) -> None:
    for asked in ((), ([],), ("",)):
        with pytest.raises(InputError, match="at least one label: pass candidate_labels"):
            detect(photographs[0], *asked)
    with pytest.raises(InputError, match="candidate_labels must be texts; received"):
        detect(photographs[0], [1])
    with pytest.raises(InputError, match="received 1 of them and 2 pictures"):
        detect(photographs, [LABELS])
    with pytest.raises(InputError, match="needs a picture, or a list of them"):
        detect(candidate_labels=LABELS)
    with pytest.raises(InputError, match=r"An input is a picture, or .*received one of audio, candidate_labels"):
        detect({"audio": photographs[0], "candidate_labels": LABELS})
    sound = tmp_path / "clip.wav"
    sound.write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\xbb\0\0\0\x77\1\0\2\0\x10\0data\0\0\0\0")
    with pytest.raises(InputError, match=r"clip\.wav. is no picture of a kind that Pillow reads"):
        detect(str(sound), LABELS)
    with pytest.raises(InputError, match=r"may have 60 tokens.*Shorten the labels"):
        detect(photographs[0], ["cat " * 100])
    with pytest.raises(InputError, match="threshold must be a number"):
        detect(photographs[0], LABELS, threshold="high")
    with pytest.raises(InputError, match="top_k must be an integer of at least 0, or None for all objects"):
        detect(photographs[0], LABELS, top_k=-1)
    with pytest.raises(InputError, match="needs an image processor of a detector"):
        precast.pipeline(TASK, tiny_artifacts.pictures("owlvit"), image_processor=tiny_artifacts.pictures("clip"))


def test_on_the_command_line(detect: Any, photographs: list[str], tmp_path: Path) -> None:
    artifact = tiny_artifacts.pictures("owlvit")
    options = ("--candidate-labels", "a cat,two dogs", "--param", f"threshold={SURE}", "--top-k", "3")
    shown = good("run", TASK, artifact, *photographs, *options, "--save", str(tmp_path / "drawn"), "--json")
    expected = detect(photographs, LABELS[:2], threshold=SURE, top_k=3)
    assert [json.loads(line) for line in shown.splitlines()] == expected
    drawn = [open_picture(tmp_path / "drawn" / name) for name in ("china.png", "flower.png")]
    assert [each.size for each in drawn] == [(97, 64), (64, 97)]
    assert np.any(np.asarray(drawn[0]) != np.asarray(open_picture(photographs[0])))
    assert good("run", TASK, artifact, str(Path(photographs[0]).parent), *options, "--json") == shown
    assert "at least one label" in refused("run", TASK, artifact, photographs[0])
