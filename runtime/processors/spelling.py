"""Frames of a recording as text: the vocabulary of a model with connectionist temporal classification (CTC), by which a
token that lasts is one, and blanks are none. https://www.cs.toronto.edu/~graves/icml_2006.pdf"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.fields import Fields

__all__ = ["Piece", "Spelling"]

_MOST_TOKENS = 1 << 20


class Piece(NamedTuple):
    """Some text, and the frames it lasts: from ``start`` to in front of ``end``."""

    text: str
    start: int
    end: int


class Spelling:
    """Tokens of frames to text. Safe to call from many threads.

    Args:
        tokens: by id; an id that none has is ``unknown``.
        blank: the token that is none.
        delimiter: the token between words, or None. space: what stands for it in texts.
        lower: texts are in lower case.
        special: tokens that are left out where that is asked for.
    """

    def __init__(
        self,
        tokens: Mapping[int, str],
        *,
        blank: str,
        unknown: str,
        delimiter: str | None = None,
        space: str = " ",
        lower: bool = False,
        special: Iterable[str] = (),
    ) -> None:
        self.tokens = dict(tokens)
        self.blank, self.unknown, self.delimiter, self.space, self.lower = blank, unknown, delimiter, space, lower
        self.special = frozenset(special)

    @classmethod
    def from_data(cls, said: Mapping[str, Any]) -> Spelling:
        """From ``processing["spelling"]`` of a manifest."""
        fields = Fields(dict(said), "processing.spelling")

        def listed(value: Any) -> bool:
            known = isinstance(value, list) and len(value) <= _MOST_TOKENS
            return known and all(one is None or isinstance(one, str) for one in value)

        tokens = fields.take("tokens", "a list of tokens by id, null where there is none", listed)
        made = cls(
            {number: token for number, token in enumerate(tokens) if token is not None},
            blank=fields.text("blank"),
            unknown=fields.text("unknown"),
            delimiter=fields.optional_text("delimiter", None),
            space=fields.take("space", "a string", lambda v: isinstance(v, str), " "),
            lower=fields.flag("lower", False),
            special=fields.texts("special", []),
        )
        fields.close()
        return made

    def __repr__(self) -> str:
        return f"Spelling({len(self.tokens)} tokens)"

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of one recording's tokens, [frames]."""
        if skip_special_tokens:
            # As upstream: in front of everything else, so that what a blank parted becomes one.
            hidden = self.special - {self.delimiter}
            token_ids = [one for one in token_ids if self.tokens.get(int(one), self.unknown) not in hidden]
        return self.text(self.pieces(token_ids))

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of several, [N, frames]."""
        return [self.decode(one, skip_special_tokens) for one in sequences]

    def pieces(self, token_ids: Any) -> list[Piece]:
        """The characters, or whatever the vocabulary spells with, of one recording's tokens, and when they are.

        Raises:
            InputError: these are no ids.
        """
        ids = np.asarray(token_ids)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(f"Tokens of a recording are integers [frames]; received {ids.dtype} {list(ids.shape)}.")
        made, frame = [], 0
        # Two ids may be one token: those that nothing is known of are.
        for token, run in groupby(self.tokens.get(int(each), self.unknown) for each in ids):
            end = frame + sum(1 for _ in run)
            if token != self.blank:
                made.append(Piece(self.space if token == self.delimiter else token, frame, end))
            frame = end
        return made

    def text(self, pieces: Sequence[Piece]) -> str:
        """Pieces as one text."""
        made = "".join(piece.text for piece in pieces).strip()
        return made.lower() if self.lower else made

    def words(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Pieces between spaces, together."""
        made = []
        for spaces, run in groupby(pieces, key=lambda piece: piece.text == self.space):
            if not spaces:
                word = list(run)
                made.append(Piece("".join(piece.text for piece in word), word[0].start, word[-1].end))
        return made
