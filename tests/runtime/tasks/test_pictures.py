"""Tasks that read pictures, against upstream's pipelines over the same checkpoint; and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from support import tiny_artifacts
from support.command_line import good, refused
from support.tokenizer_samples import write_json
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import precast
from precast.runtime.artifact import Artifact
from precast.runtime.errors import InputError
from precast.runtime.processors.image import ImageProcessor
from precast.runtime.processors.image_steps import Resize

LABELS = ["a cat", "two dogs", "the sea at night"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of odd sizes and kinds: one turned, one with an alpha channel, one grey."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    found = []
    for number, (mode, size) in enumerate((("RGB", (61, 40)), ("RGB", (33, 90)), ("RGBA", (30, 30)), ("L", (300, 7)))):
        channels = len(Image.new(mode, (1, 1)).getbands())
        shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
        made = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode)
        exif = made.getexif()
        if number == 1:
            exif[0x0112] = 6
        path = folder / f"{number}.png"
        made.save(path, exif=exif)
        found.append(str(path))
    return found


def upstreams(task: str, name: str) -> Any:
    source, model = tiny_artifacts.pictures_checkpoint(name)
    kinds = {"vit": ViTImageProcessorPil, "clip": CLIPImageProcessorPil, "resnet": ConvNextImageProcessorPil}
    kinds |= {"imagegpt": ImageGPTImageProcessorPil, "siglip": SiglipImageProcessorPil}
    kinds["chinese_clip"] = ChineseCLIPImageProcessorPil
    kind: Any = kinds[name]
    joint = task == "zero-shot-image-classification"
    tokenizer = {"tokenizer": transformers.AutoTokenizer.from_pretrained(source)} if joint else {}
    return transformers.pipeline(task, model=model, image_processor=kind.from_pretrained(source), **tokenizer)


def assert_alike(ours: Any, theirs: Any) -> None:
    """The same labels in the same order, but where two scores are one within rounding."""
    if isinstance(theirs, list) and theirs and isinstance(theirs[0], list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
        return
    assert [set(entry) for entry in ours] == [set(entry) for entry in theirs]
    np.testing.assert_allclose([e["score"] for e in ours], [e["score"] for e in theirs], rtol=0, atol=1e-5)
    known = {entry["label"]: entry["score"] for entry in theirs}
    for entry in ours:
        assert abs(known[entry["label"]] - entry["score"]) < 1e-5


@pytest.fixture(scope="module")
def classifier() -> Any:
    return precast.pipeline("image-classification", tiny_artifacts.pictures("vit"))


@pytest.fixture(scope="module")
def zero_shot() -> Any:
    return precast.pipeline("zero-shot-image-classification", tiny_artifacts.pictures("clip"))


@pytest.mark.parametrize("model_type", ["vit", "resnet", "imagegpt"])
def test_classes_are_upstreams(model_type: str, pictures: list[str]) -> None:
    classifier = precast.pipeline("image-classification", tiny_artifacts.pictures(model_type))
    theirs = upstreams("image-classification", model_type)
    assert_alike(classifier(pictures[0]), theirs(pictures[0]))
    assert_alike(classifier(pictures), theirs(pictures))
    assert_alike(classifier(Image.open(pictures[1]), top_k=2), theirs(Image.open(pictures[1]), top_k=2))
    for function in ("none", "sigmoid", "softmax"):
        ours = classifier(pictures[2], function_to_apply=function)
        assert_alike(ours, theirs(pictures[2], function_to_apply=function))
    assert classifier(images=pictures[0]) == classifier(pictures[0])


def test_one_input_is_one_picture_whatever_holds_it(classifier: Any, pictures: list[str]) -> None:
    one = classifier(pictures[0])
    array = np.array(Image.open(pictures[0]))
    assert classifier(array) == one
    assert classifier(Path(pictures[0])) == one
    assert classifier(Path(pictures[0]).read_bytes()) == one
    assert classifier([array, array]) == [one, one]
    assert classifier(np.stack([array, array])) == [one, one]
    stream = classifier(path for path in pictures)
    assert list(stream) == classifier(pictures)


def test_how_pictures_are_batched_changes_nothing(classifier: Any, pictures: list[str]) -> None:
    every = classifier(pictures)
    for limits in ({"batch_size": 1}, {"batch_size": 3}, {"token_budget": 1}):
        assert_alike(classifier(pictures, **limits), every)


def test_pictures_of_other_sizes_share_no_batch(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = precast.load(tiny_artifacts.pictures("vit"))
    shapes: list[tuple[int, ...]] = []

    class Free:
        tasks, config, image_processor = model.tasks, model.config, ImageProcessor(())

        def __call__(self, pixel_values: Any) -> Any:
            shapes.append(pixel_values.shape)
            return {"logits": pixel_values.reshape(len(pixel_values), -1)[:, :3].astype(np.float32)}

    rng = np.random.default_rng(0)
    given = [rng.integers(0, 256, (size, 8, 3), dtype=np.uint8) for size in (5, 6, 5, 6, 5)]
    found = precast.pipeline("image-classification", Free())(given)
    assert sorted(shapes) == [(2, 3, 6, 8), (3, 3, 5, 8)]
    assert found == [precast.pipeline("image-classification", Free())(one) for one in given]


def test_zero_shot_scores_are_upstreams(zero_shot: Any, pictures: list[str]) -> None:
    theirs = upstreams("zero-shot-image-classification", "clip")
    assert_alike(zero_shot(pictures[0], LABELS), theirs(pictures[0], candidate_labels=LABELS))
    assert_alike(zero_shot(pictures, candidate_labels=LABELS), theirs(pictures, candidate_labels=LABELS))
    other = {"candidate_labels": LABELS[:2], "hypothesis_template": "no {} at all"}
    assert_alike(zero_shot(pictures[1], **other), theirs(pictures[1], **other))
    alone = zero_shot(pictures[1], candidate_labels="a cat")
    assert [entry["label"] for entry in alone] == ["a cat"] and alone[0]["score"] == 1.0
    assert zero_shot(pictures[0], "a cat, two dogs") == zero_shot(pictures[0], ["a cat", "two dogs"])


def test_scores_are_scored_as_the_model_was_trained(pictures: list[str]) -> None:
    """SigLIP's each by itself, of texts of 64 tokens, cut where they are longer."""
    ask = precast.pipeline("zero-shot-image-classification", tiny_artifacts.pictures("siglip"))
    theirs = upstreams("zero-shot-image-classification", "siglip")
    for labels in (LABELS, [*LABELS, "the sea " * 50]):
        assert_alike(ask(pictures, labels), theirs(pictures, candidate_labels=labels))
    assert abs(sum(entry["score"] for entry in ask(pictures[0], LABELS)) - 1) > 1e-3


