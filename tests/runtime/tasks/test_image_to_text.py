"""What pictures show, written down: as upstream's models and processors do it; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageFont
from support import tiny_captioner, tiny_seers
from support.command_line import good
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import precast
from precast.runtime.errors import InputError
from precast.runtime.processors.header import written_above
from precast.runtime.processors.image import ImageProcessor

GREEDY = {"max_new_tokens": 9, "do_sample": False}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng, found = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number, size in enumerate(((31, 20), (17, 40), (12, 12))):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        found.append(str(path))
    return found


@pytest.fixture(scope="module")
def pipe() -> Any:
    return precast.pipeline("image-to-text", tiny_captioner.captioner())


@pytest.fixture(scope="module")
def upstream() -> Any:
    """What its pipeline did: a processor, `generate`, a tokenizer."""
    source = tiny_captioner.checkpoint()
    model = transformers.VisionEncoderDecoderModel.from_pretrained(source).eval()
    processor, tokenizer = (kind.from_pretrained(source) for kind in (ViTImageProcessorPil, transformers.AutoTokenizer))

    def read(picture: str, prompt: str | None = None, **arguments: Any) -> list[dict[str, str]]:
        given: Any = {}
        if prompt is not None:
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
            given = {"decoder_input_ids": ids, "decoder_start_token_id": int(ids[0, 0])}
        opened = Image.open(picture).convert("RGB")
        with torch.no_grad():
            made = model.generate(**processor(opened, return_tensors="pt"), **given, **arguments)
        return [{"generated_text": tokenizer.decode(row, skip_special_tokens=True)} for row in made]

    return read


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=json.dumps)
def test_texts_are_upstreams(pipe: Any, upstream: Any, pictures: list[str], more: dict[str, Any]) -> None:
    arguments = {**GREEDY, **more}
    expected = [upstream(picture, **arguments) for picture in pictures]
    assert pipe(pictures, **arguments) == expected
    assert pipe(images=pictures[0], generate_kwargs=arguments) == expected[0]
    assert pipe(pictures, batch_size=1, **arguments) == expected


def test_screens_are_read_as_upstreams(pictures: list[str]) -> None:
    """Pictures of any size, as patches; several in a batch."""
    source = tiny_captioner.screen_checkpoint()
    model = transformers.Pix2StructForConditionalGeneration.from_pretrained(source).eval()
    processor, tokenizer = (
        kind.from_pretrained(source) for kind in (Pix2StructImageProcessorPil, transformers.AutoTokenizer)
    )
    opened = [Image.open(picture).convert("RGB") for picture in pictures]
    with torch.no_grad():
        made = model.generate(**processor(opened, return_tensors="pt"), **GREEDY)
    expected = [[{"generated_text": tokenizer.decode(row, skip_special_tokens=True)}] for row in made]
    pipe = precast.pipeline("image-to-text", tiny_captioner.screen_reader())
    assert pipe(pictures, **GREEDY) == expected
    assert pipe(pictures[1], **GREEDY) == expected[1]
    with pytest.raises(InputError, match=r"flattened_patches of patch 0 of row 0 begin with its row and its column"):
        precast.load(tiny_captioner.screen_reader()).generate(flattened_patches=np.full((1, 2, 14), 0.5, np.float32))


def test_what_is_asked_may_stand_above_the_picture(pictures: list[str], tmp_path: Path) -> None:
    """Where the image processor says so; the text itself begins as ever."""
    font = tmp_path / "font.ttf"
    font.write_bytes(ImageFont.load_default(36).font_bytes)  # type: ignore[union-attr] # Pillow's own
    plain = precast.pipeline("image-to-text", tiny_captioner.screen_reader())
    steps = [step.to_json() for step in plain.image_processor.steps]
    processor = ImageProcessor.from_data({"steps": [steps[0], {"op": "header"}, *steps[1:]]})
    asking = precast.pipeline("image-to-text", tiny_captioner.screen_reader(), image_processor=processor)
    below = [written_above(Image.open(picture).convert("RGB"), "stop?", font) for picture in pictures]
    assert asking(pictures, prompt="stop?", font=font, **GREEDY) == plain(below, **GREEDY)
    with pytest.raises(InputError, match="give its file beside the text"):
        asking(pictures, prompt="stop?")


def test_a_prompt_is_what_texts_begin_with(pipe: Any, upstream: Any, pictures: list[str]) -> None:
    """A special token begins them by itself; of others the start token is in front."""
    prompt = f"{tiny_captioner.TASK}stop"
    assert pipe(pictures, prompt=prompt, **GREEDY) == [upstream(picture, prompt, **GREEDY) for picture in pictures]
    [plain] = pipe(pictures[0], prompt="stop", **GREEDY)
    assert plain["generated_text"].startswith("stop")
    [shown] = pipe(pictures[0], prompt=prompt, skip_special_tokens=False, **GREEDY)
    assert shown["generated_text"].startswith(prompt)


def test_it_is_streamed(pipe: Any, pictures: list[str]) -> None:
    [whole] = pipe(pictures[0], **GREEDY)
    pieces = list(pipe.stream(pictures[0], **GREEDY))
    assert "".join(pieces) == whole["generated_text"] and len(pieces) > 1


def test_at_the_keyboard(pipe: Any, pictures: list[str]) -> None:
    artifact = str(tiny_captioner.captioner())
    said = good("run", "image-to-text", artifact, pictures[0], "--max-new-tokens", "9", "--json")
    assert json.loads(said) == pipe(pictures[0], max_new_tokens=9)


def test_what_is_not_possible_is_said(pipe: Any, pictures: list[str]) -> None:
    with pytest.raises(InputError, match=r"writes of a picture alone.*pipeline\('image-text-to-text'"):
        precast.pipeline("image-to-text", tiny_seers.seer())
    with pytest.raises(InputError, match="max_new_tokens is given in generate_kwargs and beside it"):
        pipe(pictures[0], max_new_tokens=3, generate_kwargs={"max_new_tokens": 4})
    with pytest.raises(InputError, match=r"prompt is what texts begin with, and this one holds no token"):
        pipe(pictures[0], prompt="")
    with pytest.raises(InputError, match="needs a picture, or a list of them"):
        pipe()
    with pytest.raises(InputError, match="this model sees: its input is pixel_values"):
        precast.load(tiny_captioner.captioner()).generate(input_ids=[[1, 2]], max_new_tokens=2)
