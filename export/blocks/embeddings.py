"""Token embeddings: words, positions and token types, summed and normalised."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export.blocks.cache import Step
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.tables import Table
from precast.runtime.ports import Dim, Port

__all__ = [
    "CountedPositions",
    "LearnedPositions",
    "PaddedPositionTable",
    "PlacedPositions",
    "PositionTable",
    "SinusoidTable",
    "TextEmbeddings",
    "mask_port",
    "words_port",
]


def words_port(words: nn.Embedding) -> Port:
    """Ids of a table of words."""
    return Port("input_ids", "int64", ("batch", "sequence"), "ids", below=words.num_embeddings)


def mask_port(words: Port) -> Port:
    """The mask beside ids, which shows all of them where it is left out."""
    return Port("attention_mask", "int64", words.shape, "mask", default=1)


class SinusoidTable(nn.Module):
    """Rows of sines and cosines of positions in place of a learned table, positions [...] -> [..., E].
    https://arxiv.org/abs/1706.03762, sines in the first half of the channels.

    Args:
        angles: () -> [count, E / 2] (one more column than there are cosines where E is odd).
        zero: a row that is all zeros, or None.
    """

    def __init__(self, count: int, size: int, angles: Callable[[], Tensor], zero: int | None = None) -> None:
        super().__init__()
        self.size, self.angles, self.zero = size, angles, zero
        self.rows = Table((count, size), self._rows)

    def _rows(self) -> Tensor:
        angles = self.angles().to(torch.float64)
        rows = torch.cat((angles.sin(), angles.cos()), dim=1)
        rows = F.pad(rows[:, : self.size], (0, max(self.size - rows.shape[1], 0)))
        if self.zero is not None:
            rows[self.zero] = 0
        return rows

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions, self.rows())


class PositionTable(nn.Module):
    """A table of ``count`` positions, which bounds how long a text may be.

    Args:
        table: in place of a learned one.
    """

    def __init__(self, count: int, size: int, table: nn.Module | None = None) -> None:
        super().__init__()
        self.count = count
        self.table = nn.Embedding(count, size) if table is None else table

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.count)}


class PaddedPositionTable(PositionTable):
    """One whose rows up to the padding's own are never counted: texts begin at ``padding_id + 1``."""

    def __init__(self, count: int, size: int, padding_id: int, table: nn.Module | None = None) -> None:
        super().__init__(count, size, table)
        self.padding_id = padding_id

    def bounds(self) -> dict[str, Dim]:
        return {"sequence": Dim(most=self.count - self.padding_id - 1)}


class LearnedPositions(PositionTable):
    """A table, indexed 0, 1, 2 ... whatever the padding. Returns [1, S, E]."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(torch.arange(input_ids.shape[1], device=input_ids.device)[None])


class CountedPositions(PaddedPositionTable):
    """A learned table whose positions count the tokens that are not padding, from ``padding_id + 1`` on; padding
    itself sits at ``padding_id``. Returns [B, S, E]. Used by RoBERTa (https://arxiv.org/abs/1907.11692) and MPNet."""

    def forward(self, input_ids: Tensor) -> Tensor:
        real = (input_ids != self.padding_id).to(torch.int64)
        return self.table(torch.cumsum(real, dim=1) * real + self.padding_id)


class PlacedPositions(PositionTable):
    """A table, indexed by the positions of a call of a decoder. Returns [B, S, E]."""

    def forward(self, input_ids: Tensor, step: Step) -> Tensor:
        if step.positions is None:
            raise ValueError("a table of positions needs position_ids")
        return self.table(step.positions)


class TextEmbeddings(nn.Module):
    """norm(words * scale + positions + token types + boxes), ids [B, S] -> [B, S, E].

    Args:
        scale: of the words, or None.
        boxes: makes [B, S, E] of where words stand on their page (`precast.export.blocks.boxes`), or None.
        token_types: number of token types; 0 for models without them. With 1 the only row is always added.
    """

    def __init__(
        self,
        vocab: int,
        size: int,
        *,
        positions: nn.Module | None,
        token_types: int,
        norm: LayerNorm | None,
        scale: float | None = None,
        boxes: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, size)
        self.scale = scale
        self.positions = positions
        self.token_types = nn.Embedding(token_types, size) if token_types else None
        self.boxes = boxes
        self.norm = norm

    def ports(self) -> tuple[Port, ...]:
        """Ids, token types where there are several, and boxes where these are read."""
        words, types = words_port(self.words), self.token_types
        made = [words]
        if types is not None and types.num_embeddings > 1:
            made.append(Port("token_type_ids", "int64", words.shape, "types", default=0, below=types.num_embeddings))
        if self.boxes is not None:
            made.append(self.boxes.port())  # type: ignore[operator]
        return tuple(made)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, bbox: Tensor | None = None) -> Tensor:
        total = self.words(input_ids)
        if self.scale is not None:
            total = total * self.scale
        if self.token_types is not None:
            total = total + (self.token_types.weight[0] if token_type_ids is None else self.token_types(token_type_ids))
        if self.boxes is not None:
            total = total + self.boxes(bbox)
        positions = None if self.positions is None else self.positions(input_ids)
        if self.norm is None:
            return total if positions is None else total + positions
        return self.norm(total) if positions is None else self.norm.add(total, positions)[0]
