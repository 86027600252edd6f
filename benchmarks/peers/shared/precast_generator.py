"""Precast generating, by the adapter that `precast bench` uses itself."""

from __future__ import annotations

from precast.runtime.bench.generator import Adapter
from shared.precast_call import PrecastAdapter

__all__ = ["PrecastGenerator"]


class PrecastGenerator(PrecastAdapter, Adapter):
    """The variant that the package chooses."""
