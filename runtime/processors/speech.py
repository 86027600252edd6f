"""Recordings and texts of one model at once: what hears, and what reads and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precast.runtime.errors import InputError
from precast.runtime.processors.model_inputs import ModelInputs

if TYPE_CHECKING:
    from precast.runtime.processors.audio import FeatureExtractor
    from precast.runtime.processors.spelling import Spelling
    from precast.runtime.processors.text import Tokenizer

__all__ = ["SpeechProcessor"]


class SpeechProcessor:
    """Recordings to model inputs, and what a model makes of them to texts; upstream's calls."""

    def __init__(self, feature_extractor: FeatureExtractor, tokenizer: Tokenizer | Spelling) -> None:
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.model_input_names = list(feature_extractor.model_input_names)

    def __repr__(self) -> str:
        return f"SpeechProcessor({self.feature_extractor!r}, {self.tokenizer!r})"

    def __call__(self, audio: Any = None, *, text: Any = None, **options: Any) -> ModelInputs:
        """What the model hears of a recording, or a list of them, options as of `FeatureExtractor`; or the tokens of a
        ``text``, or a list of them, options as of `Tokenizer`.

        Raises:
            InputError: there is neither, or both, or nothing here makes tokens of texts; or as these do.
        """
        if (audio is None) == (text is None):
            raise InputError(
                "This processor hears recordings, processor(audio), or reads texts, processor(text=...), and writes "
                f"texts by processor.batch_decode; received {'neither' if audio is None else 'both'}."
            )
        if text is None:
            return self.feature_extractor(audio, **options)
        if not callable(self.tokenizer):
            raise InputError("This processor reads no texts: its vocabulary spells what is heard. Give it recordings.")
        made: ModelInputs = self.tokenizer(text, **options)  # type: ignore[assignment] # upstream's own, by name too
        return made

    def decode(self, token_ids: Any, **options: Any) -> str:
        """The text of one recording's tokens, [T]."""
        text: str = self.tokenizer.decode(token_ids, **options)
        return text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """The texts of several, [N, T]."""
        return [self.decode(one, **options) for one in sequences]
