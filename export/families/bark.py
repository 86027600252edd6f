"""Bark: speech from text by three GPTs and a codec. https://github.com/suno-ai/bark

Four components: ``semantic`` makes tokens of what is meant of a text, ``coarse`` of these the codes of the first two
codebooks, one by one; ``fine`` those of the others, codebook by codebook, and ``codec`` a waveform of all. What goes
from one to the next the runtime lays out (`precast.runtime.stages`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import LearnedPositions, PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.components import Composite
from precast.export.families import Family, encodec
from precast.export.generative import CausalLM
from precast.export.head_sets.decoders import QKV, DecoderSpec, layer, names
from precast.export.signatures import Component
from precast.export.skeletons.codec import Codebooks
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.seanet import shortest, up
from precast.export.skeletons.stack import Stack
from precast.export.spec import Spec as PlainSpec
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Within
from precast.export.weights import Stack as Stacked
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]

_TIED = frozenset({"tie_word_embeddings"})  # of the whole, and of a codec, which have no words
_EPSILON = 1e-5  # torch's own, whatever configs say
_FRAMES = 64  # of the longest recording that parity tries


@dataclass(frozen=True, kw_only=True)
class GPTSpec(DecoderSpec):
    """One of the GPTs; defaults are upstream's."""

    vocab_size: int = hf(("input_vocab_size", "vocab_size"), default=10_048)
    output_vocab_size: int = hf(default=10_048)
    hidden_size: int = hf(default=768)
    num_hidden_layers: int = hf(("num_layers", "num_hidden_layers"), default=12)
    num_attention_heads: int = hf(("num_heads", "num_attention_heads"), default=12)
    block_size: int = hf(("block_size", "window_size"), default=1024)
    bias: bool = hf(default=True)

    def mlp(self) -> MLP:
        return MLP(self.hidden_size, 4 * self.hidden_size, activation("gelu"), bias=self.bias)


@dataclass(frozen=True, kw_only=True)
class FineSpec(GPTSpec):
    """That of all codebooks."""

    n_codes_total: int = hf(default=8)
    n_codes_given: int = hf(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.n_codes_given < self.n_codes_total:
            raise ConfigError(
                f"'n_codes_given' is 1 or more and below 'n_codes_total'; received {self.n_codes_given} and "
                f"{self.n_codes_total}"
            )

    @property
    def predicted(self) -> int:
        """Codebooks that it can predict."""
        return self.n_codes_total - self.n_codes_given


@dataclass(frozen=True, kw_only=True)
class CodecSpec(encodec.Spec):
    """EnCodec's, of which the decoder alone is used, however loud recordings once were."""

    model_type: str = hf(default="encodec", only=("encodec",))
    audio_channels: int = hf(default=1, only=(1,))


@dataclass(frozen=True, kw_only=True)
class Spec(PlainSpec):
    """The four, each of which stands for itself."""

    semantic: GPTSpec = hf("semantic_config", default={}, spec=GPTSpec)
    coarse: GPTSpec = hf("coarse_acoustics_config", default={}, spec=GPTSpec)
    fine: FineSpec = hf("fine_acoustics_config", default={}, spec=FineSpec)
    codec: CodecSpec = hf("codec_config", default={}, spec=CodecSpec, inert=encodec.FAMILY.inert | _TIED)

    def __post_init__(self) -> None:
        if self.codec.quantizers < self.fine.n_codes_total:
            raise ConfigError(
                f"the codec has {self.codec.quantizers} codebooks, fewer than 'n_codes_total' {self.fine.n_codes_total}"
            )


class _Beside(TokenEmbeddings):
    """words(ids) + positions, and over the first places the words of ``history_ids`` [B, P] besides."""

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        history, places = step.conditions["history_ids"], step.positions
        assert places is not None
        seen = places < history.shape[1]
        beside = self.words(history.gather(1, places * seen.to(places.dtype)))
        return super().forward(input_ids, step) + beside * seen[..., None].to(beside.dtype)


class _Semantic(CausalLM):
    """A text that somebody is known to have gone before: ``history_ids`` [B, P] are the same in all calls."""

    def ports(self) -> tuple[Port, ...]:
        words, *others = super().ports()
        return words, *others, words._replace(name="history_ids", shape=("batch", "history"))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        lengths: Tensor,
        logit_positions: Tensor,
        states: Mapping[str, Tensor],
        position_ids: Tensor,
        history_ids: Tensor,
    ) -> dict[str, Tensor]:
        call = input_ids, past_lengths, lengths, logit_positions, states, position_ids
        return super().forward(*call, history_ids=history_ids)


