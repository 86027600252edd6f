"""Visual question answering against upstream's model with its tokenizer and image processor, as the pipeline of
transformers 4.57 called them; and what is refused."""

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
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

import precast
from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture

TASK = "visual-question-answering"
QUESTIONS = ["how many cats are there?", "where?"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of two sizes: one lying, and one upright in what its EXIF data says."""
    folder = tmp_path_factory.mktemp("photographs")
    china, flower = (Image.fromarray(each) for each in load_sample_images().images)
    exif = flower.getexif()
    exif[0x0112] = 6
    china.resize((97, 64)).save(folder / "china.png")
    flower.resize((64, 41)).save(folder / "flower.png", exif=exif)
    return [str(folder / name) for name in ("china.png", "flower.png")]


@pytest.fixture(scope="module")
def answer() -> Any:
    return precast.pipeline(TASK, tiny_artifacts.visual_answerer())


@pytest.fixture(scope="module")
def theirs() -> Any:
    source = tiny_artifacts.visual_answerer_checkpoint()
    model = transformers.AutoModelForVisualQuestionAnswering.from_pretrained(source, attn_implementation="eager").eval()
    tokenizer, processor = (
        kind.from_pretrained(source) for kind in (transformers.AutoTokenizer, ViltImageProcessorPil)
    )

    def asked(path: str, question: str, top_k: int = 5) -> list[dict[str, Any]]:
        with torch.no_grad():
            picture = transformers.image_utils.load_image(path)
            given = {**tokenizer(question, return_tensors="pt"), **processor(images=picture, return_tensors="pt")}
            scores, ids = model(**given).logits.sigmoid()[0].topk(min(top_k, model.config.num_labels))
        pairs = zip(scores.tolist(), ids.tolist(), strict=True)
        return [{"score": score, "answer": model.config.id2label[label]} for score, label in pairs]

    return asked


def assert_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [one["answer"] for one in ours] == [one["answer"] for one in theirs]
    np.testing.assert_allclose([one["score"] for one in ours], [one["score"] for one in theirs], rtol=0, atol=1e-5)


def test_answers_are_upstreams(answer: Any, theirs: Any, photographs: list[str]) -> None:
    expected = [[theirs(path, question) for path in photographs] for question in QUESTIONS]
    assert_alike(answer(photographs[0], QUESTIONS[0]), expected[0][0])
    assert_alike(answer(image=photographs[1], question=QUESTIONS[1], top_k=2), expected[1][1][:2])
    assert_alike(answer(photographs[0], QUESTIONS[0], top_k=99), theirs(photographs[0], QUESTIONS[0], 99))
    forms = {
        "one picture": (answer(photographs[0], QUESTIONS), [each[0] for each in expected]),
        "one question": (answer(photographs, QUESTIONS[0]), expected[0]),
        "each of each": (answer(photographs, QUESTIONS), [*expected[0], *expected[1]]),
    }
    items = [{"image": path, "question": question} for path, question in zip(photographs, QUESTIONS, strict=True)]
    forms["a list"] = (answer(items), [expected[0][0], expected[1][1]])
    forms["a stream"] = (list(answer(iter(items))), forms["a list"][1])
    forms["one of them"] = ([answer(items[1])], [expected[1][1]])
    for found, wanted in forms.values():
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    for one, other in zip(answer(list(map(open_picture, photographs)), QUESTIONS[0]), expected[0], strict=True):
        assert_alike(one, other)


def test_a_picture_and_its_padding_give_what_the_picture_gives(photographs: list[str]) -> None:
    """The mask tells them apart, and positions are the picture's own."""
    model = precast.load(tiny_artifacts.visual_answerer())
    processor = precast.AutoProcessor.from_pretrained(tiny_artifacts.visual_answerer())
    with Image.open(photographs[0]) as lying:
        pictures = [lying.copy(), lying.rotate(90, expand=True)]
    both = processor(images=pictures, text=QUESTIONS)
    assert set(both) == {"input_ids", "attention_mask", "token_type_ids", "pixel_values", "pixel_mask"}
    assert not both["pixel_mask"].all()
    found = model(**both).logits
    for row, (picture, question) in enumerate(zip(pictures, QUESTIONS, strict=True)):
        alone = model(**processor(images=picture, text=question)).logits
        np.testing.assert_allclose(found[row], alone[0], rtol=0, atol=1e-5)


def test_what_is_refused(answer: Any, photographs: list[str], tmp_path: Path) -> None:
    path, question = photographs[0], QUESTIONS[0]
    for asked in ((path,), ([path],)):
        with pytest.raises(InputError, match="needs a question about the picture: image="):
            answer(*asked)
    with pytest.raises(InputError, match="needs a picture to ask about"):
        answer(question=question)
    with pytest.raises(InputError, match="received one of question"):
        answer({"question": question})
    with pytest.raises(InputError, match="received one of image, text"):
        answer([{"image": path, "text": question}])
    with pytest.raises(InputError, match="question must be a text; received int"):
        answer(path, [3])
    with pytest.raises(InputError, match="question must be a list of texts; received int"):
        answer(path, 3)
    with pytest.raises(InputError, match="top_k must be an integer of at least 1; received 0"):
        answer(path, question, top_k=0)
    with pytest.raises(InputError, match=r"may have 40 tokens.*Shorten the question, or cut it: truncation=True"):
        answer(path, "where " * 60)
    assert len(answer(path, "where " * 60, truncation=True)) == 5
    sound = tmp_path / "clip.wav"
    sound.write_bytes(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\xbb\0\0\0\x77\1\0\2\0\x10\0data\0\0\0\0")
    with pytest.raises(InputError, match=r"clip\.wav. is no picture of a kind that Pillow reads"):
        answer(str(sound), question)
    with pytest.raises(InputError, match=r"An array of a picture holds uint8, 0 to 255; received float"):
        answer(np.zeros((16000, 1), np.float32), question)


def test_on_the_command_line(answer: Any, photographs: list[str]) -> None:
    artifact = tiny_artifacts.visual_answerer()
    shown = good("run", TASK, artifact, *photographs, "--question", QUESTIONS[0], "--top-k", "2", "--json")
    assert [json.loads(line) for line in shown.splitlines()] == answer(photographs, QUESTIONS[0], top_k=2)
    line = good("run", "vqa", artifact, photographs[0], "--question", QUESTIONS[0], "--top-k", "1").strip()
    best = answer(photographs[0], QUESTIONS[0], top_k=1)[0]
    assert line == f"{best['score']:.4f}  answer: {best['answer']}"
    assert "--question TEXT" in refused("run", TASK, artifact, photographs[0])
