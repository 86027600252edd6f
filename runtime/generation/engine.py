"""What the generation loop knows of a model, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from precast.runtime.backends.base import Array
from precast.runtime.generation.among import Among
from precast.runtime.generation.sources import Source

__all__ = ["Engine", "Session"]


class Session(Protocol):
    """A few rows of tokens and what the model remembers of them. One thread at a time."""

    rows: int
    lengths: Array
    """[R] int64: how many tokens each row holds."""
    capacity: int
    """Tokens a row may hold."""

    @property
    def rollback(self) -> int:
        """How many tokens `truncate` can surely take back now; 0 where the model's state cannot be undone."""
        ...

    def feed(self, tokens: Sequence[Sequence[int]], keep: int = 1) -> Array:
        """Append each row's new tokens, one at least, and return logits [R, keep, V] float32.

        Entry ``[r, -1]`` belongs to the row's last token, ``[r, -2]`` to the one before; entries for tokens a row was
        not fed are undefined. The array is the caller's to overwrite, and valid until the next call.

        Raises:
            InputError: a row would outgrow the capacity.
        """
        ...

    def select(self, rows: Sequence[int]) -> None:
        """New row ``i`` continues old row ``rows[i]``: beams change parents, finished rows go, one becomes several."""
        ...

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget each row's tokens beyond a length.

        Raises:
            InputError: the state cannot go back that far (see ``rollback``).
        """
        ...


class Engine(Protocol):
    """A model that continues token sequences; safe to open sessions from many threads."""

    vocab_size: int
    source: Source | None
    """What its sessions are conditioned on; None: on nothing."""
    among: Among | None
    """What may stand among the tokens of a prompt; None: nothing."""
    prompt_start: int | None
    """Where texts beside what it perceives are what its answers begin with: the token these start with."""
    max_length: int | None
    """Most tokens a row may hold, prompt included; None: unbounded."""

    def encoded(self, context: Mapping[str, Array]) -> Mapping[str, Array]:
        """What is made of a context once, which `open` takes in its place any number of times."""
        ...

    def open(self, rows: int, capacity: int, context: Mapping[str, Array] | None = None) -> Session:
        """A session of empty rows.

        Args:
            context: what each row is conditioned on, [R, ...] each: an encoder's inputs, as ``source`` reads them.
        """
        ...
