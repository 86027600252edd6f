"""Videos as pixel values of some of their frames, each by the artifact's image processor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np

from precast.runtime.errors import DependencyError, InputError
from precast.runtime.processors.image import open_picture
from precast.runtime.readers.base import Row
from precast.runtime.readers.image import PATCH, ImageReader

__all__ = ["VideoReader"]


@dataclass(frozen=True)
class _Frames:
    """One video by its frames: what a list of them was, so that a list is several inputs."""

    frames: Sequence[Any]


class VideoReader(ImageReader):
    """A video: a file's name or content, which PyAV reads; a list of its frames, Pillow images or uint8 arrays; or one
    array of them all, [F, H, W, 3]. A list of these is several videos."""

    window = 4  # 16 frames of 224 x 224 take 10 MB

    def plain(self, inputs: Any) -> Any:
        if isinstance(inputs, np.ndarray):
            return list(inputs) if inputs.ndim in (1, 5) else inputs
        if isinstance(inputs, (list, tuple)) and inputs and all(map(_is_frame, inputs)):
            return _Frames(inputs)
        return inputs

    def single(self, inputs: Any) -> bool:
        whole = (str, bytes, os.PathLike, np.ndarray, Mapping, _Frames)
        return isinstance(inputs, whole) or _is_frame(inputs) or not isinstance(inputs, Iterable)

    def row(self, item: Any, *, frames: int = 1, rate: int = 1) -> Row:
        """So many frames of one video as model inputs: of every ``rate`` frames about one, from the first on.

        Raises:
            InputError: there is no such file, it is no video, or it has fewer frames than that.
            DependencyError: a file is to be read, and PyAV is not installed.
        """
        wanted = np.linspace(0, frames * rate - 1, num=frames, dtype=np.int64).tolist()
        found = _chosen(_decoded(item), set(wanted), wanted[-1] + 1)
        if len(found) < frames:
            raise InputError(
                f"{frames} frames are taken of a video, the last of them its number {wanted[-1] + 1}; this one ends "
                f"before that. Give a longer one{', or a smaller frame_sampling_rate' if rate > 1 else ''}."
            )
        pixels = [self.image_processor.pixels(open_picture(frame).convert("RGB")) for frame in found]
        sizes = sorted({one.shape for one in pixels})
        if len(sizes) > 1:
            raise InputError(f"Frames of one video become one size; received some that become {sizes}.")
        return {self.image_processor.port: np.stack(pixels)}

    def cost(self, row: Row) -> int:
        count, _, height, width = row[self.image_processor.port].shape
        return max(1, int(count * height * width) // PATCH)


def _is_frame(value: Any) -> bool:
    """Whether it is one picture in memory."""
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3)
    return hasattr(value, "convert") and hasattr(value, "size")


def _chosen(frames: Iterator[Any], wanted: set[int], end: int) -> list[Any]:
    return [frame for number, frame in enumerate(islice(frames, end)) if number in wanted]


def _decoded(item: Any) -> Iterator[Any]:
    """The frames of one video, in order."""
    if isinstance(item, _Frames):
        item = item.frames
    if isinstance(item, (str, bytes, os.PathLike)):
        yield from _from_file(item)
    elif (isinstance(item, np.ndarray) and item.ndim == 4) or (isinstance(item, (list, tuple)) and item):
        yield from item
    else:
        shown = list(item.shape) if isinstance(item, np.ndarray) else f"{item!r:.80}"
        raise InputError(
            "A video is a file's name, a list of frames, or a uint8 array [F, H, W, 3]; received "
            f"{type(item).__name__}: {shown}."
        )


def _from_file(value: str | bytes | os.PathLike[str]) -> Iterator[np.ndarray]:
    name = f"{len(value)} bytes" if isinstance(value, bytes) else repr(os.fspath(value))
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise InputError(
            f"Videos are read from files; {value!r:.200} is an address. Fetch it first, and give the file."
        )
    try:
        import av
    except ImportError as error:
        raise DependencyError(
            'Videos are read by PyAV, which is not installed. Install it (pip install "precast[video]"), or give the '
            "frames: a list of pictures, or an array [F, H, W, 3]."
        ) from error
    try:
        with ExitStack() as stack:
            # Opened here: a name is a file's, never one of the protocols that the library knows.
            source = BytesIO(value) if isinstance(value, bytes) else stack.enter_context(open(value, "rb"))
            container: Any = stack.enter_context(av.open(source, options={"protocol_whitelist": "none"}))
            if not container.streams.video:
                raise InputError(f"{name} has no pictures, only {len(container.streams)} other streams.")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except FileNotFoundError as error:
        raise InputError(f"There is no video {name}: no such file.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"The video {name} cannot be read: {error!s:.200}.") from error
