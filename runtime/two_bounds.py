"""A figure of many answers whose mean and whose least are bounded (P3 of PARITY.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from precast.runtime.errors import ParityError

__all__ = ["TwoBounds"]


@dataclass(frozen=True)
class TwoBounds:
    """A figure that is 1 at best, over all answers: its mean and its least.

    ``bounds``: of each precision the least mean, and the least of any answer. ``figure``, ``digits``: what it is
    called, and how many of its digits are told. ``fault``: what a variant does that breaks a bound.
    """

    bounds: ClassVar[Mapping[str, tuple[float, float]]]
    figure: ClassVar[str]
    digits: ClassVar[int]
    fault: ClassVar[str]

    mean: float
    worst: float

    @property
    def counted(self) -> str:
        """How many answers of what there are, in words."""
        raise NotImplementedError

    def shares(self, precision: str) -> tuple[float, ...]:
        """How much of the bounds of a precision is used: by the mean, which small changes add up to nearly, and by the
        worst."""
        mean, worst = self.bounds[precision]
        return (max(0.0, 1 - self.mean) / (1 - mean), max(0.0, 1 - self.worst) / (1 - worst))

    def gate(self, precision: str, variant: str) -> None:
        """Hold the figures to the bounds of a precision.

        Raises:
            ParityError: naming what is broken and by how much.
        """
        mean, worst = self.bounds[precision]
        found = (("mean", self.mean, mean), ("worst", self.worst, worst))
        broken = [
            f"the {which} {self.figure} {value:.{self.digits}f} is below {least:g}"
            for which, value, least in found
            if not value >= least
        ]
        if broken:
            raise ParityError(
                f"variant {variant} {self.fault} over {self.counted}, and is refused: {'; '.join(broken)}. Export a "
                "higher precision."
            )
