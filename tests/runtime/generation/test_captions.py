"""Captions that go on with a text: what upstream's own loop does around its decoder's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle

import precast
from precast.export.exporter import export_model
from precast.export.heads import IMAGE_TEXT
from precast.runtime.errors import InputError

PIXELS = np.random.default_rng(0).standard_normal((2, 3, 30, 30), dtype=np.float32)
TEXTS = np.array([[7, 11, 12, 2], [7, 13, 14, 2]])  # as BERT's tokenizer writes them
STEPS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and upstream's model of one checkpoint, whose generation_config.json ends texts with another token."""
    folder: Path = tmp_path_factory.mktemp("blip")
    config, model = oracle.upstream("blip", IMAGE_TEXT)
    oracle.save_checkpoint(folder / "checkpoint", config, model)
    said = {"bos_token_id": 5, "eos_token_id": 9, "pad_token_id": 0}
    (folder / "checkpoint" / "generation_config.json").write_text(json.dumps(said))
    export_model(folder / "checkpoint", folder / "artifact")
    return precast.load(folder / "artifact"), model


def test_captions_begin_and_end_as_upstreams(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    expected = theirs.generate(pixel_values=torch.from_numpy(PIXELS), **STEPS)
    np.testing.assert_array_equal(ours.generate(pixel_values=PIXELS, **STEPS), expected.numpy())
    assert ours.generation_config["eos_token_id"] == 2


def test_captions_go_on_with_a_text(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    given = {"input_ids": torch.from_numpy(TEXTS), "attention_mask": torch.ones(TEXTS.shape, dtype=torch.int64)}
    expected = theirs.generate(pixel_values=torch.from_numpy(PIXELS), **given, **STEPS)
    got = ours.generate(pixel_values=PIXELS, input_ids=TEXTS, attention_mask=np.ones_like(TEXTS), **STEPS)
    np.testing.assert_array_equal(got, expected.numpy())
    assert got[:, :3].tolist() == [[5, 11, 12], [5, 13, 14]]
    # Rows of one batch are what each is alone, whatever their lengths.
    ragged = ours.generate(pixel_values=PIXELS, input_ids=[[7, 11, 12, 2], [7, 13, 2]], **STEPS)
    alone = ours.generate(pixel_values=PIXELS[1:], input_ids=[[7, 13, 2]], **STEPS)
    assert [token for token in ragged[1].tolist() if token][:6] == [token for token in alone[0].tolist() if token][:6]
    with pytest.raises(InputError, match="has 1 rows for 2 prompts"):
        ours.generate(pixel_values=PIXELS, input_ids=TEXTS[:1], **STEPS)
