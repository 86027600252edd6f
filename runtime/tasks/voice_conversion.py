"""Voice conversion: what is said in a recording, in another voice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.audio import AudioReader
from precast.runtime.tasks._speaking import Speaking, voice
from precast.runtime.tasks.base import Request

__all__ = ["PIPELINE", "VoiceConversion"]

_HEARD = ("input_values", "attention_mask")


class VoiceConversion(Speaking[AudioReader]):
    """A recording -> ``{"audio", "sampling_rate"}``, as `Speaking` has it."""

    name = "voice-conversion"
    reads = AudioReader

    def __call__(self, inputs: Any = None, **parameters: Any) -> Any:
        if inputs is None:
            raise InputError(f"{self.name} needs a recording, or a list of them.")
        return super().__call__(inputs, **parameters)

    def check(
        self,
        *,
        speaker_embeddings: Any = None,
        forward_params: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        """``speaker_embeddings``: the voice, [1, E], as a speaker verification model makes it of a recording, or a .npy
        file of it. ``forward_params``: what else the model is called with, by name."""
        given = {} if forward_params is None else dict(arguments.mapping("forward_params", forward_params))
        named = {"seed": seed, "speaker_embeddings": voice(speaker_embeddings)}
        given |= {name: value for name, value in named.items() if value is not None}
        for name in _HEARD:
            if name in given:
                raise InputError(f"{name} is what the recording becomes; leave it out of forward_params.")
        return {"given": given} if given else {}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        if "speaker_embeddings" not in parameters.get("given", {}):
            raise InputError(
                f"{self.name} needs speaker_embeddings: the voice to speak in, as a speaker verification model makes "
                "it of a recording, an array [1, E] or a .npy file."
            )
        return [Request([self.reader.row(item)]) for item in items]


PIPELINE = VoiceConversion
