"""What tasks that end in sound share: a model that makes it, or a spectrogram, and a vocoder beside it."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.base import Reader
from precast.runtime.tasks.base import Request, Row, Task, config_fields

__all__ = ["Speaking", "voice"]

Reads = TypeVar("Reads", bound=Reader)


class Speaking(Task[Reads]):
    """Something -> ``{"audio", "sampling_rate"}``: a float32 array [samples] of numbers between -1 and 1, and how many
    of them are a second.

    Args:
        vocoder: of a model that makes spectrograms: the artifact, or the loaded model, that makes sound of them.
        sampling_rate: None: what the model's config says.
    """

    def __init__(self, model: Any, vocoder: Any = None, sampling_rate: int | None = None, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        self.vocoder = self._opened(vocoder)
        if sampling_rate is None:
            speaks = model if self.vocoder is None else self.vocoder
            stated = config_fields(speaks.config).optional_count("sampling_rate", None, least=1)
            self.sampling_rate = stated or getattr(speaks, "sampling_rate", None)
        else:
            self.sampling_rate = arguments.whole("sampling_rate", sampling_rate)

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Each alone: what one says is as long as it takes, and a vocoder hears what a batch is filled up with."""
        return id(row)

    def compute(
        self, batch: Mapping[str, Any], rows: object, parameters: Mapping[str, Any]
    ) -> Mapping[str, np.ndarray]:
        outputs: Mapping[str, np.ndarray] = self.model(**batch, **parameters.get("given", {}))
        if self.vocoder is None:
            return outputs
        made: Mapping[str, np.ndarray] = self.vocoder(spectrogram=outputs["spectrogram"])
        return made

    def keep(self, outputs: Mapping[str, np.ndarray], index: int, span: slice, row: Row) -> np.ndarray:
        return np.array(outputs["waveform"][index], np.float32)

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"audio": kept[0], "sampling_rate": self.sampling_rate}

    def _opened(self, vocoder: Any) -> Any:
        """What makes sound of spectrograms, or None where the model does so itself."""
        speaks = "waveform" in self.model.output_names
        if vocoder is None:
            if not speaks:
                raise InputError(
                    f"{self.name} needs a vocoder beside this model, which makes spectrograms. Pass the artifact of "
                    "one: pipeline(..., vocoder=...)."
                )
            return None
        if speaks:
            raise InputError("This model makes sound itself; leave vocoder out.")
        if not hasattr(vocoder, "output_names"):
            from precast.runtime.loading import load

            vocoder = load(arguments.path("vocoder", vocoder))
        if "waveform" not in vocoder.output_names or isinstance(vocoder, type):
            raise InputError(f"vocoder is the artifact of a model that makes waveforms; received {vocoder!r:.80}.")
        return vocoder


def voice(speaker_embeddings: Any) -> Any:
    """Who speaks, as numbers; of a .npy file's name, what is in it.

    Raises:
        InputError: there is no such file, or it holds no array of numbers.
    """
    if not isinstance(speaker_embeddings, (str, os.PathLike)):
        return speaker_embeddings
    path = Path(speaker_embeddings)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"speaker_embeddings cannot be read from {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(
            f"speaker_embeddings is an array of numbers, or a .npy file of one (numpy.save); {path} is none: {error}."
        ) from error
