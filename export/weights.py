"""Declarative weight-name rules: from a checkpoint's tensors to the reference model's parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from precast.export.weight_table import Lazy, StoredTensor, at_least_float32
from precast.runtime.errors import WeightsError

__all__ = [
    "Alternate",
    "Compute",
    "Flatten",
    "Fold",
    "FoldNorm",
    "FoldScale",
    "Ignore",
    "IgnoreZeros",
    "Merge",
    "Narrow",
    "Prefixed",
    "Rename",
    "Rule",
    "Split",
    "Stack",
    "Standardise",
    "Tie",
    "Transpose",
    "Unless",
    "Unsqueeze",
    "WeightNorm",
    "Within",
    "rename",
]


def _regex(pattern: str) -> re.Pattern[str]:
    """``{}`` stands for a layer index, ``*`` for anything; both are captured."""
    parts = re.split(r"(\{\}|\*)", pattern)
    body = "".join(r"(\d+)" if part == "{}" else r"(.*)" if part == "*" else re.escape(part) for part in parts)
    return re.compile(rf"^{body}$")


def _fill(template: str, groups: Sequence[str]) -> str:
    filled = iter(groups)
    return re.sub(r"\{\}|\*", lambda _: next(filled), template)


def _changed(table: dict[str, Lazy], pattern: str, change: Callable[[Lazy], Lazy]) -> dict[str, Lazy]:
    """The table with ``change`` applied to every tensor whose name matches."""
    regex = _regex(pattern)
    return {key: change(lazy) if regex.match(key) else lazy for key, lazy in table.items()}


def _put(table: dict[str, Lazy], name: str, lazy: Lazy) -> None:
    """Raises WeightsError where another tensor has that name."""
    if name in table:
        raise WeightsError(
            f"two tensors of the checkpoint are both named {name!r} here: {table[name].keys[0]!r} and {lazy.keys[0]!r}"
        )
    table[name] = lazy


def _renamed(table: dict[str, Lazy], name: Callable[[str], str]) -> dict[str, Lazy]:
    """The table under other names; raises WeightsError where two tensors would have one."""
    renamed: dict[str, Lazy] = {}
    for key, lazy in table.items():
        _put(renamed, name(key), lazy)
    return renamed


class Rule:
    """One step of the mapping. ``apply`` takes and returns the whole table of named tensors."""

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        raise NotImplementedError


@dataclass(frozen=True)
class Rename(Rule):
    """``Rename("encoder.layer.{}.output.dense.*", "layers.{}.mlp.down_proj.*")``; wildcards go across in order."""

    old: str
    new: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern = _regex(self.old)

        def name(key: str) -> str:
            match = pattern.match(key)
            return _fill(self.new, match.groups()) if match else key

        return _renamed(table, name)


@dataclass(frozen=True)
class Within(Rule):
    """``rules`` for the names behind ``prefix`` alone, as if they began there; what comes of them begins with ``to``.

    ``{}`` stands for a layer's index in both, so that the rules of a layer need not name it. Rules of a whole family
    stand in a composite so: ``Within("text_model.", bert.FAMILY.weights(spec.text), to="text.")``. A `Tie` joins the
    names behind one prefix; what is tied across prefixes is tied after them.

    Args:
        to: None is ``prefix`` again.
    """

    prefix: str
    rules: tuple[Rule, ...]
    to: str | None = None

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern, to = _regex(f"{self.prefix}*"), self.prefix if self.to is None else self.to
        result: dict[str, Lazy] = {}
        within: dict[tuple[str, ...], dict[str, Lazy]] = {}
        for key, lazy in table.items():
            match = pattern.match(key)
            if match is None:
                result[key] = lazy
            else:
                *layer, name = match.groups()
                within.setdefault(tuple(layer), {})[name] = lazy
        for layer_, part in within.items():
            begin = _fill(self.prefix, layer_)
            try:
                for rule in self.rules:
                    part = rule.apply(part)
            except WeightsError as error:
                raise WeightsError(f"{error} (names behind {begin!r})") from error
            for name, lazy in part.items():
                _put(result, f"{_fill(to, layer_)}{name}", lazy)
        return result


@dataclass(frozen=True)
class Prefixed(Rule):
    """Names without upstream's prefix of the base model get it, but for what stands ``beside`` that model: checkpoints
    of the base class lack it, and upstream loads them into every class."""

    prefix: str
    beside: tuple[str, ...] = ("lm_head.*", "score.*")

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        whole = [_regex(pattern) for pattern in (f"{self.prefix}.*", *self.beside)]
        bare = {key for key in table if not any(pattern.match(key) for pattern in whole)}
        return _renamed(table, lambda key: f"{self.prefix}.{key}" if key in bare else key)


@dataclass(frozen=True)
class Ignore(Rule):
    """Drop tensors that the computation does not need (saved buffers, heads of another task)."""

    pattern: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern = _regex(self.pattern)
        return {key: lazy for key, lazy in table.items() if not pattern.match(key)}


@dataclass(frozen=True)
class IgnoreZeros(Rule):
    """Drop matching tensors that hold nothing but zeros: a bias that every class of a kind has and few models use.

    All of them have the ``shape`` of upstream's: zeros of another one belong to another model.
    """

    pattern: str
    shape: tuple[int, ...]

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern = _regex(self.pattern)
        found = {key: lazy for key, lazy in table.items() if pattern.match(key)}
        for key, lazy in found.items():
            if tuple(lazy.shape) != self.shape:
                raise WeightsError(
                    f"{key!r} must have the shape {self.shape}; the checkpoint's has {tuple(lazy.shape)}."
                )
        return {key: lazy for key, lazy in table.items() if key not in found or lazy.load().any()}


@dataclass(frozen=True)
class Split(Rule):
    """One tensor into several along ``axis``: a packed projection into its parts.

    Args:
        shares: sizes of the parts, in any unit; None: all are equal.
        groups: how often the parts follow each other: [q k v q k v] of two heads is two groups of three parts.
    """

    old: str
    new: tuple[str, ...]
    axis: int = 0
    shares: tuple[int, ...] | None = None
    groups: int = 1

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern = _regex(self.old)
        shares = self.shares or (1,) * len(self.new)
        result: dict[str, Lazy] = {}
        for key, lazy in table.items():
            match = pattern.match(key)
            if match is None:
                result[key] = lazy
                continue
            unit, rest = divmod(lazy.shape[self.axis], self.groups * sum(shares))
            if rest:
                parts = f"{len(self.new)} parts" + (f" of sizes {shares}" if self.shares else "")
                if self.groups > 1:
                    parts += f", {self.groups} times: are the numbers of heads in config.json those of the weights?"
                raise WeightsError(f"{lazy.keys[0]!r} of shape {lazy.shape} does not split into {parts}")
            start = 0
            for share, template in zip(shares, self.new, strict=True):
                size = share * unit
                shape = tuple(self.groups * size if axis == self.axis else dim for axis, dim in enumerate(lazy.shape))

                def load(lazy: Lazy = lazy, start: int = start, size: int = size) -> Tensor:
                    grouped = lazy.load().unflatten(self.axis, (self.groups, -1))
                    return grouped.narrow(self.axis + 1, start, size).flatten(self.axis, self.axis + 1)

                def rows(all_: np.ndarray[Any, Any], start: int = start, size: int = size) -> np.ndarray[Any, Any]:
                    return all_.reshape(self.groups, -1)[:, start : start + size].reshape(-1)

                blocks = lazy.picked(self.axis, rows)
                result[_fill(template, match.groups())] = Lazy(lazy.keys, shape, load, blocks, lazy.upright)
                start += size
        return result


@dataclass(frozen=True)
class Merge(Rule):
    """Several tensors into one along ``axis``."""

    old: tuple[str, ...]
    new: str
    axis: int = 0

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        patterns = [_regex(old) for old in self.old]
        groups: dict[tuple[str, ...], list[str]] = {}
        for pattern in patterns:
            for key in table:
                match = pattern.match(key)
                if match:
                    groups.setdefault(match.groups(), []).append(key)
        result = dict(table)
        for wildcards, keys in groups.items():
            if len(keys) != len(self.old):
                raise WeightsError(f"{_fill(self.new, wildcards)!r} needs all of {self.old}, found only {keys}")
            parts = [result.pop(key) for key in keys]
            shape = list(parts[0].shape)
            shape[self.axis] = sum(part.shape[self.axis] for part in parts)

            def load(parts: list[Lazy] = parts) -> Tensor:
                return torch.cat([part.load() for part in parts], dim=self.axis)

            names = tuple(key for part in parts for key in part.keys)
            result[_fill(self.new, wildcards)] = Lazy(names, tuple(shape), load)
        return result


@dataclass(frozen=True)
class Stack(Rule):
    """Tensors that the last ``{}`` of their name numbers, as one with a new first axis: experts kept apart."""

    old: str
    new: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        pattern = _regex(self.old)
        groups: dict[tuple[str, ...], dict[int, str]] = {}
        for key in table:
            match = pattern.match(key)
            if match:
                *others, index = match.groups()
                groups.setdefault(tuple(others), {})[int(index)] = key
        result = dict(table)
        for wildcards, keys in groups.items():
            name = _fill(self.new, wildcards)
            if set(keys) != set(range(len(keys))):
                raise WeightsError(f"{name!r} needs one tensor for each number from 0; found {sorted(keys)}")
            parts = [result.pop(keys[index]) for index in range(len(keys))]
            if len({part.shape for part in parts}) > 1:
                raise WeightsError(f"{name!r} needs tensors of one shape; found {[part.shape for part in parts]}")

            def load(parts: list[Lazy] = parts) -> Tensor:
                return torch.stack([part.load() for part in parts])

            shape = (len(parts), *parts[0].shape)
            result[name] = Lazy(tuple(key for part in parts for key in part.keys), shape, load)
        return result


@dataclass(frozen=True)
class Alternate(Rule):
    """Two halves along ``axis`` as alternating rows: first of the one, first of the other, second of the one ..."""

    pattern: str
    axis: int = 0

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def changed(lazy: Lazy) -> Lazy:
            def load() -> Tensor:
                halves = lazy.load().unflatten(self.axis, (2, -1))
                return halves.transpose(self.axis, self.axis + 1).flatten(self.axis, self.axis + 1)

            return Lazy(lazy.keys, lazy.shape, load)

        return _changed(table, self.pattern, changed)


@dataclass(frozen=True)
class Transpose(Rule):
    """Swap the two axes of matching matrices (weights that upstream keeps as [in, out])."""

    pattern: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def turned(lazy: Lazy) -> Lazy:
            if lazy.upright:
                return lazy
            find = lazy.blocks
            blocks = None if find is None else lambda: find().turned()
            return Lazy(lazy.keys, lazy.shape[::-1], lambda: lazy.load().t(), blocks)

        return _changed(table, self.pattern, turned)


@dataclass(frozen=True)
class Flatten(Rule):
    """Matching tensors as vectors: [1, V] -> [V]."""

    pattern: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        return _changed(
            table, self.pattern, lambda lazy: Lazy(lazy.keys, (math.prod(lazy.shape),), lambda: lazy.load().flatten())
        )


@dataclass(frozen=True)
class Unsqueeze(Rule):
    """``count`` axes of size 1 in front of the one numbered ``axis``."""

    pattern: str
    count: int
    axis: int = 0

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        before = (slice(None),) * self.axis

        def change(lazy: Lazy) -> Lazy:
            shape = (*lazy.shape[: self.axis], *(1,) * self.count, *lazy.shape[self.axis :])
            return Lazy(lazy.keys, shape, lambda: lazy.load()[(*before, *(None,) * self.count)])

        return _changed(table, self.pattern, change)


@dataclass(frozen=True)
class Narrow(Rule):
    """Matching tensors without their first ``start`` rows, which nothing reads."""

    pattern: str
    start: int

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def narrowed(lazy: Lazy) -> Lazy:
            shape = (max(lazy.shape[0] - self.start, 0), *lazy.shape[1:])
            blocks = lazy.picked(0, lambda rows: rows[self.start :])
            return Lazy(lazy.keys, shape, lambda: lazy.load()[self.start :], blocks, lazy.upright)

        return _changed(table, self.pattern, narrowed)


@dataclass(frozen=True)
class Fold(Rule):
    """Fold a constant into matching tensors: ``add`` for norms stored as an offset from one, ``scale`` for factors."""

    pattern: str
    add: float = 0.0
    scale: float = 1.0

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def folded(lazy: Lazy) -> Lazy:
            return Lazy(lazy.keys, lazy.shape, lambda: at_least_float32(lazy.load()) * self.scale + self.add)

        return _changed(table, self.pattern, folded)


@dataclass(frozen=True)
class Standardise(Rule):
    """Matching kernels with mean 0 and variance 1 for each output: (w - mean) / sqrt(variance + eps), in float64.
    https://arxiv.org/abs/1903.10520"""

    pattern: str
    eps: float

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        def standardised(lazy: Lazy) -> Lazy:
            def load() -> Tensor:
                wide = lazy.load().double()
                variance, mean = torch.var_mean(wide.flatten(1), dim=1, correction=0)
                shape = (-1, *(1 for _ in lazy.shape[1:]))
                return (wide - mean.view(shape)) / torch.sqrt(variance + self.eps).view(shape)

            return Lazy(lazy.keys, lazy.shape, load)

        return _changed(table, self.pattern, standardised)


