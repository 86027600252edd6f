"""An encoder of any family with a decoder of any other behind it, whose layers attend to the encoder's states.
https://arxiv.org/abs/1907.12461; for pictures https://arxiv.org/abs/2109.10282, for speech
https://arxiv.org/abs/2104.06678"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from precast.export.families import Crossed, Family, find_family
from precast.export.generative import EncoderPart, PerceivingPart, Seq2SeqLM
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.heads import BASE, SEQ2SEQ_LM, SPEECH_SEQ2SEQ, Head
from precast.export.signatures import Component
from precast.export.spec import Spec, hf
from precast.export.weights import Ignore, Rename, Rule, Within
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Port

__all__ = ["ComposedSpec", "composed_family"]

# What every config of a part says, whose model has no words, or says of a decoder by being one here.
_WORDS = "tie_word_embeddings"
_ROLE = frozenset({"is_decoder", "add_cross_attention", "cross_attention_hidden_size"})


@dataclass(frozen=True)
class _Side:
    """One of the two models: its family, what config.json says of it, and how that is read."""

    family: Family
    said: Mapping[str, Any]
    spec: Any

    @classmethod
    def of(cls, family: Family, said: Mapping[str, Any]) -> _Side:
        return cls(family, said, family.read(said))

    @property
    def size(self) -> int:
        """Channels of its last states."""
        for name in ("states_size", "hidden_size"):
            if hasattr(self.spec, name):
                return int(getattr(self.spec, name))
        return int(self.spec.widths[-1])

    def ignored(self, name: str) -> tuple[str, ...]:
        """Keys that nothing reads, by their path."""
        return tuple(f"{name}.{key}" for key in self.family.ignored(self.said, self.spec))


@dataclass(frozen=True, kw_only=True)
class ComposedSpec(Spec):
    """What config.json says of both, and nothing else: words are tied or not as the decoder's own says."""

    encoder: dict[str, Any] = hf()
    decoder: dict[str, Any] = hf()
    is_encoder_decoder: bool = hf(default=True, only=(True,))

    def __post_init__(self) -> None:
        width = self.decoder.get("cross_attention_hidden_size")
        if width not in (None, self.reader.size):
            raise ConfigError(
                f"'decoder.cross_attention_hidden_size' {width!r} must be {self.reader.size}, as many channels as "
                "the encoder's states have"
            )
        assert self.writer

    @cached_property
    def reader(self) -> _Side:
        """What perceives or reads; raises UnsupportedModelError or ConfigError."""
        kind = self.encoder.get("model_type")
        family = find_family(kind)
        if BASE not in family.heads:
            raise ConfigError(f"an encoder of model_type {kind!r} cannot stand in front of a decoder here")
        wordless = "tie_word_embeddings" not in family.spec.__dataclass_fields__
        return _Side.of(family, {k: v for k, v in self.encoder.items() if not (wordless and k == _WORDS)})

    @cached_property
    def writer(self) -> _Side:
        """What writes; raises UnsupportedModelError or ConfigError."""
        kind = self.decoder.get("model_type")
        family = find_family(kind)
        if family.crossed is None:
            raise ConfigError(f"a decoder of model_type {kind!r} cannot attend to another model's states here")
        said = {key: value for key, value in self.decoder.items() if key not in _ROLE}
        return _Side.of(family, {**said, **family.crossed.said})

    @property
    def crossed(self) -> Crossed:
        """How the decoder stands behind the encoder."""
        assert self.writer.family.crossed is not None
        return self.writer.family.crossed

    @property
    def bridged(self) -> bool:
        """A projection makes the encoder's states as wide as the decoder's."""
        return self.decoder.get("cross_attention_hidden_size") is None and self.reader.size != self.writer.size

    def ignored(self) -> tuple[str, ...]:
        """As `Spec`."""
        return (*self.reader.ignored("encoder"), *self.writer.ignored("decoder"))


class _Reading(Component):
    """A text encoder whose tokens are all of the first type: ids, mask [B, T] -> states [B, T, H].

    Args:
        head: of its base model. bridge: to channels of the decoder, or None.
    """

    def __init__(self, head: Any, bridge: nn.Module | None) -> None:
        super().__init__()
        self.model, self.bridge = head.model, bridge

    def ports(self) -> tuple[Port, ...]:
        made: tuple[Port, ...] = self.model.ports()[:2]
        return made

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids, attention_mask)
        return states


class _Hearing(_Reading):
    """An encoder of speech: samples [B, N], mask [B, N] -> states [B, F, H] as wide as the decoder's, and which of them
    are real, [B, F]."""

    def __init__(self, head: Any, bridge: nn.Module | None) -> None:
        super().__init__(head, None)
        self._head, self.projection = (head,), bridge

    def processing(self) -> Mapping[str, Any]:
        """As its own family's."""
        made: Mapping[str, Any] = self._head[0].processing()
        return made

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Any:
        states, real, _ = self.model(input_values, attention_mask)
        return states if self.projection is None else self.projection(states), real


def _composed(spec: ComposedSpec, part: type[EncoderPart], kind: type[_Reading] | None) -> Seq2SeqLM:
    """The model; ``kind``: what stands around the encoder's own, if anything."""
    head: Any = spec.reader.family.heads[BASE](spec.reader.spec, frozenset())
    bridge = nn.Linear(spec.reader.size, spec.writer.size) if spec.bridged else None
    encoder: Any = head.model if kind is None else kind(head, bridge)
    if kind is None:
        encoder.bridge = bridge
    writer = spec.crossed.model(spec.writer.spec, spec.writer.size if spec.bridged else spec.reader.size)
    return Seq2SeqLM(
        encoder,
        writer.body,
        writer.lm_head,
        positions=writer.positions,
        transform=writer.transform,
        scale=writer.scale,
        part=part,
    )


def composed_family(head: Head, **others: Any) -> Family:
    """Of texts that are made of texts (`SEQ2SEQ_LM`), of speech or of pictures; ``others``: of `Family`."""
    part = EncoderPart if head is SEQ2SEQ_LM else PerceivingPart
    kind = {SEQ2SEQ_LM: _Reading, SPEECH_SEQ2SEQ: _Hearing}.get(head)
    return Family(
        spec=ComposedSpec,
        heads={head: lambda spec, absent: _composed(spec, part, kind)},
        weights=lambda spec: _names(spec, kind),
        inert=frozenset({"vocab_size", "tie_word_embeddings"}),  # the decoder says its own
        final_norm=True,
        generation=generation_keys(),
        **others,
    )


def _names(spec: ComposedSpec, kind: type[_Reading] | None) -> tuple[Rule, ...]:
    """From a checkpoint to the model: the rules of both families, each behind its prefix."""
    reader, writer, rules = spec.reader, spec.writer, spec.crossed.weights
    written = writer.family.weights(writer.spec) if rules is None else rules(writer.spec)
    return (
        Within("encoder.", reader.family.weights(reader.spec)),
        *(() if kind else (Rename("encoder.model.*", "encoder.*"),)),
        *map(Ignore, ("encoder.pooler.*", "encoder.decoder.*")),  # what heads have, by themselves or tied to its words
        Within("decoder.", written, to="written."),
        Rename("written.model.*", "decoder.*"),
        *(Rename(f"written.{name}.*", f"{name}.*") for name in ("lm_head", "transform")),
        Rename("enc_to_dec_proj.*", f"encoder.{'projection' if kind is _Hearing else 'bridge'}.*"),
    )
