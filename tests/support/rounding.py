"""How far from the exact value float32 arithmetic may be: numbers in float64 that carry a bound of their error.

A running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 3.3): every operation passes on the
errors of its operands and adds its own rounding; a sum adds one for each of its terms, so that it holds for any order,
any width of vectors and fused or separate products. What rounds otherwise (an exponential) says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["UNIT", "Rounded", "attention", "gelu", "layer_norm", "multi_head_attention", "rms_norm", "silu"]

Array = np.ndarray[Any, Any]
UNIT = 2.0**-24


class Rounded:
    """Elements in float64, and at most how far what float32 makes of them is from each."""

    def __init__(self, value: Any, error: Any = 0.0) -> None:
        self.value = np.asarray(value, np.float64)
        self.error = np.broadcast_to(np.asarray(error, np.float64), self.value.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def most(self) -> Array:
        """At most how large what float32 has is."""
        return np.asarray(np.abs(self.value) + self.error)

    def rounded(self, units: float = 1.0) -> Rounded:
        """After so many roundings more."""
        return Rounded(self.value, self.error + units * UNIT * self.most)

    def __add__(self, other: Any) -> Rounded:
        other = _of(other)
        return Rounded(self.value + other.value, self.error + other.error).rounded()

    def __sub__(self, other: Any) -> Rounded:
        other = _of(other)
        return Rounded(self.value - other.value, self.error + other.error).rounded()

    def __mul__(self, other: Any) -> Rounded:
        other = _of(other)
        error = self.most * other.most - np.abs(self.value * other.value)
        return Rounded(self.value * other.value, error).rounded()

    def __truediv__(self, other: Any) -> Rounded:
        other = _of(other)
        least = np.abs(other.value) - other.error
        assert (least > 0).all(), "a divisor that may be zero"
        value = self.value / other.value
        return Rounded(value, (self.error + np.abs(value) * other.error) / least).rounded()

    def __matmul__(self, other: Rounded) -> Rounded:
        """Sums of products over the last axis of this and the last but one of the other."""
        whole = self.most @ other.most
        error = _gamma(self.shape[-1]) * whole
        if self.error.any() or other.error.any():
            error = error + whole - np.abs(self.value) @ np.abs(other.value)
        return Rounded(self.value @ other.value, error)

    def sum(self) -> Rounded:
        """Over the last axis, which stays."""
        error = self.error.sum(-1, keepdims=True) + _gamma(self.shape[-1]) * self.most.sum(-1, keepdims=True)
        return Rounded(self.value.sum(-1, keepdims=True), error)

    def monotone(self, function: Callable[[Array], Array], units: float) -> Rounded:
        """A function that only rises or only falls, computed to so many units in the last place."""
        value = function(self.value)
        ends = function(self.value - self.error), function(self.value + self.error)
        return Rounded(value, np.maximum(*(np.abs(end - value) for end in ends))).rounded(units)

    def smooth(self, function: Callable[[Array], Array], slope: float, own: Callable[[Array, Array], Array]) -> Rounded:
        """A function nowhere steeper than ``slope``; own(x, function(x)): the error of computing it."""
        value = function(self.value)
        return Rounded(value, slope * self.error + own(self.value, value))

    def where(self, seen: Array, other: float) -> Rounded:
        return Rounded(np.where(seen, self.value, other), np.where(seen, self.error, 0.0))

    def moved(self, move: Callable[[Array], Array]) -> Rounded:
        """Elements that stand elsewhere."""
        return Rounded(move(self.value), move(self.error))

    def softmax(self, extra: int) -> tuple[Rounded, Rounded]:
        """Over the last axis: numerators, and their sum of so many terms more than there are; a row of -inf is zero.

        What is subtracted in front is the same for a whole row, whatever it is.
        """
        seen = np.isfinite(self.value)
        largest = np.where(seen, self.value, -np.inf).max(-1, keepdims=True, initial=-1e300)
        away = self.where(seen, 0.0) - Rounded(largest)
        # 2^x is computed to four units (vector.h), of which what is below float32's smallest is none at all.
        powers = away.monotone(lambda x: np.exp(np.minimum(x, 700)), 4)
        powers = Rounded(powers.value, powers.error + 2.0**-126).where(seen, 0.0)
        total = powers.sum()
        return powers, Rounded(total.value, total.error + _gamma(extra) * total.most)


def layer_norm(x: Rounded, weight: Array, beta: Array | None, epsilon: float) -> Rounded:
    centred = x - x.sum() / x.shape[-1]
    normed = centred * _inverse_root((centred * centred).sum() / x.shape[-1], epsilon) * weight
    return normed if beta is None else normed + beta


def rms_norm(x: Rounded, weight: Array, epsilon: float) -> Rounded:
    return x * _inverse_root((x * x).sum() / x.shape[-1], epsilon) * weight


def _inverse_root(square: Rounded, epsilon: float) -> Rounded:
    """Of what is no square below zero, however it is rounded."""
    return (square + epsilon).monotone(lambda x: 1 / np.sqrt(np.maximum(x, epsilon)), 2)


def gelu(x: Rounded, tanh: bool = False) -> Rounded:
    """To what `test_gelu_over_the_whole_range` holds the kernels to."""

    def exact(a: Array) -> Array:
        tensor = torch.from_numpy(a)
        if tanh:
            return torch.nn.functional.gelu(tensor, approximate="tanh").numpy()
        return (0.5 * tensor * torch.erfc(-tensor / np.sqrt(2))).numpy()

    return x.smooth(exact, 1.13, lambda a, y: 1.5e-7 * np.maximum(np.abs(y), np.where(a < 0, 0.5, 0)))


def silu(x: Rounded) -> Rounded:
    """x e / (1 + e), e = exp(-|x|) with a rounded exponent; below 2^-126 it is none."""
    return x.smooth(
        lambda a: a / (1 + np.exp(-a)), 1.1, lambda a, y: (8 + 2 * np.abs(a)) * UNIT * np.abs(y) + np.abs(a) * 2.0**-126
    )


def attention(
    q: Rounded, k: Array, v: Array, seen: Array, scale: float,
    *, softcap: float = 0.0, added: Array | None = None, k_bias: Array | None = None, v_bias: Array | None = None,
) -> Rounded:  # fmt: skip
    """softmax(softcap(scale * q @ k.T) + added) @ v, where ``seen``; the last two axes are positions and channels.

    Scores are in powers of two, the biases of keys and values apart, keys in spans that are merged.
    """
    scaled = (q * scale).rounded(3)  # by a factor of three
    scores = scaled @ Rounded(k.swapaxes(-1, -2))
    if k_bias is not None:
        scores = scores + scaled @ Rounded(k_bias.swapaxes(-1, -2))
    if softcap:
        scores = (scores / softcap).monotone(np.tanh, 6) * softcap
    scores = scores.rounded(2)
    if added is not None:
        scores = scores + Rounded(added).rounded(2)
    seen = np.broadcast_to(seen, scores.shape)
    powers, total = scores.where(seen, -np.inf).softmax(_MERGED)
    mixed = powers @ Rounded(v)
    mixed.error = mixed.error + _gamma(_MERGED) * (powers.most @ np.abs(v))
    some = seen.any(-1, keepdims=True)
    result = mixed / total.where(some, 1.0)
    return (result if v_bias is None else result + v_bias).where(some, 0.0)


def multi_head_attention(
    q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, added: Array | None,
    *, heads: int, kv_heads: int, scale: float, left: int, right: int, softcap: float = 0.0,
) -> Rounded:  # fmt: skip
    """Of heads side by side, with a packed bias; queries stand at the last positions and see ``left`` and ``right``."""
    batch, queries, hidden = q.shape
    keys, size = k.shape[1], hidden // heads

    def by_head(x: Array, count: int) -> Array:
        rows = x.reshape(len(x), -1, count, size).swapaxes(1, 2)
        return np.asarray(rows.repeat(heads // count, 1))

    of_q = Rounded(by_head(q, heads))
    k_bias = v_bias = None
    if bias is not None:
        cuts = np.split(bias[None], [hidden, hidden + kv_heads * size], -1)
        q_bias, k_bias, v_bias = (by_head(b, n) for b, n in zip(cuts, (heads, kv_heads, kv_heads), strict=True))
        of_q = of_q + q_bias
    distance = np.arange(queries)[:, None] + keys - queries - np.arange(keys)
    seen = (left < 0) | (distance <= left)
    seen = seen & ((right < 0) | (distance >= -right))
    seen = seen if mask is None else seen & (mask != 0)[:, None, None]
    result = attention(
        of_q, by_head(k, kv_heads), by_head(v, kv_heads), seen, scale,
        softcap=softcap, added=added, k_bias=k_bias, v_bias=v_bias,
    )  # fmt: skip
    return result.moved(lambda x: x.swapaxes(1, 2).reshape(batch, queries, hidden))


# Roundings of what spans' sums are weighed with.
_MERGED = 32


def _of(x: Any) -> Rounded:
    return x if isinstance(x, Rounded) else Rounded(x)


def _gamma(terms: int) -> float:
    return terms * UNIT / (1 - terms * UNIT)
