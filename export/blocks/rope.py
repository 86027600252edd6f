"""Rotary parameters as config.json gives them: transformers 5's ``rope_parameters``, 4's ``rope_theta`` and
``rope_scaling``. A kind of scaling that is not computed here is refused; keys that a kind does not read are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


_YARN_SCALE = ("attention_factor", "mscale", "mscale_all_dim")
_KINDS: Mapping[str, _Kind] = {
    "default": _Kind(plain),
    "linear": _Kind(plain, ("factor",)),
    "llama3": _Kind(llama3, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
    "yarn": _Kind(
        _yarn,
        ("factor", "original_max_position_embeddings"),
        ("beta_fast", "beta_slow", "truncate", *_YARN_SCALE),
    ),
}
_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
# Upstream turns all tokens of a call by the longest row in it or in a call before, and keeps keys as they were turned:
# what a text gives hangs on what it is batched with and on how it is fed.
_DYNAMIC = (
    "'rope_type' is 'dynamic', whose angles follow the longest text seen so far: the answer to one text would depend "
    "on others. Within 'max_position_embeddings' it scales nothing: set 'rope_type' to 'default' to export for such "
    "texts"
)


@dataclass(frozen=True)
class Rope:
    """Rotary positions of one kind of layer. ``ignored``: what was given and is not read."""

    size: int
    kind: str
    theta: float
    values: Mapping[str, Any]
    ignored: tuple[str, ...] = field(default=(), compare=False)
    longest: int | None = None

    def check(self) -> None:
        """Raises ConfigError where the parameters cannot be honoured."""
        if self.size % 2 or self.size < 2:
            raise ConfigError(f"heads have {self.size} channels to turn in pairs: an even number from 2 on is needed")
        if self.kind == "dynamic":
            raise ConfigError(f"{_DYNAMIC}.")
        if self.kind not in _KINDS:
            near = closest(self.kind, _KINDS)
            raise ConfigError(
                f"'rope_type' is {self.kind!r}, which is not computed here. {near} Honoured: {listing(_KINDS)}."
            )
        kind = _KINDS[self.kind]
        missing = sorted(set(kind.needs) - set(self.values))
        if missing:
            near = closest(missing[0], [name.rpartition(".")[2] for name in self.ignored])
            raise ConfigError(
                f"rotary parameters of 'rope_type' {self.kind!r} are {listing(sorted(kind.needs))}; missing: "
                f"{listing(missing)}. {near}".rstrip()
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
        return SteppedRotary(self.size, frequencies, scale=self.scale, interleaved=interleaved, longest=self.longest)


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
    part: float | None = None,
    partial: bool = False,
    name: str = "rope_parameters",
) -> Rope:
    """Read the keys of a config.json.

    Args:
        parameters: transformers 5's ``rope_parameters`` of one kind of layer. scaling, theta: transformers 4's keys,
            the first of which stands for all of ``parameters``, as upstream has it.
        longest: max_position_embeddings, the default of ``original_max_position_embeddings``.
        base: theta where the config says none.
        part: of a head's channels, what is turned, where ``parameters`` do not say it.
        partial: the model turns a part where it is told to. Upstream's others read the part where positions are scaled
            alone, and fail.
        name: of ``parameters``.
    """
    table, given = ("rope_scaling", scaling) if scaling else (name, parameters or {})
    nested = [key for key, value in given.items() if isinstance(value, Mapping)]
    if nested:
        raise ConfigError(f"{table!r} holds tables, and here it is one for all layers; received {listing(nested)}.")
    kind = str(given.get("rope_type", given.get("type", "default")))
    ignored = []
    stated = given.get("partial_rotary_factor")
    share = part if stated is None else stated
    if not partial and kind == "default" and share is not None:
        ignored.append(f"{'' if stated is None else table + '.'}partial_rotary_factor")
        share = None
    share = 1.0 if share is None else share
    if not _positive(share) or share > 1:
        raise ConfigError(
            f"'partial_rotary_factor' is the part of a head that is turned, above 0 and at most 1; {share!r}"
        )
    if share != 1 and not partial:
        raise ConfigError(
            f"'partial_rotary_factor' {share!r} with 'rope_type' {kind!r} is not computed here: this model turns whole "
            "heads, and upstream fails on such a config. Leave it out"
        )
    used = given.get("rope_theta") or theta or base
    # A null stands for the default, but for a switch.
    values = {key: value for key, value in given.items() if value is not None or key == "truncate"}
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", longest)
    if kind == "yarn" and _positive(values["original_max_position_embeddings"]):
        values.setdefault("factor", longest / values["original_max_position_embeddings"])
    read = {*_KINDS[kind].needs, *_KINDS[kind].may} if kind in _KINDS else set(values)
    ignored += [f"{table}.{key}" for key in sorted(set(given) - read - _COMMON)]
    return Rope(
        int(head_dim * share),
        kind,
        used,
        {key: value for key, value in values.items() if key in read - _COMMON},
        tuple(ignored),
        longest,
    )
