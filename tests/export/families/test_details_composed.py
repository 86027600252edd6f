"""What the discovered tests of models made of others cannot see: more pairs of families, and what does not fit
together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.oracle import apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import find_family
from precast.export.heads import IMAGE_TEXT, Head
from precast.export.reference import build
from precast.export.skeletons.encoder_decoder import TINY
from precast.export.tokenizers.files import tokenizer_class
from precast.runtime.errors import ConfigError, UnsupportedModelError, UnsupportedTaskError

CROSSED = {"is_decoder": True, "add_cross_attention": True}


def side(model_type: str, **keys: Any) -> dict[str, Any]:
    """The config of one of two models."""
    return {**find_family(model_type).tiny, "model_type": model_type, "num_hidden_layers": 1, **keys}


def writer(model_type: str, **keys: Any) -> dict[str, Any]:
    return side(model_type, **CROSSED, **keys)


SEEN = side("vit", image_size=12)
PAIRS: list[tuple[str, Head, Mapping[str, Any]]] = [
    ("vision-encoder-decoder", IMAGE_TEXT, {"encoder": side("swin"), "decoder": writer("roberta")}),
    (
        "vision-encoder-decoder",
        IMAGE_TEXT,
        {"encoder": side("beit", num_hidden_layers=4), "decoder": writer("xlm-roberta")},
    ),
    ("vision-encoder-decoder", IMAGE_TEXT, {"encoder": side("dinov2"), "decoder": writer("electra")}),
    (
        "vision-encoder-decoder",
        IMAGE_TEXT,
        {"encoder": SEEN, "decoder": {**TINY, **CROSSED, "model_type": "bart", "decoder_layers": 1}},
    ),
]


@pytest.mark.parametrize(("model_type", "head", "keys"), PAIRS, ids=lambda value: re.sub(r"\W+", "-", str(value))[:9])
def test_other_pairs_are_upstreams(model_type: str, head: Head, keys: Mapping[str, Any]) -> None:
    """Logits behind an encoder that sees, hears or reads, in float64."""
    config, narrow = upstream(model_type, head, keys)
    model: Any = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    first, step = parity.generation_cases(ours.parts, chains=((2, (5,), "full"),), seed=1)
    padding = config["decoder"].get("pad_token_id")
    step.inputs["input_ids"][step.inputs["input_ids"] == padding] += 1  # test_language_models.py says why
    runner = parity.ReferenceRunner(ours.parts)
    given = {
        name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in first.inputs.items()
    }
    runner.run(parity.Case(first.name, given, first.component, first.after, first.capacity))
    got = torch.from_numpy(runner.run(step)["logits"])
    with float64():
        inputs = {name: torch.from_numpy(value) for name, value in given.items()}
        want = model(**inputs, decoder_input_ids=torch.from_numpy(step.inputs["input_ids"])).logits
    where = torch.from_numpy(step.inputs["logit_positions"])[..., None].expand(-1, -1, want.shape[-1])
    assert apart(got, want.gather(1, where)) <= 1


@pytest.mark.parametrize(
    ("model_type", "keys", "task", "message"),
    [
        ("bert", {"is_decoder": True}, "fill-mask", "'is_decoder' is true: its tokens see those in front of them"),
        ("roberta", {}, "text-generation", "'is_decoder' is not true: it reads whole texts"),
    ],
)
def test_what_a_text_encoder_reads(model_type: str, keys: dict[str, Any], task: str, message: str) -> None:
    config = {**find_family(model_type).tiny, "model_type": model_type, **keys}
    with pytest.raises(UnsupportedTaskError, match=re.escape(message)):
        build(config, {}, task)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (
            {"encoder": {"model_type": "vitt"}},
            UnsupportedModelError,
            "model_type 'vitt' is not supported. Closest: vit",
        ),
        ({"encoder": side("bart")}, ConfigError, "an encoder of model_type 'bart' cannot stand in front of a decoder"),
        ({"decoder": side("llama")}, ConfigError, "a decoder of model_type 'llama' cannot attend to another model's"),
        (
            {"decoder": writer("bert", cross_attention_hidden_size=7)},
            ConfigError,
            "'decoder.cross_attention_hidden_size' 7 must be 32, as many channels as the encoder's states have",
        ),
        ({"decoder": None}, ConfigError, "'decoder' is None, expected dict"),
        ({"is_encoder_decoder": False}, ConfigError, "'is_encoder_decoder' is False, and only True is honoured"),
    ],
)
def test_what_does_not_fit_together(keys: dict[str, Any], error: type[Exception], message: str) -> None:
    pair = {"encoder": SEEN, "decoder": writer("bert")}
    with pytest.raises(error, match=re.escape(message)):
        build({"model_type": "vision-encoder-decoder", **pair, **keys}, {}, "image-text-to-text")


def test_the_tokenizer_is_that_of_what_reads() -> None:
    pair = {"encoder": {"model_type": "roberta"}, "decoder": {"model_type": "gpt2"}}
    assert tokenizer_class("encoder-decoder", pair, {}) == "RobertaTokenizer"
    assert tokenizer_class("encoder-decoder", pair, {"tokenizer_class": "BertTokenizerFast"}) == "BertTokenizer"
    assert tokenizer_class("vision-encoder-decoder", {"encoder": {"model_type": "vit"}}, {}) is None
