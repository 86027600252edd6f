"""Pictures as pixel values: an artifact's image processor, and what counts as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime.errors import DependencyError, InputError
from precast.runtime.fetching import fetched, is_address
from precast.runtime.fields import Fields
from precast.runtime.generation.tiles import SIZES
from precast.runtime.processors.header import written_above
from precast.runtime.processors.image_steps import (
    Colours,
    Frames,
    Header,
    Pad,
    Pairs,
    Patches,
    Step,
    pixels,
    read_steps,
)
from precast.runtime.processors.image_tiles import Fitted, Grid, Tiling
from precast.runtime.processors.model_inputs import ModelInputs
from precast.runtime.processors.page_ocr import PageOcr

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MASK", "ImageProcessor", "is_picture", "open_picture"]

MASK = "pixel_mask"


class ImageProcessor:
    """Pictures to model inputs, by the steps an artifact lists; upstream's call and result. Safe to call from many
    threads.

    ``detection``: how its class makes objects of a detector's outputs (`precast.runtime.tasks._boxes`), or None;
    ``segmentation``: how it makes segments of others' (`precast.runtime.segmentation`), or None; ``ocr``: how it reads
    the words of pages, where its results have these, with their boxes, as ``words`` and ``boxes``.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        port: str | None = None,
        detection: Mapping[str, Any] | None = None,
        segmentation: Mapping[str, Any] | None = None,
        ocr: Mapping[str, Any] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        numbered = any(isinstance(step, Colours) for step in self.steps)
        self._patches = any(isinstance(step, Patches) for step in self.steps)
        usual = "input_ids" if numbered else "flattened_patches" if self._patches else "pixel_values"
        self.port = port if port is not None else usual
        self.detection, self.segmentation = detection, segmentation
        self.ocr = None if ocr is None else PageOcr.from_data(ocr)
        self._pad = next((step for step in self.steps if isinstance(step, Pad)), None)
        self.model_input_names = [self.port] if self._pad is None else [self.port, MASK]
        self.model_input_names += ["attention_mask"] if self._patches else []
        self.tiles = next((step for step in self.steps if isinstance(step, (Tiling, Fitted))), None)
        if isinstance(self.tiles, Fitted):
            self.model_input_names = [self.port, SIZES]
        self.frames = any(isinstance(step, Frames) for step in self.steps)
        self.pairs = any(isinstance(step, Pairs) for step in self.steps)
        self.header = any(isinstance(step, Header) for step in self.steps)

    @classmethod
    def from_data(cls, said: Mapping[str, Any]) -> ImageProcessor:
        """From ``processing["image"]`` of a manifest; or of what a checkpoint says, whose steps tell the port."""
        fields = Fields(dict(said), "processing.image")
        port = fields.text("port") if "port" in fields else None
        beside = (fields.data(name) if name in fields else None for name in ("detection", "segmentation", "ocr"))
        return cls(read_steps(fields), port, *beside)

    def __repr__(self) -> str:
        return f"ImageProcessor({', '.join(step.to_json()['op'] for step in self.steps)})"

    def __call__(
        self,
        images: Any,
        return_tensors: str | None = None,
        *,
        header_text: str | None = None,
        font_path: str | os.PathLike[str] | None = None,
        **unknown: Any,
    ) -> ModelInputs:
        """``pixel_values [N, C, H, W]`` of one picture or a list of them: files, Pillow's images, or uint8 arrays, of
        tiles those of one picture behind those of another; with
        ``pixel_mask [N, H, W]``, 1 where a picture is and 0 where it was padded, where pictures are padded. Of frames
        ``[N, F, C, H, W]``: a list is one video, a list of lists several; and so of pairs, ``[N, 2, C, H, W]``. Of
        patches ``flattened_patches [N, P, 2 + D]`` and their ``attention_mask [N, P]``.

        Args:
            header_text, font_path: what is written above each picture, and a TrueType font for it, where a model reads
                what is asked there.

        Raises:
            InputError: something is no picture, or they differ in size; or an argument is unknown.
        """
        above = {"header_text": header_text, "font_path": font_path}
        strange = [] if self.header else [name for name, value in above.items() if value is not None]
        for name in (*unknown, *strange):
            raise InputError(f"Steps are the artifact's own and take no arguments; received {name}. Leave it out.")
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors can be 'np' here, there is no torch; received {return_tensors!r}.")
        given = images if isinstance(images, (list, tuple)) else [images]
        if not given:
            raise InputError("An image processor needs at least one picture.")
        if self.frames or self.pairs:
            together = given if all(isinstance(one, (list, tuple)) for one in given) else [given]
            made = [self._stacked(video) for video in together]
        else:
            pictures = [open_picture(one) for one in given]
            if header_text is not None:
                pictures = [self.written(picture, header_text, font_path) for picture in pictures]
            made = [self.pixels(picture) for picture in pictures]
        if self._pad is not None:
            padded, masks = self._pad(made)
            return ModelInputs({self.port: np.stack(padded), MASK: np.stack(masks)})
        found = ModelInputs({self.port: self._one(made) if self.tiles is None else np.concatenate(made)})
        if self._patches:
            found["attention_mask"] = _real(found[self.port])
        if isinstance(self.tiles, Fitted):
            found[SIZES] = np.array([(picture.height, picture.width) for picture in pictures], np.int64)
        if self.ocr is not None:
            read = [self.ocr(picture) for picture in pictures]
            said: dict[str, Any] = {"words": [words for words, _ in read], "boxes": [boxes for _, boxes in read]}
            found |= said
        return found

    def written(self, picture: Image, text: str, font: str | os.PathLike[str] | None) -> Image:
        """A picture below a text.

        Raises:
            InputError: there is no font, or no text.
        """
        if font is None:
            raise InputError(
                "What is asked of a picture is written above it, in a TrueType font that no checkpoint holds: give its "
                "file beside the text. Pix2Struct was trained with Arial."
            )
        return written_above(picture, text, font)

    def _stacked(self, video: Any) -> np.ndarray:
        if self.pairs and len(video) != 2:
            raise InputError(
                f"A pair is a list of two pictures, and several are a list of pairs; received {len(video)}."
            )
        if not video:
            raise InputError("A video needs at least one frame.")
        return self._one([self.pixels(open_picture(one)) for one in video])

    @staticmethod
    def _one(made: list[np.ndarray]) -> np.ndarray:
        shapes = sorted({one.shape for one in made})
        if len(shapes) > 1:
            raise InputError(f"Pictures of one call become one size; received some that become {shapes}.")
        return np.stack(made)

    def pixels(self, picture: Image) -> np.ndarray:
        """Pixel values ``[C, H, W]`` of one picture, as it is before it is padded; of tiles of it ``[T, C, H, W]``."""
        if self.tiles is None:
            return pixels(picture, self.steps)
        place = self.steps.index(self.tiles)
        before: Sequence[Any] = self.steps[:place]  # of pictures alone: colours, or a turn
        for step in before:
            picture = step(picture)
        return np.stack([pixels(tile, self.steps[place + 1 :]) for tile in self.tiles(picture)])

    def grid(self, picture: Image) -> Grid:
        """Rows and columns of the tiles that a picture is cut into."""
        return self.tiles.grid(picture.size) if isinstance(self.tiles, Tiling) else Grid(0, 0)

    def row(self, picture: Image) -> dict[str, np.ndarray]:
        """Model inputs of one picture: its pixel values, and their mask where a part of them is padding."""
        made = self.pixels(picture)
        if self._patches:
            return {self.port: made, "attention_mask": _real(made)}
        if self._pad is None or not self._pad.height:
            return {self.port: made}
        [padded], [mask] = self._pad([made])
        return {self.port: padded, MASK: mask}