@dataclass(frozen=True)
class WeightNorm(Rule):
    """Weights kept as a length and a direction for each place of an axis: length * direction / |direction|, in float64.
    https://arxiv.org/abs/1602.07868

    Both parts are there, under torch's older names (``weight_g``, ``weight_v``) or under those of its parametrizations.

    Args:
        name: the module's, without ``.weight``. axis: the one that a length is for each place of; all the others are 1
            in the lengths.
    """

    name: str
    axis: int = 0

    _SPELLINGS: ClassVar = (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    )

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        parts = [part for spelling in self._SPELLINGS for part in spelling]
        groups = {
            match.groups() for part in parts for key in table if (match := _regex(f"{self.name}.{part}").match(key))
        }
        result = dict(table)
        for wildcards in groups:
            name = _fill(self.name, wildcards)
            found = [part for part in parts if f"{name}.{part}" in table]
            if tuple(found) not in self._SPELLINGS:
                raise WeightsError(
                    f"{name + '.weight'!r} is kept as a length and a direction, {self._SPELLINGS[0]} or "
                    f"{self._SPELLINGS[1]}; found {found}"
                )
            length, direction = (result.pop(f"{name}.{part}") for part in found)
            ones = tuple(size if axis == self.axis else 1 for axis, size in enumerate(direction.shape))
            if length.shape != ones:
                raise WeightsError(
                    f"{length.keys[0]!r} must have the shape {ones}; the checkpoint's has {length.shape}."
                )

            def load(length: Lazy = length, direction: Lazy = direction) -> Tensor:
                wide = direction.load().double()
                others = tuple(axis for axis in range(wide.ndim) if axis != self.axis)
                return length.load().double() * wide / torch.linalg.vector_norm(wide, dim=others, keepdim=True)

            _put(result, f"{name}.weight", Lazy((*length.keys, *direction.keys), direction.shape, load))
        return result


