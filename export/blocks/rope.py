"""Rotary parameters as config.json gives them: transformers 5's ``rope_parameters``, 4's ``rope_theta`` and
``rope_scaling``. A kind of scaling that is not computed here is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from precast.export.blocks.rotary import Frequencies, SteppedRotary, llama3, plain, yarn, yarn_scale
from precast.runtime.errors import ConfigError, closest, listing

__all__ = ["Rope", "rope"]


@dataclass(frozen=True)
class _Kind:
    """A ``rope_type``: the parameters it needs, those it may have, the frequencies and the scale they give."""

    frequencies: Callable[..., Frequencies]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


def _yarn(size: int, theta: float, **values: Any) -> Frequencies:
    return yarn(size, theta, **{key: value for key, value in values.items() if key not in _YARN_SCALE})


def _dynamic(size: int, theta: float, factor: float) -> Frequencies:
    """NTK scaling by the length of the text, which begins where a row is longer than ``max_position_embeddings``: as
    no row may be, its frequencies are those of no scaling."""
    return plain(size, theta)


_YARN_SCALE = ("attention_factor", "mscale", "mscale_all_dim")
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind(plain),
    "linear": _Kind(plain, ("factor",)),
    "dynamic": _Kind(_dynamic, ("factor",)),
    "llama3": _Kind(llama3, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
    "yarn": _Kind(
        _yarn,
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "truncate", *_YARN_SCALE),
    ),
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
        if self.size % 2 or self.size < 2:
            raise ConfigError(f"heads have {self.size} channels to turn in pairs: an even number from 2 on is needed")
        if self.kind not in _KINDS:
            near = closest(self.kind, _KINDS)
            raise ConfigError(
                f"'rope_type' is {self.kind!r}, which is not computed here. {near} Honoured: {listing(_KINDS)}."
            )
        kind = _KINDS[self.kind]
        missing = sorted(set(kind.needs) - set(self.values))
        extra = sorted(set(self.values) - {*kind.needs, *kind.may})
        if missing or extra:
            raise ConfigError(
                f"rotary parameters of 'rope_type' {self.kind!r} are {listing(sorted(kind.needs)) or 'none'}; "
                f"missing: {listing(missing) or 'none'}, not understood: {listing(extra) or 'none'}"
            )
        numbers = {"rope_theta": self.theta, **{key: self.values[key] for key in self.values if key != "truncate"}}
        wrong = {key: value for key, value in numbers.items() if not _positive(value)}
        if wrong:
            raise ConfigError(f"rotary parameters of 'rope_type' {self.kind!r} are positive numbers; received {wrong}")

    @property
    def scale(self) -> float:
        """Factor of cosines and sines."""
        if self.kind != "yarn":
            return 1.0
        stated = self.values.get("attention_factor")
        if stated is not None:
            return float(stated)
        return yarn_scale(self.values["factor"], self.values.get("mscale"), self.values.get("mscale_all_dim"))

    def module(self, *, interleaved: bool = False) -> SteppedRotary:
        """The module that turns queries and keys."""
        frequencies = _KINDS[self.kind].frequencies(self.size, self.theta, **self.values)
        return SteppedRotary(self.size, frequencies, scale=self.scale, interleaved=interleaved)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


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
    part = given.get("partial_rotary_factor") or fraction
    if not _positive(part) or part > 1:
        raise ConfigError(
            f"'partial_rotary_factor' is the part of a head that is turned, above 0 and at most 1; {part!r}"
        )
    turned = int(head_dim * part)
    used = given.get("rope_theta") or theta or base
    # A null stands for the default.
    values = {key: value for key, value in given.items() if key not in _COMMON and value is not None}
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", longest)
    if kind == "yarn":
        values.pop("finetuned", None)  # how the scaling was come by
        if _positive(values["original_max_position_embeddings"]):
            values.setdefault("factor", longest / values["original_max_position_embeddings"])
    if kind == "default":
        # Parameters of no scaling are read by nobody.
        values.pop("factor", None)
    return Rope(turned, kind, used, values)
