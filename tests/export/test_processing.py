"""What an artifact holds around its graphs: what the checkpoint's files say is read before anything is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from support import tiny_artifacts
from support.oracle import save_checkpoint, upstream

import precast
from precast.export.checkpoints.open import open_checkpoint
from precast.export.heads import CAUSAL_LM
from precast.export.processing import write_processing
from precast.export.reference import build
from precast.runtime.errors import ConfigError


class Kept(dict[str, bytes]):
    """A writer that keeps what it is given."""

    def write_bytes(self, name: str, data: bytes) -> None:
        self[name] = data


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, model = upstream("gpt2", CAUSAL_LM)
    return save_checkpoint(tmp_path_factory.mktemp("source") / "gpt2", config, model)


def written(folder: Path) -> tuple[dict[str, Any], Kept]:
    """What the manifest says of the folder's files, and those of the artifact."""
    checkpoint, kept = open_checkpoint(folder), Kept()
    reference = build(checkpoint.config, checkpoint.tensors)
    return write_processing(checkpoint, reference, kept)[0], kept  # type: ignore[arg-type]


def test_generation_keys_that_upstream_ignores_are_recorded(decoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(decoder, tmp_path / "source")
    stated = {"assistant_token_id": 5, "num_beams": 2, "my_note": "x"}
    (folder / "generation_config.json").write_text(json.dumps(stated))
    said, files = written(folder)
    assert said["ignored_generation_config"] == ["assistant_token_id", "my_note"]
    assert json.loads(files["generation_config.json"]) == stated
    (folder / "generation_config.json").write_text('{"num_beams": 2}')
    assert "ignored_generation_config" not in written(folder)[0]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"top_k": 50.0}, r"generation_config\.json: top_k must be a whole number of at least 0; got 50\.0; correct"),
        ({"penalty_alpha": 0.6}, r"generation_config\.json: penalty_alpha is not supported; got 0\.6"),
        ({"num_return_sequences": 3}, r"generation_config\.json: greedy search finds one sequence"),
        ([], r"generation_config\.json must be an object; found list"),
    ],
)
def test_what_no_call_could_use_is_refused_at_export(decoder: Path, tmp_path: Path, stated: Any, message: str) -> None:
    folder = shutil.copytree(decoder, tmp_path / "source")
    (folder / "generation_config.json").write_text(json.dumps(stated))
    with pytest.raises(ConfigError, match=message):
        precast.export_model(folder, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_old_keys_of_config_json_are_read_too(decoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(decoder, tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_beams": 0}))
    with pytest.raises(ConfigError, match=r"^config\.json: num_beams must be a whole number of at least 1; got 0"):
        precast.export_model(folder, tmp_path / "artifact")


SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def _taken(folder: Path) -> str:
    kind = type(CrossEncoder(str(folder), device="cpu").activation_fn)
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"sbert_ce_default_activation_function": SIGMOID}, SIGMOID),
        ({"sentence_transformers": {"activation_fn": SIGMOID, "version": "5.1.0"}}, SIGMOID),
        (
            {"sentence_transformers": {"activation_fn": SIGMOID}, "sbert_ce_default_activation_function": IDENTITY},
            SIGMOID,
        ),
        ({"sentence_transformers": {"activation_fn": "mine.Squash"}}, None),
    ],
)
def test_a_cross_encoders_activation_is_kept(config: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    """What CrossEncoder passes logits through by what the folder says; where nothing is kept, it takes its default."""
    folder = shutil.copytree(tiny_artifacts.checkpoint("text-classification"), tmp_path / "source")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert written(folder)[0].get("cross_encoder") == (None if expected is None else {"activation_fn": expected})
    assert _taken(folder) == (expected or IDENTITY)


def test_a_saved_cross_encoders_activation_is_kept(tmp_path: Path) -> None:
    checkpoint = str(tiny_artifacts.checkpoint("text-classification"))
    CrossEncoder(checkpoint, device="cpu", activation_fn=torch.nn.Sigmoid()).save_pretrained(str(tmp_path / "saved"))
    assert written(tmp_path / "saved")[0]["cross_encoder"] == {"activation_fn": SIGMOID}
    assert _taken(tmp_path / "saved") == SIGMOID
