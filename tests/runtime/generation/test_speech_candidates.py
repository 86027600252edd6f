"""Candidates of speech tokens, as upstream's CLVP says and ranks them; and what cannot be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle
from support.tokenizer_samples import write_json
from support.workers import once

import precast
from precast.export.exporter import export_model
from precast.export.heads import SPEECH_CANDIDATES
from precast.runtime.errors import InputError
from precast.runtime.speech_candidates import Ranked

SAID = {"eos_token_id": 33, "bos_token_id": 32, "pad_token_id": 33, "max_length": 60, "do_sample": True, "top_k": 5}
GREEDY: dict[str, Any] = {"do_sample": False, "top_k": 50, "return_dict_in_generate": True}


def checkpoint(folder: Path) -> None:
    config, model = oracle.upstream("clvp", SPEECH_CANDIDATES, seed=3)
    with torch.no_grad():  # so that what comes next depends on what came before
        for name, value in model.named_parameters():
            if name.startswith("speech_decoder_model") and value.ndim == 2:
                value.mul_(2)
        model.speech_decoder_model.lm_head.bias[33] += 2  # type: ignore[union-attr, operator, index] # it ends
    oracle.save_checkpoint(folder, config, model)
    write_json(folder / "generation_config.json", SAID)
    heard = {"feature_extractor_type": "ClvpFeatureExtractor", "feature_size": 9, "default_audio_length": 1}
    write_json(folder / "preprocessor_config.json", heard)


@pytest.fixture(scope="module")
def model() -> Any:
    source = once("checkpoint-candidates", checkpoint)
    return precast.load(once("artifact-candidates", lambda folder: export_model(source, folder)))


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import ClvpModelForConditionalGeneration

    source = once("checkpoint-candidates", checkpoint)
    return ClvpModelForConditionalGeneration.from_pretrained(source, attn_implementation="eager").eval()


def heard(rows: int = 1) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 9, 30), np.float32)


def texts(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(length).integers(1, 39, (rows, length))
    mask = np.ones_like(ids)
    if rows > 1:
        ids[0, length // 2 :] = mask[0, length // 2 :] = 0
    return ids, mask


@pytest.mark.parametrize(
    ("rows", "voices", "options"),
    [
        (1, 1, {}),
        (3, 1, {}),
        (3, 3, {"max_new_tokens": 17}),
        (1, 2, {"max_new_tokens": 2}),
        (2, 2, {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 11}),
        (2, 1, {"pad_to_max_mel_tokens": 48, "repetition_penalty": 1.4}),
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_candidates_are_upstreams(
    model: Any, theirs: Any, rows: int, voices: int, options: dict[str, Any], masked: bool
) -> None:
    ids, mask = texts(rows, 8)
    features = heard(voices)
    given = {"attention_mask": mask} if masked else {}
    found = model.generate(ids, features, **given, **GREEDY, **options)
    with torch.no_grad():
        expected = theirs.generate(
            torch.from_numpy(ids),
            torch.from_numpy(features),
            **{name: torch.from_numpy(value) for name, value in given.items()},
            **GREEDY,
            **options,
        )
    np.testing.assert_array_equal(found.speech_ids, expected.speech_ids)
    for name in ("logits_per_text", "logits_per_speech", "text_embeds", "speech_embeds"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("rows", "voices"), [(1, 1), (3, 1), (1, 3)])
def test_a_call_is_upstreams(model: Any, theirs: Any, rows: int, voices: int) -> None:
    ids, mask = texts(rows, 8)
    features = heard(voices)
    found = model(input_ids=ids, input_features=features, attention_mask=mask)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), torch.from_numpy(features), attention_mask=torch.from_numpy(mask))
    for name in ("logits_per_text", "logits_per_speech", "text_embeds", "speech_embeds"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-5, err_msg=name)


def test_what_is_said_differs(model: Any) -> None:
    """Of texts, and of seeds: the tests above compare more than one answer."""
    ids, _ = texts(3, 8)
    greedy = model.generate(ids, heard(3), **GREEDY).speech_ids
    assert len(np.unique(greedy)) > 5 and len({row.tobytes() for row in greedy}) == 3
    first, again, other = (model.generate(ids[1:2], heard(), seed=seed).speech_ids for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    several = model.generate(ids[1:2], heard(), num_return_sequences=3)
    assert several.logits_per_text.shape == (1, 3) and len({row.tobytes() for row in several.speech_ids}) > 1
    recording = np.random.default_rng(2).standard_normal(30_000, np.float32)
    features = model.feature_extractor(recording, sampling_rate=22050)
    assert model.generate(ids[1:2], **features, max_new_tokens=3).logits_per_text.shape == (1, 1)
    report: Any = precast.verify(model.path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}


def test_towers_run_where_their_inputs_are_given(model: Any, theirs: Any) -> None:
    ids, mask = texts(2, 8)
    speech = np.array([[3, 4, 5], [6, 7, 8], [9, 10, 11]])
    both = model(input_ids=ids, attention_mask=mask, speech_ids=speech)
    alone = model(ids, attention_mask=mask)
    assert list(alone) == ["text_embeds"] and both.logits_per_text.shape == (2, 3)
    np.testing.assert_array_equal(alone.text_embeds, both.text_embeds)
    with torch.no_grad():
        expected = theirs.get_text_features(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).embeds
    np.testing.assert_allclose(alone.text_embeds, torch.nn.functional.normalize(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("last", [(3,), (3, 5, 5, 8)])
def test_ends_are_silence_as_upstream_makes_it(theirs: Any, last: tuple[int, ...]) -> None:
    ranked = Ranked(("a", "b"), (39, 0), 32, 33, last, 57, 49)
    theirs.config.decoder_config.decoder_fixing_codes = list(last)
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 4, 9):
        said = rng.integers(28, 34, (20, length))
        with_first = torch.from_numpy(np.concatenate((np.full((20, 1), 32), said), axis=1))
        np.testing.assert_array_equal(ranked.finished(said), theirs.fix_speech_decoder_output(with_first))
    theirs.config.decoder_config.decoder_fixing_codes = [3, 5, 5, 8]


def test_what_cannot_be_said_is_refused(model: Any) -> None:
    ids, _ = texts(1, 8)
    for given, message in (
        ({"input_ids": np.ones((1, 58), np.int64)}, "a text may have 57 tokens here; received one of 58"),
        ({"input_features": None}, "input 'input_features' is needed"),
        ({"input_features": np.full((1, 9, 30), np.nan, np.float32)}, "holds NaN or infinity"),
        ({"input_features": heard()[:, :4]}, r"'input_features' is \[batch, 9, frames\]"),
        ({"input_ids": np.array([[40]])}, "input_ids must be 0 to 39; received 40"),
        ({"max_length": 11}, "max_length is above 14, what is begun with among it; received 11"),
        ({"pad_to_max_mel_tokens": 72}, "tokens is 70 at most; received 71"),
        ({"tempo": 1}, "has no argument 'tempo'"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(**{"input_ids": ids, "input_features": heard(), **given})