@dataclass(frozen=True)
class FoldScale(Rule):
    """A vector of factors for what a projection makes, into the projection: its rows, and its bias.

    Every ``scale`` has a projection, and every projection a scale.

    Args:
        into: the projection's name without ``.weight`` and ``.bias``; wildcards as those of ``scale``.
    """

    scale: str
    into: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        result, scale, into = dict(table), _regex(self.scale), _regex(f"{self.into}.weight")
        groups = {match.groups() for key in table for match in (scale.match(key), into.match(key)) if match}
        for wildcards in groups:
            name, projection = _fill(self.scale, wildcards), _fill(self.into, wildcards)
            if name not in table or f"{projection}.weight" not in table:
                gone, there = (name, projection) if name not in table else (projection, name)
                raise WeightsError(f"{gone!r} is missing, and {there!r} needs it")
            factors = result.pop(name)
            for key in (f"{projection}.weight", f"{projection}.bias"):
                if key in result:
                    result[key] = self._scaled(result[key], factors)
        return result

    @staticmethod
    def _scaled(lazy: Lazy, factors: Lazy) -> Lazy:
        def load() -> Tensor:
            rows = at_least_float32(factors.load())
            return at_least_float32(lazy.load()) * rows.view(-1, *(1,) * (len(lazy.shape) - 1))

        if lazy.shape[:1] != factors.shape:
            raise WeightsError(f"{factors.keys[0]!r} of shape {factors.shape} scales {lazy.keys[0]!r} of {lazy.shape}")
        return Lazy((*lazy.keys, *factors.keys), lazy.shape, load)


