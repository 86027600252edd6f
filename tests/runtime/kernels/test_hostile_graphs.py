"""Every native operator under hostile graphs, built with sanitizers: a refusal or a result, nothing else.

It needs a C++ compiler and its sanitizers; without these it fails where PRECAST_KERNELS=require.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import hostile_graphs

from precast.runtime import kernels

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "runtime" / "kernels"
SANITIZERS = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize=vptr", "-fno-sanitize-recover=all")
pytestmark = pytest.mark.skipif(
    os.environ.get("PRECAST_KERNELS") == "off", reason="PRECAST_KERNELS=off: this build is meant to be without kernels"
)


def instruction_sets() -> dict[str, list[str]]:
    """The flags of the sources that have some of their own and run here, as CMakeLists.txt has them."""
    if platform.machine() not in ("x86_64", "AMD64", "amd64"):
        return {}
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.findall(r"precast_instruction_set\(\s*(\w+) \"([^\"]+)\"\)", text)
    sources = {path.stem.removeprefix("isa_") for path in SOURCES.glob("isa_*.cc")} - {"portable"}
    assert {name for name, _ in found} == sources, "CMakeLists.txt names the flags of every instruction set"
    return {f"isa_{name}": flags.split(";") for name, flags in found if name in kernels.isas()}


@pytest.fixture(scope="module")
def compiler() -> tuple[str, str]:
    """(a C++ compiler, the sanitizers' libraries)."""
    command = shutil.which("c++") or shutil.which("g++")
    reason = "no C++ compiler is at hand"
    if command is not None:
        reason = f"{command} has no libasan.so and libubsan.so"
        asked = [[command, f"-print-file-name={name}"] for name in ("libasan.so", "libubsan.so")]
        paths = [subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() for ask in asked]
        if all(Path(path).is_absolute() for path in paths):
            return command, " ".join(paths)
    if os.environ.get("PRECAST_KERNELS") == "require":
        pytest.fail(f"{reason}: the kernels were not run under sanitizers")
    pytest.skip(reason)


def build(command: str, folder: Path) -> Path:
    own = instruction_sets()
    plain = ["-std=c++17", "-O0", "-g1", "-w", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"]
    plain += [*SANITIZERS, *(f"-DPRECAST_HAVE_{name.removeprefix('isa_').upper()}" for name in own)]

    def compiled(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        subprocess.run([command, *plain, *own.get(source.stem, []), "-c", source, "-o", made], check=True)
        return str(made)

    sources = [
        source
        for source in sorted(SOURCES.glob("*.cc"))
        if not source.stem.startswith("isa_") or source.stem in (*own, "isa_portable")
    ]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "sanitized.so"
    subprocess.run([command, "-shared", *SANITIZERS, *objects, "-o", library], check=True)
    return library


def test_hostile_graphs_end_in_a_refusal_or_a_result(compiler: tuple[str, str], tmp_path: Path) -> None:
    command, runtime = compiler
    library = build(command, tmp_path)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024",  # leaks: of Python
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT / "tests"),
    }
    arguments = [sys.executable, "-m", "support.hostile_graphs", str(library)]
    said = tmp_path / "said"  # a line for each graph, in a file: a pipe would wake this process for each
    with said.open("w") as file:
        done = subprocess.run(
            arguments,
            env=environment,
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=1200,
        )
    last = said.read_text(errors="replace").splitlines()[-1:]
    assert done.returncode == 0, f"{last}: exit status {done.returncode}\n{done.stderr[-6000:]}"
    found = json.loads(last[0])
    assert tuple(found["isas"]) == kernels.isas()
    for name in hostile_graphs.BASES:
        assert found["outcomes"][f"{name} computed"] > 50
        assert found["outcomes"][f"{name} refused"] > 50


def test_every_operator_has_hostile_graphs() -> None:
    library = kernels.library_path()
    assert library is not None, kernels.why_not()
    assert set(hostile_graphs.operators(library)) == set(hostile_graphs.BASES)
