"""An artifact as one self-contained page: what its variants weigh and lose, what was tried, which weights cost most.

No request leaves it, light and dark, a screen or a phone; bars are HTML, so that it takes no library to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from precast.runtime.artifact import Artifact, Variant
from precast.runtime.artifact.calibrated import Calibrated, Part
from precast.runtime.artifact.manifest import calibrated
from precast.runtime.bench.report.style import STYLE
from precast.runtime.bench.report.text import esc, sig, size
from precast.runtime.fields import is_number
from precast.runtime.metrics import METRICS, judgements

__all__ = ["LOSSES", "METHODS", "html"]

# What a budget bounds, and the ways of rounding, in words.
LOSSES: Mapping[str, str] = {
    "cosine": "1 - cosine",
    "agreement": "answers that change",
    "overlap": "1 - intersection over union",
    "variance": "variance that is not the reference's",
    "kl": "divergence in nats",
    "accuracy": "accuracy lost",
    "f1": "F1 lost",
    "spearman": "correlation lost",
}
METHODS: Mapping[str, str] = {
    "rounded": "each weight by itself",
    "smoothed": "channels of norms made alike",
    "feedback": "rounding makes up for itself",
    "mixed": "more bits for some weights",
}
# Nothing is asked of anybody, and no script runs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_BAR = "bar"  # the column of bars
_BARS = """
table.bars { width: 100%; max-width: 62rem; }
table.bars th { max-width: 24rem; }
table.bars td.bar { width: 45%; min-width: 8rem; max-width: none; }
@media (max-width: 40rem) { table.bars .bar { display: none; } }
.bar div { height: .72rem; border-radius: 3px; background: var(--link); min-width: 2px; }
.bar div.over { background: var(--mark); }
.bar div.before { background: var(--strong); margin-bottom: 2px; }
"""


def html(artifact: Artifact) -> str:
    """The page, one HTML document."""
    base = artifact.manifest
    found = calibrated(base)
    heading = f"{base.model_type} for {', '.join(artifact.tasks)}"
    facts = [
        (size(sum(record.size for record in base.files.values())), "in all"),
        (str(len(_variants(artifact))), "variants"),
        (base.source.id, "is what it was cast from"),
    ]
    parts = [_section("Variants", "variants", _sizes(artifact))]
    for variants, made in _alike(found):
        parts.append(_section(" and ".join(variants), variants[0], _calibration(made, artifact, variants)))
    if not found:
        parts.append(
            _section(
                "Low precision",
                "low",
                "<p>No variant was made of this artifact by <code>precast quantize</code> yet: errors part by part, "
                "ranges and what was tried are shown once one was.</p>",
            )
        )
    shown = "".join(f"<li><b>{esc(value)}</b> {esc(name)}</li>" for value, name in facts)
    return (
        f'<!doctype html>\n<html lang="en" data-drawn="yes">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{esc(heading)}</title>\n<style>{STYLE}{_BARS}</style>\n</head>\n'
        f'<body>\n<header class="top"><p class="eyebrow">Precast artifact</p><h1>{esc(heading)}</h1>'
        f'<ul class="facts">{shown}</ul></header>\n<main>\n{"".join(parts)}</main>\n'
        f"<footer><main><p>Artifact {esc(artifact.digest)}</p></main></footer>\n</body>\n</html>\n"
    )


def _section(heading: str, name: str, body: str) -> str:
    return f'<section id="{esc(name)}"><h2>{esc(heading)}</h2>{body}</section>\n'


def _variants(artifact: Artifact) -> dict[str, list[Variant]]:
    """By name, of all components."""
    found: dict[str, list[Variant]] = {}
    for component in artifact.components.values():
        for variant in component.variants.values():
            found.setdefault(variant.name, []).append(variant)
    return found


def _alike(found: Mapping[str, Calibrated]) -> list[tuple[list[str], Calibrated]]:
    """Variants that were made together."""
    groups: list[tuple[list[str], Calibrated]] = []
    for variant, made in found.items():
        known = next((names for names, other in groups if other == made), None)
        if known is None:
            groups.append(([variant], made))
        else:
            known.append(variant)
    return groups


def _sizes(artifact: Artifact) -> str:
    files = artifact.manifest.files
    weighs = {
        name: sum(files[path].size for path in {path for one in parts for path in one.weights if path in files})
        for name, parts in _variants(artifact).items()
    }
    speeds = _speeds(artifact)
    rows = []
    for name, parts in sorted(_variants(artifact).items()):
        judged = [METRICS[metric].in_words(said) for one in parts for metric, said in judgements(one.parity).items()]
        speed = speeds.get(name)
        rows.append(
            (
                name,
                f'<td class="number">{esc(size(weighs[name]))}</td>{_bar(weighs[name], max(weighs.values()))}'
                f'<td class="number">{"" if speed is None else f"{speed:.2f}"}</td>'
                f"<td>{esc('; '.join(judged) or 'held to the gate of fp32')}</td>",
            )
        )
    note = "Variants share what is equal: the sum of these is more than the folder holds. "
    note += "Time is that of a call beside float32 on the machine that made the variant: below 1 it is faster."
    return _table(("variant", "weights", _BAR, "time", "beside the reference"), rows) + f'<p class="note">{note}</p>'


def _speeds(artifact: Artifact) -> dict[str, float]:
    """Time of a call beside float32, as far as the manifest has it."""
    found: dict[str, float] = {}
    said = artifact.manifest.cost.get("quantize")
    for each in said.values() if isinstance(said, Mapping) else ():
        speed = each.get("speed") if isinstance(each, Mapping) else None
        for name, value in speed.items() if isinstance(speed, Mapping) else ():
            if is_number(value):
                found[str(name)] = float(value)
    return found


def _calibration(made: Calibrated, artifact: Artifact, variants: Sequence[str]) -> str:
    lost = LOSSES.get(made.metric, made.metric)
    source = f"{made.samples} samples of {made.data}" if made.sha256 else "inputs that were made up"
    bound = "the gate of its precision" if made.budget is None else f"a budget of {made.budget:.4%}"
    lead = (
        f'<p class="lead">Lost: <b>{made.loss:.4%}</b> ({esc(lost)}), of {esc(bound)}; measured on {esc(source)}, '
        "half of which were not looked at before.</p>"
    )
    most = max((one.loss for one in made.attempts), default=0.0)
    rows = [
        (
            METHODS.get(one.method, one.method),
            f'<td class="number">{one.loss:.4%}</td>{_bar(one.loss, most, over=not one.met)}'
            f'<td class="number">{"" if one.score is None else f"{one.score:.4f}"}</td>'
            f'<td class="number">{len(one.wider)}</td><td>{"passes" if one.met else "refused"}</td>',
        )
        for one in made.attempts
    ]
    body = lead + "<h3>What was tried, from the fastest to the slowest</h3>"
    body += _table(("way", lost, _BAR, "score", "kinds with more bits", ""), rows)
    alone = [(kind, part) for kind, part in made.parts.items() if part.alone is not None]
    if alone:
        body += "<h3>What rounding moves most</h3>" + _alone(alone)
    errors = [(kind, part) for kind, part in made.parts.items() if part.error_rounded is not None]
    if errors:
        body += "<h3>Change of the products, before and after</h3>" + _errors(errors)
        body += "<h3>What weights are multiplied by</h3>" + _ranges(errors)
    if made.sha256:
        body += f'<p class="note">SHA-256 of the data: {esc(made.sha256)}</p>'
    return body


def _alone(parts: Iterable[tuple[str, Part]]) -> str:
    ordered = sorted(parts, key=lambda item: -(item[1].alone or 0))
    most = max((part.alone or 0) for _, part in ordered)
    rows = [
        (
            kind,
            f'<td class="number">{part.alone or 0:.1%}</td>{_bar(part.alone or 0, most, over=part.wider)}'
            f"<td>{'more bits' if part.wider else ''}</td>",
        )
        for kind, part in ordered
    ]
    note = '<p class="note">Share of the bound that each kind of weight takes, rounded alone over a few inputs.</p>'
    return note + _table(("weights", "of the bound", _BAR, ""), rows)


def _errors(parts: Sequence[tuple[str, Part]]) -> str:
    most = max((part.error_rounded or 0) for _, part in parts)
    rows = [
        (
            kind,
            f'<td class="number">{sig(part.error_rounded or 0)}</td><td class="number">{sig(part.error or 0)}</td>'
            f'<td class="bar">{_strip(part.error_rounded or 0, most, "before")}{_strip(part.error or 0, most)}</td>',
        )
        for kind, part in parts
    ]
    note = (
        '<p class="note">Mean squared change of what a row gives, summed over outputs and layers: grey with each '
        "weight rounded by itself, blue as it was done.</p>"
    )
    return note + _table(("weights", "before", "after", _BAR), rows)


def _ranges(parts: Sequence[tuple[str, Part]]) -> str:
    most = max((part.outlier or 0) for _, part in parts)
    rows = [
        (
            kind,
            f'<td class="number">{sig(part.largest or 0)}</td><td class="number">{sig(part.outlier or 0)}</td>'
            f"{_bar(part.outlier or 0, most)}",
        )
        for kind, part in sorted(parts, key=lambda item: -(item[1].outlier or 0))
    ]
    note = (
        '<p class="note">The largest value seen, and how many times as loud the loudest channel is as the median.</p>'
    )
    return note + _table(("weights", "largest", "loudest channel", _BAR), rows)


def _table(columns: Sequence[str], rows: Iterable[tuple[str, str]]) -> str:
    head = "".join('<th class="bar"></th>' if name == _BAR else f"<th>{esc(name)}</th>" for name in columns)
    body = "".join(f"<tr><th>{esc(name)}</th>{cells}</tr>" for name, cells in rows)
    return f'<div class="scroll"><table class="bars"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _bar(value: float, most: float, *, over: bool = False) -> str:
    return f'<td class="bar">{_strip(value, most, "over" if over else "")}</td>'


def _strip(value: float, most: float, kind: str = "") -> str:
    share = min(1.0, value / most) if most > 0 else 0.0
    return f'<div class="{kind}" style="width: {100 * share:.1f}%"></div>'
