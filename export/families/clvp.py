"""CLVP: tokens of speech that say a text in the voice of a recording, and how well each such candidate goes with each
text; the first half of Tortoise. https://arxiv.org/abs/2305.07243

Four components: ``conditioning`` makes of a text and of a recording what ``decoder`` begins with, which says speech
tokens; ``text`` and ``speech`` embed either, and the latter compares them (`precast.runtime.speech_candidates`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention
from precast.export.blocks.cache import Step
from precast.export.blocks.mlp import GatedMLP
from precast.export.blocks.norms import LayerNorm, RMSNorm
from precast.export.blocks.rotary import RotaryPositions
from precast.export.components import Composite
from precast.export.families import Family
from precast.export.generative import CausalLM
from precast.export.head_sets.decoders import SUMMARY_KEYS, DecoderSpec, layer, layer_norm, mlp, names
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.decoder import Decoder, TokenEmbeddings
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.stack import Stack
from precast.export.spec import Spec as PlainSpec
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Split, Tie, Transpose, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Dim, Out, Port

__all__ = ["FAMILY", "Spec"]

_SUMMARIES = ("mean", "last", "first", "cls_index")  # the last two of which are first and last
_LEAST_TURNED = 32  # channels of a head, however few it has
_EPSILON = 1e-5  # of norms beside the layers', whatever configs say of these
_UNUSED = SUMMARY_KEYS | {"summary_type", "initializer_factor", "embd_pdrop", "resid_pdrop"}


@dataclass(frozen=True, kw_only=True)
class TowerSpec(DecoderSpec):
    """An encoder of texts, or of speech tokens."""

    vocab_size: int = hf(default=256)
    hidden_size: int = hf(default=768)
    intermediate_size: int = hf(default=1536)
    projection_dim: int = hf(default=768)
    num_hidden_layers: int = hf(default=20)
    num_attention_heads: int = hf(default=12)
    hidden_act: Activation = hf(default=activation("gelu"), read=activation)
    layer_norm_eps: float = hf(default=1e-5)
    use_rotary_embedding: bool = hf(default=True)
    use_attention_bias: bool = hf(default=False)
    summary_type: str = hf(default="mean", only=_SUMMARIES)
    summary_use_proj: bool = hf(default=False, only=(False,))
    summary_activation: str | None = hf(default=None, only=(None,))
    bos_token_id: int = hf(default=255)
    eos_token_id: int = hf(default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_rotary_embedding and self.turned > self.size:
            raise ConfigError(f"a head turns {self.turned} channels, and has {self.size}")

    @property
    def turned(self) -> int:
        """Channels of a head that say where it is."""
        return max(self.projection_dim // (self.num_attention_heads * 2), _LEAST_TURNED)


@dataclass(frozen=True, kw_only=True)
class SpeakerSpec(DecoderSpec):
    """What says speech tokens, and what it begins with."""

    vocab_size: int = hf(default=8194)
    hidden_size: int = hf(default=1024)
    num_hidden_layers: int = hf(default=30)
    num_attention_heads: int = hf(default=16)
    max_position_embeddings: int = hf(default=608)
    max_text_tokens: int = hf(default=404)
    intermediate_size: int | None = hf("n_inner", default=None)
    hidden_act: Activation = hf("activation_function", default=activation("gelu_new"), read=activation)
    layer_norm_eps: float = hf("layer_norm_epsilon", default=1e-5)
    num_mel_attn_blocks: int = hf(default=6)
    feature_size: int = hf(default=80)
    use_attention_bias: bool = hf(default=True)
    bos_token_id: int = hf(default=8192)
    eos_token_id: int = hf(default=8193)
    decoder_fixing_codes: tuple[int, ...] = hf(default=(83, 45, 45, 248), read=tuple)

    def __post_init__(self) -> None:
        super().__post_init__()
        codes = self.decoder_fixing_codes
        if not codes or not all(type(code) is int and 0 <= code < self.vocab_size for code in codes):
            raise ConfigError(f"'decoder_fixing_codes' are tokens below {self.vocab_size}; received {list(codes)}")
        if self.groups <= 2:
            raise ConfigError(f"norms have more than two groups; 'hidden_size' {self.hidden_size} makes {self.groups}")

    @property
    def groups(self) -> int:
        """Of the channels of a recording, each of which is normed for itself."""
        groups = 8 if self.hidden_size <= 16 else 16 if self.hidden_size <= 64 else 32
        while self.hidden_size % groups:
            groups //= 2
        return groups


@dataclass(frozen=True, kw_only=True)
class Spec(PlainSpec):
    """All of them."""

    text: TowerSpec = hf("text_config", default={}, spec=TowerSpec, inert=_UNUSED)
    speech: TowerSpec = hf("speech_config", default={}, spec=TowerSpec, inert=_UNUSED)
    decoder: SpeakerSpec = hf("decoder_config", default={}, spec=SpeakerSpec, inert=_UNUSED)


class _Turns(RotaryPositions):
    """At places of a dimension of that name, which there are ``count`` of at most."""

    def __init__(self, spec: TowerSpec, name: str, count: int) -> None:
        super().__init__(count, spec.turned, 10_000.0)
        self.name = name

    def bounds(self) -> dict[str, Dim]:
        return {self.name: Dim(most=self.count)}


class _Attention(SelfAttention):
    """Values are turned, too."""

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None = None) -> Tensor:
        made = [projection(x) for projection in (self.q_proj, self.k_proj, self.v_proj)]
        if self.positions is not None:
            made = [self.positions(states, self.heads) for states in made]
        return self.o_proj(attention(*made, mask=mask, heads=self.heads, scale=self.scale))


class _Tower(nn.Module):
    """Tokens [N, S], mask [N, S] or None -> an embedding of length 1, [N, P].

    Args:
        length: how the dimension of tokens is called. longest: tokens at most.
    """

    def __init__(self, spec: TowerSpec, length: str, longest: int) -> None:
        super().__init__()
        size, self.summary = spec.hidden_size, spec.summary_type
        self.words = nn.Embedding(spec.vocab_size, size)
        turns = _Turns(spec, length, longest) if spec.use_rotary_embedding else None
        layers = [
            PreNormLayer(
                attention=_Attention(
                    size, heads=spec.num_attention_heads, bias=spec.use_attention_bias, out_bias=True, positions=turns
                ),
                attention_norm=RMSNorm(size, spec.layer_norm_eps),
                mlp=GatedMLP(size, spec.intermediate_size, spec.hidden_act, bias=True),
                mlp_norm=RMSNorm(size, spec.layer_norm_eps),
            )
            for _ in range(spec.num_hidden_layers)
        ]
        self.stack = Stack(layers, LayerNorm(size, spec.layer_norm_eps))
        self.projection = nn.Linear(size, spec.projection_dim, bias=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.stack(self.words(ids), mask)
        pooled = x.mean(dim=1) if self.summary == "mean" else x[:, 0] if self.summary == "first" else x[:, -1]
        made: Tensor = self.projection(pooled)
        return made / made.norm(dim=-1, keepdim=True)


class _Text(Component):
    """ids, mask [T, S] -> {"text_embeds": [T, P]}; what a mask hides no other token sees, and counts among all."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.tower = spec.text, _Tower(spec.text, "sequence", spec.decoder.max_text_tokens)

    def ports(self) -> tuple[Port, ...]:
        ids = Port("input_ids", "int64", ("texts", "sequence"), "ids", below=self.spec.vocab_size)
        return ids, Port("attention_mask", "int64", ids.shape, "mask", default=1)

    def outs(self) -> tuple[Out, ...]:
        return (Out("text_embeds", ("texts", self.spec.projection_dim), "embedding"),)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {"text_embeds": self.tower(input_ids, attention_mask)}


