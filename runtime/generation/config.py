"""What a call to generate asks for: upstream's names and defaults, from generation_config.json and the call.

Source of names, defaults and precedence: transformers 5.23, generation/configuration_utils.py, and 4.57 for what 5
dropped and checkpoints still hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from precast.runtime.errors import ConfigError, InputError, closest
from precast.runtime.generation.config_values import RULES
from precast.runtime.generation.speech import ASKED, SPEECH_KEYS, Speech

__all__ = ["DEFAULT_NEW_TOKENS", "INERT_KEYS", "GenerationConfig", "ignored_keys", "stated_by"]

DEFAULT_NEW_TOKENS = 20
"""Tokens generated where neither the call nor the checkpoint says how many."""

INERT_KEYS = frozenset(
    """
    transformers_version _from_model_config _commit_hash _original_object_hash _name_or_path model_type
    trust_remote_code torch_dtype dtype attn_implementation _attn_implementation
    cache_implementation cache_config max_cache_len return_legacy_cache prefill_chunk_size low_memory
    compile_config disable_compile continuous_batching_config synced_gpus
    is_assistant assistant_lookbehind target_lookbehind chat_format
    """.split()
)
"""Keys that say how torch computes or who wrote the file; no token depends on them here."""

# Keys that change the tokens in a way that is not offered: what they may say all the same, and what to do instead.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "constraints": ((None, []), "constrain the text with a grammar, or tokens with prefix_allowed_tokens_fn"),
    "force_words_ids": ((None, []), "constrain the text with a grammar, or tokens with prefix_allowed_tokens_fn"),
    "penalty_alpha": ((None, 0), "contrastive search is not offered: leave it out, and sample or use beams"),
    "dola_layers": ((None,), "DoLa needs the logits of inner layers, which artifacts do not have: leave it out"),
    "guidance_scale": ((None, 1), "classifier-free guidance needs a second forward pass a token: leave it out"),
    "watermarking_config": ((None,), "watermarking is not offered: leave it out"),
    "generation_kwargs": ((None, {}), "name the arguments themselves"),
    "token_healing": ((None, False), "token healing is not offered: end the prompt at a token's border"),
    "use_mtp": ((None, False), "use prompt_lookup_num_tokens or assistant_model to speculate"),
    "speculation_type": ((None,), "use prompt_lookup_num_tokens or assistant_model to speculate"),
    "assistant_early_exit": ((None,), "use prompt_lookup_num_tokens or assistant_model to speculate"),
    "assistant_ensemble_weight": ((None,), "speculation is exact here: leave it out"),
    "output_attentions": ((None, False), "artifacts do not return attentions: leave it out"),
    "output_hidden_states": ((None, False), "generation does not return hidden states: leave it out"),
}

# Arguments that only drawing, or only a beam search, looks at, and the values that ask for nothing.
_DRAWING: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 1.0, 0.0),
    "top_k": (None, 0, 50),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
_BEAMS: dict[str, tuple[Any, ...]] = {
    "early_stopping": (None, False),
    "length_penalty": (None, 1.0),
    "num_beam_groups": (None, 1),
    "diversity_penalty": (None, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The arguments of a call, each checked on its own. None switches a feature off, as upstream's.

    :raises InputError: a value is outside what its argument accepts."""

    # How long
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str | None = False
    max_time: float | None = None
    stop_strings: tuple[str, ...] | None = None
    # How tokens are searched for
    do_sample: bool | None = False
    num_beams: int | None = 1
    num_beam_groups: int | None = 1
    diversity_penalty: float | None = 0.0
    length_penalty: float | None = 1.0
    num_return_sequences: int | None = 1
    use_cache: bool | None = True
    seed: int | tuple[int, ...] | None = None
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
    output_logprobs: bool | None = False
    return_dict_in_generate: bool | None = False
    # Not arguments
    speech: Speech = field(default_factory=Speech, repr=False)
    """What a checkpoint that writes down speech says of it, and a call asks for of that (`speech.ASKED`)."""
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The arguments that calls gave, as opposed to the checkpoint."""

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule(name, getattr(self, name)))

    @property
    def eos(self) -> tuple[int, ...]:
        """Every token that ends a row; empty where none does."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    @property
    def first_token(self) -> int:
        """The token that answers begin with, where speech is written down.

        :raises InputError: none is known, or there are several."""
        start = self.bos_token_id if self.decoder_start_token_id is None else self.decoder_start_token_id
        if not isinstance(start, int):
            raise InputError(f"decoder_start_token_id is one id where speech is written down; received {start}.")
        return start

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
        """What a checkpoint says: its generation_config.json, or, if it has none, the legacy keys of config.json.

        Keys that nothing of upstream's reads are ignored, as there (`ignored_keys`).

        :raises ConfigError: a key asks for what is not offered, or has an impossible value."""
        if generation_config is None:
            return cls._from_model_config(model_config or {})
        source = "generation_config.json"
        if not isinstance(generation_config, Mapping):
            raise ConfigError(f"{source} must be an object; found {type(generation_config).__name__}; correct the file")
        values: dict[str, Any] = {}
        speech: dict[str, Any] = {}
        for key, value in generation_config.items():
            if key in RULES:
                values[key] = value
            elif key in _REFUSED:
                _refuse_feature(key, value, f"{source}: ", ConfigError)
            elif key in SPEECH_KEYS:
                speech[key] = value
        return cls._checked(values, source, {**_speech_of(model_config or {}), **speech})

    @classmethod
    def _from_model_config(cls, config: Mapping[str, Any]) -> GenerationConfig:
        """Upstream's ``from_model_config``: None is as good as absent, and a decoder's own config fills gaps."""
        inner: Any = next((config[key] for key in ("decoder", "generator", "text_config") if config.get(key)), {})
        values: dict[str, Any] = {}
        for source in (inner, config):
            if isinstance(source, Mapping):
                values.update({key: source[key] for key in RULES if source.get(key) is not None})
                for key in _REFUSED:
                    if not key.startswith("output_"):
                        _refuse_feature(key, source.get(key), "config.json: ", ConfigError)
        if config.get("force_bos_token_to_be_generated"):  # BART before it knew forced_bos_token_id
            values["forced_bos_token_id"] = config.get("bos_token_id")
        return cls._checked(values, "config.json", _speech_of(config))

    @classmethod
    def _checked(cls, values: Mapping[str, Any], source: str, speech: Mapping[str, Any]) -> GenerationConfig:
        # A null in a file means upstream's default, not "off": only a call can switch a feature off.
        given = {key: value for key, value in values.items() if value is not None}
        try:
            return cls(**given, speech=Speech.read(speech))
        except InputError as error:
            raise ConfigError(f"{source}: {error}; correct the file") from error

    @classmethod
    def check_checkpoint(cls, generation_config: Mapping[str, Any] | None, model_config: Mapping[str, Any]) -> None:
        """Whether a call without arguments is possible with what a checkpoint says.

        :raises ConfigError: as `from_checkpoint`, and where what the file says contradicts itself."""
        base = cls.from_checkpoint(generation_config, model_config)
        try:
            base.merged({})
        except InputError as error:
            source = "config.json" if generation_config is None else "generation_config.json"
            raise ConfigError(f"{source}: {error}; correct the file") from error

    def merged(self, arguments: Mapping[str, Any]) -> GenerationConfig:
        """This, with the arguments of a call on top; None switches a feature off.

        What the call cannot mean is refused; what it inherits from a checkpoint and cannot use is not.

        :raises InputError: an argument is unknown or not offered, or arguments contradict each other."""
        values, asked = {}, {}
        for name, value in arguments.items():
            if name in RULES:
                values[name] = value
            elif name in ASKED:
                asked[name] = value
            elif name in _REFUSED:
                _refuse_feature(name, value, "", InputError)
            elif name not in INERT_KEYS:
                raise InputError(f"generate() has no argument {name!r}. {closest(name, _known())}".rstrip())
        speech = self.speech.merged(asked) if asked else self.speech
        config = replace(self, **values, speech=speech, explicit=self.explicit | values.keys())
        _refuse_contradictions(config)
        return config


