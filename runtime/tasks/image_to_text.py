"""Image to text: what a picture shows or says, written down. Upstream's version 4 was the last with this task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.processors.image import open_picture
from precast.runtime.readers.image import ImageReader
from precast.runtime.tasks._generation import GenerationTask
from precast.runtime.tasks.base import Request, Row

if TYPE_CHECKING:
    from precast.runtime.generation.streaming import Stream

__all__ = ["PIPELINE", "ImageToText", "WritingReader"]


class WritingReader(ImageReader):
    """Pictures, of which texts are made.

    Raises:
        InputError: there is no image processor, or no tokenizer.
    """

    parts = ("image_processor", "tokenizer")
    continues = False  # what is written is no continuation of what is read

    def __init__(self, model: Any, *, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(model, **options)
        self.tokenizer = self.processor(model, "tokenizer", tokenizer)

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        names = self.image_processor.model_input_names
        return super().collate([{name: row[name] for name in names if name in row} for row in rows])


class ImageToText(GenerationTask):
    """A picture -> ``[{"generated_text": ...}]``, one a return.

    ``prompt`` is what texts begin with; one that begins with a special token, as those of Donut's tasks do, takes the
    place of the token that they start with otherwise. Models that read what is asked of a picture above it, as DePlot
    and MatCha do, find it there, in a TrueType ``font``. Stops after 256 tokens unless the checkpoint or the call says
    otherwise, as upstream does.
    """

    name = "image-to-text"
    reads = WritingReader  # type: ignore[assignment]
    usual = {"max_new_tokens": 256}  # noqa: RUF012 - read only
    reader: WritingReader  # type: ignore[assignment]

    def __init__(self, model: Any, **defaults: Any) -> None:
        source = model.engine().source if hasattr(model, "engine") else None
        if source is None or source.is_text:
            raise InputError(
                "image-to-text needs a model that writes of a picture alone; of one that continues texts with pictures "
                "among their tokens ask pipeline('image-text-to-text', ...)."
            )
        super().__init__(model, **defaults)

    def __call__(self, inputs: Any = None, *, images: Any = None, **parameters: Any) -> Any:
        inputs = images if inputs is None else inputs
        if inputs is None:
            raise InputError("image-to-text needs a picture, or a list of them.")
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        prompt: str | None = None,
        font: str | os.PathLike[str] | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        given = {} if generate_kwargs is None else arguments.mapping("generate_kwargs", generate_kwargs)
        twice = sorted(given.keys() & generation.keys())
        if twice:
            raise InputError(f"{twice[0]} is given in generate_kwargs and beside it: give one of them.")
        checked = self.arguments({**given, **generation})
        if prompt is not None and self.image_processor.header:
            checked["above"] = arguments.text("prompt", prompt)
        elif prompt is not None:
            checked["begun"] = self._begun(arguments.text("prompt", prompt))
        if font is not None:
            checked["font"] = arguments.path("font", font)
        for name, flag in (("clean", clean_up_tokenization_spaces), ("skip_special_tokens", skip_special_tokens)):
            if flag is not None:
                checked[name] = flag
        return checked

    def _begun(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt; raises InputError where there are none."""
        found = tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if not found:
            raise InputError("prompt is what texts begin with, and this one holds no token. Leave it out.")
        return found

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        if "above" in parameters:
            written, text, font = self.image_processor.written, parameters["above"], parameters.get("font")
            items = [written(open_picture(item, upright=True), text, font) for item in items]
        return [Request([row]) for row in self.numbered([self.reader.row(item) for item in items], parameters)]

    def call_arguments(self, rows: Sequence[Row], parameters: Mapping[str, Any]) -> dict[str, Any]:
        made = super().call_arguments(rows, parameters)
        begun = parameters.get("begun")
        if begun is not None:
            made["decoder_input_ids"] = np.tile(np.array(begun, np.int64), (len(rows), 1))
            if begun[0] in self.tokenizer.special_ids:
                made["decoder_start_token_id"] = begun[0]
        return made

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        (sequences,) = kept
        return [{"generated_text": self._decoded(sequence.tolist(), parameters)} for sequence in sequences]

    def _decoded(self, ids: list[int], parameters: Mapping[str, Any]) -> str:
        skipped, clean = parameters.get("skip_special_tokens", True), parameters.get("clean")
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skipped, clean_up_tokenization_spaces=clean)
        return text

    def stream(self, item: Any, **parameters: Any) -> Stream[str]:
        """The text of one picture, piece by piece while it is written.

        :raises InputError: as a call; or it asks for beams or several answers."""
        from precast.runtime.generation.streaming import stream_text

        merged = self._of_call({**self._defaults, **self._check(parameters)})
        (request,) = self.prepare([item], merged)
        given = {**self.collate(request.rows), **self.call_arguments(request.rows, merged)}
        return stream_text(self.model, decode=partial(self._decoded, parameters=merged), **given)


PIPELINE = ImageToText
