"""Similarity of embeddings, and search by it. Same results as ``sentence_transformers.util``, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from precast.runtime.embedding import normalize
from precast.runtime.errors import InputError

__all__ = ["cos_sim", "dot_score", "pairwise_cos_sim", "pairwise_dot_score", "semantic_search"]


def cos_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine of every row of ``a [N, H]`` with every row of ``b [M, H]``: ``[N, M]``. One vector counts as one row."""
    return dot_score(normalize(_rows(a)), normalize(_rows(b)))


def dot_score(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Dot product of every row of ``a [N, H]`` with every row of ``b [M, H]``: ``[N, M]``."""
    left, right = _same_width(_rows(a), _rows(b))
    scores: np.ndarray = left @ right.T
    return scores


def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine of row i of ``a [N, H]`` with row i of ``b [N, H]``: ``[N]``."""
    return pairwise_dot_score(normalize(_rows(a)), normalize(_rows(b)))


def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Dot product of row i of ``a [N, H]`` with row i of ``b [N, H]``: ``[N]``."""
    left, right = _same_width(_rows(a), _rows(b))
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise InputError(f"Pairwise needs as many rows on both sides; received {len(left)} and {len(right)}.")
    scores: np.ndarray = (left * right).sum(axis=-1)
    return scores


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
        if size < 1:
            raise InputError(f"{name} must be at least 1; received {size!r}.")
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
    rows = np.asarray(values)
    if rows.dtype.kind != "f":
        rows = rows.astype(np.float32)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise InputError(f"Embeddings have the shape [N, H], or [H] for one; received {list(rows.shape)}.")
    return rows


def _same_width(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"Both sides need embeddings of one width; received {a.shape[1]} and {b.shape[1]}.")
    return a, b