class _Speech(Component):
    """Speech tokens [C, L] and embeddings of texts [T, P] -> {"logits_per_speech": [C, T], "logits_per_text": [T, C],
    "speech_embeds": [C, P]}."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.tower = spec, _Tower(spec.speech, "tokens", spec.decoder.max_position_embeddings)
        self.scale = nn.Parameter(torch.empty(()))

    def ports(self) -> tuple[Port, ...]:
        own = self.spec.speech
        ids = Port("speech_ids", "int64", ("candidates", "tokens"), "ids", below=own.vocab_size)
        return ids, Port("text_embeds", "float32", ("texts", own.projection_dim), "features", source="text")

    def outs(self) -> tuple[Out, ...]:
        size = self.spec.speech.projection_dim
        return (*CATALOGUE["speech-candidates"].outs, Out("speech_embeds", ("candidates", size), "embedding"))

    def processing(self) -> Mapping[str, Any]:
        text, decoder = self.spec.text, self.spec.decoder
        said: dict[str, Any] = {"components": ["conditioning", "decoder"]}
        said |= {"text": [text.bos_token_id, text.eos_token_id]}
        said |= {"begin": decoder.bos_token_id, "end": decoder.eos_token_id, "last": list(decoder.decoder_fixing_codes)}
        # A text gets three tokens more. Places begin with 2, and the last token is not read.
        said |= {"longest": decoder.max_text_tokens - 3, "most": decoder.max_position_embeddings - 1}
        return {"ranked": said}

    def forward(self, speech_ids: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
        made = self.tower(speech_ids)
        logits = text_embeds @ made.t() * self.scale.exp()
        return {"logits_per_speech": logits.t(), "logits_per_text": logits, "speech_embeds": made}


class _Conditioning(Component):
    """Features of a recording [B, C, T], and a text with its ends [B, S] -> what the decoder begins with, who speaks
    (which the first frame says), and the text: {"placed_embeds": [B, S + 1, H]} in their places, as upstream's forward
    has them; {"conditioning_embeds": [B, S + 2, H]} with the first speech token behind, as its generation.

    There upstream means to take away what the decoder adds to each place, which from version 5 on adds the first
    place's to all.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        own = self.spec = spec.decoder
        size = own.hidden_size
        self.words, self.places = nn.Embedding(spec.text.vocab_size, size), nn.Embedding(own.max_text_tokens, size)
        self.mel = nn.Conv1d(own.feature_size, size, 1)
        norms = (nn.GroupNorm(own.groups, size, _EPSILON) for _ in range(own.num_mel_attn_blocks))
        kind = partial(SelfAttention, size, heads=own.num_attention_heads, bias=own.use_attention_bias, out_bias=True)
        self.norms, self.blocks = nn.ModuleList(norms), nn.ModuleList(kind() for _ in range(own.num_mel_attn_blocks))
        # The decoder's.
        self.spoken = nn.Embedding(own.vocab_size, size)
        self.slots = nn.Embedding(own.max_position_embeddings, size)

    def ports(self) -> tuple[Port, ...]:
        ids = Port("input_ids", "int64", ("batch", "sequence"), "ids", below=self.words.num_embeddings)
        heard = Port("input_features", "float32", ("batch", self.spec.feature_size, "frames"), "features")
        return heard, ids, Port("attention_mask", "int64", ids.shape, "mask", default=1)

    def outs(self) -> tuple[Out, ...]:
        size = self.spec.hidden_size
        return tuple(Out(f"{name}_embeds", ("batch", name, size), "states") for name in ("placed", "conditioning"))

    def bounds(self) -> dict[str, Dim]:
        longest = min(self.spec.max_text_tokens, self.spec.max_position_embeddings - 2)
        return {"sequence": Dim(most=longest), "frames": Dim(2)}

    def forward(self, input_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.mel(input_features)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x).transpose(1, 2), None).transpose(1, 2)
        places = attention_mask.cumsum(dim=-1) - 1
        text = self.words(input_ids) + self.places(places * (places > 0).to(places.dtype))
        made = torch.cat((x[:, :, :1].transpose(1, 2), text), dim=1)
        begin = self.spoken(input_ids[:, :1] * 0 + self.spec.bos_token_id) + self.slots.weight[0]
        begun = torch.cat((made, begin), dim=1)
        slots = self.slots(torch.arange(begun.shape[1], device=begun.device))
        return {"placed_embeds": made + slots[:-1], "conditioning_embeds": begun - slots + self.slots.weight[0]}


