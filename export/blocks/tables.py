"""Constant tables a model computes instead of loading: built on the meta device with it, filled when it is bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from precast.runtime.errors import ConfigError

__all__ = ["Table", "fill_tables", "table_names"]

_LARGEST = 1 << 30


class Table(nn.Module):
    """A buffer with the function that computes it, in float64; every dtype of the model rounds the same numbers.

    A table of integers (``dtype=torch.int64``) stays one in every type of the model. One table may serve many layers.
    """

    values: Tensor

    def __init__(
        self, shape: tuple[int, ...], compute: Callable[[], Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if math.prod(shape) > _LARGEST:
            # Free on the meta device, but not once it is filled: config.json must not ask for any amount of memory.
            raise ConfigError(
                f"a table of {' x '.join(map(str, shape))} numbers is made from config.json, and {_LARGEST} may be. "
                "Which of its sizes (max_position_embeddings ...) is that long?"
            )
        self.compute = compute
        self.register_buffer("values", torch.empty(shape, dtype=dtype), persistent=False)

    def forward(self) -> Tensor:
        return self.values


def table_names(model: nn.Module) -> list[str]:
    """Names of the buffers that `fill_tables` fills."""
    modules = model.named_modules(remove_duplicate=False)
    return [f"{name}.values" if name else "values" for name, module in modules if isinstance(module, Table)]


def fill_tables(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Compute every table of ``model`` in float64 and round it to ``dtype``; integers stay as they are."""
    for module in model.modules():
        if isinstance(module, Table):
            values = module.compute()
            module.values = values.to(dtype) if values.is_floating_point() else values