def _real(patches: np.ndarray) -> np.ndarray:
    """Which patches [..., P, 2 + D] are there: a row's number is 1 at least."""
    real: np.ndarray = (patches[..., 0] != 0).astype(np.int64)
    return real


def is_picture(value: Any) -> bool:
    """Whether a value is one picture, as far as can be told without opening it."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return True
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3)
    return not isinstance(value, (list, tuple, Mapping)) and hasattr(value, "convert") and hasattr(value, "size")


def open_picture(value: Any, *, upright: bool = False) -> Image:
    """A picture of a file's name, an http address, a file's content, a Pillow image or a uint8 array ``[H, W]``,
    ``[H, W, C]`` or ``[C, H, W]``.

    Args:
        upright: turned as its EXIF data says, and made RGB, as upstream's pipelines do.

    Raises:
        InputError: there is no such file, or it is no picture, or larger than Pillow takes; or what `fetched` raises.
    """
    image = _pillow()
    if isinstance(value, np.ndarray):
        picture = image.fromarray(_channels_last(value))
    elif isinstance(value, (str, bytes, os.PathLike)):
        picture = _from_file(image, value)
    elif isinstance(value, image.Image):
        picture = value
    else:
        raise InputError(
            "A picture is a file's name, an http address, a Pillow image or a uint8 array [H, W, 3]; received "
            f"{type(value).__name__}: {value!r:.80}."
        )
    if upright:
        from PIL import ImageOps

        picture = ImageOps.exif_transpose(picture).convert("RGB")
    found: Image = picture
    return found


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError(
            'Pictures are read by Pillow, which is not installed. Install it (pip install "precast[vision]"), or call '
            "the model with pixel_values."
        ) from error
    return Image


def _from_file(image: Any, value: str | bytes | os.PathLike[str]) -> Image:
    name = f"{len(value)} bytes" if isinstance(value, bytes) else repr(os.fspath(value))
    if is_address(value):
        value = fetched(str(value), noun="picture")
    try:
        picture: Image
        with image.open(BytesIO(value) if isinstance(value, bytes) else value) as picture:
            picture.load()  # here what is damaged shows
    except FileNotFoundError as error:
        raise InputError(f"There is no picture {name}: no such file.") from error
    except (image.DecompressionBombWarning, image.DecompressionBombError) as error:
        raise InputError(f"The picture {name} is too large: {error}") from error
    except image.UnidentifiedImageError as error:
        raise InputError(f"{name} is no picture of a kind that Pillow reads.") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"The picture {name} cannot be read: {error!s:.200}.") from error
    return picture


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise InputError(
            f"An array of a picture holds uint8, 0 to 255; received {array.dtype}. Numbers that are normalised already "
            "are the model's own input: model(pixel_values=...)."
        )
    if array.ndim == 2:
        return array
    if array.ndim == 3 and 0 not in array.shape:
        if array.shape[0] in (1, 3, 4):
            # As upstream tells it; where both ends could be channels, too.
            array = np.moveaxis(array, 0, -1)
        if array.shape[2] == 1:
            return array[..., 0]
        if array.shape[2] in (3, 4):
            return np.ascontiguousarray(array)
    raise InputError(f"An array of a picture is [H, W, 3] or [3, H, W]; received {list(array.shape)}.")
