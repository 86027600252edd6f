"""Text encoders that read from left to right: BERT's layers over a cache, with attention over another encoder or
without, and its masked-LM head as one of the next token. https://arxiv.org/abs/1907.12461"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation
from precast.export.blocks.attention import CachedSelfAttention, CrossAttention
from precast.export.blocks.cache import Step
from precast.export.blocks.embeddings import PlacedPositions
from precast.export.blocks.mlp import MLP
from precast.export.families import Crossed
from precast.export.generative import CausalLM
from precast.export.head_sets.seq2seq import Part
from precast.export.skeletons.decoder import Decoder, PostNormDecoderLayer, TokenEmbeddings
from precast.export.skeletons.post_norm import EncoderSpec, norm, transform
from precast.export.spec import Spec, hf
from precast.export.weights import Rename, Rule, Within

__all__ = ["CausalSpec", "causal_head", "causal_lm", "causal_names", "crossed", "unfit"]


@dataclass(frozen=True, kw_only=True)
class CausalSpec(Spec):
    """In front of the spec of a text encoder that may be a decoder instead."""

    is_decoder: bool = hf(default=False)


def unfit(spec: Any, head: heads.Head) -> str | None:
    """`Family.unfit`: what ``is_decoder`` says, and the head, exclude each other."""
    if spec.is_decoder and head is not heads.CAUSAL_LM:
        return f"'is_decoder' is true: its tokens see those in front of them alone; {head.task!r} reads whole texts"
    if not spec.is_decoder and head is heads.CAUSAL_LM:
        return "'is_decoder' is not true: it reads whole texts, and was not trained to go on with one"
    return None


class _Embeddings(TokenEmbeddings):
    """projection(norm(words + the first token type + positions)), ids [B, S] -> [B, S, H]: a decoder's tokens are all
    of one type."""

    def __init__(self, spec: EncoderSpec, positions: nn.Module) -> None:
        size = spec.words_size
        super().__init__(spec.vocab_size, size, positions=positions, norm=norm(spec, size))
        self.token_types = nn.Embedding(spec.type_vocab_size, size) if spec.type_vocab_size else None
        self.projection = None if size == spec.hidden_size else nn.Linear(size, spec.hidden_size)

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        assert self.positions is not None and self.norm is not None
        x: Tensor = self.words(input_ids)
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        x = self.norm.add(x, self.positions(input_ids, step))[0]
        return x if self.projection is None else self.projection(x)


def _layer(spec: EncoderSpec, source: int | None) -> nn.Module:
    size, count = spec.hidden_size, spec.num_attention_heads
    return PostNormDecoderLayer(
        attention=CachedSelfAttention(size, heads=count, bias=True),
        attention_norm=norm(spec),
        cross=None if source is None else CrossAttention(size, heads=count, source=source),
        cross_norm=None if source is None else norm(spec),
        mlp=MLP(size, spec.intermediate_size, spec.hidden_act),
        mlp_norm=norm(spec),
    )


def causal_lm(
    spec: Any,
    source: int | None = None,
    *,
    positions: nn.Module | None = None,
    act: Activation | None = None,
    plain: bool = False,
) -> CausalLM:
    """The language model.

    Args:
        source: channels of an encoder's states that its layers attend to; None: there is none.
        positions: in place of a table of all of them, in the form of a decoder's.
        act: of the head; None: the layers'. plain: the head is a projection alone.
    """
    places = PlacedPositions(spec.max_position_embeddings, spec.words_size) if positions is None else positions
    layers = [_layer(spec, source) for _ in range(spec.num_hidden_layers)]
    body = Decoder(embeddings=_Embeddings(spec, places), layers=layers, norm=None)
    made = None if plain else transform(spec, act)
    return CausalLM(body, nn.Linear(spec.words_size, spec.vocab_size), transform=made)


def causal_head(made: Any = causal_lm) -> dict[heads.Head, Part]:
    """Beside those of the encoder; ``made``: of a spec, in place of BERT's."""
    return {heads.CAUSAL_LM: lambda spec, absent: made(spec)}


def crossed(made: Any = causal_lm) -> Crossed:
    """How it stands behind another encoder."""
    return Crossed(made, {"is_decoder": True})


_CROSS = {f"self.{name}": f"cross_attn.{name[0]}_proj" for name in ("query", "key", "value")}
_CROSS |= {"output.dense": "cross_attn.o_proj", "output.LayerNorm": "cross_norm"}


def causal_names(spec: Any) -> tuple[Rule, ...]:
    """Behind an encoder's rules, masked-LM head included, where the config says that it is a decoder."""
    if not spec.is_decoder:
        return ()
    cross = tuple(Rename(f"crossattention.{old}.*", f"{new}.*") for old, new in _CROSS.items())
    return (
        Rename("decoder.*", "lm_head.*"),
        Rename("model.projection.*", "model.embeddings.projection.*"),
        Within("model.layers.{}.", cross),
    )
