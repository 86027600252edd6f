"""The inputs every export is tried on, and the two references: eager float32 and the float64 judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from precast.export.blocks.tables import fill_tables
from precast.export.signatures import Signature
from precast.runtime.backends.base import Array
from precast.runtime.parity import Case

__all__ = ["cases", "evaluate", "judge", "streaming"]

# Longest text tried where a model takes longer ones: the float64 judge needs S * S scores for every head.
LONGEST = 1024


# (batch, length, padding); 0 stands for the longest length. Batch 1, 2 and odd, lengths around powers of two.
_SHAPES = (
    (1, 1, "none"),
    (2, 2, "none"),
    (3, 7, "right"),
    (1, 8, "left"),
    (2, 63, "right"),
    (1, 64, "none"),
    (1, 127, "left"),
    (2, 128, "right"),
    (1, 0, "none"),
)

# For outputs of a few numbers a text: enough short texts that the largest of their rounding errors, eager's and ours,
# are those of a population and not of a dozen numbers.
_MANY = (129, 4, "right")


def _mask(rng: np.random.Generator, rows: int, length: int, padding: str) -> Array:
    mask = np.ones((rows, length), dtype=np.int64)
    if padding != "none":
        for row in range(rows if rows == 1 else rows - 1):  # the last row of a batch is full
            real = int(rng.integers(1, length + 1)) if row else max(1, length // 2)
            mask[row, real:] = 0
            if padding == "left":
                mask[row] = mask[row, ::-1]
    return mask


def cases(signature: Signature, *, shapes: Sequence[tuple[int, int, str]] = _SHAPES, seed: int = 0) -> list[Case]:
    """Random inputs for a signature: every shape of ``shapes`` that the model takes, garbage in padded positions."""
    rng = np.random.default_rng(seed)
    if signature.per_text:
        shapes = (*shapes, _MANY)
    longest = min(signature.limits.get("max_positions", LONGEST), LONGEST)
    made: list[Case] = []
    for batch, asked, padding in shapes:
        length = asked or longest
        if length > longest:
            continue
        inputs: dict[str, Array] = {}
        for name, dims in signature.inputs.items():
            shape = tuple({"batch": batch, "choices": 3, "sequence": length}[dim] for dim in dims)
            if name == "attention_mask":
                inputs[name] = _mask(rng, int(np.prod(shape[:-1])), length, padding).reshape(shape)
            else:
                bound = signature.limits["type_vocab_size" if name == "token_type_ids" else "vocab_size"]
                inputs[name] = rng.integers(0, bound, size=shape, dtype=np.int64)
        made.append(Case(f"{batch}x{length}-{padding}", inputs))
    return made


def _widen(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.to(torch.float64) if narrow else value


class _Float64(TorchDispatchMode):
    """Runs a float32 model in float64: each operator's inputs are widened as it is called.

    So the judge of a model needs no second, twice as large copy of its weights.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.ops.aten.embedding.default:
            # A lookup is exact in any type: widen the rows, not the table.
            return func(*args, **kwargs).to(torch.float64)
        return func(*tree_map(_widen, args), **tree_map(_widen, kwargs))


@contextmanager
def streaming(model: nn.Module, release: Callable[[], None]) -> Iterator[None]:
    """Call ``release`` after each layer, so that mapped weights are resident one layer at a time.

    A gate must not need more memory than the export it guards.
    """
    layers = [child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module]
    hooks = [layer.register_forward_hook(lambda *_: release()) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def evaluate(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the eager reference model for one case."""
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def judge(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The same in float64, weights widened operator by operator and tables computed anew."""
    fill_tables(model, torch.float64)
    try:
        with torch.no_grad(), _Float64():
            outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    finally:
        fill_tables(model)
    return {name: value.numpy() for name, value in outputs.items()}
