"""Text to audio: a text, read aloud."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader
from precast.runtime.tasks.base import Request, Row, Task, config_fields

__all__ = ["PIPELINE", "TextToAudio"]


class TextToAudio(Task[TextReader]):
    """A text -> ``{"audio", "sampling_rate"}``: a float32 array [samples] of numbers between -1 and 1, and how many of
    them are a second.

    Args:
        vocoder: of a model that makes spectrograms: the artifact, or the loaded model, that makes sound of them.
        sampling_rate: None: what the model's config says.
    """

    name = "text-to-audio"
    reads = TextReader

    def __init__(self, model: Any, vocoder: Any = None, sampling_rate: int | None = None, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        self.vocoder = self._opened(vocoder)
        if sampling_rate is None:
            speaks = model if self.vocoder is None else self.vocoder
            stated = config_fields(speaks.config).optional_count("sampling_rate", None, least=1)
            self.sampling_rate = stated or getattr(speaks, "sampling_rate", None)
        else:
            self.sampling_rate = arguments.whole("sampling_rate", sampling_rate)

    def __call__(self, inputs: Any = None, *, text_inputs: Any = None, **parameters: Any) -> Any:
        """``text_inputs``: what upstream calls the texts."""
        inputs = text_inputs if inputs is None else inputs
        if inputs is None:
            raise InputError(f"{self.name} needs a text, or a list of them.")
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        forward_params: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = None,
        speaker_embeddings: Any = None,
        speaker_id: int | None = None,
        speaking_rate: float | None = None,
        voice_preset: Any = None,
    ) -> dict[str, Any]:
        """``forward_params``: what else the model is called with, by name; the others are what it is most."""
        more = {} if generate_kwargs is None else dict(arguments.mapping("generate_kwargs", generate_kwargs))
        if more and not hasattr(self.model, "generate"):
            raise InputError(
                f"generate_kwargs are of models that generate, which this one does not; received "
                f"{generate_kwargs!r:.80}. Give what it is called with as forward_params."
            )
        given = {} if forward_params is None else dict(arguments.mapping("forward_params", forward_params))
        given |= more
        named = {"seed": seed, "speaker_embeddings": speaker_embeddings, "speaker_id": speaker_id}
        named |= {"speaking_rate": speaking_rate, "voice_preset": voice_preset}
        given |= {name: value for name, value in named.items() if value is not None}
        for name in ("input_ids", "attention_mask"):
            if name in given:
                raise InputError(f"{name} is what the text becomes; leave it out of forward_params.")
        return {"given": given} if given else {}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        options = getattr(self.model, "text_options", {})
        return [Request([row]) for row in self.reader.rows(self.reader.encode(items, options))]

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Each alone: what one says is as long as it takes, and a vocoder hears what a batch is filled up with."""
        return id(row)

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
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


PIPELINE = TextToAudio