def _gpt(spec: GPTSpec, kind: type[CausalLM], embeddings: type[TokenEmbeddings]) -> CausalLM:
    norm = partial(LayerNorm, spec.hidden_size, _EPSILON, bias=spec.bias)
    made = [
        layer(spec, norm=lambda _: norm(), mlp=lambda spec: spec.mlp(), bias=spec.bias)
        for _ in range(spec.num_hidden_layers)
    ]
    places = PlacedPositions(spec.block_size, spec.hidden_size)
    body = Decoder(embeddings=embeddings(spec.vocab_size, spec.hidden_size, positions=places), layers=made, norm=norm())
    return kind(body, nn.Linear(spec.hidden_size, spec.output_vocab_size, bias=False))


class _Fine(Component):
    """Codes of all codebooks [B, S, C] and which one of those that are not given is asked for [B] -> {"logits": [B, S,
    V]} of its codes; of codebooks behind that one nothing is seen."""

    def __init__(self, spec: FineSpec) -> None:
        super().__init__()
        size, self.spec = spec.hidden_size, spec
        self.tables = nn.Parameter(torch.empty(spec.n_codes_total, spec.vocab_size, size))
        own = torch.empty(spec.predicted, spec.output_vocab_size, size)
        self.lm_heads = None if spec.tie_word_embeddings else nn.Parameter(own)
        self.positions = LearnedPositions(spec.block_size, size)
        layers = [
            PreNormLayer(
                attention=SelfAttention(size, heads=spec.num_attention_heads, bias=spec.bias),
                attention_norm=LayerNorm(size, _EPSILON),
                mlp=spec.mlp(),
                mlp_norm=LayerNorm(size, _EPSILON),
            )
            for _ in range(spec.num_hidden_layers)
        ]
        self.stack = Stack(layers, LayerNorm(size, _EPSILON))

    def ports(self) -> tuple[Port, ...]:
        shape = ("batch", "sequence", self.spec.n_codes_total)
        return (
            Port("input_ids", "int64", shape, "ids", below=self.spec.vocab_size),
            Port("codebook", "int64", ("batch",), "labels", below=self.spec.predicted),
        )

    def outs(self) -> tuple[Out, ...]:
        return (Out("logits", ("batch", "sequence", "vocabulary"), "logits"),)

    def forward(self, input_ids: Tensor, codebook: Tensor) -> dict[str, Tensor]:
        count, vocab, size = self.tables.shape
        books = torch.arange(count, device=input_ids.device)
        codes = F.embedding(input_ids + books * vocab, self.tables.view(-1, size))
        seen = (books <= codebook[:, None] + self.spec.n_codes_given).to(codes.dtype)
        x = self.stack((codes * seen[:, None, :, None]).sum(dim=2) + self.positions(input_ids[..., 0]))
        # The head of a codebook is the table of the next one behind those before it, where they are one.
        every, first = (self.tables, 1) if self.lm_heads is None else (self.lm_heads, 0)
        head = F.embedding(codebook + first, every.flatten(1)).view(-1, every.shape[1], size)
        return {"logits": torch.matmul(x, head.transpose(1, 2))}


