"""One colour and one mark an engine, on the whole page.

After Okabe and Ito (https://jfly.uni-koeln.de/color/), each moved to a luminance from 0.12 to 0.30, so that a mark has
a contrast of at least 3 on the light page and on the dark one. Vermilion is ours and nobody else's.
"""

from __future__ import annotations

from dataclasses import dataclass

from precast.runtime.bench.report.text import esc
from precast.runtime.bench.report.view import View

__all__ = ["ACCENT", "Mark", "marks"]

ACCENT = "#D55E00"
_PEERS = (
    *("#0072B2", "#009E73", "#B8649A", "#3A92CC", "#9A7B00", "#7A5FD0", "#7A808A"),
    *("#1F8A9C", "#96603F", "#C8446E", "#6F8B1F"),
)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon")
_SHAPES = {
    "circle": '<circle cx="7" cy="7" r="4.6"/>',
    "square": '<rect x="2.8" y="2.8" width="8.4" height="8.4"/>',
    "diamond": '<path d="M7 1.4 12.6 7 7 12.6 1.4 7z"/>',
    "triangle-up": '<path d="M7 1.8 12.6 11.6H1.4z"/>',
    "triangle-down": '<path d="M7 12.2 1.4 2.4h11.2z"/>',
    "pentagon": '<path d="M7 1.4 12.6 5.5 10.4 12H3.6L1.4 5.5z"/>',
    "hexagon": '<path d="M7 1.2 12 4v6L7 12.8 2 10V4z"/>',
}


@dataclass(frozen=True)
class Mark:
    """How an engine looks in every chart; ``hollow``: it does not compute in the precision the page starts from."""

    colour: str
    symbol: str
    dash: str
    hollow: bool

    def svg(self) -> str:
        paint = f'fill="none" stroke="{self.colour}" stroke-width="2"' if self.hollow else f'fill="{self.colour}"'
        return f'<svg class="mark" viewBox="0 0 14 14" aria-hidden="true"><g {paint}>{_SHAPES[self.symbol]}</g></svg>'


def marks(view: View) -> dict[str, Mark]:
    """Engines of one package share a colour; their precisions differ in mark and dash. Without peers, variants are told
    apart by colour."""
    found: dict[str, Mark] = {}
    base = next((str(view.engines[name].get("precision") or "") for name in (*view.ours, *view.engines)), "")
    colours: dict[str, str] = {}
    seen: dict[str, int] = {}
    for name, about in view.engines.items():
        ours = name in view.ours
        group = "ours" if ours and view.peers else esc(about.get("title") or name) if view.peers else name
        if group not in colours:
            mine = ours and ACCENT not in colours.values()
            colours[group] = ACCENT if mine else _PEERS[(len(colours) - (ACCENT in colours.values())) % len(_PEERS)]
        count = seen.setdefault(group, 0)
        seen[group] += 1
        place = list(colours).index(group)
        found[name] = Mark(
            colours[group],
            _SYMBOLS[(count if group == "ours" else place + count) % len(_SYMBOLS)],
            ("solid", "dash", "dot", "dashdot")[count % 4],
            str(about.get("precision") or base) != base,
        )
    return found
