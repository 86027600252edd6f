"""What a single value of a generation configuration may be, and how it is kept: lists as tuples, Python's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from precast.runtime.arguments import listed
from precast.runtime.errors import InputError

__all__ = ["RULES", "Rule"]

_MOST = 2**31 - 1  # of ids, lengths and counts: more than any model has

Rule = Callable[[str, Any], Any]
"""The value to keep, from a name and what was given for it; raises InputError."""


def _refuse(name: str, rule: str, value: Any) -> InputError:
    return InputError(f"{name} must be {rule}; got {value!r}")


def _integer(value: Any, low: int = -_MOST, high: int = _MOST) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high


def _count(low: int) -> Rule:
    def check(name: str, value: Any) -> int:
        if not _integer(value, low):
            raise _refuse(name, f"a whole number of at least {low}", value)
        return int(value)

    return check


def _number(rule: str, fits: Callable[[float], bool]) -> Rule:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not fits(float(value)):
            raise _refuse(name, rule, value)
        return float(value)

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, "True or False", value)
    return value


def _early_stopping(name: str, value: Any) -> bool | str:
    if not isinstance(value, bool) and value != "never":
        raise _refuse(name, "True, False or 'never'", value)
    return value  # type: ignore[no-any-return]


def _token(name: str, value: Any) -> int:
    if not _integer(value):
        raise _refuse(name, "a token id", value)
    return int(value)


def _tokens(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not all(_integer(item) for item in value):
        raise _refuse(name, "a list of token ids", value)
    return tuple(int(item) for item in value)


def _token_or_tokens(name: str, value: Any) -> int | tuple[int, ...]:
    if _integer(value):
        return int(value)
    if not isinstance(value, (list, tuple)) or not value or not all(_integer(item) for item in value):
        raise _refuse(name, "a token id or a list of them", value)
    return tuple(int(item) for item in value)


def _no_token_or_some(name: str, value: Any) -> int | tuple[int, ...]:
    """A list may be empty: nothing ends a row."""
    return () if isinstance(value, (list, tuple)) and not value else _token_or_tokens(name, value)


def _words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(word, (list, tuple)) and word for word in value)
        or not all(_integer(token, 0) for word in value for token in word)
    ):
        raise _refuse(name, "a list, not empty, of lists of token ids, none empty", value)
    return tuple(tuple(int(token) for token in word) for word in value)


def _biases(name: str, value: Any) -> dict[tuple[int, ...], float]:
    rule = "a dict of {tuple of token ids: number}, or a list of [list of token ids, number], not empty"
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise _refuse(name, rule, value)
    found: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise _refuse(name, rule, value)
        sequence, bias = listed(pair[0]), pair[1]
        sound = isinstance(sequence, (list, tuple)) and sequence and all(_integer(token, 0) for token in sequence)
        if not sound or isinstance(bias, bool) or not isinstance(bias, Real) or math.isnan(bias):
            raise _refuse(name, rule, value)
        found[tuple(int(token) for token in sequence)] = float(bias)
    return found


def _decay(name: str, value: Any) -> tuple[int, float]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not _integer(value[0], 0)
        or isinstance(value[1], bool)
        or not isinstance(value[1], Real)
        or not 0 < float(value[1]) < math.inf
    ):
        raise _refuse(name, "a pair: tokens after which it starts, and a factor above 0", value)
    return int(value[0]), float(value[1])


def _strings(name: str, value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, (list, tuple)) or not all(isinstance(item, str) and item for item in strings):
        raise _refuse(name, "a string or a list of strings, none empty", value)
    return tuple(strings)


def _schedule(name: str, value: Any) -> str:
    names = ("constant", "heuristic", "heuristic_transient")
    if value not in names:
        raise _refuse(name, f"one of {', '.join(names)}", value)
    return str(value)


def _seed(name: str, value: Any) -> int | tuple[int, ...]:
    seeds = value if isinstance(value, (list, tuple)) else (value,)
    if not seeds or not all(_integer(seed, 0, 2**64) for seed in seeds):
        raise _refuse(name, "a whole number of at least 0, or one for each request", value)
    return tuple(int(seed) for seed in seeds) if isinstance(value, (list, tuple)) else int(value)


_SHARE = _number("a number from 0 to 1", lambda value: 0 <= value <= 1)
_SHARE_ABOVE_0 = _number("a number above 0 and up to 1", lambda value: 0 < value <= 1)
_SHARE_BELOW_1 = _number("a number of at least 0 and below 1", lambda value: 0 <= value < 1)
_ABOVE_0 = _number("a number above 0", lambda value: value > 0)
_FROM_0 = _number("a number of at least 0", lambda value: value >= 0)
_ANY = _number("a number", lambda value: True)
_OPENAI = _number("a number from -2 to 2", lambda value: -2 <= value <= 2)

_RULES: dict[str, Rule] = {
    "max_length": _count(1),
    "max_new_tokens": _count(1),
    "min_length": _count(0),
    "min_new_tokens": _count(0),
    "early_stopping": _early_stopping,
    "max_time": _ABOVE_0,
    "stop_strings": _strings,
    "do_sample": _flag,
    "num_beams": _count(1),
    "num_beam_groups": _count(1),
    "diversity_penalty": _FROM_0,
    "length_penalty": _ANY,
    "num_return_sequences": _count(1),
    "use_cache": _flag,
    "seed": _seed,
    "temperature": _FROM_0,
    "top_k": _count(0),
    "top_p": _SHARE,
    "min_p": _SHARE,
    "top_h": _SHARE_ABOVE_0,
    "typical_p": _SHARE_ABOVE_0,
    "epsilon_cutoff": _SHARE_BELOW_1,
    "eta_cutoff": _SHARE_BELOW_1,
    "repetition_penalty": _ABOVE_0,
    "encoder_repetition_penalty": _ABOVE_0,
    "presence_penalty": _OPENAI,
    "frequency_penalty": _OPENAI,
    "no_repeat_ngram_size": _count(0),
    "encoder_no_repeat_ngram_size": _count(0),
    "bad_words_ids": _words,
    "sequence_bias": _biases,
    "forced_bos_token_id": _token,
    "forced_eos_token_id": _token_or_tokens,
    "suppress_tokens": _tokens,
    "begin_suppress_tokens": _tokens,
    "exponential_decay_length_penalty": _decay,
    "remove_invalid_values": _flag,
    "renormalize_logits": _flag,
    "pad_token_id": _token,
    "bos_token_id": _token,
    "eos_token_id": _no_token_or_some,
    "decoder_start_token_id": _token_or_tokens,
    "prompt_lookup_num_tokens": _count(1),
    "max_matching_ngram_size": _count(1),
    "num_assistant_tokens": _count(1),
    "num_assistant_tokens_schedule": _schedule,
    "assistant_confidence_threshold": _SHARE,
    "output_scores": _flag,
    "output_logits": _flag,
    "output_logprobs": _flag,
    "return_dict_in_generate": _flag,
}


def _accepting(rule: Rule) -> Rule:
    """None switches a feature off, whatever it is."""
    return lambda name, value: None if value is None else rule(name, listed(value))


RULES: dict[str, Rule] = {name: _accepting(rule) for name, rule in _RULES.items()}
"""By the name of the argument."""
