"""Rotary settings of a GGUF file as config.json states them.

Llama 3's scaling is not in the metadata: llama.cpp stores what it comes to, a divisor for each frequency
(``rope_freqs.weight``), and the rule's parameters are found from them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from precast.export.checkpoints.gguf.ggml_types import dequantize
from precast.export.checkpoints.gguf.metadata import Metadata
from precast.export.checkpoints.gguf.reader import GGUF
from precast.runtime.errors import ConfigError, UnsupportedModelError

__all__ = ["rope_scaling"]

_ORIGINAL = 8192  # any value will do, with the other two in proportion; Llama 3's own is this


def rope_scaling(model: GGUF, theta: float, size: int) -> dict[str, Any] | None:
    """config.json's ``rope_scaling`` for rotary embeddings of ``size`` dimensions; None: unscaled.

    Raises ``UnsupportedModelError`` for a scaling that config.json cannot say."""
    stored = model.tensors.get("rope_freqs.weight")
    if stored is not None:
        divisors = dequantize(stored.rows(), stored.kind).reshape(-1).astype(np.float64)
        if not (divisors == 1).all():
            return _llama3(model.metadata.file, divisors, theta, size)
    metadata = model.metadata
    kind = metadata.text("{arch}.rope.scaling.type", None)
    # Files from before the type was stated have the linear factor under the first name.
    factor = metadata.number("{arch}.rope.scaling.factor", metadata.number("{arch}.rope.scale_linear", None))
    if kind is None:
        kind = "none" if factor is None else "linear"
    if kind == "yarn":
        return _yarn(metadata, _factor(metadata, kind, factor))
    if kind not in ("none", "linear"):
        raise UnsupportedModelError(
            f"{metadata.file}: the rope scaling {kind!r:.40} is not read from GGUF files; none, linear and yarn are. "
            "Export the model's checkpoint instead."
        )
    _only(metadata, kind, _ATTENTION, (1.0,))
    _only(metadata, kind, (_EXTRAPOLATION,), (-1.0, 0.0))
    if kind == "none" or factor in (None, 0.0, 1.0):
        return None
    return {"rope_type": "linear", "factor": _factor(metadata, kind, factor)}


# What queries and keys are multiplied by, in the name that converters write and the one of old.
_ATTENTION = ("{arch}.rope.scaling.yarn_attn_factor", "{arch}.rope.scaling.attn_factor")
# The share of YaRN's correction; a negative one stands for what the kind of scaling takes: all of it, or nothing.
_EXTRAPOLATION = "{arch}.rope.scaling.yarn_ext_factor"
_RAMP = {
    "{arch}.rope.scaling.yarn_beta_fast": "beta_fast",
    "{arch}.rope.scaling.yarn_beta_slow": "beta_slow",
}


def _yarn(metadata: Metadata, factor: float) -> dict[str, Any]:
    """Converters write config.json's own values into these keys, and here they are taken out again."""
    _only(metadata, "yarn", (_EXTRAPOLATION,), (-1.0, 1.0))
    _only(metadata, "yarn", ("{arch}.rope.scaling.yarn_log_multiplier",), (0.0,))
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if original := metadata.whole("{arch}.rope.scaling.original_context_length", None):
        scaling["original_max_position_embeddings"] = original
    stated = {value for name in _ATTENTION if (value := metadata.number(name, None)) is not None}
    if len(stated) > 1:
        raise ConfigError(f"{metadata.file} states two attention factors of rope.scaling: {sorted(stated)}. Keep one.")
    for value in stated:
        scaling["attention_factor"] = value
    for name, key in _RAMP.items():
        if (value := metadata.number(name, None)) is not None:
            scaling[key] = value
    return scaling


def _factor(metadata: Metadata, kind: str, factor: float | None) -> float:
    if factor is None or factor <= 0:
        key = f"{metadata.architecture}.rope.scaling.factor"
        raise ConfigError(
            f"{metadata.file}: the rope scaling {kind!r:.40} needs a positive {key}; it is {factor}. "
            "Convert the model anew."
        )
    return factor


def _only(metadata: Metadata, kind: str, names: Sequence[str], honoured: tuple[float, ...]) -> None:
    for name in names:
        if (value := metadata.number(name, None)) is not None and value not in honoured:
            key = name.replace("{arch}", metadata.architecture)
            raise UnsupportedModelError(
                f"{metadata.file}: {key} is {value}, and with the rope scaling {kind!r} only "
                f"{' or '.join(map(str, honoured))} is honoured. Export the model's checkpoint instead."
            )


def _llama3(file: str, divisors: np.ndarray, theta: float, size: int) -> dict[str, Any]:
    """The parameters of the rule that gives these divisors.

    With ``factor`` F and s = (original / wavelength - low) / (high - low) clipped to 0..1, a divisor is
    1 / ((1 - s) / F + s). Where 0 < s < 1, s is a line over 1 / wavelength, and two points of it give low and high."""
    if len(divisors) * 2 != size or not np.isfinite(divisors).all() or divisors.min() <= 0:
        raise ConfigError(
            f"{file}: rope_freqs.weight must hold {size // 2} positive divisors, half of the rotary dimensions; it "
            f"holds {len(divisors)}. Convert the model anew."
        )
    with np.errstate(all="ignore"):  # what comes out is compared with what is there
        found = _parameters(divisors, theta ** (-2.0 * np.arange(len(divisors)) / size) / (2 * np.pi))
    if found is not None:
        return found
    raise UnsupportedModelError(
        f"{file}: rope_freqs.weight holds divisors that Llama 3's rule does not give, and config.json has no place "
        "for others. Export the model's checkpoint instead."
    )


def _parameters(divisors: np.ndarray, inverse: np.ndarray) -> dict[str, Any] | None:
    """``inverse``: 1 / wavelength of each frequency. None: no parameters give these divisors."""
    factor = float(divisors.max())
    smooth = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    (between,) = np.nonzero((smooth > 1e-4) & (smooth < 1 - 1e-4))
    if len(between) < 2:
        return None
    first, last = between[0], between[-1]
    slope = (smooth[last] - smooth[first]) / (inverse[last] - inverse[first])
    start = smooth[first] - slope * inverse[first]
    low, high = (round(float(value * _ORIGINAL / slope), 3) for value in (-start, 1 - start))
    if not 0 < low < high:
        return None
    remade = np.clip((_ORIGINAL * inverse - low) / (high - low), 0, 1)
    if not np.allclose(1 / ((1 - remade) / factor + remade), divisors, rtol=1e-4):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": _ORIGINAL,
    }
