"""CodeGen: GPT-J with queries, values and keys in one projection, packed for four processors.
https://arxiv.org/abs/2203.13474"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export import heads
from precast.export.families import Family
from precast.export.families.gptj import INERT_KEYS, GPTJSpec, causal_lm, weights
from precast.export.weights import Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "CodeGenSpec"]

_PROCESSORS = 4


@dataclass(frozen=True, kw_only=True)
class CodeGenSpec(GPTJSpec):
    """Upstream's defaults are those of GPT-J."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads % _PROCESSORS:
            raise ConfigError(
                f"'n_head' must be a multiple of {_PROCESSORS}: the weights are packed for so many processors; "
                f"received {self.heads}"
            )


def _weights(spec: CodeGenSpec) -> tuple[Rule, ...]:
    parts = tuple(f"model.layers.{{}}.self_attn.{part}_proj.*" for part in "qvk")
    return (*weights(spec), Split("h.{}.attn.qkv_proj.*", parts, groups=_PROCESSORS))


FAMILY = Family(
    spec=CodeGenSpec,
    heads={heads.CAUSAL_LM: causal_lm},
    weights=_weights,
    limits=lambda spec: spec.positions,
    final_norm=True,
    inert=INERT_KEYS,
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160, "rotary_dim": 4, "vocab_size": 99},
    variations=(
        # 8 heads of 6 channels, all of them turned, another width, a tied head.
        {
            "n_embd": 48,
            "n_head": 8,
            "n_inner": 37,
            "n_layer": 1,
            "rotary_dim": 6,
            "activation_function": "gelu",
            "tie_word_embeddings": True,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
    ),
)
