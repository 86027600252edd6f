"""Where in what was heard each token of an answer is: the attention of a decoder's heads to the frames of its encoder.
https://arxiv.org/abs/2212.04356; which heads follow the words, a checkpoint's ``alignment_heads`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.flow import Part

__all__ = ["attention", "token_frames"]


def attention(
    part: Part, context: Mapping[str, Array], tokens: Array, heads: Sequence[tuple[int, int]], size: int
) -> Array:
    """[N, A, S, F] float32: over the frames, of each (layer, head) and token.

    Args:
        part: what makes the queries of all layers (component ``alignment``).
        context: what the encoder made, of N rows.
        tokens: [N, S], what is behind a row's end being anything.
        size: channels of a head.

    Raises:
        InputError: the decoder has no such layer or head.
    """
    layers = sum(name.startswith("cross_key.") for name in context)
    count = context["cross_key.0"].shape[-1] // size
    outside = [pair for pair in heads if not (0 <= pair[0] < layers and 0 <= pair[1] < count)]
    if outside or not heads:
        raise InputError(
            f"heads are (layer, head) of {layers} layers with {count} heads each, one at least; received "
            f"{[*map(list, outside or heads)]}."
        )
    given = {"input_ids": tokens}
    for port in part.component.inputs:
        if port.origin is not None:
            given[port.name] = context[port.origin[1]]
    [queries] = part.runner.run(given)
    found = np.empty((len(tokens), len(heads), tokens.shape[1], context["cross_key.0"].shape[1]), np.float32)
    shown = next((given[port.name] != 0 for port in part.component.inputs if port.kind == "mask"), None)
    for place, (layer, head) in enumerate(heads):
        asked = queries[..., (layer * count + head) * size :][..., :size]
        keys = context[f"cross_key.{layer}"][..., head * size :][..., :size]
        scores = asked @ keys.transpose(0, 2, 1)
        if shown is not None:
            scores = np.where(shown[:, None], scores, -np.inf)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.divide(scores, scores.sum(axis=-1, keepdims=True), out=found[:, place])
    return found


def token_frames(weights: Array, width: int = 7) -> Array:
    """[S] int64: the frame at which each token begins, never before that of the token in front of it.

    What stands out among tokens, smoothed along the frames and averaged over heads, is followed from the first token
    and frame to the last ones, through the most attention there is on the way: dynamic time warping.

    Args:
        weights: [A, S, F] of an answer's tokens without what it begins with, over the frames that were heard of it.
        width: of the median filter over frames, an odd number.

    Raises:
        InputError: nothing is given, or the filter has no middle.
    """
    if weights.ndim != 3 or 0 in weights.shape or width < 1 or width % 2 == 0:
        raise InputError(
            f"weights are [heads, tokens, frames], one each at least, and width is an odd number; received shape "
            f"{list(weights.shape)} and {width}."
        )
    spread, mean = weights.std(axis=1, keepdims=True), weights.mean(axis=1, keepdims=True)
    apart = np.divide(weights - mean, spread, where=spread > 0, out=np.zeros_like(weights))
    return _first_frames(_median(apart, width).mean(axis=0))


def _median(values: Array, width: int) -> Array:
    """Along the last axis, which is mirrored at its ends; as it is where it is no longer than half the filter."""
    half = width // 2
    if values.shape[-1] <= half:
        return values
    mirrored = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    smooth: Array = np.median(np.lib.stride_tricks.sliding_window_view(mirrored, width, axis=-1), axis=-1)
    return smooth


def _first_frames(matrix: Array) -> Array:
    """Of a path through [S, F] that gathers most, in steps to the next token, the next frame or both, the frames where
    it reaches each token."""
    tokens, frames = matrix.shape
    cost = np.full((tokens + 1, frames + 1), np.inf, dtype=np.float32)
    cost[0, 0] = 0
    steps = np.zeros((tokens + 1, frames + 1), dtype=np.int8)
    steps[0, :], steps[:, 0] = 2, 1
    for diagonal in range(2, tokens + frames + 1):
        i = np.arange(max(1, diagonal - frames), min(tokens, diagonal - 1) + 1)
        j = diagonal - i
        both, token, frame = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
        step = np.where((both < token) & (both < frame), 0, np.where((token < both) & (token < frame), 1, 2))
        steps[i, j] = step
        cost[i, j] = np.choose(step, (both, token, frame)) - matrix[i - 1, j - 1].astype(np.float64)
    first = np.zeros(tokens, dtype=np.int64)
    i, j = tokens, frames
    while i > 0 and j > 0:
        first[i - 1] = j - 1
        step = steps[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return first
