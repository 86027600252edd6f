"""torch.compile: upstream's text encoders, a graph of its own for every fixed shape of the workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.torch_encoder import EncoderAdapter

__all__ = ["PACKAGES", "Adapter"]

PACKAGES = ("torch", "transformers")


class Adapter(EncoderAdapter):
    """Compiles at the first call of a fixed shape: warm-up, for the harness; part of the cold start, for a user.

    Lengths drawn from a mix share one graph of dynamic shape: compiling each of them would take minutes. Weights are
    not frozen: MiniLM-L6 at 1x16 and 1x128 takes 1.02 times as long as frozen (10.8/10.6, 46.1/45.4 ms of CPU time on
    one AVX2 core), but frozen graphs are in no cache, and every process compiles anew: 23 s for a shape, not 4.5 s.
    """

    def load(self, checkpoint: Path, prepared: Path) -> None:
        import torch
        import torch._dynamo.config as dynamo

        super().load(checkpoint, prepared)
        points = (point for listed in self._workload["points"].values() for point in listed)
        shapes = (tuple(point.split("x")) for point in points)
        self._fixed = {(int(batch), int(length)) for batch, length in shapes if length.isdigit()}
        dynamo.recompile_limit = len(self._fixed) + 8
        self._static = torch.compile(self._model, dynamic=False)
        self._dynamic = torch.compile(self._model, dynamic=True)

    def _forward(self, given: dict[str, Any]) -> Any:
        compiled = self._static if tuple(given["input_ids"].shape) in self._fixed else self._dynamic
        return compiled(**given).last_hidden_state
