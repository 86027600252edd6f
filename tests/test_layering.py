"""The import table of DESIGN.md, as tests: what each room may import, and what a running process must not hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from support import ROOT

BANNED = {
    # room: (modules it never imports, the reason)
    "runtime": (
        {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "precast.export", "precast.graphs"}
        | {"precast.calibration"},
        "an artifact runs in a process that has never heard of them",
    ),
    "calibration": (
        {"torch", "onnxscript", "transformers", "precast.export"},
        "whoever has an artifact can calibrate it",
    ),
    "graphs": (
        {"torch", "onnxruntime", "onnxscript", "transformers", "precast.export", "precast.calibration"},
        "graphs are made fast without torch or an engine",
    ),
    "export": ({"transformers"}, "upstream is the oracle of tests, never part of the product"),
}
# The ways from a light process into the rooms of export and calibration, when the user asks for it.
GATES = {"runtime/auto.py", "runtime/quantizer.py", "runtime/cli", "runtime/_facade/__init__.py"}


def imports(path: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


@pytest.mark.parametrize("room", sorted(BANNED))
def test_rooms_import_one_way(room: str) -> None:
    banned, reason = BANNED[room]
    wrong = []
    for path in sorted((ROOT / room).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        gate = any(relative.startswith(entry) for entry in GATES)
        for name, line in imports(path):
            hit = next((module for module in banned if name == module or name.startswith(f"{module}.")), None)
            if hit and not (gate and hit in ("precast.export", "precast.calibration")):
                wrong.append(f"{relative}:{line} imports {name}")
    assert not wrong, f"{reason}: {wrong}"


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    files = [path for room in BANNED for path in (ROOT / room).rglob("*.py")]
    named = {".".join(("precast", *path.relative_to(ROOT).with_suffix("").parts)): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def for_types(tree: ast.AST) -> set[ast.AST]:
    """Nodes that only a type checker reads."""
    guarded = (
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {inner for node in guarded for inner in ast.walk(node)}


def circles(imported: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of modules that import one another, whatever the way around."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            for name in imported[waiting.pop()]:
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    behind = {name: reached(name) for name in imported}
    groups = {frozenset(o for o in behind if name in behind[o] and o in behind[name]) for name in behind}
    return sorted(sorted(group) for group in groups if group)


def test_modules_import_in_no_circle() -> None:
    """Imports inside functions count too: they put a circle off until it is walked."""
    files, imported = modules(), {}
    for module, path in files.items():
        tree = ast.parse(path.read_text())
        skipped, names = for_types(tree), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node not in skipped:
                full = (f"{node.module}.{alias.name}" for alias in node.names)
                names |= {name if name in files else node.module for name in full}
        imported[module] = {name for name in names if name in files and name != module}
    assert circles(imported) == []


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["e"]}) == [["a", "b", "c"], ["e"]]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_graphs_take_only_errors_from_the_runtime() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "graphs").rglob("*.py"))
        for name, line in imports(path)
        if name.startswith("precast.runtime") and not name.startswith("precast.runtime.errors")
    ]
    assert not wrong


def test_no_file_of_the_runtime_is_named_after_an_architecture() -> None:
    from precast.export.families import model_types

    names = {name.replace("-", "_") for name in model_types()}
    assert not names & {path.stem for path in (ROOT / "runtime").rglob("*.py")}


def test_importing_precast_is_free() -> None:
    code = (
        "import sys; before = set(sys.modules); import precast; "
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout
    assert not {"numpy", "onnxruntime", "torch", "tokenizers", "rich", "typer"} & set(ast.literal_eval(loaded))


def test_no_test_imports_a_test() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for name, line in imports(path)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert not wrong, f"what tests share stands in tests/support: {wrong}"
