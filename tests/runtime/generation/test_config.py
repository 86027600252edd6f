"""What generate() may be asked: a checkpoint's word, the call's word, and what is refused with which message."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig as Upstream

from precast.runtime.errors import ConfigError, InputError
from precast.runtime.generation.config import _REFUSED, INERT_KEYS, GenerationConfig, ignored_keys
from precast.runtime.generation.config_values import RULES
from precast.runtime.generation.speech import SPEECH_KEYS, Speech

OURS_ALONE = {"seed", "presence_penalty", "frequency_penalty", "output_logprobs"}


def _defaults() -> dict[str, Any]:
    """Upstream's value of every field where neither call nor checkpoint says anything."""
    config = Upstream()
    config.update(**Upstream._get_default_generation_params(), defaults_only=True)
    return config.to_dict()


def test_every_argument_of_upstream_is_honoured_refused_or_known_to_be_inert() -> None:
    accounted = set(RULES) | set(_REFUSED) | INERT_KEYS
    assert set(_defaults()) - accounted == set()
    names = {field.name for field in dataclasses.fields(GenerationConfig)} - {"speech", "explicit"}
    assert names == set(RULES)
    assert not (set(RULES) & INERT_KEYS) and not (set(RULES) & set(_REFUSED)) and not (INERT_KEYS & SPEECH_KEYS)
    assert set(RULES) - set(_defaults()) == OURS_ALONE


def test_defaults_are_upstreams() -> None:
    defaults = _defaults()
    for name in set(RULES) - OURS_ALONE - {"max_length"}:
        ours = getattr(GenerationConfig(), name)
        # None and False ask for the same; upstream has both.
        assert ours == defaults[name] or (ours is False and defaults[name] is None), name
    assert GenerationConfig().total_length(7) == 7 + defaults["max_length"]


def test_a_checkpoint_speaks_first_and_the_call_last() -> None:
    base = GenerationConfig.from_checkpoint(
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_k": None,
            "eos_token_id": [1, 106],
            "suppress_tokens": [5],
            "pad_token_id": -1,
            "transformers_version": "4.50.0",
            "cache_implementation": "hybrid",
            "output_attentions": False,
            "guidance_scale": 1.0,
        }
    )
    assert base.temperature == 0.6 and base.top_k == 50 and base.eos == (1, 106) and base.suppress_tokens == (5,)
    assert base.explicit == frozenset()
    called = base.merged({"temperature": np.float32(0.5), "top_p": 0.9, "eos_token_id": np.array([7])})
    assert (called.temperature, called.top_p, called.eos) == (0.5, 0.9, (7,))
    assert type(called.temperature) is float and type(called.eos[0]) is int
    assert called.explicit == {"temperature", "top_p", "eos_token_id"}
    # None switches off; what the checkpoint says goes on to hold.
    off = called.merged({"temperature": None, "suppress_tokens": None, "eos_token_id": None})
    assert off.temperature is None and off.suppress_tokens is None and off.eos == () and off.do_sample
    assert GenerationConfig(eos_token_id=3).eos == (3,)


def test_configs_are_values() -> None:
    config = GenerationConfig(max_new_tokens=5, bad_words_ids=[[1, 2]])  # type: ignore[arg-type]
    assert config == GenerationConfig().merged({"max_new_tokens": 5, "bad_words_ids": ((1, 2),)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_new_tokens = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "prompt", "limit", "total"),
    [
        ({}, 10, None, 30),
        ({}, 10, 25, 25),
        ({"max_length": 50}, 10, None, 50),
        ({"max_length": 50}, 10, 40, 50),
        ({"max_new_tokens": 5}, 10, None, 15),
        ({"max_new_tokens": 5, "max_length": 50}, 10, None, 15),
        ({"max_length": None, "max_new_tokens": None}, 10, None, 30),
    ],
)
def test_total_length_counts_as_upstream(given: dict[str, Any], prompt: int, limit: int | None, total: int) -> None:
    assert GenerationConfig().merged(given).total_length(prompt, limit) == total


