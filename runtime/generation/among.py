"""What stands among the tokens of a prompt: pictures, or whatever else is perceived, as features at tokens that hold
their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import ArtifactError, InputError, listing
from precast.runtime.generation.grids import GRID, KINDS, Grids, walked
from precast.runtime.generation.tiles import SIZES, Tiles
from precast.runtime.inputs import Inputs
from precast.runtime.ports import Dim, Port

__all__ = ["COUNTS", "FEATURES", "ROWS", "Among", "Placed", "token_of"]

FEATURES, ROWS = "features", "feature_rows"
"""The decoder's ports: features [F, H] of all that is perceived, and which of them stands at each token, or -1."""
COUNTS = "feature_counts"
"""Among the arrays of a context: how many places each prompt has, [N]."""


class Among:
    """What a caller may give beside a prompt, to the components that make its features.

    Args:
        ports: theirs, that of the pictures first. dims: how large the named dimensions may be.
        token: the id that holds the place of a feature.
        tiles: how pictures are cut whose features stand in another order than they are made; None: they are not.
        grids: how pictures of any size are patches; None: they have one size.
    """

    def __init__(
        self,
        ports: Sequence[Port],
        dims: Mapping[str, Dim],
        token: int,
        tiles: Tiles | None = None,
        grids: Grids | None = None,
    ) -> None:
        self.ports = tuple(ports) if tiles is None else (*ports, tiles.port)
        self.token, self.tiles, self.grids = token, tiles, grids
        if grids is not None:
            self.ports, dims = grids.ports, {}
        self._inputs = Inputs(self.ports, dims)
        self._beside = () if grids is None else (KINDS,)
        self._shapes = {port.name: port.shape for port in ports}

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._inputs.names, *self._beside)

    def read(self, prompts: Sequence[Sequence[int]], given: Mapping[str, Any]) -> dict[str, Array] | None:
        """What a session is conditioned on; None: no prompt has anything among its tokens.

        Raises:
            InputError: it is not what the model takes, or no prompt has a place for it.
        """
        if all(value is None for name, value in given.items() if name not in self._beside):
            return None
        checked = self._inputs.checked(self.each(given))
        if self.grids is not None:
            self.grids.check(checked[GRID], len(checked[self.ports[0].name]))
        counts = np.array([sum(token == self.token for token in row) for row in prompts], np.int64)
        if not counts.any():
            raise InputError(
                f"{listing(given)} came with prompts that have no place for it: token {self.token}, once for every "
                "feature. The processor writes them where the text says so; pass it text and pictures together."
            )
        return {**checked, COUNTS: counts}

    def placed(self, features: Array, context: Mapping[str, Array]) -> Placed:
        """What stands among the tokens of the prompts that `read` has read."""
        order = None
        if self.tiles is not None:
            order = self.tiles.orders(context[SIZES], len(context[self.ports[0].name]))
        grids = None if self.grids is None else self.grids.features(context[GRID])
        return Placed(self.token, features, context[COUNTS], order, grids)

    def each(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Pictures one after another, where they come by the text they belong to, [B, N, ...]: those that are zero all
        over only make all texts have as many. And pictures of one size, [N, C, H, W], as patches."""
        given = {name: value for name, value in given.items() if name not in self._beside}
        if self.grids is not None:
            pictures = given.get(self.ports[0].name)
            whole = pictures is not None and np.ndim(pictures) == 4
            return {**given, **self.grids.patches(np.asarray(pictures))} if whole else given
        arrays = {name: np.asarray(given[name]) for name in self._shapes if given.get(name) is not None}
        pictures = self.ports[0].name
        if pictures not in arrays or any(array.ndim != 1 + len(self._shapes[name]) for name, array in arrays.items()):
            return dict(given)
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
        real = np.asarray(flat[pictures].any(axis=tuple(range(1, flat[pictures].ndim))))
        if not real.any() or any(len(array) != len(real) for array in flat.values()):
            return dict(given)
        return {**given, **{name: array[real] for name, array in flat.items()}}


class Placed:
    """Which features stand at which tokens of the rows of a session.

    Args:
        token: the id that holds a place. features: [F, H] of all rows, one row's behind another's.
        counts: how many places there are in each row, [R].
        order: which feature stands at each place of all rows, [P]; None: one after another.
        grids: rows and columns of each picture's features, where these have places in height and width.

    Raises:
        InputError: the rows have other places than there are features.
    """

    def __init__(
        self,
        token: int,
        features: Array,
        counts: Array,
        order: Array | None = None,
        grids: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._order = np.arange(len(features)) if order is None else order
        if int(counts.sum()) != len(self._order):
            raise InputError(
                f"the prompts have places for {int(counts.sum())} features (token {token}), and what is given beside "
                f"them makes {len(self._order)}. Pass every picture whose places the text has, in its order, and no "
                "other."
            )
        self.features = features
        self._token = token
        ends = np.cumsum(counts)
        # Of each row: its first place, how many it has, and where those are whose tokens it holds.
        self._rows: list[tuple[int, int, list[int]]] = [
            (int(end - count), int(count), []) for end, count in zip(ends, counts, strict=True)
        ]
        # Of each picture by its first place.
        sizes = () if grids is None else grids
        starts = np.cumsum([0, *(rows * columns for rows, columns in sizes)])[:-1].tolist()
        self._grids = [(start, rows, columns) for start, (rows, columns) in zip(starts, sizes, strict=True)]
        if grids is not None and not {0, *ends.tolist()} <= {*starts, len(self._order)}:
            raise InputError(
                f"the prompts have {counts.tolist()} places (token {token}), and pictures of "
                f"{[rows * columns for rows, columns in sizes]} features do not end with them. Each text has all "
                "places of its own pictures."
            )

    @classmethod
    def none(cls, token: int, width: int, rows: int) -> Placed:
        """Of rows that have text alone: one feature, which stands nowhere."""
        made = cls(token, np.zeros((0, width), np.float32), np.zeros(rows, np.int64))
        made.features = np.zeros((1, width), np.float32)
        return made

    def fill(self, tokens: Sequence[Sequence[int]], lengths: Sequence[int], rows: Array) -> None:
        """Write which feature stands at each new token, behind ``lengths`` that are held, to ``rows`` [R, S]."""
        rows[...] = -1
        for place, (new, held) in enumerate(zip(tokens, lengths, strict=True)):
            first, count, stand = self._rows[place]
            for column, token in enumerate(new if len(stand) < count else ()):
                if token == self._token and len(stand) < count:
                    rows[place, column] = self._order[first + len(stand)]
                    stand.append(int(held) + column)

    def positions(self, lengths: Sequence[int], new: int) -> Array:
        """Of so many tokens of each row behind ``lengths``, in time, height and width, [R, S, 3]; after `fill`."""
        return np.stack(
            [walked(int(held), new, self._stands(row)) for row, held in zip(self._rows, lengths, strict=True)]
        )

    def _stands(self, row: tuple[int, int, list[int]]) -> list[tuple[int, int, int]]:
        """Which token the first place of each picture of a row is, and the rows and columns of its features."""
        first, _, stand = row
        return [
            (stand[start - first], rows, columns)
            for start, rows, columns in self._grids
            if first <= start < first + len(stand)
        ]

    def select(self, rows: Sequence[int]) -> None:
        """New row ``i`` continues old row ``rows[i]``."""
        chosen = [self._rows[row] for row in rows]
        self._rows = [(first, count, list(stand)) for first, count, stand in chosen]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget what stands beyond a length of each row."""
        for (_, _, stand), length in zip(self._rows, lengths, strict=True):
            while stand and stand[-1] >= length:
                stand.pop()


def token_of(described: Mapping[str, Any], vocab_size: int, name: str = "join") -> int:
    """The token that a manifest names under ``processing.name``: a placeholder, or what a text starts with.

    Raises:
        ArtifactError: it names none, or one that the model does not know.
    """
    token = described.get("token")
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
        raise ArtifactError(
            f"processing.{name}.token must be an id below {vocab_size}; got {token!r}. Export it again."
        )
    return token
