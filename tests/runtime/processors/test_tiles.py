"""Pictures as tiles, and their places in texts, against upstream's processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.generation_tokenizers import tiny_tokenizer
from support.tokenizer_samples import write_json
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from precast.export.image_reading import read_folder
from precast.runtime.errors import InputError, PrecastError
from precast.runtime.processors.image import ImageProcessor
from precast.runtime.processors.image_tiles import Tiling
from precast.runtime.processors.joint import JointProcessor, Places
from precast.runtime.processors.text import Tokenizer

SIZES = ((90, 40), (40, 90), (33, 33), (200, 31), (16, 16), (5, 90), (64, 64))
SPELLED = {
    "each": "<fake_token_around_image><row_{row}_col_{column}>", "line": "\n",
    "whole": "\n<fake_token_around_image><global-img>", "alone": "<fake_token_around_image><global-img>",
    "close": "<fake_token_around_image>",
}  # fmt: skip
COUNT = 3


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.mark.parametrize(
    "said",
    [
        {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}},
        {"size": {"longest_edge": 75}, "max_image_size": {"longest_edge": 32}, "resample": 3},
        {"do_resize": False, "max_image_size": {"longest_edge": 24}},
        {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 20}, "do_image_splitting": False},
    ],
    ids=["thirds", "odd", "as-they-are", "whole"],
)
@pytest.mark.parametrize("kind", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
def test_tiles(kind: Any, said: dict[str, Any], tmp_path: Path) -> None:
    """The same tiles in the same order, to the bit of what upstream's float32 gives; the same rows and columns."""
    name = kind.__name__.removesuffix("Pil")
    write_json(tmp_path / "preprocessor_config.json", {"image_processor_type": name, **said})
    ours = ImageProcessor.from_data(read_folder(tmp_path, name.removesuffix("ImageProcessor").lower()))
    theirs = kind(**said)
    for picture in pictures():
        if min(picture.size) < 16 and not said.get("do_resize", True):
            continue  # upstream makes no size of it
        wanted = theirs([[picture]], return_tensors="np", return_row_col_info=True)
        got = ours(picture)
        assert got.pixel_values.shape == wanted["pixel_values"].shape[1:]
        np.testing.assert_allclose(got.pixel_values, wanted["pixel_values"][0], rtol=0, atol=1e-6)
        assert tuple(ours.grid(picture)) == (wanted["rows"][0][0], wanted["cols"][0][0])
        assert (wanted["pixel_attention_mask"] == 1).all()


@given(width=st.integers(1, 400), height=st.integers(1, 400), tile=st.integers(16, 40), longest=st.integers(1, 160))
@settings(max_examples=60, deadline=None)
def test_a_grid_has_as_many_tiles_as_it_says(width: int, height: int, tile: int, longest: int) -> None:
    step = Tiling("bilinear", tile, longest)
    made = step(Image.new("RGB", (width, height)))
    rows, columns = step.grid((width, height))
    assert len(made) == (rows * columns + 1 if rows else 1)
    assert {one.size for one in made} == {(tile, tile)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[JointProcessor, Any]:
    folder = tmp_path_factory.mktemp("smolvlm")
    tokenizer = tiny_tokenizer("byte_level")
    extra = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_special_tokens([*extra, *(f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4))])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"},
    )
    said = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "Idefics3ImageProcessor", **said})
    theirs = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(**said), transformers.AutoTokenizer.from_pretrained(folder), image_seq_len=COUNT
    )
    join = {"token": tokenizer.token_to_id("<image>"), "count": COUNT, "spelled": SPELLED}
    image = ImageProcessor.from_data(read_folder(folder, "idefics3"))
    return JointProcessor(image, Tokenizer.from_folder(folder), Places.from_data(join)), theirs