def test_config_json_of_old_is_read_where_there_is_no_generation_config() -> None:
    old = {
        "model_type": "bart",
        "num_beams": 4,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "max_length": 142,
        "min_length": 56,
        "early_stopping": True,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "bos_token_id": 0,
        "force_bos_token_to_be_generated": True,
        "temperature": None,
        "d_model": 1024,
        "output_hidden_states": True,
    }
    config = GenerationConfig.from_checkpoint(None, old)
    upstream = Upstream.from_model_config(dict(old))
    for name in old.keys() & RULES.keys() - {"temperature"}:
        assert getattr(config, name) == getattr(upstream, name) == old[name]
    assert config.forced_bos_token_id == upstream.forced_bos_token_id == 0
    assert config.temperature == 1.0
    nested = GenerationConfig.from_checkpoint(None, {"decoder": {"eos_token_id": 9, "num_beams": 2}, "eos_token_id": 3})
    assert nested.eos == (3,) and nested.num_beams == 2
    # A generation_config.json is the whole truth, as upstream.
    assert GenerationConfig.from_checkpoint({"eos_token_id": 4}, old) == GenerationConfig(eos_token_id=4)
    assert GenerationConfig.from_checkpoint() == GenerationConfig()


def test_a_file_made_from_a_config_of_old_may_hold_its_keys() -> None:
    config = GenerationConfig.from_checkpoint({"_from_model_config": True, "d_model": 8, "num_beams": 3})
    assert config.num_beams == 3


def test_keys_that_upstream_ignores_are_ignored_and_named() -> None:
    """Upstream keeps any key as an attribute that nothing reads."""
    notes = {"assistant_token_id": 5, "temprature": 0.1, "zzz": {"a": [1]}}
    config = GenerationConfig.from_checkpoint({"num_beams": 3, **notes, "_from_model_config": False})
    assert config == GenerationConfig(num_beams=3)
    assert ignored_keys({"num_beams": 3, "lang_to_id": {}, **notes}) == ("assistant_token_id", "temprature", "zzz")


def test_no_key_that_upstream_knows_is_ignored() -> None:
    """Each is honoured, known not to matter, or refused by name."""
    assert ignored_keys(vars(Upstream())) == ()


def test_what_contradicts_itself_is_refused_before_a_call() -> None:
    GenerationConfig.check_checkpoint({"num_beams": 4, "num_return_sequences": 2}, {})
    with pytest.raises(ConfigError, match=r"generation_config\.json: greedy search finds one .*; correct the file"):
        GenerationConfig.check_checkpoint({"num_return_sequences": 2}, {})
    with pytest.raises(ConfigError, match=r"^config\.json: greedy search finds one"):
        GenerationConfig.check_checkpoint(None, {"num_return_sequences": 2})
    with pytest.raises(ConfigError, match=r"generation_config\.json must be an object; found list"):
        GenerationConfig.check_checkpoint([1], {})  # type: ignore[arg-type]