class _Behind(TokenEmbeddings):
    """``conditioning_embeds`` [B, P, H] in the first places, words and their positions behind them, 2, 3, 4 ..., as
    upstream counts."""

    def __init__(self, spec: SpeakerSpec) -> None:
        super().__init__(spec.vocab_size, spec.hidden_size)
        self.places = nn.Embedding(spec.max_position_embeddings, spec.hidden_size)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        before = step.conditions["conditioning_embeds"]
        slots = step.slots(input_ids.shape[1])
        behind = slots - before.shape[1]
        first = (behind < 0).to(slots.dtype)
        places = (behind + 2).clamp(0, self.places.num_embeddings - 1)
        rows = (slots * first)[..., None].expand(-1, -1, before.shape[2])
        shown = first[..., None].to(before.dtype)
        return before.gather(1, rows) * shown + (self.words(input_ids) + self.places(places)) * (1 - shown)


class _Speaker(CausalLM):
    """Speech tokens behind ``conditioning_embeds`` [B, P, H], which are the same in all calls."""

    def ports(self) -> tuple[Port, ...]:
        size = self.lm_head.in_features
        return (*super().ports(), Port("conditioning_embeds", "float32", ("batch", "before", size), "features"))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        lengths: Tensor,
        logit_positions: Tensor,
        states: Mapping[str, Tensor],
        conditioning_embeds: Tensor,
    ) -> dict[str, Tensor]:
        call = input_ids, past_lengths, lengths, logit_positions, states
        return super().forward(*call, conditioning_embeds=conditioning_embeds)


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    own = spec.decoder
    layers = [
        layer(own, norm=layer_norm, mlp=mlp, bias=own.use_attention_bias, out_bias=True)
        for _ in range(own.num_hidden_layers)
    ]
    body = Decoder(embeddings=_Behind(own), layers=layers, norm=layer_norm(own))
    head = nn.Linear(own.hidden_size, own.vocab_size)
    decoder = _Speaker(body, head, positions=False, transform=LayerNorm(own.hidden_size, _EPSILON))
    return Composite(
        {"conditioning": _Conditioning(spec), "decoder": decoder, "text": _Text(spec), "speech": _Speech(spec)}
    )


