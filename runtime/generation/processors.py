"""Which logits processors a call needs, in upstream's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from precast.runtime.backends.base import Array
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.filters import Temperature, TopK, TopP
from precast.runtime.generation.history import History

__all__ = ["Processor", "build_processors"]


class Processor(Protocol):
    """Changes the logits of the next token, [R, V] float32, in place; row r continues row r of the history."""

    def __call__(self, logits: Array, history: History) -> None: ...


def build_processors(
    config: GenerationConfig,
    vocab_size: int,
    eos: Sequence[int],
    *,
    encoder_ids: Sequence[Array] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]] | None = None,
    custom: Sequence[Processor] = (),
    constraint: Processor | None = None,
) -> list[Processor]:
    """The processors of a call, in upstream's order; empty for plain greedy search.

    :param eos: the tokens that end a row.
    :param encoder_ids: the encoder's input a history row, padding removed.
    :param custom: the caller's own, which run before those that only sampling uses.
    :param constraint: a grammar; it has the last word on what may be sampled."""
    processors: list[Processor] = list(custom)
    if constraint is not None:
        processors.append(constraint)
    if config.do_sample:
        keep = len(eos) + 1 if (config.num_beams or 1) > 1 else 1
        if config.temperature is not None and config.temperature != 1.0:
            processors.append(Temperature(config.temperature))
        if config.top_k:
            processors.append(TopK(config.top_k, keep))
        if config.top_p is not None and config.top_p < 1.0:
            processors.append(TopP(config.top_p, keep))
    return processors
