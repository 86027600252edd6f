"""A tiny LayoutLM that was taught which word stands where on a page: four words, in any order, each in its corner."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
import transformers
from PIL import Image, ImageDraw

from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["PLACES", "page", "reader"]

PLACES = [(rows, columns) for rows in ("top", "bottom") for columns in ("left", "right")]
_WORDS = [str(number) for number in range(10, 60)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ASKED = ["what", "is", "at", "the", "?", "top", "bottom", "left", "right"]
_VOCABULARY = {word: index for index, word in enumerate([*_SPECIAL, *_ASKED, *_WORDS])}
_SIDE = 500
_STEPS, _BATCH = 400, 32

Word = tuple[str, tuple[int, int, int, int], tuple[str, str]]


def reader() -> Path:
    """Its checkpoint, with a WordPiece vocabulary. Do not change it."""
    return once("corner-reader", _make)


def page(seed: int) -> tuple[Image.Image, list[Word]]:
    """A picture of a page, and its words with their boxes in parts of it and the corners they stand in."""
    placed = _placed(Random(seed))
    picture = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw = ImageDraw.Draw(picture)
    for word, box, _ in placed:
        draw.text((box[0] * _SIDE // 1000, box[1] * _SIDE // 1000), word, fill="black")
    return picture, placed


def _placed(rng: Random) -> list[Word]:
    """Words that differ, each somewhere in its quarter of the page, in any order."""
    placed = []
    for (rows, columns), word in zip(PLACES, rng.sample(_WORDS, len(PLACES)), strict=True):
        x = 10 * rng.randrange(4, 35) + (500 if columns == "right" else 0)
        y = 10 * rng.randrange(4, 40) + (500 if rows == "bottom" else 0)
        placed.append((word, (x, y, x + 80, y + 20), (rows, columns)))
    rng.shuffle(placed)
    return placed


def _sample(rng: Random) -> tuple[list[int], list[list[int]], list[int], int]:
    """Ids, boxes, token types, and at which token the answer is."""
    placed = _placed(rng)
    rows, columns = rng.choice(PLACES)
    question = ["[CLS]", "what", "is", "at", "the", rows, columns, "?", "[SEP]"]
    words = [word for word, _, _ in placed]
    answer = len(question) + [place for _, _, place in placed].index((rows, columns))
    ids = [_VOCABULARY[word] for word in [*question, *words, "[SEP]"]]
    end = [1000] * 4
    boxes = [[0] * 4] * (len(question) - 1) + [end, *(list(box) for _, box, _ in placed), end]
    return ids, boxes, [0] * len(question) + [1] * (len(words) + 1), answer


def _make(folder: Path) -> None:
    torch.manual_seed(2)
    config = transformers.LayoutLMConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    model = transformers.LayoutLMForQuestionAnswering(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=_STEPS)
    rng = Random(0)
    for _ in range(_STEPS):
        ids, boxes, types, answers = map(torch.tensor, zip(*(_sample(rng) for _ in range(_BATCH)), strict=True))
        inputs = {"input_ids": ids, "bbox": boxes, "token_type_ids": types}
        model(**inputs, start_positions=answers, end_positions=answers).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in _VOCABULARY), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 64})
