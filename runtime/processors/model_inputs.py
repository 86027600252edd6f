"""What processors make: model inputs by name."""

from __future__ import annotations

import numpy as np

__all__ = ["ModelInputs"]


class ModelInputs(dict[str, np.ndarray]):
    """Model inputs by name, also as attributes: ``made.pixel_values``."""

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no input {name!r}; there are: {', '.join(self)}") from None