@dataclass(frozen=True)
class FoldNorm(Rule):
    """Batch norms of constant statistics into the projections they stand behind, or in front of, in float64.
    https://arxiv.org/abs/1502.03167

    Every norm has a projection; one without a bias gets it.

    Args:
        norm: the norm's name without ``.weight``, ``.running_mean`` and so on.
        into: the projection's without ``.weight`` and ``.bias``; wildcards as those of ``norm``.
        front: it is the projection's input that is normalised.
    """

    norm: str
    into: str
    eps: float = 1e-5
    front: bool = False

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        result, pattern = dict(table), _regex(f"{self.norm}.weight")
        for wildcards in (match.groups() for key in table if (match := pattern.match(key))):
            norm, into = _fill(self.norm, wildcards), _fill(self.into, wildcards)
            names = [
                f"{into}.weight",
                *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
            ]
            missing = [name for name in names if name not in result]
            if missing:
                raise WeightsError(f"{missing[0]!r} is missing, and {norm + '.weight'!r} needs it")
            weight, *statistics = (result.pop(name) for name in names)
            bias = result.pop(f"{into}.bias", None)
            if len(weight.shape) != 2 or any(part.shape != (weight.shape[int(self.front)],) for part in statistics):
                shapes = [part.shape for part in statistics]
                raise WeightsError(f"a norm of shapes {shapes} does not fit {weight.keys[0]!r} of {weight.shape}")
            parts = [weight, *statistics, *([] if bias is None else [bias])]
            keys = tuple(key for part in parts for key in part.keys)
            for place, (name, shape) in enumerate((("weight", weight.shape), ("bias", weight.shape[:1]))):

                def load(parts: list[Lazy] = parts, place: int = place) -> Tensor:
                    return self._folded(parts)[place]

                result[f"{into}.{name}"] = Lazy(keys, shape, load)
        return result

    def _folded(self, parts: list[Lazy]) -> tuple[Tensor, Tensor]:
        """The projection's weight and bias."""
        weight, scale, shift, mean, variance, *own = (part.load().double() for part in parts)
        by = scale / torch.sqrt(variance + self.eps)
        bias = own[0] if own else weight.new_zeros(weight.shape[0])
        if self.front:
            return weight * by, bias + weight @ (shift - mean * by)
        return weight * by[:, None], (bias - mean) * by + shift


