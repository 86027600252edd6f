"""Text to audio: a text, read aloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.text import TextReader
from precast.runtime.tasks._speaking import Speaking, voice
from precast.runtime.tasks.base import Request

__all__ = ["PIPELINE", "TextToAudio"]


class TextToAudio(Speaking[TextReader]):
    """A text -> ``{"audio", "sampling_rate"}``, as `Speaking` has it."""

    name = "text-to-audio"
    reads = TextReader

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
        """``forward_params``: what else the model is called with, by name; the others are what it is most. A voice may
        be a .npy file."""
        more = {} if generate_kwargs is None else dict(arguments.mapping("generate_kwargs", generate_kwargs))
        if more and not hasattr(self.model, "generate"):
            raise InputError(
                f"generate_kwargs are of models that generate, which this one does not; received "
                f"{generate_kwargs!r:.80}. Give what it is called with as forward_params."
            )
        given = {} if forward_params is None else dict(arguments.mapping("forward_params", forward_params))
        given |= more
        named = {"seed": seed, "speaker_embeddings": voice(speaker_embeddings), "speaker_id": speaker_id}
        named |= {"speaking_rate": speaking_rate, "voice_preset": voice_preset}
        given |= {name: value for name, value in named.items() if value is not None}
        for name in ("input_ids", "attention_mask"):
            if name in given:
                raise InputError(f"{name} is what the text becomes; leave it out of forward_params.")
        return {"given": given} if given else {}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        options = getattr(self.model, "text_options", {})
        return [Request([row]) for row in self.reader.rows(self.reader.encode(items, options))]


PIPELINE = TextToAudio
