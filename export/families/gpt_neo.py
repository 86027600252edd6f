"""GPT-Neo: GPT-2 with scores that are not scaled, and layers in turn that see all tokens and the last ones alone.
https://doi.org/10.5281/zenodo.5297715"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export.blocks.activations import Activation, activation
from precast.export.families import Family, gpt2
from precast.export.head_sets.decoders import (
    ODD,
    SUMMARY_KEYS,
    TINY,
    DecoderSpec,
    causal_heads,
    layer,
    layer_norm,
    mlp,
    names,
    placed,
    tied,
)
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError, listing

__all__ = ["FAMILY", "GPTNeoSpec"]

_GLOBAL, _LOCAL = "global", "local"


@dataclass(frozen=True, kw_only=True)
class GPTNeoSpec(DecoderSpec):
    """Upstream's defaults are GPT-Neo 1.3B's."""

    vocab_size: int = hf(default=50257)
    hidden_size: int = hf(default=2048)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=24)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=16)
    max_position_embeddings: int = hf(default=2048)
    intermediate_size: int | None = hf(default=None)
    hidden_act: Activation = hf("activation_function", default=activation("gelu_new"), read=activation)
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)
    attention_types: list[Any] | None = hf(default=None)
    attention_layers: list[str] | None = hf(default=None)
    window_size: int = hf(default=256)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._count()  # before anything is repeated: a count without end would not end
        kinds = self.kinds
        wrong = sorted({str(kind) for kind in kinds} - {_GLOBAL, _LOCAL})
        if wrong:
            raise ConfigError(f"layers are {_GLOBAL!r} or {_LOCAL!r}; 'attention_types' holds {listing(wrong)}")
        if self.attention_layers not in (None, kinds):
            raise ConfigError(
                f"'attention_layers' lists what 'attention_types' makes of its repeats; the first is "
                f"{listing(self.attention_layers or ())}, the second {listing(kinds)}"
            )
        if self.window_size < 1:
            raise ConfigError(
                "'window_size' counts the tokens that one sees in a local layer, itself included: at least 1; "
                f"received {self.window_size}"
            )

    @property
    def kinds(self) -> list[str]:
        """What each layer sees: ``attention_types`` holds [kinds, repeats] pairs."""
        if self.attention_types is None:
            return self.attention_layers or [_GLOBAL, _LOCAL] * 12
        return [kind for kinds, repeats in self.attention_types for _ in range(repeats) for kind in kinds]

    def _count(self) -> None:
        """Refuse kinds that make another number of layers than ``num_layers``."""
        if self.attention_types is None:
            made = len(self.kinds)
        else:
            try:
                pairs = [(list(kinds), operator.index(repeats)) for kinds, repeats in self.attention_types]
                if not all(kinds and repeats > 0 for kinds, repeats in pairs):
                    raise ValueError("nothing, or less")
            except (TypeError, ValueError):
                raise ConfigError(
                    "'attention_types' holds pairs of a list of kinds and how often it is repeated, "
                    f"[[['global', 'local'], 12]]; received {self.attention_types}"
                ) from None
            made = sum(len(kinds) * repeats for kinds, repeats in pairs)
        if made != self.num_hidden_layers:
            raise ConfigError(f"'attention_types' makes {made} layers, and 'num_layers' is {self.num_hidden_layers}")


def _layers(spec: GPTNeoSpec) -> list[nn.Module]:
    windows = [spec.window_size if kind == _LOCAL else None for kind in spec.kinds]
    return [layer(spec, norm=layer_norm, mlp=mlp, out_bias=True, scale=1.0, window=window) for window in windows]


def _weights(spec: GPTNeoSpec) -> tuple[Rule, ...]:
    return (
        Rename("transformer.*", "*"),
        # Causal masks that were saved with the weights.
        Ignore("h.{}.attn.attention.bias"),
        Ignore("h.{}.attn.attention.masked_bias"),
        *names("h.{}", output="attn.attention.out_proj", attention="attn.attention"),
        *gpt2.NAMES,
        *tied(spec),
    )


FAMILY = Family(
    spec=GPTNeoSpec,
    heads=causal_heads(_layers, embeddings=placed, norm=layer_norm, classes=True),
    weights=_weights,
    final_norm=True,
    inert=SUMMARY_KEYS | {"embed_dropout", "resid_dropout"},
    tiny={**TINY, "attention_types": [[["global", "local"], 1]], "window_size": 9},
    variations=(
        # Another width, local layers first.
        {**ODD, "num_hidden_layers": 3, "attention_types": [[["local"], 2], [["global"], 1]], "window_size": 1}
        | {"intermediate_size": 37, "activation_function": "gelu", "layer_norm_epsilon": 1e-3},
    ),
)
