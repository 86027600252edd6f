"""Summarization: a text, shorter. Upstream's version 4.57 was the last with this task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from precast.runtime.tasks.text2text_generation import Text2TextGeneration

__all__ = ["PIPELINE", "Summarization"]

_log = logging.getLogger(__name__)


class Summarization(Text2TextGeneration):
    """A text -> ``[{"summary_text": ...}]``, as text2text-generation; T5 is told to with the prefix its config has."""

    name = "summarization"
    result = "summary"

    def look_at(self, length: int, parameters: Mapping[str, Any]) -> None:
        most = self.config(parameters).max_length
        if most is not None and length < most:
            _log.info(
                "max_length is %d and the text has %d tokens only: for a summary, lower it, to %d say.",
                most,
                length,
                length // 2,
            )


PIPELINE = Summarization
