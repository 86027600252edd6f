"""Questions about pages, answered by a model that writes: as upstream's pipeline does, on the same weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support import tiny_captioner
from support.command_line import good
from transformers.models.donut.image_processing_pil_donut import DonutImageProcessorPil

import precast
from precast.runtime.errors import InputError

QUESTIONS = ("stop?", "of the top", "stops")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng, found = tmp_path_factory.mktemp("pages"), np.random.default_rng(0), []
    for number, size in enumerate(((80, 60), (30, 41))):
        found.append(str(folder / f"{number}.png"))
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(found[-1])
    return found


@pytest.fixture(scope="module")
def ask() -> Any:
    return precast.pipeline("document-question-answering", tiny_captioner.page_reader())


def test_what_is_written_is_upstreams(ask: Any, pages: list[str]) -> None:
    """Of each question by itself, of several pages, and of several questions to one page."""
    source = tiny_captioner.page_checkpoint()
    model = transformers.VisionEncoderDecoderModel.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    processor = DonutImageProcessorPil.from_pretrained(source)
    written = []
    for page in pages:
        for question in QUESTIONS:
            asked = f"<s_docvqa><s_question>{question}</s_question><s_answer>"
            ids = tokenizer(asked, add_special_tokens=False, return_tensors="pt").input_ids
            pixels = processor(Image.open(page).convert("RGB"), return_tensors="pt").pixel_values
            with torch.no_grad():
                made = model.generate(pixels, decoder_input_ids=ids, max_new_tokens=20, do_sample=False)
            written.append(made[0].tolist())
    kept: list[list[int]] = []
    decode = ask.tokenizer.decode
    ask.tokenizer.decode = lambda ids, **how: (kept.append(ids), decode(ids, **how))[1]
    try:
        given = [{"image": page, "question": question} for page in pages for question in QUESTIONS]
        several = ask(given, max_new_tokens=20, do_sample=False)
    finally:
        ask.tokenizer.decode = decode
    assert kept == written
    theirs = transformers.pipeline(
        "document-question-answering", model=model, tokenizer=tokenizer, image_processor=processor
    )
    theirs.model.generation_config.max_new_tokens = 20
    expected = [theirs(**each) for each in given]
    assert several == expected
    assert ask(pages[0], list(QUESTIONS), max_new_tokens=20, do_sample=False) == expected[:3]
    assert ask(image=pages[1], question=QUESTIONS[0], top_k=1, max_new_tokens=20, do_sample=False) == expected[3]


def test_answers_stand_between_their_tokens(ask: Any) -> None:
    def read(text: str) -> Any:
        ids = ask.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ask.finish(None, [[np.array(ids)]], {})

    assert read("<s_docvqa><s_question>stop?</s_question><s_answer> the top </s_answer></s>") == [{"answer": "the top"}]
    assert read("<s_docvqa><s_question>stop?</s_question><s_answer>the") == [{"answer": None}]


def test_at_the_keyboard(ask: Any, pages: list[str]) -> None:
    artifact, more = str(tiny_captioner.page_reader()), ("--param", "max_new_tokens=9", "--json")
    said = good("run", "document-question-answering", artifact, pages[0], "--question", "stop?", *more)
    assert json.loads(said) == ask(pages[0], "stop?", max_new_tokens=9)


def test_what_is_not_possible_is_said(ask: Any, pages: list[str]) -> None:
    with pytest.raises(InputError, match="needs a model that writes answers behind the token <s_docvqa>"):
        precast.pipeline("document-question-answering", tiny_captioner.captioner())
    with pytest.raises(InputError, match="dictionaries of these: this model reads a page itself"):
        ask({"image": pages[0], "question": "stop?", "word_boxes": []})
    with pytest.raises(InputError, match=r"A question to a page is a text with words; received ' '"):
        ask(pages[0], " ")
    with pytest.raises(InputError, match="top_k parameter should be >= 1"):
        ask(pages[0], "stop?", top_k=0)
