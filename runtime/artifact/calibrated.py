"""What a manifest says of variants of few bits that were made of an artifact: on what data, and what was tried."""

from __future__ import annotations

from typing import NamedTuple

from precast.runtime.fields import Fields, is_number

__all__ = ["Calibrated", "Part", "Tried"]


class Tried(NamedTuple):
    """A way of rounding that was tried.

    Args:
        method: its name. met: it was within its bounds. loss: what it lost. score: what labels said of it, or None.
        wider: the kinds of weights that it gave more bits.
    """

    method: str
    met: bool
    loss: float
    score: float | None
    wider: tuple[str, ...]

    @classmethod
    def read(cls, fields: Fields) -> Tried:
        return cls(
            fields.text("method"),
            fields.flag("met"),
            fields.number("loss"),
            fields.number("score") if "score" in fields else None,
            fields.texts("wider", []),
        )


class Part(NamedTuple):
    """A kind of weights, as far as each figure was measured; None: it was not.

    Args:
        alone: share of the bound that rounding it alone takes. wider: it has more bits.
        error_rounded, error: mean squared change of its products, rounded plainly and as it was done in the end.
        largest, outlier: of what it is multiplied by: the largest value, and the loudest channel over the median one.
    """

    alone: float | None
    wider: bool
    error_rounded: float | None
    error: float | None
    largest: float | None
    outlier: float | None

    @classmethod
    def read(cls, _name: str, fields: Fields) -> Part:
        def figure(key: str) -> float | None:
            return fields.number(key) if key in fields else None

        return cls(
            figure("alone"),
            fields.flag("wider", False),
            *(figure(key) for key in ("error_rounded", "error", "largest", "outlier")),
        )


class Calibrated(NamedTuple):
    """How a variant was made.

    Args:
        data: the name of what it was measured on. samples: their number. sha256: of a user's data; None: made up.
        metric, loss, budget: what was bounded, what the variant loses of it, and the bound, where one was given.
    """

    data: str
    samples: int
    sha256: str | None
    metric: str
    loss: float
    budget: float | None
    method: str
    attempts: tuple[Tried, ...]
    parts: dict[str, Part]

    @classmethod
    def read(cls, _variant: str, fields: Fields) -> Calibrated:
        """From an entry of a manifest's ``calibration``. Raises ArtifactError, naming the field."""
        data = fields.inner("data", fields.data("data"))
        return cls(
            data.text("name"),
            data.count("samples"),
            data.optional_text("sha256"),
            fields.text("metric"),
            fields.number("loss"),
            fields.take("budget", "a number or null", lambda value: value is None or is_number(value)),
            fields.text("method"),
            tuple(fields.all("attempts", Tried.read)),
            fields.each("parts", Part.read),
        )
