"""CodeGen: GPT-J with queries, values and keys in one projection, packed for four processors.
https://arxiv.org/abs/2203.13474"""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.export.families import gptj
from precast.export.head_sets.decoders import QKV
from precast.export.heads import CAUSAL_LM
from precast.export.weights import Rule, Split
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "CodeGenSpec"]

_PROCESSORS = 4


@dataclass(frozen=True, kw_only=True)
class CodeGenSpec(gptj.GPTJSpec):
    """Upstream's defaults are those of GPT-J."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_attention_heads % _PROCESSORS:
            raise ConfigError(
                f"'n_head' must be a multiple of {_PROCESSORS}: the weights are packed for so many processors; "
                f"received {self.num_attention_heads}"
            )


def _weights(spec: CodeGenSpec) -> tuple[Rule, ...]:
    query, key, value = QKV
    return (*gptj.weights(spec), Split("h.{}.attn.qkv_proj.*", (query, value, key), groups=_PROCESSORS))


FAMILY = replace(
    gptj.FAMILY,
    spec=CodeGenSpec,
    heads={CAUSAL_LM: gptj.FAMILY.heads[CAUSAL_LM]},  # upstream has no classifier of it
    weights=_weights,
    variations=(
        # 8 heads of 6 channels, all of them turned, another width, a tied head.
        {"hidden_size": 48, "num_attention_heads": 8, "num_hidden_layers": 1, "n_inner": 37, "vocab_size": 131}
        | {"rotary_dim": 6, "tie_word_embeddings": True, "activation_function": "gelu", "layer_norm_epsilon": 1e-3},
    ),
)