@dataclass(frozen=True)
class Compute(Rule):
    """Tensors into one by a function of them, in float64: what a model computes of its weights alone, once.

    Args:
        shape: of what ``function`` makes.
    """

    old: tuple[str, ...]
    new: str
    shape: tuple[int, ...]
    function: Callable[..., Tensor]

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        groups = {match.groups() for old in self.old for key in table if (match := _regex(old).match(key))}
        result = dict(table)
        for wildcards in groups:
            names, new = [_fill(old, wildcards) for old in self.old], _fill(self.new, wildcards)
            if not result.keys() >= set(names):
                found = [name for name in names if name in result]
                raise WeightsError(f"{new!r} needs all of {names}, found only {found}")
            parts = [result.pop(name) for name in names]

            def load(parts: list[Lazy] = parts) -> Tensor:
                return self.function(*(part.load().to(torch.float64) for part in parts))

            _put(result, new, Lazy(tuple(key for part in parts for key in part.keys), self.shape, load))
        return result


@dataclass(frozen=True)
class Unless(Rule):
    """``rule`` for checkpoints that hold no tensor called ``name``: heads of one model may read its body otherwise."""

    name: str
    rule: Rule

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        return table if self.name in table else self.rule.apply(table)


@dataclass(frozen=True)
class Tie(Rule):
    """``target`` and ``source`` are one parameter, stored under either name or both.

    A checkpoint that holds both with different values says that they are not tied after all, as upstream reads it.
    """

    target: str
    source: str

    def apply(self, table: dict[str, Lazy]) -> dict[str, Lazy]:
        target, source = table.get(self.target), table.get(self.source)
        if target is None and source is None:
            return table
        one = source if source is not None else target
        assert one is not None
        if target is not None and source is not None and target is not source:
            if not torch.equal(target.load(), source.load()):
                return table
            one = replace(source, keys=(*source.keys, *target.keys))
        # Also under the names that either of them has by an earlier tie.
        table = {key: one if lazy is source or lazy is target else lazy for key, lazy in table.items()}
        return {**table, self.target: one, self.source: one}


def rename(sources: Mapping[str, StoredTensor], rules: Iterable[Rule]) -> dict[str, Lazy]:
    """A checkpoint's tensors under the reference model's names."""
    table = {
        key: Lazy(
            (key,),
            tuple(source.shape),
            source.load,
            getattr(source, "blocks", None),
            getattr(source, "upright", False),
        )
        for key, source in sources.items()
    }
    for rule in rules:
        table = rule.apply(table)
    return table