def test_whispers_keys_are_kept_for_its_task() -> None:
    config = GenerationConfig.from_checkpoint(
        {"lang_to_id": {"<|en|>": 50259}, "no_timestamps_token_id": 50363, "begin_suppress_tokens": [220, 50257]}
    )
    assert config.speech == Speech(lang_to_id={"<|en|>": 50259}, no_timestamps_token_id=50363)
    assert config.begin_suppress_tokens == (220, 50257)
    assert config.merged({"max_new_tokens": 3}).speech == config.speech


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"temperature": "hot"},
            "generation_config.json: temperature must be a number of at least 0; got 'hot'; correct",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1; got 0"),
        (
            {"penalty_alpha": 0.6},
            "generation_config.json: penalty_alpha is not supported; got 0.6. Instead: contrastive",
        ),
        (
            {"guidance_scale": 1.5},
            "guidance_scale is not supported; got 1.5. Instead: classifier-free guidance needs a",
        ),
        (
            {"force_words_ids": [[5]]},
            r"force_words_ids is not supported; got \[\[5\]\]. Instead: constrain the text with",
        ),
        (
            {"watermarking_config": {"bias": 2.0}},
            "watermarking_config is not supported; .* watermarking is not offered",
        ),
        ({"token_healing": True}, "token_healing is not supported; got True"),
        ({"dola_layers": "high"}, "dola_layers is not supported; got 'high'"),
    ],
)
def test_checkpoints_that_ask_for_what_is_not_understood(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig.from_checkpoint(content)


def test_a_config_of_old_may_not_ask_for_it_either() -> None:
    with pytest.raises(ConfigError, match=r"config.json: penalty_alpha is not supported; got 0\.6"):
        GenerationConfig.from_checkpoint(None, {"penalty_alpha": 0.6})
    with pytest.raises(ConfigError, match=r"config\.json: num_beams must be a whole number of at least 1; got 0"):
        GenerationConfig.from_checkpoint(None, {"num_beams": 0})


def test_refused_features_may_be_switched_off() -> None:
    for name, (neutral, _) in _REFUSED.items():
        for value in neutral:
            assert GenerationConfig().merged({name: value}) == GenerationConfig()
            assert GenerationConfig.from_checkpoint({name: value}) == GenerationConfig()


WRONG: list[tuple[str, Any, str]] = [
    ("max_new_tokens", 0, "a whole number of at least 1; got 0"),
    ("max_new_tokens", 2.5, "a whole number of at least 1; got 2.5"),
    ("max_new_tokens", True, "a whole number of at least 1; got True"),
    ("max_length", -3, "a whole number of at least 1; got -3"),
    ("min_length", -1, "a whole number of at least 0; got -1"),
    ("max_time", 0, "a number above 0; got 0"),
    ("max_time", float("nan"), "a number above 0; got nan"),
    ("stop_strings", ["a", ""], "a string or a list of strings, none empty; got"),
    ("stop_strings", 5, "a string or a list of strings, none empty; got 5"),
    ("early_stopping", "always", "True, False or 'never'; got 'always'"),
    ("do_sample", 1, "True or False; got 1"),
    ("num_beams", 0, "a whole number of at least 1; got 0"),
    ("num_return_sequences", 0, "a whole number of at least 1; got 0"),
    ("diversity_penalty", -1.0, "a number of at least 0; got -1.0"),
    ("length_penalty", "long", "a number; got 'long'"),
    ("seed", -1, "a whole number of at least 0, or one for each request; got -1"),
    ("seed", [1, None], "a whole number of at least 0, or one for each request; got"),
    ("temperature", -0.1, "a number of at least 0; got -0.1"),
    ("top_k", -1, "a whole number of at least 0; got -1"),
    ("top_p", 1.5, "a number from 0 to 1; got 1.5"),
    ("min_p", -0.5, "a number from 0 to 1; got -0.5"),
    ("top_h", 0, "a number above 0 and up to 1; got 0"),
    ("typical_p", 0.0, "a number above 0 and up to 1; got 0.0"),
    ("epsilon_cutoff", 1.0, "a number of at least 0 and below 1; got 1.0"),
    ("eta_cutoff", -1, "a number of at least 0 and below 1; got -1"),
    ("repetition_penalty", 0.0, "a number above 0; got 0.0"),
    ("encoder_repetition_penalty", -1.0, "a number above 0; got -1.0"),
    ("presence_penalty", 3, "a number from -2 to 2; got 3"),
    ("no_repeat_ngram_size", 1.5, "a whole number of at least 0; got 1.5"),
    ("bad_words_ids", [], "a list, not empty, of lists of token ids, none empty; got"),
    ("bad_words_ids", [[1], []], "a list, not empty, of lists of token ids, none empty; got"),
    ("bad_words_ids", [5], "a list, not empty, of lists of token ids, none empty; got"),
    ("bad_words_ids", [[-5]], "a list, not empty, of lists of token ids, none empty; got"),
    ("sequence_bias", {}, "a dict of {tuple of token ids: number}, or a list"),
    ("sequence_bias", {(1,): "x"}, "a dict of {tuple of token ids: number}, or a list"),
    ("sequence_bias", {5: 1.0}, "a dict of {tuple of token ids: number}, or a list"),
    ("sequence_bias", [[[1], 2.0, 3]], "a dict of {tuple of token ids: number}, or a list"),
    ("forced_bos_token_id", "en", "a token id; got 'en'"),
    ("eos_token_id", "</s>", "a token id or a list of them; got '</s>'"),
    ("suppress_tokens", 5, "a list of token ids; got 5"),
    ("exponential_decay_length_penalty", (5,), "a pair: tokens after which it starts, and a factor above 0; got (5,)"),
    ("exponential_decay_length_penalty", (5, 0), "a pair: tokens after which it starts, and a factor above 0; got"),
    ("num_assistant_tokens_schedule", "fast", "one of constant, heuristic, heuristic_transient; got 'fast'"),
    ("prompt_lookup_num_tokens", 0, "a whole number of at least 1; got 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_impossible_values(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{name} must be {message}")):
        GenerationConfig().merged({name: value})
    with pytest.raises(InputError, match=re.escape(f"{name} must be {message}")):
        GenerationConfig(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 5}, "generate() has no argument 'max_tokens'. Closest: max_new_tokens"),
        ({"qqqqq": 5}, "generate() has no argument 'qqqqq'."),
        (
            {"guidance_scale": 2},
            "guidance_scale is not supported; got 2. Instead: classifier-free guidance needs a second",
        ),
        ({"output_attentions": True}, "output_attentions is not supported; got True. Instead: artifacts do not return"),
        (
            {"num_return_sequences": 3},
            "greedy search finds one sequence, num_return_sequences is 3; give do_sample=True",
        ),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences must be at most num_beams; got 3 and 2"),
        ({"num_beams": 2, "num_return_sequences": 3, "do_sample": True}, "must be at most num_beams; got 3 and 2"),
        (
            {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
            "a multiple of num_beam_groups; got 4 and 3",
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2},
            "groups of beams differ only with a diversity_penalty above 0; got num_",
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            "groups of beams are searched without drawing; got num_beam_groups=2 and do_sample=True",
        ),
        (
            {"num_beams": 4, "diversity_penalty": 0.5},
            "diversity_penalty=0.5 acts between groups of beams; give num_beam_",
        ),
        (
            {"do_sample": True, "temperature": 0},
            "temperature must be above 0 to draw tokens; for the most likely one, give",
        ),
        ({"temperature": 0.7}, "temperature=0.7 matters only where tokens are drawn: give do_sample=True as well"),
        (
            {"do_sample": False, "top_p": 0.9},
            "top_p=0.9 matters only where tokens are drawn: give do_sample=True as well",
        ),
        ({"top_k": 5}, "top_k=5 matters only where tokens are drawn"),
        ({"min_p": 0.1}, "min_p=0.1 matters only where tokens are drawn"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 matters only to a beam search: give num_beams"),
        ({"early_stopping": True}, "early_stopping=True matters only to a beam search"),
        (
            {"num_beams": 2, "prompt_lookup_num_tokens": 3},
            "prompt_lookup_num_tokens speculates for one sequence, and num_",
        ),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens must be at most max_new_tokens; got 6 and 5"),
        ({"min_length": 9, "max_length": 8}, "min_length must be at most max_length; got 9 and 8"),
        (
            {"output_scores": True},
            "output_scores come with the dict of results; give return_dict_in_generate=True as well",
        ),
        (
            {"forced_eos_token_id": 2, "suppress_tokens": [2]},
            "forced_eos_token_id forces what suppress_tokens bans: [2]",
        ),
        ({"forced_bos_token_id": 4, "suppress_tokens": [1, 4]}, "forced_bos_token_id forces what suppress_tokens bans"),
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        GenerationConfig().merged(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50},
        {"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
        {"do_sample": False, "temperature": 0.0},
        {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0},
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": "never"},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 7},
        {"forced_eos_token_id": [2, 3], "suppress_tokens": [2]},
        {"cache_implementation": "static", "use_cache": True},
        {"return_dict_in_generate": True, "output_scores": True},
    ],
)
def test_arguments_that_only_look_contradictory(arguments: dict[str, Any]) -> None:
    GenerationConfig().merged(arguments)


