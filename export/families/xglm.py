"""XGLM: a pre-norm decoder with scaled embeddings and sines of positions. https://arxiv.org/abs/2112.10668"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.sines import SteppedSines, inclusive_frequencies
from precast.export.families import biogpt, opt
from precast.export.head_sets.decoders import ODD, TINY, causal_heads, layer_norm, names, tied, words
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "XGLMSpec"]

_OFFSET = 2


@dataclass(frozen=True, kw_only=True)
class XGLMSpec(biogpt.BioGptSpec):
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
        return inclusive_frequencies(self.hidden_size // 2)


def _embeddings(spec: XGLMSpec) -> nn.Module:
    # The row of padding is zeros, which is that of a position where the padding's id is not a small one.
    longest, zero = spec.max_position_embeddings, spec.pad_token_id
    sines = SteppedSines(spec.hidden_size, spec.frequencies, longest=longest, offset=_OFFSET, zero=zero)
    return words(spec, scale=spec.embedding_scale, positions=sines)


def _weights(spec: XGLMSpec) -> tuple[Rule, ...]:
    # A table of sines that was saved with the weights.
    saved = Ignore("embed_positions.weights")
    return (Rename("model.*", "*"), saved, *opt.NAMES, *names(norm="layer_norm"), *tied(spec))


FAMILY = replace(
    biogpt.FAMILY,
    spec=XGLMSpec,
    heads=causal_heads(biogpt.layers, embeddings=_embeddings, norm=layer_norm),
    weights=_weights,
    inert=opt.FAMILY.inert,
    tiny={**TINY, "ffn_dim": 48},
    variations=(
        # Nothing scaled, a padding whose row is a position's.
        {**ODD, "num_hidden_layers": 1, "ffn_dim": 37, "activation_function": "relu", "scale_embedding": False}
        | {"pad_token_id": 5},
    ),
)