def ignored_keys(generation_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a generation_config.json that nothing reads, here or upstream: whatever anybody notes there."""
    known = RULES.keys() | _REFUSED.keys() | INERT_KEYS | SPEECH_KEYS
    return tuple(sorted(key for key in generation_config if key not in known))


def stated_by(given: Any) -> dict[str, Any]:
    """The arguments that a configuration object gives, such as upstream's: anything with ``to_dict``.

    None says nothing there, and keys that nothing reads are ignored, as in a file.

    :raises InputError: it is no such object, or asks for what is not offered."""
    tell = None if isinstance(given, type) else getattr(given, "to_dict", None)
    stated = tell() if callable(tell) else None
    if not isinstance(stated, Mapping):
        raise InputError(
            "generation_config is a GenerationConfig, a mapping of its fields, or an object with to_dict(); received "
            f"{type(given).__name__}."
        )
    for name in _REFUSED:
        if stated.get(name) is not None:
            _refuse_feature(name, stated[name], "generation_config: ", InputError)
    return {name: stated[name] for name in RULES if stated.get(name) is not None}


def _speech_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of speech where generation_config.json does not, as upstream reads it."""
    return {key: config[key] for key in ("forced_decoder_ids", "median_filter_width") if key in config}


def _known() -> list[str]:
    return [*(item.name for item in fields(GenerationConfig) if item.name in RULES), *sorted(ASKED)]


def _refuse_feature(name: str, value: Any, where: str, error: type[ConfigError] | type[InputError]) -> None:
    neutral, instead = _REFUSED[name]
    if not any(value is item or (type(value) is not bool and value == item) for item in neutral):
        raise error(f"{where}{name} is not supported; got {value!r}. Instead: {instead}")


def _refuse_contradictions(config: GenerationConfig) -> None:
    beams, groups, returns = config.num_beams or 1, config.num_beam_groups or 1, config.num_return_sequences or 1
    if returns > 1 and beams == 1 and not config.do_sample:
        raise InputError(
            f"greedy search finds one sequence, num_return_sequences is {returns}; give do_sample=True, or num_beams "
            f"of at least {returns}"
        )
    if beams > 1 and returns > beams:
        raise InputError(
            f"num_return_sequences must be at most num_beams; got {returns} and {beams}. Raise num_beams, or return "
            "fewer"
        )
    if beams % groups:
        raise InputError(f"num_beams must be a multiple of num_beam_groups; got {beams} and {groups}")
    if groups > 1 and config.do_sample:
        raise InputError(
            f"groups of beams are searched without drawing; got num_beam_groups={groups} and do_sample=True. Leave one "
            "of them out"
        )
    if groups > 1 and not config.diversity_penalty:
        raise InputError(
            f"groups of beams differ only with a diversity_penalty above 0; got num_beam_groups={groups} and "
            f"diversity_penalty={config.diversity_penalty}"
        )
    if groups == 1 and "diversity_penalty" in config.explicit and config.diversity_penalty:
        raise InputError(
            f"diversity_penalty={config.diversity_penalty} acts between groups of beams; give num_beam_groups of at "
            "least 2 as well"
        )
    if config.do_sample and config.temperature == 0.0:
        raise InputError("temperature must be above 0 to draw tokens; for the most likely one, give do_sample=False")
    _refuse_idle(config, _DRAWING, bool(config.do_sample), "where tokens are drawn: give do_sample=True as well")
    _refuse_idle(config, _BEAMS, beams > 1, "to a beam search: give num_beams of at least 2 as well")
    if config.prompt_lookup_num_tokens is not None and beams > 1:
        raise InputError(
            f"prompt_lookup_num_tokens speculates for one sequence, and num_beams is {beams}; leave one of them out"
        )
    _refuse_lengths(config, "min_new_tokens", config.min_new_tokens, "max_new_tokens", config.max_new_tokens)
    if config.max_new_tokens is None and config.min_new_tokens is None:
        _refuse_lengths(config, "min_length", config.min_length, "max_length", config.max_length)
    if config.output_logprobs and beams > 1:
        raise InputError(
            f"output_logprobs are those of tokens chosen one by one, and num_beams is {beams}: its result has "
            "sequences_scores. Leave one of them out"
        )
    for flag in ("output_scores", "output_logits", "output_logprobs"):
        if flag in config.explicit and getattr(config, flag) and not config.return_dict_in_generate:
            raise InputError(f"{flag} come with the dict of results; give return_dict_in_generate=True as well")
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(config, name)
        tokens = {forced} if isinstance(forced, int) else set(forced or ())
        if tokens and tokens <= set(config.suppress_tokens or ()):
            raise InputError(
                f"{name} forces what suppress_tokens bans: {sorted(tokens)}. Remove them from one of the two; to put "
                "off the end, give min_new_tokens"
            )


def _refuse_idle(config: GenerationConfig, names: Mapping[str, tuple[Any, ...]], used: bool, advice: str) -> None:
    """An argument of the call itself that could have no effect: its author expected one."""
    for name, neutral in names.items():
        value = getattr(config, name)
        if not used and name in config.explicit and value not in neutral:
            raise InputError(f"{name}={value!r} matters only {advice}, or leave it out")


def _refuse_lengths(config: GenerationConfig, low: str, least: int | None, high: str, most: int | None) -> None:
    if low in config.explicit and least is not None and most is not None and least > most:
        raise InputError(f"{low} must be at most {high}; got {least} and {most}")
