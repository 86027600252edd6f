"""Mamba: a decoder of selective state spaces; what it remembers of a text has one size, however long the text is.
https://arxiv.org/abs/2312.00752"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.cache import State, Stateful, Step
from precast.export.blocks.norms import RMSNorm
from precast.export.families import Family, TextSpec
from precast.export.generative import CausalLM
from precast.export.operators import selective_scan
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.spec import hf
from precast.export.weights import Lazy, Prefixed, Rename, Rule, Tie, Transpose, at_least_float32
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
    layer_norm_epsilon: float = hf(default=1e-5)
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


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)). Step sizes are around a thousandth, where ONNX's Softplus keeps four digits: it adds the one
    first. What that rounds away is made up for as Kahan does: log(1 + y) = y log(u) / (u - 1), u the rounded 1 + y.
    """
    small = torch.exp(-x.abs())
    above = 1 + small
    exact = torch.where(above == 1, small, small * torch.log(above) / torch.where(above == 1, 1.0, above - 1))
    return torch.relu(x) + exact


class _Mixer(Stateful):
    """Convolution over the last tokens, then a recurrence whose coefficients depend on the token, [B, S, H] ->
    [B, S, H]; remembered are the convolution's last inputs and the state of the recurrence."""

    def __init__(self, spec: MambaSpec) -> None:
        super().__init__()
        inner, size = spec.inner, spec.state_size
        self.inner, self.size, self.rank, self.kernel = inner, size, spec.rank, spec.conv_kernel
        self.in_proj = nn.Linear(spec.hidden_size, 2 * inner, bias=spec.use_bias)
        self.conv_weight = nn.Parameter(torch.empty(inner, 1, spec.conv_kernel))
        self.conv_bias = nn.Parameter(torch.empty(inner)) if spec.use_conv_bias else None
        self.x_proj = nn.Linear(inner, spec.rank + 2 * size, bias=False)
        self.dt_proj = nn.Linear(spec.rank, inner)
        self.A = nn.Parameter(torch.empty(size, inner))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, spec.hidden_size, bias=spec.use_bias)

    def states(self) -> tuple[State, ...]:
        return (
            State("conv_state", ("batch", self.kernel - 1, self.inner)),
            State("ssm_state", ("batch", self.size, self.inner)),
        )

    def forward(self, x: Tensor, step: Step) -> Tensor:
        both = self.in_proj(x)
        states, gate = both[..., : self.inner], both[..., self.inner :]
        states = F.silu(self._convolved(states, step))
        chosen = self.x_proj(states)
        deltas, coefficients = chosen[..., : self.rank], chosen[..., self.rank :]
        to, back = coefficients[..., : self.size], coefficients[..., self.size :]
        real = torch.arange(x.shape[1], device=x.device)[None] < step.lengths[:, None]
        # A step of size zero leaves the state to the bit as it is: so padding does.
        deltas = _softplus(self.dt_proj(deltas)) * real[..., None].to(x.dtype)
        made, state = selective_scan(states, deltas, self.A, to, back, step.read(self, "ssm_state"))
        step.write(self, "ssm_state", state)
        return self.out_proj((made + states * self.D) * F.silu(gate))

    def _convolved(self, states: Tensor, step: Step) -> Tensor:
        """Each channel alone over a token and the ones before it."""
        length, before = states.shape[1], self.kernel - 1
        row = torch.cat((step.read(self, "conv_state").to(states.dtype), states), dim=1)
        # The inputs of the last real tokens, of this call or of those before.
        last = step.lengths[:, None] + torch.arange(before, device=states.device)
        step.write(self, "conv_state", row.gather(1, last[..., None].expand(-1, -1, self.inner)))
        total = row[:, :length] * self.conv_weight[:, 0, 0]
        for tap in range(1, self.kernel):
            total = total + row[:, tap : tap + length] * self.conv_weight[:, 0, tap]
        return total if self.conv_bias is None else total + self.conv_bias


class _Layer(nn.Module):
    """x = x + mixer(norm(x)); the state travels as in `DecoderLayer`."""

    def __init__(self, spec: MambaSpec) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.layer_norm_epsilon)
        self.mixer = _Mixer(spec)

    def forward(
        self, x: Tensor, update: Tensor | None, step: Step, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x, update [B, S, H] (None: there is no update yet) -> the same two after this layer."""
        if update is None:
            normed = self.norm(x)
        else:
            normed, x = self.norm.add(update, x)
        return x, self.mixer(normed, step)


def _causal_lm(spec: MambaSpec, absent: frozenset[str]) -> nn.Module:
    decoder = Decoder(
        embeddings=TokenEmbeddings(spec.vocab_size, spec.hidden_size),
        layers=[_Layer(spec) for _ in range(spec.num_hidden_layers)],
        norm=RMSNorm(spec.hidden_size, spec.layer_norm_epsilon),
    )
    return CausalLM(decoder, nn.Linear(spec.hidden_size, spec.vocab_size, bias=False), positions=False)


@dataclass(frozen=True)
class _NegativeExponential(Rule):
    """-exp of matching tensors: rates of decay are stored as logarithms."""

    suffix: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def changed(lazy: Lazy) -> Lazy:
            return Lazy(lazy.keys, lazy.shape, lambda: -torch.exp(at_least_float32(lazy.load())))

        return {key: changed(lazy) if key.endswith(self.suffix) else lazy for key, lazy in table.items()}


def _weights(spec: MambaSpec) -> tuple[Rule, ...]:
    tie = (Tie("lm_head.weight", "model.embeddings.words.weight"),) if spec.tie_word_embeddings else ()
    mixer = "model.layers.{}.mixer."
    return (
        Prefixed("backbone"),
        # The first files say embedding.
        Rename("backbone.embedding.*", "backbone.embeddings.*"),
        Rename("backbone.embeddings.*", "model.embeddings.words.*"),
        Rename("backbone.norm_f.*", "model.norm.*"),
        Rename("backbone.layers.*", "model.layers.*"),
        _NegativeExponential(".mixer.A_log"),
        Rename(mixer + "A_log", mixer + "A"),
        Transpose(mixer + "A"),
        Rename(mixer + "conv1d.weight", mixer + "conv_weight"),
        Rename(mixer + "conv1d.bias", mixer + "conv_bias"),
        *tie,
    )


FAMILY = Family(
    spec=MambaSpec,
    heads={heads.CAUSAL_LM: _causal_lm},
    weights=_weights,
    final_norm=True,
    # How weights are first drawn, and which of several equal computations upstream takes.
    inert=frozenset(
        """d_inner d_model layer_types n_layer rescale_prenorm_residual residual_in_fp32 time_step_floor
        time_step_init_scheme time_step_max time_step_min time_step_scale use_associative_scan use_mambapy""".split()
    ),
    tiny={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 8,
        "vocab_size": 99,
        "pad_token_id": 0,
    },
    variations=(
        {
            "hidden_size": 18,
            "num_hidden_layers": 1,
            "state_size": 5,
            "expand": 3,
            "conv_kernel": 3,
            "time_step_rank": 4,
            "use_bias": True,
            "use_conv_bias": False,
            "tie_word_embeddings": False,
        },
    ),
)
