"""From token scores to entities: words that agree, neighbours that belong together, windows that overlap.

Tags follow the IOB scheme (Ramshaw and Marcus 1995): ``B-`` opens an entity, ``I-`` continues one; a label without
a prefix continues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Piece", "label_tokens", "label_words", "merge_entities", "without_overlaps"]

Entity = dict[str, Any]
Join = Callable[[list[str]], str]


class Piece(NamedTuple):
    """One token that is not special: its label scores ``[L]``, place in the row, and characters in the text."""

    token: str
    scores: np.ndarray
    place: int
    start: int
    end: int
    continues: bool
    """It continues the word of the token before."""


def label_tokens(pieces: Sequence[Piece], labels: Sequence[Any]) -> list[Entity]:
    """Each token with its best label."""
    found = []
    for piece in pieces:
        best = int(piece.scores.argmax())
        found.append(
            {
                "entity": labels[best],
                "score": float(piece.scores[best]),
                "index": piece.place,
                "word": piece.token,
                "start": piece.start,
                "end": piece.end,
            }
        )
    return found


def label_words(pieces: Sequence[Piece], labels: Sequence[Any], strategy: str, join: Join) -> list[Entity]:
    """Each word with one label: its first token's, its surest token's, or that of the mean scores."""
    words: list[list[Piece]] = []
    for piece in pieces:
        if words and piece.continues:
            words[-1].append(piece)
        else:
            words.append([piece])
    found = []
    for word in words:
        if strategy == "first":
            scores = word[0].scores
        elif strategy == "max":
            scores = max(word, key=lambda piece: piece.scores.max()).scores
        else:
            scores = np.stack([piece.scores for piece in word]).mean(axis=0)
        best = int(scores.argmax())
        found.append(
            {
                "entity": labels[best],
                "score": float(scores[best]),
                "word": join([piece.token for piece in word]),
                "start": word[0].start,
                "end": word[-1].end,
            }
        )
    return found


def merge_entities(found: Sequence[Entity], join: Join) -> list[Entity]:
    """Neighbours of one tag as one entity; ``B-`` starts a new one even after its own kind."""
    groups: list[list[Entity]] = []
    last = None
    for entity in found:
        opens, tag = _tag(entity["entity"])
        if groups and tag == last and not opens:
            groups[-1].append(entity)
        else:
            groups.append([entity])
        last = tag
    return [
        {
            "entity_group": _group(group[0]["entity"]),
            "score": float(np.mean([np.float32(entity["score"]) for entity in group])),
            "word": join([entity["word"] for entity in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of entities that overlap, from windows that do, the longest; of equally long ones, the surest."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _tag(label: Any) -> tuple[bool, Any]:
    if isinstance(label, str) and label[:2] in ("B-", "I-"):
        return label[0] == "B", label[2:]
    return False, label


def _group(label: Any) -> Any:
    """What a label says behind its mark; one that is no text, such as a number, says itself."""
    return label.split("-", 1)[-1] if isinstance(label, str) else label
