"""`precast bench`, `inspect` and `diff --speed` of language models: generations, in the same records and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_artifacts, tiny_seers
from typer.testing import CliRunner

import precast
from precast.export.heads import CAUSAL_LM, SEQ2SEQ_LM
from precast.runtime.artifact import Artifact
from precast.runtime.bench.artifact import bench
from precast.runtime.bench.points import artifact_pictured, artifact_prompts
from precast.runtime.bench.session import Plan
from precast.runtime.cli.app import app
from precast.runtime.errors import BenchmarkError, InputError
from precast.runtime.inspection import summary

QUICK = ("--seconds", "0.02", "--launches", "1", "--threads", "1", "--no-calibration", "--new-tokens", "5")


def decoder(model_type: str = "llama") -> Path:
    """A tiny model with 128 positions."""
    return tiny_artifacts.plain(model_type, CAUSAL_LM, max_position_embeddings=128)


def translator() -> Path:
    return tiny_artifacts.plain("t5", SEQ2SEQ_LM)


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("make", [decoder, translator])
def test_a_language_model_is_timed_generating(make: Any) -> None:
    done = call("bench", make(), "--batch", "1,2", "--length", "7,natural", *QUICK, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["settings"]["new_tokens"] == 5
    assert {row["scenario"] for row in document["rows"]} == {"generate", "cold"}
    for row in document["rows"]:
        if row["scenario"] == "cold":
            continue
        assert row["first_token"]["value"] > 0 and row["per_token"]["value"] > 0
        assert row["time"]["value"] > row["first_token"]["value"]
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * 5 / row["time"]["value"], rel=1e-3)
        assert "work" not in row and row["max_abs"] > 0
    assert {(row["batch"], row["length"]) for row in document["rows"]} == {
        (size, length) for size in (1, 2) for length in (7, "natural")
    }


def test_the_table_has_the_columns_of_a_generation() -> None:
    done = call("bench", decoder(), "--batch", "1", "--length", "8", *QUICK)
    assert done.exit_code == 0, done.output
    for column in ("tokens/s", "first token ms", "ms a token", "5 tokens ms", "cpu-fp32"):
        assert column in done.stdout


def test_a_picture_stands_in_front_of_each_prompt() -> None:
    """As often as it has places, behind what is padding; no token of a text is one of them."""
    model = precast.load(tiny_seers.seer())
    parts = [part.component for part in model.flow.parts.values()]
    made = artifact_pictured(parts, 5, tiny_seers.PLACES)([3, 60], np.random.default_rng(0))
    ids, mask = made["input_ids"], made["attention_mask"]
    assert ids.shape == mask.shape == (2, 60 + tiny_seers.PLACES)
    assert mask.sum(axis=1).tolist() == [3 + tiny_seers.PLACES, 60 + tiny_seers.PLACES]
    for row, real in zip(ids, mask, strict=True):
        shown = row[real != 0]
        assert (shown[: tiny_seers.PLACES] == 5).all() and 5 not in shown[tiny_seers.PLACES :]
    assert made["pixel_values"].shape == (2, 3, 12, 12)


def test_what_leaves_no_room_is_refused() -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(InputError) as error:
            bench(str(decoder()), **{"grid": [(1, 8)], "threads": [1], "plan": Plan(), "calibration": False, **options})
        return str(error.value)

    assert refused(grid=[(1, 124)], new_tokens=5).startswith("This model takes 123 tokens")
    assert "128 positions: 128 new tokens leave none for a prompt" in refused(new_tokens=128)
    assert "in the scenario single; received 'offline'" in refused(scenarios=["single", "offline"], new_tokens=5)


def test_prompts_are_padded_where_a_model_wants_it() -> None:
    component = Artifact.open(decoder()).component_for(None)
    rng = np.random.default_rng(0)
    assert set(artifact_prompts(component, left=True)([4, 4], rng)) == {"input_ids"}
    mask = artifact_prompts(component, left=True)([2, 4], rng)["attention_mask"]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    mask = artifact_prompts(component, left=False)([2, 4], rng)["attention_mask"]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_what_a_prompt_costs_is_shown(model_type: str) -> None:
    """Also where a cache of a window is smaller than the prompt."""
    [(_, component)] = summary(Artifact.open(decoder(model_type)))["components"].items()
    for variant in component["variants"].values():
        assert variant["work"]["flops"] > 0
        assert {size for name, size in variant["work"]["at"].items() if name.startswith("capacity")} == {128}


def test_two_language_models_are_compared_and_one_with_another_kind_is_not() -> None:
    done = call("diff", decoder(), decoder("gemma3_text"), "--speed", "--json")
    assert done.exit_code in (0, 1), done.output
    assert json.loads(done.stdout)["speed"]
    from precast.runtime.bench.artifact import side_by_side

    with pytest.raises(BenchmarkError, match="one artifact is a language model and the other is none"):
        side_by_side(
            {"a": str(decoder("gemma3_text")), "b": str(tiny_artifacts.artifact("feature-extraction"))},
            [(1, 8)],
            plan=Plan(seconds=0.01),
        )
