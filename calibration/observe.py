"""What goes into the products by a model's weights: second moments of their inputs, channel by channel and together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from precast.calibration.running import through
from precast.calibration.trial import Trial
from precast.graphs import schema
from precast.graphs.tensors import sizes
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.parity import Case, Loaded

__all__ = ["Moments", "Range", "observed"]

# Bytes of second moments that are held at a time: of what does not fit, inputs are run once more.
_HELD = 256 << 20
_ROWS = 512  # that are put together


@dataclass(frozen=True)
class Range:
    """How an input of products spreads.

    Args:
        largest: the largest absolute value. outlier: root mean square of the loudest channel over the median channel's.
    """

    largest: float
    outlier: float


@dataclass(frozen=True)
class Moments:
    """Of one input of products.

    Args:
        weights: the names of what it is multiplied by. second: mean of x x^T [K, K] over all rows.
    """

    weights: tuple[str, ...]
    second: Array
    range: Range


def observed(
    trials: Mapping[str, Trial], component: str, cases: Sequence[Case], wanted: Sequence[str]
) -> Iterator[Moments]:
    """The moments of what ``wanted`` weights of a component are multiplied by, over calls of the model.

    Raises:
        InputError: the data leads to NaN or infinities.
    """
    plain = {name: trial.loaded({}) for name, trial in trials.items() if name != component}
    for group in _groups(_inputs(trials[component], wanted)):
        watched = trials[component].loaded({}, [x.name for x in group])
        yield from _over({**plain, component: watched}, component, cases, group)


@dataclass(frozen=True)
class _Input:
    """A value that is multiplied by weights [N, ``depth``]; its shape in named dimensions."""

    name: str
    weights: tuple[str, ...]
    depth: int
    shape: tuple[int | str, ...]


def _inputs(trial: Trial, wanted: Sequence[str]) -> list[_Input]:
    found: dict[ir.Value, list[ir.Value]] = {}
    for node in trial.raised.graph:
        if (node.domain, node.op_type) == (schema.DOMAIN, "Linear"):
            x, weight = node.inputs[:2]
            if x is not None and weight is not None and weight.name in wanted and x.producer() is not None:
                found.setdefault(x, []).append(weight)
    named = {dim for port in trial.component.inputs for dim in port.shape}
    made = []
    for x, weights in found.items():
        shape = tuple(_dim(dim) for dim in x.shape or ())
        # Calls with states write into arrays of known shapes.
        if trial.component.states and not (shape and all(isinstance(dim, int) or dim in named for dim in shape)):
            continue
        tensor = weights[0].const_value
        assert tensor is not None
        made.append(_Input(str(x.name), tuple(str(one.name) for one in weights), sizes(tensor.shape)[1], shape))
    return made


def _dim(dim: int | ir.SymbolicDim) -> int | str:
    return dim if isinstance(dim, int) else str(dim.value)


def _groups(inputs: Sequence[_Input]) -> Iterator[list[_Input]]:
    """Inputs whose moments are held together."""
    group, held = list[_Input](), 0
    for x in inputs:
        if group and held + x.depth**2 * 4 > _HELD:
            yield group
            group, held = [], 0
        group.append(x)
        held += x.depth**2 * 4
    if group:
        yield group


def _over(
    parts: Mapping[str, Loaded], component: str, cases: Sequence[Case], group: Sequence[_Input]
) -> Iterator[Moments]:
    sums = {x.name: _Products(x.depth) for x in group}
    largest = dict.fromkeys(sums, 0.0)
    for case, outputs in through(parts, cases, {x.name: x.shape for x in group}):
        if case.component != component:
            continue
        for x in group:
            values = outputs[x.name].reshape(-1, x.depth)
            size = float(np.abs(values).max(initial=0))
            if not np.isfinite(size):
                raise InputError(
                    f"the data leads to {'NaN' if np.isnan(size) else 'an infinity'} in front of {x.weights[0]!r}: "
                    "nothing can be measured of such inputs. Leave them out."
                )
            sums[x.name].add(values)
            largest[x.name] = max(largest[x.name], size)
    for x in group:
        second = sums.pop(x.name).mean()
        own = np.sqrt(np.diagonal(second).astype(np.float64))
        typical = float(np.median(own))
        spread = Range(largest[x.name], float(own.max() / typical) if typical else 1.0)
        yield Moments(x.weights, second, spread)


class _Products:
    """The sum of x x^T [K, K] over rows, which are put together first: a few rows alone would cost reading and writing
    all of it."""

    def __init__(self, depth: int) -> None:
        self._sum = np.zeros((depth, depth), np.float32)
        self._rows: list[Array] = []
        self._count = self._waiting = 0

    def add(self, values: Array) -> None:
        """Rows [M, K]."""
        self._rows.append(values.copy())
        self._waiting += len(values)
        if self._waiting >= _ROWS:
            self._take()

    def mean(self) -> Array:
        """The mean over all rows."""
        if self._rows:
            self._take()
        return np.asarray(self._sum / max(1, self._count))

    def _take(self) -> None:
        rows = np.concatenate(self._rows)
        self._sum += rows.T @ rows
        self._count += len(rows)
        self._rows, self._waiting = [], 0
