"""Rotary parameters as config.json gives them: transformers 5's ``rope_parameters``, 4's ``rope_theta`` and
``rope_scaling``. A kind of scaling that is not computed here is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from precast.export.blocks.rotary import Frequencies, SteppedRotary, llama3, plain
from precast.runtime.errors import ConfigError, closest, listing

__all__ = ["Rope", "rope"]

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# rope_type -> (the parameters it has, the frequencies they give).
_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[..., Frequencies]]] = {
    "default": ((), plain),
    "linear": (("factor",), plain),
    "llama3": (_LLAMA3, llama3),
}
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


@dataclass(frozen=True)
class Rope:
    """Rotary positions of one kind of layer."""

    size: int
    kind: str
    theta: float
    values: Mapping[str, Any]

    def check(self) -> None:
        """Raises ConfigError where the parameters cannot be honoured."""
        if self.size % 2:
            raise ConfigError(f"heads have {self.size} channels to turn in pairs: an even number is needed")
        if self.kind not in _KINDS:
            near = closest(self.kind, _KINDS)
            raise ConfigError(
                f"'rope_type' is {self.kind!r}, which is not computed here. {near} Honoured: {listing(_KINDS)}."
            )
        wanted = set(_KINDS[self.kind][0])
        missing, extra = sorted(wanted - set(self.values)), sorted(set(self.values) - wanted)
        if missing or extra:
            raise ConfigError(
                f"rotary parameters of 'rope_type' {self.kind!r} are {listing(sorted(wanted)) or 'none'}; "
                f"missing: {listing(missing) or 'none'}, not understood: {listing(extra) or 'none'}"
            )

    def module(self, *, interleaved: bool = False) -> SteppedRotary:
        """The module that turns queries and keys."""
        frequencies = _KINDS[self.kind][1](self.size, self.theta, **self.values)
        return SteppedRotary(self.size, frequencies, interleaved=interleaved)


def rope(
    head_dim: int,
    *,
    parameters: Mapping[str, Any] | None = None,
    scaling: Mapping[str, Any] | None = None,
    theta: float | None = None,
    longest: int,
    base: float = 10000.0,
    fraction: float = 1.0,
) -> Rope:
    """Read the keys of a config.json.

    Args:
        parameters: transformers 5's ``rope_parameters`` of one kind of layer. scaling, theta: transformers 4's keys.
        longest: max_position_embeddings, the default of ``original_max_position_embeddings``.
        base, fraction: theta and the part of a head that is turned where the config says neither.
    """
    given: dict[str, Any] = {**(scaling or {}), **(parameters or {})}
    kind = str(given.get("rope_type", given.get("type", "default")) or "default")
    turned = int(head_dim * float(given.get("partial_rotary_factor", fraction)))
    used = float(given.get("rope_theta") or theta or base)
    values = {key: value for key, value in given.items() if key not in _COMMON}
    if kind == "llama3":
        values.setdefault("original_max_position_embeddings", longest)
    if kind == "default":
        # Parameters of no scaling are read by nobody.
        values.pop("factor", None)
    return Rope(turned, kind, used, values)
