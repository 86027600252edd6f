"""``python -m precast`` is the command ``precast``."""

from __future__ import annotations

from precast.runtime.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
