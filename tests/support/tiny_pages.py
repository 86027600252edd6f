"""Tiny models of pages with what reads their inputs, and a page that is drawn, of which words and boxes are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from precast.export.exporter import export_model
from precast.export.families import find_family
from precast.export.heads import QUESTION_ANSWERING, Head
from support import oracle
from support.tokenizer_samples import byte_level, wordpiece, write_json
from support.workers import once

__all__ = ["WORDS", "artifact", "checkpoint", "page", "word_boxes"]

WORDS = (
    "Invoice 12-345 Date: 3.14 Bill to: Hello world GmbH Straße 50% Quick brown fox $20 lazy dog Total: 1,234 tokens"
).split()
_SIZE = 400, 240


def page() -> tuple[Image.Image, list[tuple[str, tuple[int, int, int, int]]]]:
    """A picture of a page, and its words with their boxes in pixels, left to right and top to bottom."""
    picture = Image.new("RGB", _SIZE, "white")
    draw, x, y, placed = ImageDraw.Draw(picture), 12, 10, []
    for word in WORDS:
        left, top, right, bottom = (round(side) for side in draw.textbbox((x, y), word))
        if right > _SIZE[0] - 10:
            x, y = 12, y + 30
            left, top, right, bottom = (round(side) for side in draw.textbbox((x, y), word))
        draw.text((x, y), word, fill="black")
        placed.append((word, (left, top, right, bottom)))
        x = right + 15
    return picture, placed


def word_boxes() -> list[tuple[str, list[int]]]:
    """Its words with boxes in parts of the page."""
    return [(word, [int(1000 * (at / side)) for at, side in zip(box, _SIZE * 2)]) for word, box in page()[1]]  # noqa: B905


def checkpoint(model_type: str, head: Head = QUESTION_ANSWERING) -> Path:
    """A tiny layoutlm, lilt or layoutlmv3, every weight random, and of distinct answers. Do not change it."""
    return once(f"checkpoint-page-{model_type}-{head.task}", partial(_make, model_type, head))


def artifact(model_type: str, head: Head = QUESTION_ANSWERING) -> Path:
    """Of ``checkpoint``. Do not change it: copy it first."""
    source = checkpoint(model_type, head)
    return once(f"artifact-page-{model_type}-{head.task}", partial(export_model, source))


def _make(model_type: str, head: Head, folder: Path) -> None:
    own: dict[str, Any] = {"max_position_embeddings": 66, "pad_token_id": 1, "vocab_size": 600}
    settings: dict[str, Any] = {"model_max_length": 64}
    if model_type == "layoutlm":
        wordpiece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        own |= {"pad_token_id": 0, "vocab_size": len((folder / "vocab.txt").read_text("utf-8").splitlines())}
        settings["tokenizer_class"] = "BertTokenizer"
    else:
        byte_level(folder, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
        settings |= {"add_prefix_space": True}
        settings["tokenizer_class"] = "LayoutLMv3Tokenizer" if model_type == "layoutlmv3" else "RobertaTokenizer"
    if model_type == "layoutlmv3":
        edge = find_family(model_type).tiny["input_size"]
        kind = {"image_processor_type": "LayoutLMv3ImageProcessor", "size": {"height": edge, "width": edge}}
        write_json(folder / "preprocessor_config.json", {**kind, "apply_ocr": False})
    write_json(folder / "tokenizer_config.json", settings)
    config, model = oracle.upstream(model_type, head, own)
    if head is QUESTION_ANSWERING:
        made: Any = model
        with torch.no_grad():
            getattr(made.qa_outputs, "out_proj", made.qa_outputs).weight.mul_(4)
    oracle.save_checkpoint(folder, config, model)
