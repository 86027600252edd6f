"""The report without a browser: what it says, what it survives, and that nothing of a record becomes markup."""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from typing import Any

import pytest
from support import bench_records
from support.bench_records import nasty

from precast.runtime.bench.report import html, markdown
from precast.runtime.bench.report.opening import raced
from precast.runtime.bench.report.scales import linear, logarithmic
from precast.runtime.bench.report.text import duration, shortened, sig, size
from precast.runtime.bench.report.view import View
from precast.runtime.errors import DependencyError, InputError


def body(page: str) -> str:
    """The page without plotly.js, which holds every word there is."""
    return page[: page.index('<script type="application/json"')]


def figures(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert match
    return dict(json.loads(match.group(1)))


def test_the_page_opens_with_how_many_times_as_fast() -> None:
    """A bar a peer and point from the level line, before any list; what is behind folds out of one sentence."""
    record = bench_records.full()
    page = html(record)
    drawn, text = figures(page), body(page)
    glance = text[text.index('<section id="glance">') :]
    assert (
        glance.index('id="chart0"')
        < glance.index('<p class="note">')
        < glance.index("<details><summary>Behind a peer at")
    )
    view = View(record)
    for place, workload in enumerate(view.workloads):
        bars = [trace for trace in drawn[f"chart{place}"]["data"] if trace["type"] == "bar"]
        groups = raced(view, workload)
        expected = [item.ratio.value for items in groups.values() for item in items]
        ends = {y: 1 + x for trace in bars for x, y in zip(trace["x"], trace["y"], strict=True)}
        assert [ends[y] for y in sorted(ends)] == pytest.approx(expected)
        assert {start for trace in bars for start in trace["base"]} == {1}
        layout = drawn[f"chart{place}"]["layout"]
        assert [one["x0"] for one in layout["shapes"] if one["type"] == "line"] == [1]
        assert "1 ×" in layout["xaxis"]["ticktext"]
        assert len(layout["yaxis"]["ticktext"]) == len(groups)
    assert re.search(
        r"all-MiniLM-L6-v2, 1 × 16: Precast fp32 takes [\d.]+ % longer than OpenVINO fp32 \(interval", text
    )
    for folded in re.findall(r"<summary>((?:Behind|Perhaps).*?)</summary>", text):
        assert folded.count(".") == 1 and folded.endswith(".")
    for heading in ("Speed against peers", "Latency and load", "Scaling", "Generation", "Cold start, memory, export"):
        assert f"<h3>{heading}</h3>" in text
    assert "its converter does not know BertModel" in text and "onnxruntime-genai" in text
    assert "AMD EPYC 7763" in text and "python -m benchmarks run" in text and "2026-11-20" in text


def test_only_equal_precisions_and_no_cold_starts_are_raced() -> None:
    view = View(bench_records.full())
    items = [item for name in view.workloads for items in raced(view, name).values() for item in items]
    assert items and all(item.alike and item.theirs.point.scenario != "cold" for item in items)
    assert raced(View(bench_records.alone()), "minilm") == {}


def test_ahead_everywhere_is_said_too() -> None:
    record = bench_records.full()
    for row in record["rows"]:
        if not row["engine"].startswith("precast"):
            row["rounds"] = [[second * 5 for second in launch] for launch in row["rounds"]]
            row.pop("server", None)
            row.pop("first_token", None)
    page = body(html(record))
    assert "Precast is behind no peer at any point of this record." in page
    assert 'class="behind"' not in page
    assert "ahead in all of them" in page
    assert "**Behind**" not in markdown(record)


def test_a_peer_of_another_precision_is_marked() -> None:
    record = bench_records.full()
    record["rows"] = [row for row in record["rows"] if row["engine"] != "precast-int8"]
    page = html(record)
    assert "int8 against our fp32" in body(page)
    hollow = [
        trace["marker"]["symbol"]
        for figure in figures(page).values()
        for trace in figure["data"]
        if trace["type"] == "scatter" and "OpenVINO int8<br>" in trace.get("hovertemplate", "")
        if trace["x"] and "error_x" in trace
    ]
    assert hollow and all(symbol.endswith("-open") for symbol in hollow)
    assert "int8 against our fp32" in markdown(record)


def test_markdown_holds_ratios_rows_and_environment() -> None:
    text = markdown(bench_records.full())
    assert "| times as fast as | PyTorch eager | torch.compile |" in text
    assert re.search(r"\| all-MiniLM-L6-v2 \| \d", text)
    assert "### BERT-base" in text and "**Behind**" in text and "### Not in this run" in text
    assert "| llama.cpp int8 | BERT-base | its converter does not know BertModel |" in text
    assert "- Settings: threads 2, launches 4, seconds 2.0, device cpu" in text
    assert "    python -m benchmarks run" in text
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        assert len({line.count("|") - line.count("\\|") for line in table.splitlines()}) == 1, table


def test_a_run_of_one_artifact_has_no_peer_sections() -> None:
    page = body(html(bench_records.alone()))
    assert "Speed against peers" not in page and "No peers in this run." in page
    assert re.search(r"cpu-int8: [\d.]+ to [\d.]+ × as fast as cpu-fp32 \(\d points\)", page)
    assert "<b>1, 2</b> threads" in page


def test_what_the_run_cannot_tell_apart_is_called_so() -> None:
    record = bench_records.alone()
    for row in record["rows"]:
        row["rounds"] = [[0.01, 0.0101], [0.01, 0.0099]]
    assert "cpu-int8: 1.00 × as fast as cpu-fp32 (6 points; the interval reaches level at all)" in markdown(record)


def test_nothing_in_a_record_becomes_markup() -> None:
    record = nasty(bench_records.full(workloads=("llama-134m",)))
    page = html(record, title=bench_records.NASTY)
    assert "<img" not in page[: page.index("<script>")]
    # The document's own three scripts and no other end of one.
    assert page.count('<script type="application/json"') == 1
    assert body(page).count("</script>") == 0
    for figure in figures(page).values():
        texts = json.dumps(figure)
        assert "<img" not in texts and '<b>\\"' not in texts and "%{x}" not in texts.replace("<br>%{x}: ", "")
    text = re.sub(r"(?m)^ {4}.*", "", markdown(record))  # a block of code is literal
    assert "<img" not in text and "<b>" not in text


def test_the_page_asks_nobody_for_anything() -> None:
    page = html(bench_records.minimal())
    head = body(page)
    assert "default-src 'none'" in head
    assert not re.search(r'(?:src|href)="(?!#|data:)', head)


def test_the_smallest_record_and_the_empty_one() -> None:
    page = body(html(bench_records.minimal()))
    assert "4.00 ms" in page and "the run was not calibrated" in page
    assert "4.00 ms" in markdown(bench_records.minimal())
    empty = {"format": "precast-bench/1"}
    assert "This record has no rows" in body(html(empty))
    assert "This record has no rows" in markdown(empty)
    assert figures(html(empty)) == {}


@pytest.mark.parametrize("seed", range(6))
def test_any_hole_in_a_record_is_survived(seed: int) -> None:
    """Keys taken out, nulls, and values of other types anywhere below the format."""
    rng = random.Random(seed)
    record = bench_records.full(seed=seed)
    record["rows"] = rng.sample(record["rows"], 8)
    for _ in range(60):
        holder, key = rng.choice(list(_places(record)))
        if rng.random() < 0.5 and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = copy.copy(rng.choice([None, "?", 0, -1.5, float("nan"), float("inf"), 1e300, 1e-300, [], {}]))
    json.dumps(figures(html(record)), allow_nan=False)
    assert markdown(record).strip()


def _places(value: Any) -> Any:
    """Every (holder, key) below the top level's format, a few of the numbers of each list."""
    keys = list(value) if isinstance(value, dict) else range(min(3, len(value)))
    for key in keys:
        if key == "format":
            continue
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_huge_and_small_numbers(factor: float) -> None:
    record = bench_records.full(workloads=("bert-base",))
    for row in record["rows"]:
        row["time"] = {name: value * factor for name, value in row["time"].items()}
        row["rounds"] = [[second * factor for second in launch] for launch in row["rounds"]]
    page = body(html(record))
    assert "None" not in page and not re.search(r"\binf\b|\bnan\b", page)


def test_another_format_is_refused() -> None:
    with pytest.raises(InputError, match="precast-bench/2"):
        html({"format": "precast-bench/2"})
    with pytest.raises(InputError, match="received None"):
        markdown({})


def test_a_missing_plotly_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(DependencyError, match=r'pip install "precast\[report\]"'):
        html(bench_records.full())
    assert markdown(bench_records.minimal())


def test_figures_are_told_with_three_digits() -> None:
    assert [sig(value) for value in (0, 1.2345, 12.345, 123.45, 12345, 0.0123, 9.999, 1e-7)] == (
        ["0", "1.23", "12.3", "123", "12,300", "0.0123", "10.0", "1.00e-7"]
    )
    assert duration(0.00123) == "1.23 ms" and duration(3.2e-7) == "320 ns" and size(1.234e9) == "1.23 GB"
    assert shortened("Optimum ONNX Runtime on a long name", 12) == ["Optimum ONNX", "Runtime on …"]


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.3, 9), (1e-7, 1e-1), (1e-12, 1e12), (980, 1030)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    for ticks, spare in ((logarithmic(low, high), 1.001), (linear(low, high), 1.0)):
        assert len(ticks) <= 6
        assert all(low / spare * 0.999 - high * 1e-9 <= value <= high * spare * 1.001 for value, _ in ticks)
        assert len({text for _, text in ticks}) == len(ticks)
