"""What a model remembers between the calls of one conversation: a prompt that begins as the last one did is not
processed again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.engine import Engine, Session

__all__ = ["Conversation"]

_SMALLEST = 256


class Conversation:
    """Hand it to every call (``past=``); one row, one call at a time.

    It costs the memory of a session of ``capacity`` tokens until it is forgotten. Results are those of fresh calls.
    """

    def __init__(self, capacity: int | None = None) -> None:
        """
        Args:
            capacity: tokens to make room for at once; without it, room doubles as the conversation grows, and each
                time the whole conversation is processed anew.
        """
        if capacity is not None and capacity < 1:
            raise InputError(f"A conversation's capacity is at least 1 token; received {capacity}.")
        self._wanted = capacity
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._context: dict[str, Array] | None = None
        self._lock = threading.Lock()
        self.tokens: list[int] = []
        """What the session holds."""
        self.reused = 0
        """Tokens of the last call's prompt that needed no processing."""

    def forget(self) -> None:
        """Give the memory back; the next call starts afresh."""
        self._engine = self._session = self._context = None
        self.tokens = []

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """For the length of one call.

        Raises:
            InputError: another call is under way.
        """
        if not self._lock.acquire(blocking=False):
            raise InputError(
                "A conversation serves one call at a time; this one is in use. Wait for (or close) the call under way, "
                "or use another Conversation."
            )
        try:
            yield
        finally:
            self._lock.release()

    def resume(
        self, engine: Engine, prompt: Sequence[int], capacity: int, context: Mapping[str, Array] | None
    ) -> tuple[Session, list[int]]:
        """A session that holds a beginning of the prompt, and the rest of it, one token at least."""
        session = self._session
        keep = 0
        if session is not None and self._engine is engine and session.capacity >= capacity and self._same(context):
            while keep < min(len(self.tokens), len(prompt) - 1) and self.tokens[keep] == prompt[keep]:
                keep += 1
            if len(self.tokens) - keep > session.rollback:
                keep = 0
        if keep and session is not None:
            if keep < len(self.tokens):
                session.truncate([keep])
        else:
            room = max(capacity, self._wanted or 0, _SMALLEST)
            if session is not None and self._engine is engine and session.capacity < capacity:
                room = max(room, 2 * session.capacity)
            if engine.max_length is not None:
                room = max(min(room, engine.max_length), capacity)
            self.forget()
            session = engine.open(1, room, context)
            self._engine, self._session = engine, session
            self._context = {name: np.array(value) for name, value in context.items()} if context else None
        self.reused = keep
        # A call that fails leaves a session nobody can vouch for: it is known again once the call has ended well.
        self._session = None
        self.tokens = []
        return session, list(prompt[keep:])

    def keep(self, session: Session, tokens: Array) -> None:
        """A call has ended; ``tokens`` [L] are those of its row, of which the session holds a beginning."""
        held = int(session.lengths[0])
        self._session, self.tokens = session, [int(token) for token in tokens[:held]]

    def _same(self, context: Mapping[str, Array] | None) -> bool:
        if context is None or self._context is None:
            return context is None and self._context is None
        return context.keys() == self._context.keys() and all(
            np.array_equal(value, self._context[name]) for name, value in context.items()
        )
