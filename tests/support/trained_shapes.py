"""Upstream's CLIP, small, which has learned in seconds what drawn shapes and their colours are called."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw

from support.oracle import save_checkpoint
from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["NAMES", "checkpoint", "drawing"]

_COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
_SHAPES = ("bar", "square", "triangle", "cross")
NAMES = tuple(f"{colour} {shape}" for colour, shape in product(_COLOURS, _SHAPES))
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (*_SPECIAL, "a", "this", "is", "photo", "of", ".", *_COLOURS, *_SHAPES)
_SIDE, _PATCH = 24, 4
_STEPS, _LEARNING = 400, 3e-3


def drawing(name: str, seed: int) -> Image.Image:
    """A shape in its colour, here or there and of several sizes, on a noisy ground."""
    colour, shape = name.split()
    rng = np.random.default_rng(seed)
    ground = rng.integers(90, 150, (_SIDE, _SIDE, 3), dtype=np.uint8)
    picture = Image.fromarray(ground)
    size = int(rng.integers(16, 20))
    left, top = (int(value) for value in rng.integers(1, _SIDE - size, 2))
    right, bottom, third = left + size, top + size, size // 3
    ink = tuple(int(np.clip(value + rng.integers(-20, 21), 0, 255)) for value in _COLOURS[colour])
    pen = ImageDraw.Draw(picture)
    if shape == "bar":
        pen.rectangle((left, top + third, right, bottom - third), fill=ink)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=ink)
    elif shape == "triangle":
        pen.polygon(((left + size // 2, top), (right, bottom), (left, bottom)), fill=ink)
    else:
        pen.rectangle((left + third, top, right - third, bottom), fill=ink)
        pen.rectangle((left, top + third, right, bottom - third), fill=ink)
    return picture


def checkpoint() -> Path:
    """Its folder, with a vocabulary and an image processor. Do not change it: copy it first."""
    return once("checkpoint-trained-shapes", _train)


def _train(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    text = {**sizes, "num_hidden_layers": 1, "vocab_size": len(_WORDS), "max_position_embeddings": 16}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**sizes, "num_hidden_layers": 2, "image_size": _SIDE, "patch_size": _PATCH}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.CLIPModel(config)
    for value in model.parameters():  # its own beginning is that of large models
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=min(0.2, value[0].numel() ** -0.5))
    ids = torch.tensor([[2, *(_WORDS.index(word) for word in ("a", *name.split())), 3] for name in NAMES])
    optimiser = torch.optim.Adam(model.parameters(), lr=_LEARNING)
    for step in range(_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING * min(1, (step + 1) / 20) * (1 - 0.9 * step / _STEPS)
        drawn = [np.asarray(drawing(name, 1000 * step + number)) for number, name in enumerate(NAMES)]
        pixels = torch.from_numpy(np.stack(drawn).transpose(0, 3, 1, 2)).float() / 127.5 - 1
        loss = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_checkpoint(folder, {**config.to_dict(), "architectures": ["CLIPModel"]}, model.eval())
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in _WORDS), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 16})
    square = {"height": _SIDE, "width": _SIDE}
    settings = {"image_processor_type": "CLIPImageProcessor", "size": square, "crop_size": square}
    write_json(folder / "preprocessor_config.json", settings | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
