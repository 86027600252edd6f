"""The environments peers live in: made by one command, measured (size, import time), and never mixed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.catalogue import HERE, Peer
from precast.runtime.bench.statistics import estimate

__all__ = ["Environment", "Here", "home"]

ROOT = HERE.parent
_IMPORTS = 7
# Files that make Precast: when one changes, its environment is made anew.
_PRODUCT = ("runtime", "export", "graphs", "pyproject.toml", "CMakeLists.txt")


def home() -> Path:
    """Where environments, checkpoints and conversions are kept: PRECAST_BENCH_HOME, or the user's cache."""
    named = os.environ.get("PRECAST_BENCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return Path(named) if named else Path(cache) / "precast-benchmarks"


class Environment:
    """A virtual environment, made from environments/NAME.txt; ``precast`` from this checkout."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = home() / "environments" / name
        self.python = self.folder / "bin" / "python"

    @property
    def digest(self) -> str:
        """What it is made from."""
        if self.name != "precast":
            return hashlib.sha256((HERE / "environments" / f"{self.name}.txt").read_bytes()).hexdigest()[:16]
        product = hashlib.sha256()
        for entry in _PRODUCT:
            path = ROOT / entry
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and file.suffix in (".py", ".cc", ".h", ".toml", ".txt"):
                    product.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
        return product.hexdigest()[:16]

    def why_not(self) -> str | None:
        """Why it cannot be used: not made, made from something else, or what pip said when it failed."""
        failed = self.folder.with_suffix(".failed")
        if failed.is_file():
            return f"environment {self.name} could not be installed: {failed.read_text().strip()}"
        if not self._stamp().is_file():
            return f"environment {self.name} is not installed: python -m benchmarks setup {self.name}"
        if not self.current():
            return f"environment {self.name} is not of today's files: python -m benchmarks setup {self.name}"
        return None

    def current(self) -> bool:
        stamp = self._stamp()
        return stamp.is_file() and json.loads(stamp.read_text()).get("digest") == self.digest

    def make(self, say: Callable[[str], None]) -> bool:
        """Install it, unless it is there and up to date. False: it failed, and `why_not` says why."""
        if self.current():
            return True
        failed = self.folder.with_suffix(".failed")
        failed.unlink(missing_ok=True)
        say(f"installing {self.name}")
        began = time.perf_counter()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        wanted = (
            ["-c", str(ROOT / "constraints.txt"), f"{ROOT}[cpu]"]
            if self.name == "precast"
            else ["-r", str(HERE / "environments" / f"{self.name}.txt")]
        )
        for command in (
            [sys.executable, "-m", "venv", str(self.folder)],
            [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = [
                    line for line in done.stderr.splitlines() if line.startswith("ERROR")
                ] or done.stderr.splitlines()
                failed.write_text(" ".join(said[:2]) or f"exit status {done.returncode}")
                return False
        seconds = time.perf_counter() - began
        self._stamp().write_text(json.dumps({"digest": self.digest, "seconds": round(seconds, 1)}))
        return True

    def size(self) -> tuple[int, int]:
        """Bytes of installed packages (pip itself left out), and how many packages that are."""
        code = (
            "import importlib.metadata as m, os\n"
            "packages = [d for d in m.distributions() if d.metadata['Name'] not in ('pip', 'setuptools')]\n"
            "files = {str(f.locate()) for d in packages for f in d.files or ()}\n"
            "print(sum(os.path.getsize(f) for f in files if os.path.isfile(f)), len(packages))"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        size, packages = map(int, done.stdout.split())
        return size, packages

    def import_seconds(self, module: str) -> dict[str, Any]:
        """How long a fresh process takes to ``import`` a module, Python's own start left out."""
        code = f"import time; b = time.perf_counter(); import {module}; print(time.perf_counter() - b)"
        taken = []
        for _ in range(_IMPORTS):
            done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False, cwd="/")
            if done.returncode:
                return {"value": None, "low": None, "high": None, "runs": 0}
            taken.append(float(done.stdout.split()[-1]))
        return estimate([[seconds] for seconds in taken[1:]]).to_json()  # the first one reads the disk

    def describe(self, peer: Peer) -> dict[str, Any]:
        """The record's ``installs`` entry."""
        size, packages = self.size()
        return {"engine": peer.name, "environment": self.name, "size_bytes": size, "packages": packages,
                "import_seconds": self.import_seconds(peer.module)}  # fmt: skip

    def _stamp(self) -> Path:
        return self.folder / "precast-benchmarks.json"


class Here(Environment):
    """The Python that runs this, whatever peer it is asked for: where nothing can be installed, as on a lent GPU."""

    def __init__(self, name: str) -> None:
        super().__init__("precast")
        self.python = Path(sys.executable)
        self._asked = name

    def why_not(self) -> str | None:
        return None

    def current(self) -> bool:
        return True
