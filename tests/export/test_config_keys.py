"""Which keys of config.json are honoured, refused or ignored: what upstream reads is the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.record_config_keys import table
from transformers import GenerationConfig

from precast.export.families import find_family, model_types
from precast.export.spec import INERT, config_keys
from precast.runtime.errors import ConfigError
from precast.runtime.generation.config_values import RULES

ROOT = Path(__file__).parents[2]
# What others write into config.json: sentence-transformers 2 to 5, Unsloth, PEFT, transformers.js, anybody.
NOTES: dict[str, Any] = {
    "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"},
    "unsloth_version": "2024.9",
    "unsloth_fixed": True,
    "peft_version": "0.18.0",
    "auto_map": {"AutoModel": "modeling_x.XModel"},
    "transformers.js_config": {"dtype": "q8"},
    "custom_pipelines": {},
    "finetuned_from": "org/name",
    "hiden_size": 5,
    "a note": ["of", "anybody"],
}


def test_the_table_of_keys_is_that_of_the_installed_transformers() -> None:
    """`python -m support.record_config_keys` in tests/ writes it anew."""
    assert (ROOT / "export" / "config_keys.txt").read_text("utf-8") == table()


def test_keys_known_not_to_matter_are_keys_upstream_knows() -> None:
    inert = INERT.union(*(find_family(name).inert for name in model_types()))
    # What upstream's versions before 5 wrote, and read in tasks, tokenizers and `generate`; and arguments of ours.
    before = {"_num_labels", "task_specific_params", "tokenizer_class", "force_bos_token_to_be_generated"}
    before |= {"downsampling_rates"}  # of SegFormer, the product of its strides
    before |= {"forced_decoder_ids"}  # of Whisper, which `generate` reads
    assert inert - config_keys() <= before | RULES.keys()
    assert set(GenerationConfig._get_default_generation_params()) <= INERT
    assert not config_keys() & NOTES.keys()


@pytest.mark.parametrize("model_type", model_types())
def test_keys_nobody_knows_are_ignored_and_named(model_type: str) -> None:
    family = find_family(model_type)
    config = {"model_type": model_type, **family.tiny}
    spec = family.read(config)
    noted = {**config, **NOTES, "asr_config": None}
    assert family.read(noted) == spec
    assert family.ignored(noted, spec) == tuple(sorted([*NOTES, "asr_config"]))
    with pytest.raises(ConfigError, match=r"^'asr_config' = \{\} is not honoured here, and might change the"):
        family.read({**config, "asr_config": {}})


def test_a_missing_key_is_found_in_what_would_be_ignored() -> None:
    config = {"model_type": "roberta", **find_family("roberta").tiny}
    config["vocab_sise"] = config.pop("vocab_size")
    with pytest.raises(ConfigError, match=r"^'vocab_size' is missing\. Closest: vocab_sise: config.json of model_type"):
        find_family("roberta").read(config)
