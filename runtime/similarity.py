"""Similarity of embeddings, and search by it. Same results as ``sentence_transformers.util``, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from precast.runtime import arguments
from precast.runtime.embedding import normalize
from precast.runtime.errors import InputError

__all__ = [
    "PAIRWISE",
    "SIMILARITIES",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "semantic_search",
]


def cos_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine of every row of ``a [N, H]`` with every row of ``b [M, H]``: ``[N, M]``. One vector counts as one row."""
    return dot_score(normalize(_rows(a)), normalize(_rows(b)))


def dot_score(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Dot product of every row of ``a [N, H]`` with every row of ``b [M, H]``: ``[N, M]``."""
    left, right = _same_width(_rows(a), _rows(b))
    scores: np.ndarray = left @ right.T
    return scores


def euclidean_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Euclidean distance of every row of ``a [N, H]`` to every row of ``b [M, H]``, negated: ``[N, M]``."""
    return _by_difference(a, b, lambda apart: -np.sqrt((apart * apart).sum(axis=-1)))


def manhattan_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Manhattan distance of every row of ``a [N, H]`` to every row of ``b [M, H]``, negated: ``[N, M]``."""
    return _by_difference(a, b, lambda apart: -np.abs(apart).sum(axis=-1))


def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine of row i of ``a [N, H]`` with row i of ``b [N, H]``: ``[N]``."""
    return pairwise_dot_score(normalize(_rows(a)), normalize(_rows(b)))


def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Dot product of row i of ``a [N, H]`` with row i of ``b [N, H]``: ``[N]``."""
    left, right = _pairs(a, b)
    scores: np.ndarray = (left * right).sum(axis=-1)
    return scores


def pairwise_euclidean_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Euclidean distance of row i of ``a [N, H]`` to row i of ``b [N, H]``, negated: ``[N]``."""
    left, right = _pairs(a, b)
    scores: np.ndarray = -np.sqrt(((left - right) ** 2).sum(axis=-1))
    return scores


def pairwise_manhattan_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Manhattan distance of row i of ``a [N, H]`` to row i of ``b [N, H]``, negated: ``[N]``."""
    left, right = _pairs(a, b)
    scores: np.ndarray = -np.abs(left - right).sum(axis=-1)
    return scores


Similarity: TypeAlias = "Callable[[ArrayLike, ArrayLike], np.ndarray]"
SIMILARITIES: dict[str, Similarity] = {
    "cosine": cos_sim,
    "dot": dot_score,
    "euclidean": euclidean_sim,
    "manhattan": manhattan_sim,
}
"""By the names that config_sentence_transformers.json gives them (``similarity_fn_name``)."""
PAIRWISE: dict[str, Similarity] = {
    "cosine": pairwise_cos_sim,
    "dot": pairwise_dot_score,
    "euclidean": pairwise_euclidean_sim,
    "manhattan": pairwise_manhattan_sim,
}


def semantic_search(
    queries: ArrayLike,
    corpus: ArrayLike,
    top_k: int = 10,
    *,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    score_function: Callable[[np.ndarray, np.ndarray], np.ndarray] = cos_sim,
) -> list[list[dict[str, Any]]]:
    """For every query the ``top_k`` corpus entries: ``{"corpus_id", "score"}``, best first, equal ones by id.

    Memory: one chunk of scores, ``query_chunk_size * corpus_chunk_size`` numbers, at a time.
    """
    sizes = {"top_k": top_k, "query_chunk_size": query_chunk_size, "corpus_chunk_size": corpus_chunk_size}
    for name, size in sizes.items():
        arguments.whole(name, size)
    if not callable(score_function):
        raise InputError(f"score_function must be a function of two arrays; received {score_function!r:.80}.")
    asked, held = _same_width(_rows(queries), _rows(corpus))
    if score_function is cos_sim:
        # Once for each side, not once for each pair of chunks.
        asked, score_function = normalize(asked), dot_score
        prepare: Callable[[np.ndarray], np.ndarray] = normalize
    else:
        prepare = _unchanged
    ids = [np.empty((len(asked), 0), np.int64)]
    scores = [np.empty((len(asked), 0), np.float32)]
    for low in range(0, len(held), corpus_chunk_size):
        chunk = prepare(held[low : low + corpus_chunk_size])
        count = min(top_k, len(chunk))
        chunk_ids = np.empty((len(asked), count), np.int64)
        chunk_scores = np.empty((len(asked), count), np.float32)
        for first in range(0, len(asked), query_chunk_size):
            part = np.asarray(score_function(asked[first : first + query_chunk_size], chunk))
            found = _top_columns(part, count)
            place = slice(first, first + len(part))
            chunk_ids[place] = found + low
            chunk_scores[place] = np.take_along_axis(part, found, axis=1)
        ids.append(chunk_ids)
        scores.append(chunk_scores)
    all_ids, all_scores = np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)
    best = np.argsort(-all_scores, axis=1, kind="stable")[:, :top_k]
    return [
        [{"corpus_id": int(all_ids[row, column]), "score": float(all_scores[row, column])} for column in columns]
        for row, columns in enumerate(best)
    ]


def _top_columns(scores: np.ndarray, count: int) -> np.ndarray:
    """Column indices ``[N, count]`` of each row's largest scores, in rising order of column."""
    if count == scores.shape[1]:
        return np.broadcast_to(np.arange(count), scores.shape)
    return np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)


def _unchanged(rows: np.ndarray) -> np.ndarray:
    return rows


def _rows(values: ArrayLike) -> np.ndarray:
    try:
        rows = np.asarray(values)
        if rows.dtype.kind != "f":
            rows = rows.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Embeddings are numbers of one shape [N, H]; received {values!r:.80}.") from error
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise InputError(f"Embeddings have the shape [N, H], or [H] for one; received {list(rows.shape)}.")
    return rows


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    left, right = _same_width(_rows(a), _rows(b))
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise InputError(f"Pairwise needs as many rows on both sides; received {len(left)} and {len(right)}.")
    return left, right


def _by_difference(a: ArrayLike, b: ArrayLike, scored: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``[N, M]``, one row at a time: all differences at once would be ``[N, M, H]``."""
    left, right = _same_width(_rows(a), _rows(b))
    scores = np.empty((len(left), len(right)), np.result_type(left, right))
    for place, row in zip(scores, left, strict=True):
        place[:] = scored(row - right)
    return scores


def _same_width(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"Both sides need embeddings of one width; received {a.shape[1]} and {b.shape[1]}.")
    return a, b
