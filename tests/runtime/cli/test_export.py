"""What ``precast export`` says at its end: what is missing, what was ignored, a command that works."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_artifacts
from support.command_line import good

from precast.runtime.cli import export as command


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("text-classification", "precast run text-classification"),
        ("fill-mask", "precast run fill-mask"),
        ("question-answering", "precast run question-answering"),
        ("feature-extraction", "precast run sentence-embedding"),
        ("next-sentence-prediction", "precast verify"),
    ],
)
def test_what_is_suggested_works(task: str, shown: str) -> None:
    artifact = tiny_artifacts.artifact(task)
    summary = command.summarise(artifact, "cpu", "fp32")
    assert summary["tokenizer"] == {"included": True} and summary["ignored"] == {}
    assert list(command._notes(summary)) == []
    suggested = command._first_use(artifact, summary)
    assert suggested.startswith(shown)
    program, *arguments = shlex.split(suggested)
    assert program == "precast" and good(*arguments)


def test_what_is_missing_and_what_was_ignored_is_named(tmp_path: Path) -> None:
    source = shutil.copytree(tiny_artifacts.checkpoint("text-classification"), tmp_path / "source")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    state = load_file(source / "model.safetensors")
    save_file({**state, "loss_fct.weight": torch.ones(3)}, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "note_of_mine": 1}))
    lines = good("export", source, tmp_path / "out").splitlines()
    why = "BertJapaneseTokenizer cannot be expressed as a tokenizer.json: it cuts words with MeCab"
    assert any(line.startswith(f"No tokenizer: {why}") for line in lines)
    assert lines[-1] == f"Try it: precast verify {tmp_path / 'out'}"
    assert "Ignored in config.json, as upstream does: note_of_mine" in lines
    shown = good("inspect", tmp_path / "out")
    assert "reads it: note_of_mine; of the weights, which this model does not have: loss_fct.weight" in shown
    found = json.loads(good("inspect", tmp_path / "out", "--json"))
    assert (found["ignored_weights"], found["ignored_generation_config"]) == (["loss_fct.weight"], [])
    summary = command.summarise(tmp_path / "out", "cpu", "fp32")
    assert summary["tokenizer"]["included"] is False
    assert summary["tokenizer"]["reason"].startswith(why)


def test_notes_say_what_was_ignored() -> None:
    ignored = {"generation_config.json": ["zzz", "temprature"]}
    reads = {
        "text": {"port": "input_ids", "missing": "its checkpoint came without one"},
        "image": {"port": "pixel_values", "missing": "preprocessor_config.json names NoSuch."},
    }
    assert list(command._notes({"reads": reads, "ignored": ignored})) == [
        "No tokenizer: its checkpoint came without one.",
        "  The model takes token ids: precast.load(...)(input_ids=...).",
        "No image processor: preprocessor_config.json names NoSuch.",
        "  The model takes pixel values: precast.load(...)(pixel_values=...).",
        "Ignored in generation_config.json, as upstream does: zzz, temprature",
    ]
