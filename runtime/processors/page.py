"""Pages to model inputs in one call: what a model sees of each, and its words with their boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.processors.image import ImageProcessor
from precast.runtime.processors.model_inputs import ModelInputs
from precast.runtime.processors.text import PageTokenizer

__all__ = ["PageProcessor"]


class PageProcessor:
    """Pictures of pages, and their words with boxes, to model inputs: upstream's ``LayoutLMv3Processor``.

    Where its image processor reads words (``apply_ocr``), these are the page's; else a call brings them.
    """

    def __init__(self, image_processor: ImageProcessor, tokenizer: PageTokenizer) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.model_input_names = list(dict.fromkeys((*tokenizer.model_input_names, *image_processor.model_input_names)))

    def __repr__(self) -> str:
        return f"PageProcessor({self.image_processor!r}, {self.tokenizer!r})"

    def __call__(
        self,
        images: Any,
        text: Any = None,
        text_pair: Any = None,
        boxes: Any = None,
        word_labels: Any = None,
        *,
        return_tensors: str | None = None,
        return_overflowing_tokens: bool = False,
        **options: Any,
    ) -> ModelInputs:
        """``input_ids``, ``bbox`` and their companions of words, and ``pixel_values`` of their pages.

        Args:
            images: a page's picture, or a list of them.
            text: its words; or what is asked, with the words as ``text_pair``, where these are not read.
            boxes, word_labels, options: the tokenizer's.

        Raises:
            InputError: words that are read come with boxes; pages are not as many as pictures; or as the two raise it.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors can be 'np' here, there is no torch; received {return_tensors!r}.")
        reads = self.image_processor.ocr is not None
        if reads and (boxes is not None or word_labels is not None):
            what = "boxes" if boxes is not None else "word_labels"
            raise InputError(
                f"The image processor reads the words of a page (apply_ocr), so that no {what} are given. Leave them "
                "out, or set apply_ocr to false in the checkpoint's preprocessor_config.json."
            )
        seen: Any = self.image_processor(images)
        pixels = seen[self.image_processor.port]
        if reads:
            if text is not None and text_pair is None:
                text, text_pair = [text] if isinstance(text, str) else text, seen["words"]
            text, boxes = seen["words"] if text is None else text, seen["boxes"]
        elif text is None:
            raise InputError("Words of a page are not read here (apply_ocr false): give them, text=[...], boxes=[...].")
        count = self._pages(text, text_pair)
        if count != len(pixels):
            raise InputError(f"Each page has a picture and words; received {len(pixels)} pictures, words of {count}.")
        options.setdefault("padding", count > 1 or return_overflowing_tokens)
        encoding = self.tokenizer(
            text,
            text_pair,
            boxes=boxes,
            word_labels=word_labels,
            return_tensors="np",
            return_overflowing_tokens=return_overflowing_tokens,
            **options,
        )
        made = ModelInputs(encoding)
        owners = encoding["overflow_to_sample_mapping"] if return_overflowing_tokens else np.arange(count)
        made[self.image_processor.port] = pixels[owners]
        return made

    @staticmethod
    def _pages(text: Any, text_pair: Any) -> int:
        """How many pages there are words of."""
        text = arguments.listed(text)
        if not isinstance(text, (list, tuple)):
            return 1
        several = text_pair is not None or (len(text) > 0 and isinstance(text[0], (list, tuple)))
        return len(text) if several else 1
