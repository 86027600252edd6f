"""Upstream `transformers` as the oracle: tiny models with every weight randomised, and their state as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from precast.export.families import find_family
from precast.export.heads import (
    BASE,
    CAUSAL_LM,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    QUESTION_ANSWERING,
    SEQ2SEQ_LM,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)

AUTO = {
    BASE: transformers.AutoModel,
    MASKED_LM: transformers.AutoModelForMaskedLM,
    SEQUENCE_CLASSIFICATION: transformers.AutoModelForSequenceClassification,
    TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
    QUESTION_ANSWERING: transformers.AutoModelForQuestionAnswering,
    MULTIPLE_CHOICE: transformers.AutoModelForMultipleChoice,
    NEXT_SENTENCE: transformers.AutoModelForNextSentencePrediction,
    CAUSAL_LM: transformers.AutoModelForCausalLM,
    SEQ2SEQ_LM: transformers.AutoModelForSeq2SeqLM,
}


# Attention as upstream computes it by default, where its eager form is another: Falcon's adds linear biases twice.
_ATTENTION = {"falcon": "sdpa"}


@dataclass(frozen=True)
class TensorSource:
    """A state-dict entry in the form `precast.export.reference.build` reads."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def load(self) -> torch.Tensor:
        return self.tensor


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter away from its initial value: norms around one, biases away from zero, no two rows alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            norm = value.ndim == 1 and "norm" in name.lower() and name.endswith(("weight", "gamma"))
            if value.ndim == 1:
                value.copy_(1 + 0.2 * noise if norm else 0.3 * noise)
            else:
                table = "embed" in name.lower() or "shared" in name
                value.copy_(noise * (0.7 if table else 1.2 / value.shape[-1] ** 0.5))
        for module in model.modules():
            if hasattr(module, "key_value_proj_dim"):
                # T5 scales no scores: its queries are small instead, in upstream's initial weights too.
                module.q.weight.mul_(module.key_value_proj_dim**-0.5)  # type: ignore[union-attr, operator]
            if hasattr(module, "wi_0"):
                module.wo.weight.mul_(0.5)  # type: ignore[union-attr, operator] # products of gates are larger
            if hasattr(module, "A_log"):
                # Mamba multiplies what this makes with itself and its input: rounding errors would grow with them.
                module.x_proj.weight.mul_(0.5)  # type: ignore[union-attr, operator]
        for name, value in model.named_buffers():
            if name.endswith("final_logits_bias"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))


def upstream(
    model_type: str, head: Head, overrides: Mapping[str, Any] | None = None, seed: int = 0
) -> tuple[dict[str, Any], torch.nn.Module]:
    """(config.json, model in eval mode) of a tiny random upstream model."""
    values = {**find_family(model_type).tiny, **(overrides or {})}
    if head in (QUESTION_ANSWERING, MULTIPLE_CHOICE, NEXT_SENTENCE):
        values.pop("num_labels", None)  # the number of outputs is fixed by the task
    config = transformers.AutoConfig.for_model(model_type, **values)
    attention = _ATTENTION.get(model_type, "eager")
    config._attn_implementation = attention
    model = AUTO[head].from_config(config, attn_implementation=attention).eval()
    randomise(model, seed)
    written = json.loads(model.config.to_json_string(use_diff=False))
    written["architectures"] = [type(model).__name__]
    return written, model


def sources(model: torch.nn.Module) -> dict[str, TensorSource]:
    return {name: TensorSource(tensor) for name, tensor in model.state_dict().items()}


def save_checkpoint(folder: Path, config: Mapping[str, Any], model: torch.nn.Module) -> Path:
    """Write what a user would have on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tied = {id(value): name for name, value in reversed(list(model.named_parameters(remove_duplicate=False)))}
    names = set(tied.values())
    aliases = {name for name, value in model.named_parameters(remove_duplicate=False)} - names
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items() if name not in aliases}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
