"""Precast with a delay: every call takes ``workload["slower"]`` (0.1: a tenth) longer than it would."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from precast.runtime.bench.adapter import PACKAGES
from precast.runtime.bench.adapter import Adapter as Precast

__all__ = ["PACKAGES", "Adapter"]


class Adapter(Precast):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._slower = float(options["workload"]["slower"])

    def run(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        began = time.perf_counter()
        outputs = super().run(feed)
        now = time.perf_counter()
        end = now + self._slower * (now - began)
        while time.perf_counter() < end:  # not asleep: a core that rests would be faster afterwards
            pass
        return outputs
