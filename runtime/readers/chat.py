"""Prompts of which one may be a chat: a list of messages that is one input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from precast.runtime import arguments
from precast.runtime.readers.text import PromptReader

__all__ = ["Chat", "ChatReader"]


@dataclass(frozen=True)
class Chat:
    """Messages that are one input, where a list would be several."""

    messages: list[Any]


class ChatReader(PromptReader):
    """Texts and chats."""

    def plain(self, inputs: Any) -> Any:
        inputs = arguments.listed(inputs)
        if isinstance(inputs, (list, tuple)):
            return Chat(list(inputs)) if inputs and isinstance(inputs[0], Mapping) else list(map(self.one, inputs))
        if not isinstance(inputs, (str, bytes, Mapping, Chat)) and isinstance(inputs, Iterable):
            return map(self.one, inputs)
        return inputs

    @staticmethod
    def one(item: Any) -> Any:
        """One input, told from several."""
        return Chat(list(item)) if isinstance(item, (list, tuple)) else item
