"""GPT-Neo: GPT-2 with scores that are not scaled, and layers in turn that see all tokens and the last ones alone.
https://doi.org/10.5281/zenodo.5297715"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import CachedSelfAttention, head_size
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.skeletons.decoder import Decoder, DecoderLayer, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie
from precast.runtime.errors import ConfigError, listing

__all__ = ["FAMILY", "GPTNeoSpec"]

_GLOBAL, _LOCAL = "global", "local"


@dataclass(frozen=True, kw_only=True)
class GPTNeoSpec(TextSpec):
    """Upstream's defaults are GPT-Neo 1.3B's."""

    vocab_size: int = hf(default=50257)
    hidden_size: int = hf(default=2048)
    layers: int = hf(("num_layers", "num_hidden_layers"), default=24)
    heads: int = hf(("num_heads", "num_attention_heads"), default=16)
    max_position_embeddings: int = hf(default=2048)
    intermediate_size: int | None = hf(default=None)
    activation_function: Activation = hf(default=activation("gelu_new"), read=activation)
    layer_norm_epsilon: float = hf(default=1e-5)
    attention_types: list[Any] | None = hf(default=None)
    attention_layers: list[str] | None = hf(default=None)
    window_size: int = hf(default=256)

    def __post_init__(self) -> None:
        head_size(self.hidden_size, self.heads)
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
        if made != self.layers:
            raise ConfigError(f"'attention_types' makes {made} layers, and 'num_layers' is {self.layers}")


def _layer(spec: GPTNeoSpec, kind: str) -> DecoderLayer:
    hidden, epsilon = spec.hidden_size, spec.layer_norm_epsilon
    return DecoderLayer(
        attention=CachedSelfAttention(
            hidden, heads=spec.heads, out_bias=True, scale=1.0, window=spec.window_size if kind == _LOCAL else None
        ),
        attention_norm=LayerNorm(hidden, epsilon),
        mlp=MLP(hidden, spec.intermediate_size or 4 * hidden, spec.activation_function),
        mlp_norm=LayerNorm(hidden, epsilon),
    )


def _causal_lm(spec: GPTNeoSpec, absent: frozenset[str]) -> nn.Module:
    return CausalLM(
        Decoder(
            embeddings=TokenEmbeddings(
                spec.vocab_size,
                spec.hidden_size,
                positions=PlacedPositions(spec.max_position_embeddings, spec.hidden_size),
            ),
            layers=[_layer(spec, kind) for kind in spec.kinds],
            norm=LayerNorm(spec.hidden_size, spec.layer_norm_epsilon),
        ),
        nn.Linear(spec.hidden_size, spec.vocab_size, bias=False),
    )


def _weights(spec: GPTNeoSpec) -> tuple[Rule, ...]:
    old, new = "h.{}", "model.layers.{}"
    return (
        Rename("transformer.*", "*"),
        # Causal masks that were saved with the weights.
        Ignore(f"{old}.attn.attention.bias"),
        Ignore(f"{old}.attn.attention.masked_bias"),
        Rename(f"{old}.attn.attention.out_proj.*", f"{new}.self_attn.o_proj.*"),
        Rename(f"{old}.attn.attention.*", f"{new}.self_attn.*"),
        Rename(f"{old}.ln_1.*", f"{new}.attention_norm.*"),
        Rename(f"{old}.ln_2.*", f"{new}.mlp_norm.*"),
        Rename(f"{old}.mlp.c_fc.*", f"{new}.mlp.up_proj.*"),
        Rename(f"{old}.mlp.c_proj.*", f"{new}.mlp.down_proj.*"),
        Rename("wte.*", "model.embeddings.words.*"),
        Rename("wpe.*", "model.embeddings.positions.table.*"),
        Rename("ln_f.*", "model.norm.*"),
        *((Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()),
    )


FAMILY = Family(
    spec=GPTNeoSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    limits=lambda spec: spec.max_position_embeddings,
    final_norm=True,
    inert=frozenset(
        """embed_dropout resid_dropout summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj""".split()
    ),
    tiny={
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 9,
        "max_position_embeddings": 160,
        "vocab_size": 99,
    },
    variations=(
        # Odd sizes: 3 heads of 7 channels, another width, local layers first, a head apart.
        {
            "hidden_size": 21,
            "num_heads": 3,
            "num_layers": 3,
            "attention_types": [[["local"], 2], [["global"], 1]],
            "window_size": 1,
            "intermediate_size": 37,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
            "vocab_size": 131,
            "layer_norm_epsilon": 1e-3,
        },
    ),
)
