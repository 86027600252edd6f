"""Questions to pages against upstream's pipeline on the same weights, and what is no page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from support import doubles, tiny_artifacts, tiny_pages, trained_reader
from support.command_line import good, refused
from transformers.pipelines.document_question_answering import DocumentQuestionAnsweringPipeline

import precast
from precast.runtime.errors import DependencyError, InputError, UnsupportedTaskError

QUESTIONS = ["What is the total?", "Who is it billed to, and where is that?"]
PARAMETERS: list[dict[str, Any]] = [
    {},
    {"top_k": 5},
    {"top_k": 3, "max_answer_len": 2, "handle_impossible_answer": True},
    {"max_seq_len": 40, "doc_stride": 4, "top_k": 4},
    {"handle_impossible_answer": True},
]


class _Seeing(DocumentQuestionAnsweringPipeline):
    """Upstream's hands LayoutLMv3 the page under a name that it does not look for, and answers of words alone."""

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        if "image" in model_inputs:
            model_inputs["pixel_values"] = model_inputs.pop("image")
        length = model_inputs["input_ids"].shape[1]
        outputs = super()._forward(model_inputs, **options)
        return outputs | {name: outputs[name][:, :length] for name in ("start_logits", "end_logits")}


@pytest.fixture(scope="module", params=["layoutlm", "layoutlmv3"])
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    folder = tiny_pages.checkpoint(request.param)
    kind = transformers.AutoModelForDocumentQuestionAnswering
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sees = request.param == "layoutlmv3"
    reader = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil") if sees else None
    theirs = _Seeing(model=model, tokenizer=tokenizer, image_processor=reader)
    return theirs, precast.pipeline("document-question-answering", tiny_pages.artifact(request.param))


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_answers_are_upstreams(both: tuple[Any, Any], parameters: dict[str, Any]) -> None:
    theirs, ours = both
    picture, _ = tiny_pages.page()
    words = tiny_pages.word_boxes()
    for question in QUESTIONS:
        expected = theirs(picture, question, word_boxes=words, **parameters)
        found = ours(picture, question, word_boxes=words, **parameters)
        doubles.assert_same(found, expected, question)
    assert parameters.get("handle_impossible_answer") or len(found) == parameters.get("top_k", 1)


def test_every_way_of_asking(both: tuple[Any, Any]) -> None:
    _, ask = both
    picture, _ = tiny_pages.page()
    words = tiny_pages.word_boxes()
    first, second = (ask(image=picture, question=question, word_boxes=words) for question in QUESTIONS)
    assert isinstance(first, list) and first[0]["answer"] == " ".join(
        word for word, _ in words[first[0]["start"] : first[0]["end"] + 1]
    )
    item = {"image": picture, "question": QUESTIONS[0], "word_boxes": words}
    doubles.assert_same(ask(item), first)
    doubles.assert_same(ask([item, {**item, "question": QUESTIONS[1]}]), [first, second])
    doubles.assert_same(ask(picture, QUESTIONS, words), [first, second])
    doubles.assert_same(list(ask(item for _ in range(2))), [first, first])
    with_defaults = precast.pipeline("document-question-answering", ask.model, word_boxes=words, top_k=2)
    assert with_defaults(picture, QUESTIONS[0])[0] == first[0]
    assert ask(picture, QUESTIONS[0], word_boxes=[]) == []


def test_words_are_read_where_they_are_not_given(both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, ask = both
    picture, placed = tiny_pages.page()
    asked = []

    def image_to_data(page: Any, lang: Any, output_type: str, config: str) -> dict[str, list[Any]]:
        asked.append((page.size, lang, config))
        boxes = [(x, y, right - x, bottom - y) for _, (x, y, right, bottom) in placed]
        found = dict(zip(("left", "top", "width", "height"), map(list, zip(*boxes, strict=True)), strict=True))
        return {"text": [word for word, _ in placed], **found}

    monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_data=image_to_data))
    expected = [ask(picture, question, word_boxes=tiny_pages.word_boxes()) for question in QUESTIONS]
    assert ask(picture, QUESTIONS, lang="deu") == expected
    assert asked == [(picture.size, "deu", "")]  # a page is read once for many questions
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    with pytest.raises(DependencyError, match=r"pytesseract, which is not installed.*word_boxes=\[\(word, box\)"):
        ask(picture, QUESTIONS[0])