class _Codec(Component):
    """Codes of all codebooks [B, C, F] -> {"waveform": [B, S]}, all samples of all frames; those that a mask [B, F]
    hides are nothing, as upstream has what is behind a recording that is too short to be mirrored."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.Sequential(*up(spec.codec))
        self.codebooks = Codebooks(spec.fine.n_codes_total, spec.codec.codebook_size, spec.codec.hidden_size)
        self.frames = Dim(shortest(self.layers))

    def ports(self) -> tuple[Port, ...]:
        count, codes, _ = self.codebooks.tables.shape
        own = Port("audio_codes", "int64", ("batch", count, "frames"), "codes", below=codes)
        return own, Port("frame_mask", "int64", ("batch", "frames"), "mask", default=1)

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["text-to-waveform"].outs

    def bounds(self) -> dict[str, Dim]:
        return {"frames": self.frames}

    def largest(self) -> int:
        return _FRAMES

    def processing(self) -> Mapping[str, Any]:
        own = self.spec
        sizes: dict[str, Any] = {
            name: [spec.vocab_size, spec.output_vocab_size, spec.block_size]
            for name, spec in (("semantic", own.semantic), ("coarse", own.coarse), ("fine", own.fine))
        }
        sizes["fine"].append(own.fine.n_codes_total)
        sizes |= {"given": own.fine.n_codes_given, "codes": own.codec.codebook_size}
        said: dict[str, Any] = {"components": ["semantic", "coarse", "fine"], "sizes": sizes}
        said |= {"hop": own.codec.hop, "sampling_rate": own.codec.sampling_rate}
        # Nothing is seen of what is behind.
        return {"stages": said | {"causal": own.codec.use_causal_conv and own.codec.trim_right_ratio == 1}}

    def forward(self, audio_codes: Tensor, frame_mask: Tensor) -> dict[str, Tensor]:
        x = self.codebooks.decoded(audio_codes)
        return {"waveform": self.layers(x * frame_mask[:, None].to(x.dtype))[:, 0]}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    semantic, coarse = _gpt(spec.semantic, _Semantic, _Beside), _gpt(spec.coarse, CausalLM, TokenEmbeddings)
    return Composite({"semantic": semantic, "coarse": coarse, "fine": _Fine(spec.fine), "codec": _Codec(spec)})


_PARTS = {"attention_norm": "layernorm_1", "mlp_norm": "layernorm_2", "output": "attn.out_proj"}
_PARTS |= {"up": "mlp.in_proj", "down": "mlp.out_proj", "norm": "layernorm_final"}
_GPT = (
    Ignore("layers.{}.attn.bias"),  # causal masks
    Split("layers.{}.attn.att_proj.*", QKV),
    *names("layers.{}", **_PARTS, embeddings="input_embeds_layer", positions="position_embeds_layer", head="lm_head"),
)
_FINE = (
    Split("layers.{}.attn.att_proj.*", tuple(name.removeprefix("model.") for name in QKV)),
    Rename("layers.{}.attn.out_proj.*", "layers.{}.self_attn.o_proj.*"),
    Rename("layers.{}.layernorm_1.*", "layers.{}.attention_norm.*"),
    Rename("layers.{}.layernorm_2.*", "layers.{}.mlp_norm.*"),
    Rename("layers.{}.mlp.in_proj.*", "layers.{}.mlp.up_proj.*"),
    Rename("layers.{}.mlp.out_proj.*", "layers.{}.mlp.down_proj.*"),
    Rename("layernorm_final.*", "norm.*"),
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    fine, head = "fine_acoustics", "fine_acoustics.lm_heads.{}.weight"
    return (
        Within("semantic.", _GPT, to="semantic."),
        Within("coarse_acoustics.", _GPT, to="coarse."),
        Ignore(head) if spec.fine.tie_word_embeddings else Stacked(head, "fine.lm_heads"),
        Stacked(f"{fine}.input_embeds_layers.{{}}.weight", "fine.tables"),
        Rename(f"{fine}.position_embeds_layer.*", "fine.positions.table.*"),
        Within(f"{fine}.", _FINE, to="fine.stack."),
        Within("codec_model.", _codec(spec), to="codec."),
    )


def _codec(spec: Spec) -> tuple[Rule, ...]:
    spare = range(spec.fine.n_codes_total, spec.codec.quantizers)
    return (
        Ignore("encoder.*"),
        *(Ignore(f"quantizer.layers.{number}.*") for number in spare),
        *encodec.STATISTICS,
        Stacked("quantizer.layers.{}.codebook.embed", "codebooks.tables"),
        Rename("decoder.*", "*"),
        *encodec.layer_weights(spec.codec),
    )


_GPT_TINY = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "block_size": 80}
_GPT_ODD = {"hidden_size": 21, "num_layers": 1, "num_heads": 3, "block_size": 70}

FAMILY = Family(
    spec=Spec,
    heads={heads.TEXT_TO_WAVEFORM: _compose},
    weights=_weights,
    inert=_TIED,
    tiny={
        "semantic_config": {**_GPT_TINY, "input_vocab_size": 67, "output_vocab_size": 24},
        "coarse_acoustics_config": {**_GPT_TINY, "num_layers": 1, "input_vocab_size": 47, "output_vocab_size": 47},
        "fine_acoustics_config": {**_GPT_TINY, "num_layers": 1, "input_vocab_size": 19, "output_vocab_size": 19}
        | {"n_codes_total": 4},
        "codec_config": {**encodec.FAMILY.tiny, "model_type": "encodec", "target_bandwidths": [2.0]},
    },
    variations=(
        {
            "semantic_config": {**_GPT_ODD, "input_vocab_size": 71, "output_vocab_size": 29, "bias": False},
            "coarse_acoustics_config": {**_GPT_ODD, "input_vocab_size": 53, "output_vocab_size": 48, "bias": False},
            "fine_acoustics_config": {**_GPT_ODD, "input_vocab_size": 20, "output_vocab_size": 18, "bias": False}
            | {"n_codes_total": 5, "n_codes_given": 2, "tie_word_embeddings": False},
            "codec_config": {**encodec.FAMILY.tiny, "model_type": "encodec", "target_bandwidths": [2.0]}
            | {"normalize": True, "num_lstm_layers": 1},
        },
    ),
)
