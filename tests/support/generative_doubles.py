"""Upstream's models behind the interface of loaded generative ones."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from precast.runtime.generation import api
from support import DATA, torch_engine

BOS, EOS, PAD = 0, 1, 2
GOLDENS = json.loads((DATA / "seq2seq_goldens.json").read_text(encoding="utf-8"))
ALL_TASKS = ("text2text-generation", "summarization", "translation")


def model_of(upstream: Any, tokenizer: Any, tasks: tuple[str, ...], **engine: Any) -> Any:
    """An upstream model behind the interface of a loaded generative one; its ``calls`` are the shapes it was given."""
    served = torch_engine.served(upstream, tokenizer, **engine)
    limit = engine.get("max_length")

    def generate(inputs: Any = None, **arguments: Any) -> Any:
        made.calls.append(np.shape(arguments.get("input_ids", inputs)))
        return api.generate(made, inputs, **arguments)

    made = SimpleNamespace(
        **vars(served),
        tasks=tasks,
        input_names=("input_ids", "attention_mask"),
        max_length=limit,
        calls=[],
        is_encoder_decoder=upstream.config.is_encoder_decoder,
    )
    made.generate = generate
    return made


def set_tokens(upstream: Any, **generation: Any) -> Any:
    for config in (upstream.config, upstream.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = BOS, EOS, PAD
    for name, value in generation.items():
        setattr(upstream.generation_config, name, value)
    return upstream
