"""What every reader shares: it knows what ONE input of its modality is, makes it a row, and puts rows together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import InputError

__all__ = ["Reader", "Row"]

Row = dict[str, np.ndarray]
"""One sample's model inputs without the batch axis: ``input_ids [S]`` and its companions."""


class Reader:
    """How the inputs of a task are read, for one loaded model.

    What is said of the model is taken over once: a reader keeps no model alive.

    Args:
        model: what the rows are for.
        task: the name that messages give.
        too_long: what a message tells to do about an input that is larger than the model takes.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    """Arguments by which `pipeline` may be given what reads, in place of the artifact's own."""
    window: ClassVar[int] = batching.LIST_WINDOW
    """Most inputs that are held as rows at once."""

    def __init__(self, model: Any, *, task: str, too_long: str = "") -> None:
        self.task = task
        self.too_long = too_long

    def processor(self, model: Any, name: str, given: Any) -> Any:
        """What was given in place of the model's own, or that.

        Raises:
            InputError: there is neither.
        """
        found = given if given is not None else getattr(model, name, None)
        if found is None:
            why, noun = getattr(model, f"why_no_{name}", ""), name.replace("_", " ")
            raise InputError(
                f"{self.task} needs {arguments.article(noun)}, and the artifact has none{f' ({why})' if why else ''}. "
                f"Pass one: pipeline(..., {name}=...)."
            )
        return found

    def plain(self, inputs: Any) -> Any:
        """What a call was given, so that a list is several inputs, and one input is no list."""
        return arguments.listed(inputs)

    def single(self, inputs: Any) -> bool:
        """Whether what a call was given is one input, as opposed to a stream of them."""
        return isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable)

    def line(self, text: str) -> Any:
        """The input that a text on the command line stands for."""
        return text

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Rows as one batch of model inputs."""
        return batching.pad(rows, fill={})

    def cost(self, row: Row) -> int:
        """The size of a row, in tokens or what takes a model about as long."""
        raise NotImplementedError

    def group(self, row: Row) -> Hashable:
        """Rows share a batch only where this is equal."""
        return None

    def span(self, row: Row) -> slice:
        """Where a row's own values lie in the outputs of a batch."""
        return slice(None)
