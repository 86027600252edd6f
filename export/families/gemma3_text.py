"""Gemma 3, text only: Gemma with norms before and after each part, normed queries and keys, and layers that mostly see
the last tokens alone, those with rotary positions of a base of their own. https://arxiv.org/abs/2503.19786"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.layer_types import FULL, SLIDING, windows
from precast.export.blocks.norms import RMSNorm
from precast.export.blocks.rope import Rope
from precast.export.families import gemma, llama
from precast.export.head_sets.decoders import attention, causal_heads, gated_mlp, rms_norm, scaled_words
from precast.export.skeletons.decoder_layers import SandwichLayer
from precast.export.spec import hf
from precast.export.weights import Fold, Ignore, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "Gemma3Spec"]


@dataclass(frozen=True, kw_only=True)
class Gemma3Spec(llama.RelativeSpec):
    """Upstream's defaults; ``rope_theta`` and ``rope_scaling`` are those of the layers that see everything."""

    vocab_size: int = hf(default=262208)
    hidden_size: int = hf(default=2304)
    intermediate_size: int = hf(default=9216)
    num_hidden_layers: int = hf(default=26)
    num_attention_heads: int = hf(default=8)
    num_key_value_heads: int | None = hf(default=4)
    head_dim: int | None = hf(default=256)
    hidden_act: Activation = hf("hidden_activation", default=activation("gelu_pytorch_tanh"), read=activation)
    max_position_embeddings: int = hf(default=131072)
    tie_word_embeddings: bool = hf(default=True)
    attention_bias: bool = hf(default=False)
    rope_local_base_freq: float = hf(default=10000.0)
    query_pre_attn_scalar: float = hf(default=256)
    sliding_window: int | None = hf(default=4096)
    sliding_window_pattern: int = hf(("sliding_window_pattern", "_sliding_window_pattern"), default=6)
    layer_types: list[str] | None = hf(default=None)
    final_logit_softcapping: float | None = hf(default=None)
    # Upstream reads it and computes nothing with it; Gemma 3 was trained without.
    attn_logit_softcapping: float | None = hf(default=None, only=(None,))
    use_bidirectional_attention: bool | None = hf(default=False, only=(None, False))

    def __post_init__(self) -> None:
        if self.sliding_window_pattern < 1:
            raise ConfigError(
                "'sliding_window_pattern' is every how many layers one sees everything: at least 1; "
                f"received {self.sliding_window_pattern}"
            )
        if self.query_pre_attn_scalar <= 0 or (self.final_logit_softcapping or 1) <= 0:
            raise ConfigError(
                "'query_pre_attn_scalar' and 'final_logit_softcapping' must be positive; received "
                f"{self.query_pre_attn_scalar} and {self.final_logit_softcapping}"
            )
        given = self.rope_parameters
        if given is not None and not (
            set(given) <= {FULL, SLIDING} and all(isinstance(v, (dict, type(None))) for v in given.values())
        ):
            raise ConfigError(
                f"'rope_parameters' holds those of {FULL!r} and of {SLIDING!r}, each an object; received {given}"
            )
        super().__post_init__()
        self.local_rope.check()

    @property
    def kinds(self) -> list[str]:
        """What each layer sees."""
        if self.layer_types is not None:
            return self.layer_types
        every = self.sliding_window_pattern
        return [SLIDING if (index + 1) % every else FULL for index in range(self.num_hidden_layers)]

    @property
    def windows(self) -> list[int | None]:
        """And how many tokens that is."""
        return windows(self.num_hidden_layers, self.sliding_window, kinds=self.kinds)

    @property
    def rope(self) -> Rope:
        """How rotary angles are made where a layer sees everything."""
        # Upstream writes the old key over the new one, or over what stands for that, and reads the new spelling.
        return self._rope_of(FULL, self.rope_scaling or {}, self.rope_theta or 1e6)

    @property
    def local_rope(self) -> Rope:
        """And where it sees the last tokens alone."""
        return self._rope_of(SLIDING, {}, self.rope_local_base_freq)

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return tuple(sorted({*self.rope.ignored, *self.local_rope.ignored}))

    def _rope_of(self, kind: str, scaling: Mapping[str, Any], theta: float) -> Rope:
        given = {"rope_type": "default"} if self.rope_parameters is None else self.rope_parameters.get(kind) or {}
        return self._rope(parameters={**given, **scaling}, scaling=None, theta=theta, name=f"rope_parameters.{kind}")


def _layers(spec: Gemma3Spec) -> list[nn.Module]:
    everywhere, nearby = spec.rope.module(), spec.local_rope.module()
    return [
        SandwichLayer(
            attention=attention(
                spec,
                bias=spec.attention_bias,
                positions=everywhere if window is None else nearby,
                query_norm=RMSNorm(spec.size, spec.rms_norm_eps),
                key_norm=RMSNorm(spec.size, spec.rms_norm_eps),
                window=window,
                scale=spec.query_pre_attn_scalar**-0.5,
            ),
            attention_norm=rms_norm(spec),
            attention_post_norm=rms_norm(spec),
            mlp=gated_mlp(spec),
            mlp_norm=rms_norm(spec),
            mlp_post_norm=rms_norm(spec),
        )
        for window in spec.windows
    ]


_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def _weights(spec: Gemma3Spec) -> tuple[Rule, ...]:
    offsets = Fold("*norm.weight", add=1.0)
    return llama.weights(spec, Ignore("model.rotary_emb_local.inv_freq"), offsets, norms=_NORMS)


FAMILY = replace(
    gemma.FAMILY,
    spec=Gemma3Spec,
    heads=causal_heads(_layers, embeddings=scaled_words, softcap=lambda spec: spec.final_logit_softcapping),
    weights=_weights,
    tiny={
        **gemma.FAMILY.tiny,
        "num_hidden_layers": 3,
        "query_pre_attn_scalar": 20,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        },
    },
    variations=(
        # Every layer local but one, nothing said of rotary positions, capped logits, biases, an untied head.
        {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8}
        | {"attention_bias": True, "tie_word_embeddings": False, "final_logit_softcapping": 3.0}
        | {"layer_types": None, "sliding_window_pattern": 2, "rope_parameters": None},
    ),
)
