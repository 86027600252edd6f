"""A checkpoint's tensors by name, loaded when asked for, and how they fill a model's parameters: strict both ways."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from precast.graphs.block_weight import Blocks
from precast.runtime.errors import WeightsError

__all__ = ["Lazy", "StoredTensor", "WeightMap", "at_least_float32", "plan"]


class StoredTensor(Protocol):
    """A tensor of a checkpoint, loaded when asked for (``precast.export.checkpoints.checkpoint.TensorSource``).

    It may have ``blocks`` and ``upright`` too, which mean what they mean in `Lazy`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def load(self) -> Tensor: ...


@dataclass(frozen=True)
class Lazy:
    """A tensor to be computed from checkpoint tensors; ``keys`` are the checkpoint's names, for messages.

    ``blocks``: the integers it is stored in, where it is. Rules that only name, turn or pick rows keep them.
    ``upright``: it is [out, in], whichever way upstream's class has it: `Transpose` leaves it alone.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    blocks: Blocks | None = None
    upright: bool = False

    def picked(self, axis: int, indexes: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Blocks | None:
        """The blocks of what ``indexes`` keeps of [0, 1, ...], the positions along ``axis``."""
        find = self.blocks
        if find is None:
            return None
        return lambda: find().taken(indexes(np.arange(self.shape[axis])), axis)


def at_least_float32(value: Tensor) -> Tensor:
    """What is computed of a checkpoint's tensor: in float32, and in float64 where it is that."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


@dataclass(frozen=True)
class WeightMap:
    """Which lazy tensor fills which parameter."""

    tensors: dict[str, Lazy]

    def unused(self, sources: Iterable[str]) -> tuple[str, ...]:
        """Those of a checkpoint's names that fill none."""
        used = {key for lazy in self.tensors.values() for key in lazy.keys}
        return tuple(sorted(set(sources) - used))

    def bind(
        self, model: nn.Module, dtype: torch.dtype = torch.float32, release: Callable[[], None] = lambda: None
    ) -> None:
        """Give the parameters of ``model`` (on the meta device) their values; tensors of ``dtype`` are not copied.

        ``release`` is called after each weight that was read: it gives back what that has made resident.

        Raises:
            WeightsError: a weight holds NaN or Inf; every such weight is named.
        """
        loaded: dict[int, Tensor] = {}
        parameters: dict[int, nn.Parameter] = {}
        broken: list[str] = []
        for name, lazy in self.tensors.items():
            value = loaded.get(id(lazy))
            if value is None:
                value = lazy.load().to(dtype).contiguous()
                if not _finite(value):
                    broken.append(f"{lazy.keys[0]} ({int((~torch.isfinite(value)).sum())} of {value.numel()} values)")
                loaded[id(lazy)] = value
                release()
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            current = getattr(module, leaf)
            if isinstance(current, nn.Parameter):
                # Tied names share one Parameter object, so that a graph holds the tensor once.
                setattr(module, leaf, parameters.setdefault(id(lazy), nn.Parameter(value, requires_grad=False)))
            else:
                setattr(module, leaf, value)
        if broken:
            raise WeightsError(
                f"weights must be finite, and these hold NaN or Inf: {', '.join(broken)}. "
                "The checkpoint is damaged or was saved from a diverged run; fetch it again or train it again."
            )


def _finite(value: Tensor) -> bool:
    """Whether no element is NaN or Inf: both show in the extremes, which take no memory to find."""
    return value.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(value))).all())


def plan(
    model: nn.Module,
    table: Mapping[str, Lazy],
    *,
    unused: Collection[str] = (),
    computed: Collection[str] = (),
) -> WeightMap:
    """Match renamed tensors with the parameters and buffers of ``model``, strictly both ways.

    Args:
        unused: names that other heads of this family use, and this one does not.
        computed: names of buffers the model computes itself.

    Raises:
        WeightsError: one error lists tensors not consumed, parameters not filled and wrong shapes, 40 of each at most.
    """
    values = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    wanted = {name: tuple(value.shape) for name, value in values if name not in computed}
    missing = sorted(set(wanted) - set(table))
    extra = sorted(set(table) - set(wanted) - set(unused))
    wrong = sorted(key for key in set(table) & set(wanted) if table[key].shape != wanted[key])
    if missing or extra or wrong:
        raise WeightsError(_complaint(missing, extra, wrong, table, wanted))
    return WeightMap({name: table[name] for name in wanted})


# Names of a kind in one message: the layers of a checkpoint that is another model's would be thousands.
_LISTED = 40


def _name(lazy: Lazy) -> str:
    return lazy.keys[0]


def _complaint(
    missing: list[str],
    extra: list[str],
    wrong: list[str],
    table: Mapping[str, Lazy],
    wanted: dict[str, tuple[int, ...]],
) -> str:
    def absent(name: str) -> str:
        near = difflib.get_close_matches(name, extra, n=1, cutoff=0.6)
        return f"{name} {wanted[name]}" + (f" - near match in the checkpoint: {near[0]}" if near else "")

    foreign = sorted(map(table.__getitem__, extra), key=_name)
    lines = ["weights and parameters must match one to one."]
    for title, count, told in (
        ("Missing", len(missing), map(absent, missing)),
        ("Not understood", len(extra), (f"{lazy.keys[0]} {lazy.shape}" for lazy in foreign)),
        (
            "Of another shape",
            len(wrong),
            (f"{table[name].keys[0]} is {table[name].shape}, expected {wanted[name]}" for name in wrong),
        ),
    ):
        if count:
            lines += [f"{title} ({count}):", *(f"  {line}" for line in islice(told, _LISTED))]
        if count > _LISTED:
            lines.append(f"  and {count - _LISTED} more")
    lines.append("Is config.json the one these weights were saved with, and the task the one they were trained for?")
    return "\n".join(lines)
