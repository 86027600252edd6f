"""One call to generate: its arguments checked and turned into a run, the run into what upstream returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.beams import BeamSettings, beam_search
from precast.runtime.generation.callbacks import CriterionCallback, LogitsCallback
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.conversation import Conversation
from precast.runtime.generation.diverse_beams import diverse_beam_search
from precast.runtime.generation.engine import Engine, Session
from precast.runtime.generation.history import History
from precast.runtime.generation.loop import Control, Criterion, Run, decode
from precast.runtime.generation.processors import Processor, build_processors
from precast.runtime.generation.prompts import Prompts
from precast.runtime.generation.results import Acceptance, FinishReason, GenerateOutput, Recorder, padded
from precast.runtime.generation.sampling import Greedy, RandomSampler, generators
from precast.runtime.generation.speculative import Drafter, DraftModel, PromptLookup, speculate

__all__ = ["Call", "GenerativeModel", "Streamer"]


class GenerativeModel(Protocol):
    """What `generate` needs of a model."""

    @property
    def config(self) -> Any:
        """config.json, as a mapping or an object with its keys as attributes."""

    @property
    def generation_config(self) -> Mapping[str, Any] | None:
        """generation_config.json, or None where there is none."""

    @property
    def tokenizer(self) -> Any:
        """What decodes, or None."""

    def engine(self) -> Engine: ...


class Streamer(Protocol):
    """As upstream's: told the prompts [N, S], then the next tokens [N] of every step, then the end."""

    def put(self, value: Array) -> None: ...

    def end(self) -> None: ...


