"""Stages one after the other over a picture, mostly of any size: a backbone of convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from precast.runtime.ports import Dim, Port

__all__ = ["BACKBONE_KEYS", "Backbone", "least_side"]

# What only upstream's own `AutoBackbone` reads: which stages it returns. And what only training does.
BACKBONE_KEYS = frozenset({"out_features", "out_indices", "stage_names", "drop_path_rate"})


class Backbone(nn.Module):
    """Pixels [B, channels, H, W] -> a map of features [B, C, H', W'], or its places as rows [B, H' * W', C].

    Args:
        stem: in front of the stages. stages: modules that maps go through, each as upstream counts hidden states.
        last: behind them, or None.
        least: the smallest side that leaves the last stage something to see.
        stem_is_state: upstream counts what the stem makes as the first of its hidden states.
        image: the side of every picture, where positions were learned of one size; None: any.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        last: nn.Module | None = None,
        *,
        channels: int = 3,
        least: int = 1,
        stem_is_state: bool = True,
        image: int | None = None,
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.last = stem, nn.ModuleList(stages), last
        self.channels, self.least, self.stem_is_state, self.image = channels, least, stem_is_state, image

    def ports(self) -> tuple[Port, ...]:
        """A picture."""
        sides = ("height", "width") if self.image is None else (self.image, self.image)
        return (Port("pixel_values", "float32", ("batch", self.channels, *sides), "pixels"),)

    def bounds(self) -> Mapping[str, Dim]:
        """Of the picture's sides, where they are free."""
        return {} if self.image is not None else {"height": Dim(self.least), "width": Dim(self.least)}

    def behind(self, number: int) -> nn.Module:
        """What stands behind a map that another model reads, of its number: 0 is what the stem makes."""
        return nn.Identity()

    def counted(self) -> list[nn.Module]:
        """What makes upstream's hidden states."""
        return [*([self.stem] if self.stem_is_state else []), *self.stages]

    def maps(self, pixel_values: Tensor, count: int | None = None) -> list[Tensor]:
        """What each of `counted` makes, or of the first ``count`` of these."""
        made = [self.stem(pixel_values)]
        wanted = len(self.counted()) if count is None else count
        for stage in self.stages[: wanted - int(self.stem_is_state)]:
            made.append(stage(made[-1]))
        return made if self.stem_is_state else made[1:]

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values)
        for stage in self.stages:
            x = stage(x)
        return x if self.last is None else self.last(x)


def least_side(windows: Sequence[tuple[int, int, int]]) -> int:
    """The smallest side of a picture of which windows (size, stride, padding of both ends together), one after the
    other, leave something."""
    side = 1
    for size, stride, padding in reversed(windows):
        side = max(1, (side - 1) * stride + size - padding)
    return side
