"""Models as components: modules that each become one graph, wired by what their ports say of their sources."""

from __future__ import annotations

from torch import nn

__all__ = ["Composite", "parts_of"]

ALONE = "encoder"


class Composite(nn.ModuleDict):
    """A model of several components by name, in the order they run; the last one is what a task asks for."""

    def parts(self) -> dict[str, nn.Module]:
        return dict(self.items())


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The components a model becomes, in the order they run; a model that does not name any is one."""
    parts = getattr(model, "parts", None)
    return parts() if callable(parts) else {ALONE: model}
