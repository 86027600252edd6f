"""A small YOLOS of upstream's that has learned to find a rectangle, red or blue, on a noisy ground, in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from support.oracle import save_checkpoint
from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["SIDE", "Drawing", "checkpoint", "draw"]

SIDE, _PATCH, _STEPS, _BATCH, _RATE = 48, 8, 450, 16, 1e-3
LABELS = ("red", "blue")
_COLOURS = ((230, 60, 40), (40, 90, 240))


class Drawing(NamedTuple):
    """A picture [SIDE, SIDE, 3], and the rectangle in it: its label, and its left, top, right and bottom."""

    picture: np.ndarray
    label: int
    box: tuple[int, int, int, int]


def draw(rng: np.random.Generator) -> Drawing:
    picture = rng.integers(40, 70, (SIDE, SIDE, 3), dtype=np.uint8)
    width, height = (int(size) for size in rng.integers(12, 25, 2))
    left, top = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
    label = int(rng.integers(0, 2))
    picture[top : top + height, left : left + width] = _COLOURS[label]
    return Drawing(picture, label, (left, top, left + width, top + height))


def checkpoint() -> tuple[Path, Any]:
    """Its folder, with an image processor, and upstream's model of it. Do not change it: copy it first."""
    folder = once("checkpoint-trained-yolos", _train)
    return folder, transformers.AutoModelForObjectDetection.from_pretrained(folder).eval()


def _train(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _fresh()
        optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE)
        model.train()
        for step in range(_STEPS):
            for group in optimiser.param_groups:
                group["lr"] = _RATE * min(1, step / 30) * (1 - step / _STEPS) ** 0.7
            drawings = [draw(rng) for _ in range(_BATCH)]
            pictures = np.stack([each.picture for each in drawings]).transpose(0, 3, 1, 2)
            pixels = torch.from_numpy((pictures.astype(np.float32) / 255 - 0.5) / 0.25)
            loss = model(pixel_values=pixels, labels=[_target(each) for each in drawings]).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    config = json.loads(model.config.to_json_string(use_diff=False))
    save_checkpoint(folder, {**config, "architectures": [type(model).__name__]}, model.eval())
    size = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    settings = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "YolosImageProcessor", **settings})


def _target(drawing: Drawing) -> dict[str, torch.Tensor]:
    left, top, right, bottom = (edge / SIDE for edge in drawing.box)
    box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return {"class_labels": torch.tensor([drawing.label]), "boxes": torch.tensor([box])}


def _fresh() -> Any:
    """Untrained, but for patches' positions: where they are, which to learn would take longer than all the rest."""
    config = transformers.YolosConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=[SIDE, SIDE],
        patch_size=_PATCH,
        num_detection_tokens=1,
        use_mid_position_embeddings=False,
        initializer_range=0.1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    model: Any = transformers.YolosForObjectDetection(config)
    side = SIDE // _PATCH
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    waves = [wave(count * torch.pi * at / 2) for count in (1, 2, 3, 4) for wave in (torch.sin, torch.cos)]
    known = torch.stack([at, at * at, *waves], dim=-1)
    with torch.no_grad():
        table = model.vit.embeddings.position_embeddings
        table.normal_(0, 0.03)
        model.vit.embeddings.detection_tokens.normal_(0, 0.3)
        rows, columns = known[:, None].expand(side, side, -1), known[None].expand(side, side, -1)
        table[0, 1:-1, : 2 * known.shape[1]] = torch.cat((rows, columns), dim=-1).flatten(0, 1)
    return model
