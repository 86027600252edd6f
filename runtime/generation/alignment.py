"""Where in what was heard each token of an answer is: the attention of a decoder's heads to the frames of its encoder.
https://arxiv.org/abs/2212.04356; which heads follow the words, a checkpoint's ``alignment_heads`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.flow import Part

__all__ = ["attention"]


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