@dataclass
class Call:
    """Everything about one call, checked; `execute` may be called once."""

    engine: Engine
    config: GenerationConfig
    prompts: Prompts
    """What the decoder begins with."""
    context: Mapping[str, Array] | None
    """An encoder's input."""
    sources: list[Array] | None
    """The text that an encoder reads, without padding; None: there is none."""
    seeds: list[int | None]
    budget: int
    length_reason: FinishReason = "length"
    logits_callbacks: Sequence[Callable[..., Any]] = ()
    criteria_callbacks: Sequence[Callable[..., Any]] = ()
    criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]] | None = None
    constraint: Processor | None = None
    streamer: Streamer | None = None
    assistant: Engine | None = None
    conversation: Conversation | None = None
    fed: list[list[int]] | None = None
    """What the model is fed of prompts that stand for something else; None: the prompts."""
    unknown: Sequence[int] = ()
    """Prompts whose second token is that of the language they are in, which is found out first."""
    control: Control = field(default_factory=Control)

    @property
    def beams(self) -> int:
        return self.config.num_beams or 1

    @property
    def returns(self) -> int:
        return self.config.num_return_sequences or 1

    @property
    def pad(self) -> int:
        """What rows that are done are filled up with."""
        if self.config.pad_token_id is not None:
            return self.config.pad_token_id
        return self.config.eos[0] if self.config.eos else 0

    def execute(
        self, *, emit: Callable[[Array], None] | None = None, cancelled: threading.Event | None = None
    ) -> GenerateOutput:
        """Generate.

        Args:
            emit: told the next token of every row at each step; not in a beam search, which takes tokens back.
            cancelled: set by another thread, it ends the run within a step.
        """
        self.control = Control(self.control.max_time, cancelled)
        if self.unknown:
            self._find_languages()
        width = max(len(row) for row in (self.prompts.rows if self.fed is None else self.fed))
        capacity = width + self.budget
        with self.conversation.claimed() if self.conversation is not None else nullcontext():
            history = History(self.prompts.rows, room=capacity)
            if self.conversation is not None:
                session, rest = self.conversation.resume(self.engine, self.prompts.rows[0], capacity, self.context)
                pending = [rest]
            else:
                session = self.engine.open(len(self.prompts.rows), capacity, self.context)
                pending = self.prompts.rows if self.fed is None else self.fed
            if self.streamer is not None:
                self.streamer.put(np.repeat(self.prompts.given, self.returns, axis=0))
            output = self._generated(self._run(session, history, pending, emit))
            if self.conversation is not None:
                self.conversation.keep(session, history.row(0))
            if self.streamer is not None:
                self.streamer.end()
        return output

    def _find_languages(self) -> None:
        """As the model says behind the first token; what the encoder made serves the generation too."""
        assert self.context is not None
        self.context = self.engine.encoded(self.context)
        firsts = [row[:1] for row in self.prompts.rows]
        found = self.config.speech.detected(self.engine.open(len(firsts), 1, self.context).feed(firsts)[:, -1])
        for row in self.unknown:
            self.prompts.rows[row][1] = self.prompts.given[row, 1] = found[row]

    def _run(
        self, session: Session, history: History, pending: list[list[int]], emit: Callable[[Array], None] | None
    ) -> Run:
        config = self.config
        rows = len(self.prompts.rows) * (self.beams if self.beams > 1 else self.returns)
        recorder = Recorder(
            rows, self.pad,
            scores=bool(config.return_dict_in_generate and config.output_scores),
            logits=bool(config.return_dict_in_generate and config.output_logits),
            logprobs=bool(config.return_dict_in_generate and config.output_logprobs),
            temperature=(config.temperature or 1.0) if config.do_sample else 1.0,
        )  # fmt: skip
        kept = recorder.scores
        processors = build_processors(
            self._measured(),
            self.engine.vocab_size,
            config.eos,
            encoder_ids=self.sources,
            max_new_tokens=self.budget,
            prefix_allowed_tokens_fn=self.prefix_allowed_tokens_fn,
            custom=[LogitsCallback(function, self.pad) for function in self.logits_callbacks],
            constraint=self.constraint,
        )
        criteria = [
            CriterionCallback(function, self.pad, lambda: None if kept is None else tuple(kept))
            for function in self.criteria_callbacks
        ]
        drawing = config.do_sample and self.beams == 1
        return Run(
            session=session,
            history=history,
            pending=pending,
            processors=processors,
            sampler=RandomSampler(generators(self.seeds, self.returns)) if drawing else Greedy(),
            eos=frozenset(config.eos),
            pad=self.pad,
            budget=self.budget,
            criteria=[*self.criteria, *criteria],
            control=self.control,
            recorder=recorder,
            emit=_both(self.streamer.put if self.streamer is not None else None, emit),
            returns=self.returns,
            length_reason=self.length_reason,
        )

    def _measured(self) -> GenerationConfig:
        """Least lengths count from the prompts' common width, padding included, as upstream counts them."""
        least = max(self.config.min_new_tokens or 0, (self.config.min_length or 0) - self.prompts.width)
        return replace(self.config, min_length=0, min_new_tokens=least or None)

    def _generated(self, run: Run) -> GenerateOutput:
        acceptance: Acceptance | None = None
        scores: Array | None = None
        indices: Array | None = None
        fill = self.pad
        if self.beams > 1:
            found = self._beams(run)
            hypotheses = [each for one in found for each in one]
            generated, reasons = [each.tokens for each in hypotheses], [each.reason for each in hypotheses]
            scores = np.array([each.score for each in hypotheses], dtype=np.float32)
            trails = [np.array(each.trail, dtype=np.int64) for each in hypotheses]
            indices = padded([trail[:0] for trail in trails], trails, -1)
            # Upstream's beam search takes padding token 0 for none, and fills up with the end token.
            if self.config.eos and (self.config.num_beam_groups or 1) == 1:
                fill = self.config.pad_token_id or self.config.eos[0]
        else:
            drafter = self._drafter()
            if drafter is not None:
                ended, acceptance = speculate(run, drafter)
            else:
                ended = decode(run)
            generated, reasons = ended.generated, ended.reasons
        heads = list(np.repeat(self.prompts.given, self.returns, axis=0))
        lengths = (
            [len(source) for source in self.sources]
            if self.sources is not None
            else [len(row) for row in self.prompts.rows]
        )
        return GenerateOutput(
            sequences=padded(heads, generated, fill),
            scores=_frozen(run.recorder.scores),
            logits=_frozen(run.recorder.logits),
            logprobs=None if run.recorder.logprobs is None else np.stack(run.recorder.logprobs, axis=1),
            sequences_scores=scores,
            beam_indices=indices,
            finish_reasons=reasons,
            prompt_tokens=lengths,
            new_tokens=[len(tokens) for tokens in generated],
            timings=run.timings,
            acceptance=acceptance,
        )

    def _beams(self, run: Run) -> Any:
        config = self.config
        settings = BeamSettings(
            beams=self.beams,
            returns=self.returns,
            length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
            early_stopping="never" if config.early_stopping == "never" else bool(config.early_stopping),
            groups=config.num_beam_groups or 1,
            diversity_penalty=config.diversity_penalty or 0.0,
        )
        if settings.groups > 1:
            return diverse_beam_search(run, settings)
        return beam_search(run, settings, generators(self.seeds) if config.do_sample else None)

    def _drafter(self) -> Drafter | None:
        config = self.config
        if self.assistant is not None:
            if self.assistant.vocab_size != self.engine.vocab_size:
                raise InputError(
                    f"A draft model has the vocabulary of the model it drafts for, {self.engine.vocab_size} tokens; "
                    f"this one has {self.assistant.vocab_size}."
                )
            return DraftModel(
                self.assistant,
                tokens=20 if config.num_assistant_tokens is None else config.num_assistant_tokens,
                schedule=config.num_assistant_tokens_schedule or "constant",
                confidence=config.assistant_confidence_threshold or 0.0,
                eos=frozenset(config.eos),
                context=self.context,
            )
        if config.prompt_lookup_num_tokens is not None:
            ngram = config.max_matching_ngram_size
            return PromptLookup(config.prompt_lookup_num_tokens, 2 if ngram is None else ngram)
        return None


def _both(one: Callable[[Array], None] | None, other: Callable[[Array], None] | None) -> Callable[[Array], None] | None:
    if one is None or other is None:
        return one or other

    def notify(tokens: Array) -> None:
        one(tokens)
        other(tokens)

    return notify


def _frozen(values: list[Array] | None) -> tuple[Array, ...] | None:
    return None if values is None else tuple(values)
