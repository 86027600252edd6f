"""Which logits processors a call needs, in upstream's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.bans import (
    BeginSuppress,
    EncoderNoRepeatNgram,
    ForcedBos,
    ForcedEos,
    MinLength,
    MinNewTokens,
    NoRepeatNgram,
    PrefixAllowed,
    Suppress,
)
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.filters import (
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopH,
    TopK,
    TopP,
    TypicalP,
)
from precast.runtime.generation.history import History
from precast.runtime.generation.penalties import (
    EncoderRepetitionPenalty,
    ExponentialDecay,
    Normalize,
    PresenceFrequencyPenalty,
    RemoveInvalid,
    RepetitionPenalty,
    SequenceBias,
)
from precast.runtime.generation.timestamps import Timestamps

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
    max_new_tokens: int | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]] | None = None,
    custom: Sequence[Processor] = (),
    constraint: Processor | None = None,
) -> list[Processor]:
    """The processors of a call, in upstream's order; empty for plain greedy search.

    :param eos: the tokens that end a row.
    :param encoder_ids: what the encoder was given, one array a ``History.origins``, padding removed; a decoder's
        prompts take its place, as upstream.
    :param max_new_tokens: most tokens the loop will add to a row; ``config.total_length`` of its prompt by default.
    :param custom: the caller's own, which run before those that only sampling uses.
    :param constraint: a grammar; it has the last word on what may be chosen, and sampling chooses among that.
    :raises InputError: the configuration names tokens outside the vocabulary, or needs what this call has not."""
    processors = [*_shaping(config, vocab_size, eos, encoder_ids, max_new_tokens, prefix_allowed_tokens_fn), *custom]
    if constraint is not None:
        processors.append(constraint)
    if config.do_sample:
        processors += _sampling(config, eos)
    if config.renormalize_logits:
        processors.append(Normalize())
    return processors


def _shaping(
    config: GenerationConfig,
    vocab_size: int,
    eos: Sequence[int],
    encoder_ids: Sequence[Array] | None,
    max_new_tokens: int | None,
    prefix_allowed_tokens_fn: Callable[[int, Array], Sequence[int]] | None,
) -> list[Processor]:
    """Those that apply whether tokens are drawn or not."""
    made: list[Processor] = []
    if config.sequence_bias is not None:
        _inside("sequence_bias", (token for sequence in config.sequence_bias for token in sequence), vocab_size)
        made.append(SequenceBias(config.sequence_bias, vocab_size))
    if (config.encoder_repetition_penalty or 1.0) != 1.0:
        made.append(EncoderRepetitionPenalty(config.encoder_repetition_penalty or 1.0, encoder_ids))
    if (config.repetition_penalty or 1.0) != 1.0:
        made.append(RepetitionPenalty(config.repetition_penalty or 1.0))
    if config.presence_penalty or config.frequency_penalty:
        made.append(PresenceFrequencyPenalty(config.presence_penalty or 0.0, config.frequency_penalty or 0.0))
    if config.no_repeat_ngram_size:
        made.append(NoRepeatNgram(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        made.append(EncoderNoRepeatNgram(config.encoder_no_repeat_ngram_size, encoder_ids))
    if config.bad_words_ids is not None:
        _inside("bad_words_ids", (token for word in config.bad_words_ids for token in word), vocab_size)
        banned = {word: -math.inf for word in config.bad_words_ids if len(word) > 1 or word[0] not in eos}
        if banned:
            made.append(SequenceBias(banned, vocab_size))
    if config.min_length and eos:
        made.append(MinLength(config.min_length, eos, vocab_size))
    if config.min_new_tokens and eos:
        made.append(MinNewTokens(config.min_new_tokens, eos, vocab_size))
    if prefix_allowed_tokens_fn is not None:
        made.append(PrefixAllowed(prefix_allowed_tokens_fn))
    if config.forced_bos_token_id is not None:
        _inside("forced_bos_token_id", (config.forced_bos_token_id,), vocab_size)
        made.append(ForcedBos(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        forced = config.forced_eos_token_id
        forced = (forced,) if isinstance(forced, int) else forced
        _inside("forced_eos_token_id", forced, vocab_size)
        made.append(ForcedEos(forced, _totals(config, max_new_tokens)))
    if config.remove_invalid_values:
        made.append(RemoveInvalid())
    if config.exponential_decay_length_penalty is not None:
        if not eos:
            raise InputError(
                "exponential_decay_length_penalty makes the end of a row likelier, and there is no eos_token_id; "
                "give one, or leave the penalty out"
            )
        _inside("eos_token_id", eos, vocab_size)
        made.append(ExponentialDecay(*config.exponential_decay_length_penalty, eos))
    if config.suppress_tokens is not None:
        made.append(Suppress(config.suppress_tokens, vocab_size))
    if config.begin_suppress_tokens is not None:
        after_forced = config.forced_bos_token_id is not None
        made.append(BeginSuppress(config.begin_suppress_tokens, vocab_size, after_forced))
    speech = config.speech
    if speech.return_timestamps and speech.timestamp_begin is not None:
        _inside("no_timestamps_token_id", (speech.timestamp_begin,), vocab_size)
        made.append(Timestamps(speech.timestamp_begin, eos[0] if eos else 0, speech.max_initial_timestamp_index))
    return made


def _sampling(config: GenerationConfig, eos: Sequence[int]) -> list[Processor]:
    """Those that only drawing uses."""
    # Beams need a token besides the ends to go on with.
    keep = max(len(eos), 1) + 1 if (config.num_beams or 1) > 1 else 1
    made: list[Processor] = []
    if config.temperature is not None and config.temperature != 1.0:
        made.append(Temperature(config.temperature))
    if config.top_h is not None:
        made.append(TopH(config.top_h))
    if config.top_k:
        made.append(TopK(config.top_k, keep))
    if config.top_p is not None and config.top_p < 1.0:
        made.append(TopP(config.top_p, keep))
    if config.min_p is not None:
        made.append(MinP(config.min_p, keep))
    if config.typical_p is not None and config.typical_p < 1.0:
        made.append(TypicalP(config.typical_p, keep))
    if config.epsilon_cutoff:
        made.append(EpsilonCutoff(config.epsilon_cutoff, keep))
    if config.eta_cutoff:
        made.append(EtaCutoff(config.eta_cutoff, keep))
    return made


def _totals(config: GenerationConfig, max_new_tokens: int | None) -> Callable[[int], int]:
    return config.total_length if max_new_tokens is None else lambda prompt: prompt + max_new_tokens


def _inside(name: str, tokens: Iterable[int], vocab_size: int) -> None:
    outside = sorted({token for token in tokens if not 0 <= token < vocab_size})
    if outside:
        raise InputError(
            f"{name} must name tokens of the model's vocabulary, 0 to {vocab_size - 1}; got {outside[:8]}"
            f"{' and more' if len(outside) > 8 else ''}"
        )
