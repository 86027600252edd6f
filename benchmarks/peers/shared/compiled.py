"""torch.compile as its documentation has it for inference: weights frozen, every shape a graph of its own."""

from __future__ import annotations

from typing import Any

__all__ = ["compiled"]


def compiled(model: Any, workload: dict[str, Any]) -> Any:
    """Compiles at the first call of a shape: warm-up, for the harness; part of the cold start, for a user."""
    import torch
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    inductor.freezing = True
    dynamo.recompile_limit = sum(map(len, workload["points"].values())) + 8
    return torch.compile(model, dynamic=False)
