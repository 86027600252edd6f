"""What a call to generate asks for: upstream's names and defaults, from generation_config.json and the call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from precast.runtime.errors import InputError, closest

__all__ = ["DEFAULT_NEW_TOKENS", "GenerationConfig"]

DEFAULT_NEW_TOKENS = 20
"""Tokens generated where neither the call nor the checkpoint says how many."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The arguments of one call. None is upstream's None: the feature is off."""

    # How long
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str | None = False
    max_time: float | None = None
    stop_strings: str | tuple[str, ...] | None = None
    # How tokens are searched for
    do_sample: bool | None = False
    num_beams: int | None = 1
    num_beam_groups: int | None = 1
    diversity_penalty: float | None = 0.0
    length_penalty: float | None = 1.0
    num_return_sequences: int | None = 1
    use_cache: bool | None = True
    seed: int | None = None
    # What changes the logits
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = 1.0
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0
    repetition_penalty: float | None = 1.0
    encoder_repetition_penalty: float | None = 1.0
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    no_repeat_ngram_size: int | None = 0
    encoder_no_repeat_ngram_size: int | None = 0
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool | None = False
    renormalize_logits: bool | None = False
    # Special tokens
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | tuple[int, ...] | None = None
    # Speculation
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    num_assistant_tokens: int | None = 20
    num_assistant_tokens_schedule: str | None = "constant"
    assistant_confidence_threshold: float | None = 0.4
    # What comes back
    output_scores: bool | None = False
    output_logits: bool | None = False
    return_dict_in_generate: bool | None = False

    @property
    def eos(self) -> tuple[int, ...]:
        """Every token that ends a row; empty where none does."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    def total_length(self, prompt: int, limit: int | None = None) -> int:
        """Tokens a row of ``prompt`` tokens may reach, prompt included, as upstream counts them.

        :param limit: the model's positions; they bound the default alone, as upstream."""
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        if self.max_length is not None:
            return self.max_length
        total = prompt + DEFAULT_NEW_TOKENS
        return total if limit is None else min(total, limit)

    @classmethod
    def from_checkpoint(
        cls, generation_config: Mapping[str, Any] | None = None, model_config: Mapping[str, Any] | None = None
    ) -> GenerationConfig:
        """What a checkpoint says: its generation_config.json, or the legacy keys of its config.json."""
        known = {field.name for field in fields(cls)}
        source = generation_config if generation_config is not None else (model_config or {})
        return cls(**{key: _frozen(value) for key, value in source.items() if key in known and value is not None})

    def merged(self, arguments: Mapping[str, Any]) -> GenerationConfig:
        """This, with the arguments of a call on top; None switches a feature off."""
        known = {field.name for field in fields(self)}
        for name in arguments:
            if name not in known:
                raise InputError(f"generate() has no argument {name!r}. {closest(name, known)}".rstrip())
        return replace(self, **{name: _frozen(value) for name, value in arguments.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
