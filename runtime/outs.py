"""Outputs of components, as the table of tasks names them: apart from ports, so that `import precast` stays light."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Out", "Shape"]

Shape = tuple["int | str", ...]


class Out(NamedTuple):
    """One output: its name and its dimensions, named as those of the inputs where they are the same.

    ``axis``: where its classes are, of which the largest is the answer.
    """

    name: str
    shape: Shape
    kind: str = ""
    axis: int = -1
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        document["optional"] = False
        if self.kind:
            document["kind"] = self.kind
        if self.axis != -1:
            document["axis"] = self.axis
        return document
