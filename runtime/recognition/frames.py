"""Models that name a token for every frame (CTC): the likeliest ones, spelled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fields import Fields
from precast.runtime.processors.audio import begun, open_recording, recording_blocks
from precast.runtime.processors.spelling import Spelling
from precast.runtime.readers.audio import AudioReader
from precast.runtime.recognition.base import Part, Recogniser, SoundRow, Windows, read_windows
from precast.runtime.tasks.base import Request, Row

__all__ = ["RECOGNISER", "FrameRecogniser"]

_STAMPS = ("char", "word")
_DECODERS = ("decoder", "decoder_kwargs")  # upstream's arguments
_MOST = 1 << 24  # samples of a frame


class FrameRecogniser(Recogniser):
    """By the likeliest token of every frame. https://www.cs.toronto.edu/~graves/icml_2006.pdf"""

    def __init__(self, model: Any, reader: AudioReader) -> None:
        super().__init__(model, reader)
        self.spelling: Spelling | None = model.spelling
        said = Fields(dict(model.artifact.reading("spelled")), "processing.spelled")
        self.step = int(said.take("step", f"an integer from 1 to {_MOST}", _is_samples))
        self.reach: int | None = said.take("reach", f"an integer from 1 to {_MOST}", _is_samples, None)
        said.close()

    @classmethod
    def fits(cls, model: Any) -> bool:
        return "ctc" in model.tasks

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(given)
        windows = read_windows(given.pop("chunk_length_s", None), given.pop("stride_length_s", None))
        stamps = given.pop("return_timestamps", None)
        for name, value in given.items():
            if value is not None and name in _DECODERS:
                raise InputError(
                    f"{name} is for beams with a language model (pyctcdecode), which nothing here searches: every "
                    "frame is the token it is likeliest to be. Leave it out, or give the model's logits to a decoder "
                    "yourself: model(**extractor(recording)).logits."
                )
            if value is not None:
                raise InputError(f"{name} is for models that write, and this one spells every frame. Leave it out.")
        if stamps is not None and stamps is not False and stamps not in _STAMPS:
            raise InputError(
                f"return_timestamps is 'char' or 'word' of a model that spells every frame; received {stamps!r:.80}."
            )
        checked: dict[str, Any] = {} if windows is None else {"windows": windows}
        return checked if stamps is None else {**checked, "stamps": stamps or None}

    def prepare(self, item: Any, parameters: Mapping[str, Any]) -> Request:
        rate = self.reader.feature_extractor.sampling_rate
        windows: Windows | None = parameters.get("windows")
        if windows is not None:
            parts = windows.parts(begun(recording_blocks(item, rate)), rate, self.step)
            return Request([], coming=(self._row(sound, part) for part, sound in parts))
        sound = open_recording(item, rate)
        return Request([self._row(sound, self._stride(item, len(sound), rate))])

    def _row(self, sound: np.ndarray, part: Part | None) -> SoundRow:
        extractor = self.reader.feature_extractor
        row = SoundRow({extractor.port: extractor.heard(sound)})
        row.part = part
        return row

    @staticmethod
    def _stride(item: Any, samples: int, rate: int) -> Part | None:
        """What a dictionary says of context in it, in samples at its own rate."""
        stride = item.get("stride") if isinstance(item, Mapping) else None
        if stride is None:
            return None
        good = isinstance(stride, (list, tuple)) and len(stride) == 2
        if not good or not all(isinstance(one, int) and one >= 0 for one in stride):
            raise InputError(f'"stride" is how many samples at either end lend context; received {stride!r:.80}.')
        left, right = (round(one * rate / int(item["sampling_rate"])) for one in stride)
        if left + right > samples:
            raise InputError(f'"stride" is {stride}, and the recording has {samples} samples at {rate} Hz.')
        return Part(samples, left, right)

    def together(self, row: Row) -> Hashable:
        return None if self.reach is not None else row[self.reader.feature_extractor.port].shape

    def keep(self, outputs: Mapping[str, Any], index: int, row: Row) -> np.ndarray:
        """The likeliest token of each frame of its own, without context."""
        samples = len(row[self.reader.feature_extractor.port])
        frames = None if self.reach is None else (samples - self.reach) // self.step + 1
        tokens: np.ndarray = np.asarray(outputs["logits"][index][:frames]).argmax(axis=-1)
        part = row.part if isinstance(row, SoundRow) else None
        if part is None:
            return tokens
        total = round(part.samples / self.step)
        left, right = (round(side / part.samples * total) for side in (part.left, part.right))
        return tokens[left : total - right]

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        if self.spelling is None:
            why = self.model.why_no_spelling
            raise InputError(f"The artifact has no vocabulary to spell with{f' ({why})' if why else ''}.")
        pieces = self.spelling.pieces(np.concatenate(kept))
        result: dict[str, Any] = {"text": self.spelling.text(pieces)}
        stamps = parameters.get("stamps")
        if stamps is not None:
            second = self.step / self.reader.feature_extractor.sampling_rate
            timed = pieces if stamps == "char" else self.spelling.words(pieces)
            result["chunks"] = [
                {"text": piece.text, "timestamp": (piece.start * second, piece.end * second)} for piece in timed
            ]
        return result


def _is_samples(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST


RECOGNISER = FrameRecogniser
