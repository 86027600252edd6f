"""The heads of text encoders, made of the parts in which families differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.spec import Spec, hf

__all__ = [
    "ProjectedClassifier",
    "Reader",
    "SummarySpec",
    "encoder_heads",
    "first_token",
    "optional_activation",
    "pooled",
    "projected",
    "summarised",
    "tanh_pooler",
]

Reader = Callable[[Any, int], tuple[nn.Module, nn.Module]]
"""(spec, labels) -> what makes [B, H] of a text's states, and what makes [B, labels] of those."""


class ProjectedClassifier(nn.Linear):
    """A classifier behind a layer of its own, linear(act(dense(x))), [B, H] -> [B, L].

    Its weight is where a plain classifier has it, because checkpoints name both alike.
    """

    def __init__(self, size: int, labels: int, dense: nn.Module, act: Activation) -> None:
        super().__init__(size, labels)
        self.act = act
        self.dense = dense

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(self.dense(x)))


def tanh_pooler(spec: Any) -> nn.Module:
    """BERT's: a tanh of the first token."""
    return heads.TanhPooler(spec.hidden_size)


def pooled(spec: Any, labels: int) -> tuple[nn.Module, nn.Module]:
    """BERT's way to read a text: its pooler, and a projection."""
    return tanh_pooler(spec), nn.Linear(spec.hidden_size, labels)


def first_token(act: Activation) -> Reader:
    """RoBERTa's: the first token, and a projection behind a layer of its own."""
    return lambda spec, labels: (heads.FirstToken(), heads.ClassifierHead(spec.hidden_size, labels, act))


def projected(act: Activation) -> Reader:
    """DistilBERT's: `first_token`, whose layer has a name beside the projection's."""

    def reader(spec: Any, labels: int) -> tuple[nn.Module, nn.Module]:
        size = spec.hidden_size
        return heads.FirstToken(), ProjectedClassifier(size, labels, nn.Linear(size, size), act)

    return reader


def optional_activation(name: str | None) -> Activation | None:
    return activation(name) if name else None


@dataclass(frozen=True, kw_only=True)
class SummarySpec(Spec):
    """Keys of upstream's SequenceSummary, by which some families read a text of multiple choice."""

    summary_type: str = hf(default="first", only=("first",))
    summary_use_proj: bool = hf(default=True)
    summary_proj_to_labels: bool = hf(default=False, only=(False,))
    summary_activation: Activation | None = hf(default=None, read=optional_activation)


def summarised(spec: Any, labels: int) -> tuple[nn.Module, nn.Module]:
    """How a `SummarySpec` says that a text is read."""
    size, act = spec.hidden_size, spec.summary_activation or nn.Identity()
    dense = nn.Linear(size, size) if spec.summary_use_proj else nn.Identity()
    return heads.FirstToken(), ProjectedClassifier(size, labels, dense, act)


def _words(spec: Any, size: int) -> nn.Linear:
    return nn.Linear(size, spec.vocab_size)


def encoder_heads(
    body: Callable[[Any], nn.Module],
    *,
    transform: Callable[[Any], heads.LMTransform],
    decoder: Callable[[Any, int], nn.Linear] = _words,
    pooler: Callable[[Any], nn.Module] | None = tanh_pooler,
    text: Reader = pooled,
    choice: Reader = pooled,
    pair: Reader | None = None,
    before: Callable[[Any], nn.Module | None] = lambda spec: None,
    only: tuple[heads.Head, ...] | None = None,
) -> dict[heads.Head, Callable[[Any, frozenset[str]], nn.Module]]:
    """The heads of `Family.heads` for a ``body`` that makes hidden states [B, S, H] of a text.

    Args:
        transform, decoder: of the masked-LM head; the decoder gets the size that the transform gives.
        pooler: of the base model, where the checkpoint has it; None: no class of this family has one.
        text, choice, pair: how text classification, multiple choice and next-sentence prediction read a text; without
            ``pair`` there is no such head.
        before: in front of every classifier's last projection (not the masked-LM head's).
        only: the heads that the family has, where these are not all.
    """

    def base(spec: Any, absent: frozenset[str]) -> nn.Module:
        return heads.FeatureExtraction(body(spec), None if pooler is None or "pooler" in absent else pooler(spec))

    def masked_lm(spec: Any, absent: frozenset[str]) -> nn.Module:
        made = transform(spec)
        return heads.MaskedLM(body(spec), made, decoder(spec, made.dense.out_features))

    def sequence(spec: Any, absent: frozenset[str]) -> nn.Module:
        return heads.SequenceClassification(body(spec), *text(spec, spec.labels), before(spec))

    def token(spec: Any, absent: frozenset[str]) -> nn.Module:
        return heads.TokenClassification(body(spec), nn.Linear(spec.hidden_size, spec.labels), before(spec))

    def question(spec: Any, absent: frozenset[str]) -> nn.Module:
        return heads.QuestionAnswering(body(spec), nn.Linear(spec.hidden_size, 2), before(spec))

    def multiple_choice(spec: Any, absent: frozenset[str]) -> nn.Module:
        return heads.MultipleChoice(body(spec), *choice(spec, 1), before(spec))

    found: dict[heads.Head, Callable[[Any, frozenset[str]], nn.Module]] = {
        heads.BASE: base,
        heads.MASKED_LM: masked_lm,
        heads.SEQUENCE_CLASSIFICATION: sequence,
        heads.TOKEN_CLASSIFICATION: token,
        heads.QUESTION_ANSWERING: question,
        heads.MULTIPLE_CHOICE: multiple_choice,
    }
    if pair is not None:
        found[heads.NEXT_SENTENCE] = lambda spec, absent: heads.NextSentence(body(spec), *pair(spec, 2))
    return {head: make for head, make in found.items() if only is None or head in only}
