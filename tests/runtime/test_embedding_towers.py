"""Texts and pictures in one space, as sentence-transformers embeds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer
from support import tiny_artifacts
from support.tokenizer_samples import write_json

import precast
from precast.runtime.errors import ConfigError, InputError

TEXTS = ["a b c", "the cat sat on the mat", "the the the " * 40]


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = ((40, 61), (33, 33), (90, 30))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    """Ours, and sentence-transformers' of the same folder."""
    folder = str(tiny_artifacts.towers_checkpoint())
    return precast.load(tiny_artifacts.towers()), SentenceTransformer(folder, device="cpu")


def close(found: Any, expected: Any) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_texts_and_pictures_are_upstreams(both: tuple[Any, Any], tmp_path: Path) -> None:
    ours, theirs = both
    drawn = pictures()
    close(ours.encode(TEXTS), theirs.encode(TEXTS))
    close(ours.encode(drawn), theirs.encode(drawn))
    close(ours.encode(drawn[0]), theirs.encode(drawn[0]))
    close(ours.encode("a b c"), theirs.encode("a b c"))
    close(ours.encode(TEXTS, normalize_embeddings=True), theirs.encode(TEXTS, normalize_embeddings=True))
    # In one call, which upstream's cannot be given.
    mixed = ours.encode([drawn[0], TEXTS[0], {"image": drawn[1]}, {"text": TEXTS[1]}])
    close(mixed[::2], theirs.encode(drawn[:2]))
    close(mixed[1::2], theirs.encode(TEXTS[:2]))
    close(ours.encode(drawn, truncate_dim=7), theirs.encode(drawn, truncate_dim=7))
    alike = theirs.similarity(theirs.encode(TEXTS), theirs.encode(drawn)).numpy()
    close(ours.similarity(ours.encode(TEXTS), ours.encode(drawn)), alike)
    drawn[2].save(tmp_path / "a.png")
    named = str(tmp_path / "a.png")
    close(ours.encode(named), theirs.encode(named))
    close(ours.encode(named + "?"), theirs.encode(named + "?"))  # of which there is no file: a text
    same = ours.encode([named, tmp_path / "a.png", np.array(drawn[2])])
    np.testing.assert_array_equal(same, np.stack([ours.encode(drawn[2])] * 3))
    for limits in ({"batch_size": 1}, {"token_budget": 1}):
        np.testing.assert_allclose(ours.encode([*drawn, *TEXTS], **limits), ours.encode([*drawn, *TEXTS]), atol=1e-5)
    assert ours.encode([]).shape == (0, 24)


def test_a_folder_as_sentence_transformers_writes_it_now(both: tuple[Any, Any], tmp_path: Path) -> None:
    ours, theirs = both
    theirs.save_pretrained(str(tmp_path / "saved"))
    for change in (None, "sentence_transformers.base.modules.transformer.Transformer"):
        modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
        if change:
            write_json(tmp_path / "saved" / "modules.json", [{**modules[0], "type": change}])
        again = precast.load(precast.export_model(tmp_path / "saved", tmp_path / f"made {change}"))
        np.testing.assert_array_equal(again.encode([*pictures(), *TEXTS]), ours.encode([*pictures(), *TEXTS]))
    module = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    write_json(tmp_path / "saved" / "modules.json", [*modules, module])
    with pytest.raises(ConfigError, match="are not honoured in this order"):
        precast.export_model(tmp_path / "saved", tmp_path / "pooled")


def test_what_is_neither_is_refused(both: tuple[Any, Any]) -> None:
    ours, _ = both
    for given in ([3], [None], 3, [b"abc"], {"audio": "a.wav"}, [{"image": 3, "text": "a"}]):
        with pytest.raises(InputError, match="encode takes texts and pictures here: a text, a picture's file"):
            ours.encode(given)
    with pytest.raises(InputError, match="makes one vector of each input, and none of tokens"):
        ours.encode("a", output_value="token_embeddings")
    with pytest.raises(InputError, match="uint8"):
        ours.encode(np.zeros((4, 4, 3), np.float32))