def test_lilt_reads_pages_too() -> None:
    ask = precast.pipeline("document-question-answering", tiny_pages.artifact("lilt"))
    words = tiny_pages.word_boxes()
    [answer] = ask(None, QUESTIONS[0], word_boxes=words)
    moved = [(word, (box[0] // 2, 0, box[2] // 2, 9)) for word, box in words]
    assert answer["answer"] in " ".join(word for word, _ in words)
    assert ask(None, QUESTIONS[0], word_boxes=moved)[0]["score"] != answer["score"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "takes image=... and question=..."),
        ({"image": "page.png"}, r"takes image=... and question=.*received 'page.png'"),
        ({"question": "  "}, "A question to a page is a text with words; received '  '"),
        ({"question": "What?"}, "give its picture"),
        ({"question": "What?", "word_boxes": ["Total:"]}, r"word_boxes is a list of words .* entry 0 is 'Total:'"),
        ({"question": "What?", "word_boxes": "@words.json"}, r"word_boxes is a list of words .* received str"),
        ({"question": "What?", "word_boxes": [("Total:", (0, 0, 1200, 9))]}, r"word 'Total:' is \(0, 0, 1200, 9\)"),
        ({"question": "What?", "word_boxes": [("Total:", None)]}, "word 'Total:' is None"),
        ({"question": "What?", "image": "nowhere.png"}, "There is no picture 'nowhere.png'"),
        ({"question": "What?", "top_k": 0}, r"top_k parameter should be >= 1 \(got 0\)"),
        ({"question": "What?", "pages": 2}, "takes the arguments word_boxes, top_k"),
    ],
)
def test_what_is_no_page(both: tuple[Any, Any], given: dict[str, Any], message: str) -> None:
    if "word_boxes" in given:
        given = {"image": tiny_pages.page()[0], **given}
    with pytest.raises(InputError, match=message):
        both[1](**given)


def test_the_auto_class_finds_them(both: tuple[Any, Any]) -> None:
    kind: Any = precast.AutoModelForDocumentQuestionAnswering
    model = kind.from_pretrained(both[1].model.path)
    assert "bbox" in model.input_names and model.output_names == ("start_logits", "end_logits")
    with pytest.raises(UnsupportedTaskError, match="needs an artifact exported for document-question-answering"):
        kind.from_pretrained(tiny_artifacts.artifact("text-classification"))


def test_models_of_texts_alone_are_told_from_models_of_pages() -> None:
    with pytest.raises(UnsupportedTaskError, match=r"reads texts alone. Ask for question-answering"):
        precast.pipeline("document-question-answering", tiny_artifacts.artifact("question-answering"))
    ask = precast.pipeline("document-question-answering", tiny_pages.artifact("layoutlmv3"))
    with pytest.raises(InputError, match="sees the page: give its picture"):
        ask(None, "What?", word_boxes=tiny_pages.word_boxes())


def test_at_the_keyboard(both: tuple[Any, Any], tmp_path: Path) -> None:
    ask = both[1]
    picture, words = tiny_pages.page()[0], tiny_pages.word_boxes()
    picture.save(tmp_path / "page.png")
    (tmp_path / "words.json").write_text(json.dumps(words), encoding="utf-8")
    command = ["run", ask.name, ask.model.path, tmp_path / "page.png"]
    given = ["--param", f"word_boxes=@{tmp_path / 'words.json'}", "--question", QUESTIONS[0]]
    expected = ask(picture, QUESTIONS[0], word_boxes=words, top_k=2)
    assert json.loads(good(*command, *given, "--top-k", "2", "--json")) == expected
    assert good(*command, *given) == (
        f"{expected[0]['score']:.4f}  answer: {expected[0]['answer']}  start: {expected[0]['start']}  "
        f"end: {expected[0]['end']}\n"
    )
    assert "needs what is asked of the page: --question TEXT" in refused(*command, *given[:2])
    assert "received str: '@no.json'" in refused(*command, *given[2:], "--param", "word_boxes=@no.json")


def test_answers_are_right(tmp_path: Path) -> None:
    """Of a model that was taught to find them: which word is where is known only by its box."""
    ask = precast.pipeline(
        "document-question-answering", precast.export_model(trained_reader.reader(), tmp_path / "out")
    )
    found, right = [], []
    for seed in range(1000, 1012):  # unseen
        picture, placed = trained_reader.page(seed)
        words, boxes, corners = zip(*placed, strict=True)
        asked = [f"What is at the {rows} {columns}?" for rows, columns in corners]
        for said in (words, words[1:] + words[:1]):  # in their places, and each in another's
            found += [answers[0]["answer"] for answers in ask(picture, asked, list(zip(said, boxes, strict=True)))]
            right += said
    assert len(found) == 96 and sum(map(str.__eq__, found, right)) >= 94
