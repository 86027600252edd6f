"""Mamba: a decoder of selective state spaces; what it remembers of a text has one size, however long the text is.
https://arxiv.org/abs/2312.00752"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from precast.export.blocks.state_space import SelectiveStateSpace
from precast.export.families import Family, TextSpec
from precast.export.head_sets.decoders import causal_heads, names, rms_norm, tied
from precast.export.skeletons.decoder_layers import MixerLayer
from precast.export.spec import hf
from precast.export.weight_table import Lazy, at_least_float32
from precast.export.weights import Rename, Rule, Transpose
from precast.runtime.errors import ConfigError

__all__ = ["FAMILY", "MambaSpec"]


def _rank(value: int | str) -> int | None:
    if isinstance(value, str) and value != "auto":
        raise ValueError("a number of channels, or 'auto'")
    return None if value == "auto" else int(value)


@dataclass(frozen=True, kw_only=True)
class MambaSpec(TextSpec):
    """Upstream's defaults are Mamba 130M's, with more layers."""

    vocab_size: int = hf(default=50280)
    hidden_size: int = hf(default=768)
    state_size: int = hf(default=16)
    num_hidden_layers: int = hf(default=32)
    rms_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)
    expand: int = hf(default=2)
    conv_kernel: int = hf(default=4)
    use_bias: bool = hf(default=False)
    use_conv_bias: bool = hf(default=True)
    hidden_act: str = hf(default="silu", only=("silu", "swish"))
    time_step_rank: int | None = hf(default=None, read=_rank)
    intermediate_size: int | None = hf(default=None)
    tie_word_embeddings: bool = hf(default=True)

    def __post_init__(self) -> None:
        if self.intermediate_size not in (None, self.inner):
            raise ConfigError(
                f"'intermediate_size' is 'expand' times 'hidden_size', {self.inner}; received {self.intermediate_size}"
            )
        if self.conv_kernel < 2:
            raise ConfigError(f"'conv_kernel' must be at least 2; received {self.conv_kernel}")

    @property
    def inner(self) -> int:
        """Channels between the projections."""
        return self.expand * self.hidden_size

    @property
    def rank(self) -> int:
        """Channels that step sizes are made of."""
        return self.time_step_rank or math.ceil(self.hidden_size / 16)


def _layers(spec: MambaSpec) -> list[nn.Module]:
    def mixer() -> nn.Module:
        return SelectiveStateSpace(
            spec.hidden_size,
            inner=spec.inner,
            size=spec.state_size,
            rank=spec.rank,
            kernel=spec.conv_kernel,
            bias=spec.use_bias,
            conv_bias=spec.use_conv_bias,
        )

    return [MixerLayer(mixer=mixer(), norm=rms_norm(spec)) for _ in range(spec.num_hidden_layers)]


@dataclass(frozen=True)
class _NegativeExponential(Rule):
    """-exp of matching tensors: rates of decay are stored as logarithms."""

    suffix: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def changed(lazy: Lazy) -> Lazy:
            return Lazy(lazy.keys, lazy.shape, lambda: -torch.exp(at_least_float32(lazy.load())))

        return {key: changed(lazy) if key.endswith(self.suffix) else lazy for key, lazy in table.items()}


def _weights(spec: MambaSpec) -> tuple[Rule, ...]:
    mixer = "model.layers.{}.mixer."
    return (
        Rename("backbone.*", "*"),
        Rename("embedding.*", "embeddings.*"),  # of the first files
        *names(embeddings="embeddings", norm="norm_f"),
        Rename("layers.*", "model.layers.*"),
        _NegativeExponential(".mixer.A_log"),
        Rename(mixer + "A_log", mixer + "A"),
        Transpose(mixer + "A"),
        Rename(mixer + "conv1d.*", mixer + "conv_*"),
        *tied(spec),
    )


FAMILY = Family(
    spec=MambaSpec,
    heads=causal_heads(_layers, positions=lambda spec: False),
    weights=_weights,
    final_norm=True,
    # How weights are first drawn, and which of several equal computations upstream takes.
    inert=frozenset(
        """d_inner d_model layer_types n_layer rescale_prenorm_residual residual_in_fp32 time_step_floor
        time_step_init_scheme time_step_max time_step_min time_step_scale use_associative_scan use_mambapy""".split()
    ),
    tiny={"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 99, "pad_token_id": 0},
    variations=(
        {"hidden_size": 18, "num_hidden_layers": 1, "state_size": 5, "expand": 3, "conv_kernel": 3, "time_step_rank": 4}
        | {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False},
    ),
)
