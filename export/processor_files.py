"""Where upstream keeps what a checkpoint's processors are set to, for whoever reads pictures or sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from precast.runtime.errors import CheckpointError, UnsupportedModelError
from precast.runtime.strict_json import parse_value

__all__ = ["FILES", "Read", "folder_reader", "stated"]

# As upstream looks for them: a section of the first, or the second whole.
FILES = ("processor_config.json", "preprocessor_config.json")

# The parsed JSON of one of `FILES`; None where there is no such file.
Read = Callable[[str], Any]


def folder_reader(folder: Path) -> Read:
    """Of a checkpoint's folder; raises CheckpointError where a file is damaged."""

    def read(name: str) -> Any:
        try:
            return parse_value((folder / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error!s:.200}. Download it again.") from error

    return read


def stated(read: Read, section: str) -> tuple[str, Any]:
    """The file that says what a processor is set to, and what it says.

    Raises:
        UnsupportedModelError: there is none.
    """
    whole = read(FILES[0])
    if isinstance(whole, dict) and whole.get(section) is not None:
        return FILES[0], whole[section]
    said = read(FILES[1])
    if said is None:
        raise UnsupportedModelError(f"its checkpoint came without {FILES[1]}")
    return FILES[1], said