_TOWER = (
    Ignore("rotary_pos_emb.inv_freq"),
    Split("layers.{}.mlp.fc1.proj.*", ("stack.layers.{}.mlp.up_proj.*", "stack.layers.{}.mlp.gate_proj.*")),
    Rename("layers.{}.mlp.fc2.*", "stack.layers.{}.mlp.down_proj.*"),
    Rename("layers.{}.self_attn.out_proj.*", "stack.layers.{}.self_attn.o_proj.*"),
    Rename("layers.{}.self_attn.*", "stack.layers.{}.self_attn.*"),
    Rename("layers.{}.input_rmsnorm.*", "stack.layers.{}.attention_norm.*"),
    Rename("layers.{}.post_attention_rmsnorm.*", "stack.layers.{}.mlp_norm.*"),
    Rename("final_layer_norm.*", "stack.norm.*"),
    Rename("token_embedding.*", "words.*"),
)
_PARTS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "output": "attn.out_proj"}
_PARTS |= {"attention": "attn", "up": "mlp.c_fc", "down": "mlp.c_proj"}
_DECODER = (
    Rename("model.decoder.*", "*"),
    *(Transpose(f"layers.{{}}.mlp.{name}.weight") for name in ("c_fc", "c_proj")),  # [in, out] as in GPT-2
    *names("layers.{}", **_PARTS, embeddings="input_embeds_layer", norm="layer_norm"),
    Rename("position_embeds_layer.*", "model.embeddings.places.*"),
    Rename("final_norm.*", "transform.*"),
)
_CONDITIONING = (
    Rename("text_token_embedding.*", "words.*"),
    Rename("text_position_embedding.*", "places.*"),
    Rename("mel_conv.*", "mel.*"),
    Rename("group_norms.*", "norms.*"),
    Rename("mel_attn_blocks.{}.out_proj.*", "blocks.{}.o_proj.*"),
    Rename("mel_attn_blocks.*", "blocks.*"),
)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Within("conditioning_encoder.", _CONDITIONING, to="conditioning."),
        Within("speech_decoder_model.", _DECODER, to="decoder."),
        Within("text_encoder_model.", _TOWER, to="text.tower."),
        Within("speech_encoder_model.", _TOWER, to="speech.tower."),
        Rename("logit_scale", "speech.scale"),
        Tie("conditioning.spoken.weight", "decoder.model.embeddings.words.weight"),
        Tie("conditioning.slots.weight", "decoder.model.embeddings.places.weight"),
    )


_TOWER_TINY = {"hidden_size": 64, "intermediate_size": 20, "projection_dim": 14, "num_hidden_layers": 1}
_TOWER_TINY |= {"num_attention_heads": 2, "vocab_size": 40, "bos_token_id": 39}
_SPEAKER_TINY: dict[str, Any] = {
    "vocab_size": 34,
    "bos_token_id": 32,
    "eos_token_id": 33,
    "hidden_size": 32,
    "num_hidden_layers": 2,
}
_SPEAKER_TINY |= {"num_attention_heads": 2, "max_position_embeddings": 70, "max_text_tokens": 60}
_SPEAKER_TINY |= {"num_mel_attn_blocks": 2, "feature_size": 9, "decoder_fixing_codes": [3, 5, 5, 8]}

FAMILY = Family(
    spec=Spec,
    heads={heads.SPEECH_CANDIDATES: _compose},
    weights=_weights,
    inert=frozenset({"initializer_factor", "logit_scale_init_value", "projection_dim", "tie_word_embeddings"}),
    tiny={
        "text_config": _TOWER_TINY,
        "speech_config": {**_TOWER_TINY, "vocab_size": 34, "bos_token_id": 32},
        "decoder_config": _SPEAKER_TINY,
        "projection_dim": 14,
    },
    variations=(
        {
            "text_config": {**_TOWER_TINY, "hidden_size": 41, "num_attention_heads": 1, "projection_dim": 70}
            | {"num_hidden_layers": 2, "use_attention_bias": True, "summary_type": "last", "hidden_act": "silu"},
            "speech_config": {**_TOWER_TINY, "vocab_size": 34, "use_rotary_embedding": False, "projection_dim": 70}
            | {"bos_token_id": 32, "summary_type": "first", "layer_norm_eps": 1e-3},
            "decoder_config": {**_SPEAKER_TINY, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1}
            | {"num_mel_attn_blocks": 1, "use_attention_bias": False, "n_inner": 17, "activation_function": "relu"}
            | {"layer_norm_epsilon": 1e-3, "decoder_fixing_codes": [3]},
            "projection_dim": 70,
        },
    ),
)
