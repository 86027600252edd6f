"""Upstream's ViT and ResNet, small, which have learned scikit-learn's handwritten digits in seconds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sklearn.datasets import load_digits

from support.oracle import save_checkpoint
from support.tokenizer_samples import write_json
from support.workers import once

__all__ = ["KINDS", "checkpoint", "held_out"]

SIDE = 16  # of a picture: the digits' 8 pixels doubled, as a convolution halves them three times
_LEARNED, _EPOCHS, _BATCH, _RATE = 1_200, 8, 40, 3e-3

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vit": (
        transformers.ViTForImageClassification,
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "image_size": SIDE,
            "patch_size": 4,
            "initializer_range": 0.1,
        },
    ),
    "resnet": (
        transformers.ResNetForImageClassification,
        {
            "embedding_size": 16,
            "hidden_sizes": [24, 48],
            "depths": [1, 1],
            "layer_type": "basic",
        },
    ),
}


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """Every digit as uint8 [N, SIDE, SIDE, 3], and what it is."""
    digits = load_digits()
    grey = (digits.images * 15.9375).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    return np.stack([grey] * 3, axis=-1), digits.target


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Pictures that no model has seen, and what they are."""
    pictures, labels = _pictures()
    return pictures[_LEARNED:], labels[_LEARNED:]


def checkpoint(model_type: str) -> Path:
    """Its folder, with an image processor. Do not change it: copy it first."""
    return once(f"checkpoint-trained-digits-{model_type}", partial(_train, model_type))


def _train(model_type: str, folder: Path) -> None:
    kind, settings = KINDS[model_type]
    names = {number: f"digit {number}" for number in range(10)}
    config = kind.config_class(**settings, id2label=names, label2id={name: number for number, name in names.items()})
    pictures, labels = _pictures()
    pixels = torch.from_numpy((pictures[:_LEARNED].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5)
    targets = torch.from_numpy(labels[:_LEARNED])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(_LEARNED).split(_BATCH):
                loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels[rows]).logits, targets[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    full = json.loads(model.config.to_json_string(use_diff=False))
    save_checkpoint(folder, {**full, "architectures": [kind.__name__]}, model.eval())
    size = {"height": SIDE, "width": SIDE}
    processor = "ViTImageProcessor"
    write_json(
        folder / "preprocessor_config.json",
        {"image_processor_type": processor, "size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    )