def test_places_of_tiles(both: tuple[JointProcessor, Any]) -> None:
    """Ids and masks exactly upstream's, whose empty tiles are left out; of one text with two pictures, of two texts."""
    ours, theirs = both
    first, second, third, *_ = pictures()
    for images, texts in (
        ([[first]], ["<image>stop"]),
        ([[first, third], [second]], ["<image> of <image> abc", "the <image>"]),
    ):
        wanted = theirs(images=images, text=texts, return_tensors="np", padding=True)
        got = ours(images=images, text=texts)
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(got[name], wanted[name])
        shown = wanted["pixel_attention_mask"].any(axis=(2, 3))
        np.testing.assert_allclose(got["pixel_values"], wanted["pixel_values"][shown], rtol=0, atol=1e-6)
        grids = [ours.image_processor.grid(one) for several in images for one in several]
        tiles = sum(grid.rows * grid.columns + 1 for grid in grids)
        assert (got["input_ids"] == ours.places.token).sum() == COUNT * tiles  # type: ignore[union-attr]


FITTED = {
    "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16},
    "image_grid_pinpoints": [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]],
}  # fmt: skip


def test_fitted_pictures(tmp_path: Path) -> None:
    """The whole and the tiles of each picture as upstream's, whose empty ones are left out, and how large each was; as
    many places in a text as upstream writes."""
    write_json(tmp_path / "preprocessor_config.json", {"image_processor_type": "LlavaNextImageProcessor", **FITTED})
    ours = ImageProcessor.from_data(read_folder(tmp_path, "llava_next"))
    theirs = LlavaNextImageProcessorPil(**FITTED)
    wanted = theirs(pictures(), return_tensors="np")
    got = ours(pictures())
    shown = wanted["pixel_values"].any(axis=(2, 3, 4))
    np.testing.assert_allclose(got["pixel_values"], wanted["pixel_values"][shown], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(got["image_sizes"], wanted["image_sizes"])

    tokenizer = tiny_tokenizer("byte_level")
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "<pad>"}
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    upstream = transformers.LlavaNextProcessor(
        theirs, transformers.AutoTokenizer.from_pretrained(tmp_path), 4, "default", num_additional_image_tokens=1
    )
    tiles = {"tile": 16, "side": 4, "sizes": FITTED["image_grid_pinpoints"]}
    join = {"token": tokenizer.token_to_id("<image>"), "count": 1, "tiles": tiles}
    mine = JointProcessor(ours, Tokenizer.from_folder(tmp_path), Places.from_data(join))
    for picture in pictures():
        text = ["a <image> of"]
        np.testing.assert_array_equal(
            mine(picture, text)["input_ids"], upstream(images=picture, text=text, return_tensors="np")["input_ids"]
        )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"crop_size": {"height": 8, "width": 8}}, "tiles are squares of the size that the whole picture gets"),
        ({"do_resize": False}, "tiles are squares of the size that the whole picture gets"),
        ({"image_grid_pinpoints": [[16, 20]]}, "image_grid_pinpoints must be a list of pairs of multiples of 16"),
    ],
)
def test_what_is_not_fitted(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    stated = {"image_processor_type": "LlavaNextImageProcessor", **FITTED, **said}
    write_json(tmp_path / "preprocessor_config.json", stated)
    with pytest.raises(PrecastError, match=message):
        read_folder(tmp_path, "llava_next")


def test_what_is_refused(both: tuple[JointProcessor, Any]) -> None:
    ours, _ = both
    with pytest.raises(InputError, match=r"each text has one '<image>' for each of its pictures"):
        ours(images=[pictures()[:1], pictures()[:1]], text=["<image><image>", "a"])
    with pytest.raises(PrecastError, match=r"spelled.each must be a text of at most 256 characters"):
        Places.from_data({"token": 1, "count": 1, "spelled": {**SPELLED, "each": "a" * 257}})
    with pytest.raises(PrecastError, match=r"tile must be an integer from 16 to 4096"):
        ImageProcessor.from_data({"steps": [{"op": "tiles", "filter": "box", "tile": 1, "longest": 9, "split": True}]})