def test_texts_may_be_read_by_another_tower(pictures: list[str]) -> None:
    ask = precast.pipeline("zero-shot-image-classification", tiny_artifacts.pictures("chinese_clip"))
    theirs = upstreams("zero-shot-image-classification", "chinese_clip")
    assert_alike(ask(pictures, LABELS), theirs(pictures, candidate_labels=LABELS))


def test_a_set_of_labels_is_encoded_once(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = precast.load(tiny_artifacts.pictures("clip"))
    read: list[tuple[str, int]] = []
    for name, part in model.flow.parts.items():

        def counted(inputs: Any, run: Any = part.runner.run, name: str = name) -> Any:
            read.append((name, len(next(iter(inputs.values())))))
            return run(inputs)

        monkeypatch.setattr(part.runner, "run", counted)
    ask = precast.pipeline("zero-shot-image-classification", model, candidate_labels=LABELS)
    ask(pictures)
    list(ask(iter(pictures)))
    assert [entry for entry in read if entry[0] == "text"] == [("text", len(LABELS))]
    assert sum(size for name, size in read if name == "vision") == 2 * len(pictures)
    ask(pictures[0], LABELS[:1])
    assert [entry for entry in read if entry[0] == "text"][1:] == [("text", 1)]


def test_arguments_are_named(classifier: Any, zero_shot: Any, pictures: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"takes the arguments top_k.*function_to_apply; received .topk.\. Write top_k\."
    ):
        classifier(pictures[0], topk=3)
    with pytest.raises(InputError, match="top_k must be an integer of at least 0, or None for all labels; received -1"):
        classifier(pictures[0], top_k=-1)
    with pytest.raises(InputError, match="function_to_apply must be none, sigmoid or softmax; received 'relu'"):
        classifier(pictures[0], function_to_apply="relu")
    with pytest.raises(InputError, match="needs a picture, or a list of them"):
        classifier()
    with pytest.raises(InputError, match="A picture is a file's name"):
        classifier([3])
    with pytest.raises(InputError, match=r"There is no picture .cat\.jpg."):
        classifier("cat.jpg")
    with pytest.raises(InputError, match="at least one label: pass candidate_labels"):
        zero_shot(pictures[0])
    with pytest.raises(InputError, match="at least one label"):
        zero_shot(pictures[0], [])
    with pytest.raises(InputError, match=r"A picture is a file's name.*received dict"):
        zero_shot({"array": np.zeros(900, np.float32), "sampling_rate": 16000}, LABELS)
    with pytest.raises(InputError, match="candidate_labels must be texts; received"):
        zero_shot(pictures[0], [1])
    with pytest.raises(InputError, match="was not able to be formatted"):
        zero_shot(pictures[0], LABELS, hypothesis_template="a photo")
    with pytest.raises(InputError, match=r"may have 60 tokens.*Shorten the labels"):
        zero_shot(pictures[0], ["cat " * 100])
    with pytest.raises(InputError, match="received 'tokenizer'"):
        precast.pipeline("image-classification", tiny_artifacts.pictures("vit"), tokenizer=zero_shot.tokenizer)


def test_another_image_processor_may_be_given(pictures: list[str], classifier: Any) -> None:
    path = tiny_artifacts.pictures("vit")
    same = precast.pipeline("image-classification", path, image_processor=path)
    assert same(pictures) == classifier(pictures) and same.image_processor is not None and same.tokenizer is None
    other = ImageProcessor((Resize("nearest", height=30, width=30),))
    assert precast.pipeline("image-classification", path, image_processor=other)(pictures[0]) != classifier(pictures[0])
    with pytest.raises(InputError, match="image_processor is an image processor of Precast, or the path"):
        precast.pipeline("image-classification", path, image_processor=3)


def test_a_checkpoint_without_one_is_of_use_all_the_same(tmp_path: Path, pictures: list[str]) -> None:
    source, _ = tiny_artifacts.pictures_checkpoint("vit")
    copy = tmp_path / "checkpoint"
    shutil.copytree(source, copy)
    write_json(copy / "preprocessor_config.json", {"image_processor_type": "NoSuchImageProcessor"})
    shown = good("export", copy, tmp_path / "vit")
    assert "No image processor: preprocessor_config.json names NoSuchImageProcessor, which is not known" in shown
    assert f"Try it: precast verify {tmp_path / 'vit'}" in shown
    model = precast.load(tmp_path / "vit")
    assert model.image_processor is None and "NoSuchImageProcessor" in model.why_no_image_processor
    assert set(model(pixel_values=np.zeros((1, 3, 30, 30), np.float32))) == {"logits"}
    with pytest.raises(InputError, match=r"and the artifact has none \(preprocessor_config.json names NoSuch"):
        precast.pipeline("image-classification", model)
    # Once the class is known, a variant that is added brings what was missing.
    copy_again = tmp_path / "again"
    shutil.copytree(source, copy_again)
    known = precast.pipeline("image-classification", model, image_processor=copy_again)
    assert_alike(known(pictures), precast.pipeline("image-classification", tiny_artifacts.pictures("vit"))(pictures))


def test_the_manifest_says_how_inputs_are_read() -> None:
    said = Artifact.open(tiny_artifacts.pictures("clip")).manifest.processing
    assert said["text"]["port"] == "input_ids" and "tokenizer.json" in said["text"]["files"]
    assert [step["op"] for step in said["image"]["steps"]] == ["rgb", "resize", "crop", "scale", "normalise"]
    assert said["image"]["port"] == "pixel_values" and said["tokenizer"] == {"included": True}
    said = Artifact.open(tiny_artifacts.pictures("imagegpt")).manifest.processing
    assert said["image"]["port"] == "input_ids" and not {"text", "tokenizer"} & set(said)
    said = Artifact.open(tiny_artifacts.pictures("vit")).manifest.processing
    assert set(said) >= {"image"} and not {"text", "tokenizer"} & set(said)


def test_on_the_command_line(pictures: list[str]) -> None:
    vit, clip = tiny_artifacts.pictures("vit"), tiny_artifacts.pictures("clip")
    expected = precast.pipeline("image-classification", vit)(pictures[:2], top_k=2)
    shown = good("run", "image-classification", vit, *pictures[:2], "--top-k", "2", "--json")
    assert [json.loads(line) for line in shown.splitlines()] == expected
    lines = good("run", "image-classification", vit, pictures[0], "--top-k", "1").splitlines()
    assert lines == [f"{expected[0][0]['score']:.4f}  label: {expected[0][0]['label']}"]
    shown = good("run", "zero-shot-image-classification", clip, pictures[0], "--candidate-labels", "cat,dog", "--json")
    assert {entry["label"] for entry in json.loads(shown)} == {"cat", "dog"}
    assert "There is no picture 'no.png'" in refused("run", "image-classification", vit, "no.png")


@pytest.mark.parametrize("options", [{}, {"pool": True}, {"return_tensors": True}], ids=str)
def test_features_are_upstreams(options: dict[str, Any], pictures: list[str]) -> None:
    source, model = tiny_artifacts.picture_features_checkpoint()
    processor = ViTImageProcessorPil.from_pretrained(source)
    theirs = transformers.pipeline("image-feature-extraction", model=model, image_processor=processor)
    ours = precast.pipeline("image-feature-extraction", tiny_artifacts.picture_features())
    found, expected = ours(pictures, **options), theirs(pictures, **options)
    assert len(found) == len(expected) == len(pictures)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, np.ndarray) == ("return_tensors" in options)
        expected_one = other if isinstance(other, list) else other.numpy()
        np.testing.assert_allclose(np.array(one), expected_one, rtol=0, atol=1e-5)
    assert np.shape(ours(pictures[0], **options)) == np.shape(found[0])


def test_features_that_there_are_not() -> None:
    ours = precast.pipeline("image-feature-extraction", tiny_artifacts.picture_features())
    with pytest.raises(InputError, match="pool must be True or False; received 'yes'"):
        ours("cat.jpg", pool="yes")
    with pytest.raises(InputError, match="return_tensors gives NumPy arrays here"):
        ours("cat.jpg", return_tensors="pt")
    with pytest.raises(InputError, match="image-feature-extraction needs a picture"):
        ours()
    texts = tiny_artifacts.artifact("feature-extraction")
    with pytest.raises(InputError, match="image-feature-extraction needs an image processor"):
        precast.pipeline("image-feature-extraction", texts)
