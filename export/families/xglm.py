"""XGLM: a pre-norm decoder with scaled embeddings and sines of positions. https://arxiv.org/abs/2112.10668"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.sines import SteppedSines
from precast.export.families import Family
from precast.export.families.biogpt import BioGptSpec, causal_lm
from precast.export.families.opt import layer_names
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "XGLMSpec"]

_OFFSET = 2


@dataclass(frozen=True, kw_only=True)
class XGLMSpec(BioGptSpec):
    """Upstream's defaults are those of the model of 564 million weights."""

    vocab_size: int = hf(default=256008)
    pad_token_id: int | None = hf(default=1)
    hidden_size: int = hf(("d_model", "hidden_size"), default=1024)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=24)
    num_attention_heads: int = hf(("attention_heads", "num_attention_heads"), default=16)
    intermediate_size: int = hf("ffn_dim", default=4096)
    hidden_act: Activation = hf("activation_function", default=activation("gelu"), read=activation)
    max_position_embeddings: int = hf(default=2048)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size < 4:
            raise ConfigError(
                f"'d_model' must be 4 at least, for sines of two frequencies or more; received {self.hidden_size}"
            )

    def frequencies(self) -> Tensor:
        """From 1 down to 1 / 10,000."""
        half = self.hidden_size // 2
        return torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))


def _causal_lm(spec: XGLMSpec, absent: frozenset[str]) -> nn.Module:
    # The row of padding is zeros, which is that of a position where the padding's id is not a small one.
    return causal_lm(spec, SteppedSines(spec.hidden_size, spec.frequencies, offset=_OFFSET, zero=spec.pad_token_id))


def _weights(spec: XGLMSpec) -> tuple[Rule, ...]:
    return (
        Rename("model.*", "*"),
        # A table of sines that was saved with the weights.
        Ignore("embed_positions.weights"),
        *layer_names(),
        Rename("embed_tokens.*", "model.embeddings.words.*"),
        Rename("layer_norm.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=XGLMSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset({"activation_dropout", "init_std", "layerdrop"}),
    tiny={
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, nothing scaled, a head apart, a padding whose row is a position's.
        {
            "d_model": 21,
            "num_layers": 1,
            "attention_heads": 3,
            "ffn_dim": 37,
            "activation_function": "relu",
            "scale_embedding": False,
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "pad_token_id": 5,
        },
    ),
)