def test_what_a_checkpoint_prefers_is_no_contradiction_of_a_call() -> None:
    """Llama's file holds a temperature, BART's beams and a least length: a greedy or short call leaves them unused."""
    chat = GenerationConfig.from_checkpoint({"do_sample": True, "temperature": 0.6, "top_p": 0.9})
    assert not chat.merged({"do_sample": False}).do_sample
    summary = GenerationConfig.from_checkpoint(
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "min_length": 56, "max_length": 142}
    )
    assert summary.merged({"num_beams": 1, "max_new_tokens": 10}).total_length(1) == 11
    assert summary.merged({"num_beams": 1, "max_length": 20}).total_length(1) == 20
    with pytest.raises(InputError, match="min_length must be at most max_length; got 56 and 20"):
        summary.merged({"min_length": 56, "max_length": 20})


def test_a_list_of_no_end_tokens_ends_nothing() -> None:
    for said in ({"eos_token_id": []}, {"eos_token_id": [], "_from_model_config": True}):
        assert GenerationConfig.from_checkpoint(said).eos == ()
    assert GenerationConfig.from_checkpoint(None, {"eos_token_id": []}).eos == ()
    assert GenerationConfig(eos_token_id=[2]).merged({"eos_token_id": []}).eos == ()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="decoder_start_token_id"):
        GenerationConfig.from_checkpoint({"decoder_start_token_id": []})
