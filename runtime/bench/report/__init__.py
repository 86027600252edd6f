"""A benchmark record as a page to look at (`html`) and as tables to paste (`markdown`)."""

from __future__ import annotations

from precast.runtime.bench.report.page import html
from precast.runtime.bench.report.tables import markdown

__all__ = ["html", "markdown"]
