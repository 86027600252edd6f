"""Texts and the voice to say them in, as inputs of a model that speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from precast.runtime import arguments
from precast.runtime.arrays import read_npz
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, closest, listing
from precast.runtime.processors.text import Tokenizer

__all__ = ["VoiceProcessor", "found", "voices"]

_TOKENS = 256  # of a text, as upstream pads it

Voices = Mapping[str, Mapping[str, Array]]


def voices(data: bytes, name: str) -> dict[str, dict[str, Array]]:
    """The arrays of each voice by name, of the file that an export packs them into."""
    made: dict[str, dict[str, Array]] = {}
    for key, array in read_npz(data, name).items():
        voice, _, part = key.rpartition("|")
        made.setdefault(voice, {})[part] = array
    return made


def found(given: Any, known: Voices) -> Mapping[str, Any]:
    """A voice given as such, or the one of that name.

    Raises:
        InputError: there is none.
    """
    if not isinstance(given, str):
        return arguments.mapping("history_prompt", given)
    if given not in known:
        has = f"it has {len(known)}: {listing(known, 6)}" if known else "it has none"
        raise InputError(f"voice {given!r} is none of this artifact's; {has}. {closest(given, known)}".rstrip())
    return known[given]


class VoiceProcessor:
    """Upstream's ``BarkProcessor``: what `StagedSpeechModel.generate` takes of a text and a voice."""

    def __init__(self, tokenizer: Tokenizer, known: Voices) -> None:
        self.tokenizer, self._known = tokenizer, known
        self.model_input_names = ["input_ids", "attention_mask"]

    def __repr__(self) -> str:
        return f"VoiceProcessor({self.tokenizer!r}, {len(self._known)} voices)"

    @property
    def available_voice_presets(self) -> list[str]:
        """Names of the voices that the checkpoint brought."""
        return list(self._known)

    def __call__(
        self,
        text: Any,
        voice_preset: Any = None,
        *,
        return_tensors: str | None = "np",
        max_length: int = _TOKENS,
        add_special_tokens: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """``input_ids`` and ``attention_mask`` [N, max_length], and ``history_prompt`` of a voice.

        Args:
            text: one, or a list. voice_preset: the name of a voice, or its arrays.
            options: the tokenizer's.

        Raises:
            InputError: there is no such voice; or as the tokenizer raises it.
        """
        encoded = self.tokenizer(
            [text] if isinstance(text, str) else text,
            padding="max_length",
            max_length=max_length,
            return_tensors=return_tensors,
            add_special_tokens=add_special_tokens,
            return_attention_mask=return_attention_mask,
            return_token_type_ids=return_token_type_ids,
            **options,
        )
        made: dict[str, Any] = dict(encoded)
        if voice_preset is not None:
            made["history_prompt"] = dict(found(voice_preset, self._known))
        return made

    def batch_decode(self, *given: Any, **options: Any) -> list[str]:
        """As the tokenizer."""
        return self.tokenizer.batch_decode(*given, **options)

    def decode(self, *given: Any, **options: Any) -> str:
        """As the tokenizer."""
        text: str = self.tokenizer.decode(*given, **options)
        return text
