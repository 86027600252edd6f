"""SmolVLM: Idefics3 with smaller parts. https://arxiv.org/abs/2504.05299"""

from __future__ import annotations

from precast.export.families import idefics3

__all__ = ["FAMILY"]

FAMILY = idefics3.FAMILY
