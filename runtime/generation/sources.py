"""What the answers of an encoder-decoder are conditioned on: a text that it reads, or what it hears or sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, listing
from precast.runtime.generation.config import GenerationConfig
from precast.runtime.generation.prompts import Prompts, read_prompts
from precast.runtime.inputs import Inputs
from precast.runtime.ports import Dim, Port

__all__ = ["PERCEIVED", "Conditions", "Encoded", "Source"]

PERCEIVED = ("input_features", "input_values", "pixel_values", "flattened_patches")
"""Inputs of models that hear or see, as `generate` names them."""


class Encoded(dict[str, Array]):
    """What an encoder made of its inputs, in place of these, for the engine that made it."""

    def __init__(self, engine: Any, made: Mapping[str, Array]) -> None:
        super().__init__(made)
        self.engine = engine

    @property
    def rows(self) -> int:
        return len(next(iter(self.values())))

    @classmethod
    def of(cls, engine: Any, given: Any) -> Encoded:
        """What a call is given as such.

        Raises:
            InputError: it is another object, or another model's.
        """
        if not isinstance(given, cls) or given.engine is not engine:
            raise InputError(
                f"encoder_outputs is what encoder_outputs(...) of this model gave; received {type(given).__name__}"
                f"{' of another model' if isinstance(given, cls) else ''}."
            )
        return given


class Conditions(NamedTuple):
    """What N answers are conditioned on."""

    context: dict[str, Array]
    """The encoder's inputs, N rows each."""
    rows: int
    ids: list[Array] | None
    """The tokens of each text without padding; None: it is no text."""


class Source:
    """What a caller gives to the components in front of a decoder.

    Args:
        ports: theirs, the main one first.
        dims: how large the named dimensions may be.
    """

    def __init__(self, ports: Sequence[Port], dims: Mapping[str, Dim]) -> None:
        self.ports = tuple(ports)
        self.main = self.ports[0].name
        self.vocab_size = next((port.below for port in ports if port.kind == "ids"), None)
        """Ids of the text are below it; None: it is no text."""
        self.longest = dims["sequence"].most if "sequence" in dims else None
        """Tokens of the text at most, where that is bounded."""
        self._inputs = Inputs(self.ports, dims)

    @property
    def is_text(self) -> bool:
        return self.vocab_size is not None

    def checked(self, given: Mapping[str, Any]) -> dict[str, Array]:
        """The encoder's inputs, each held to its port; raises InputError."""
        return self._inputs.checked(given)

    def read(self, given: Mapping[str, Any], attention_mask: Any, config: GenerationConfig) -> Conditions:
        """What a call gives, checked.

        Raises:
            InputError: it is of another kind, of a shape or of values that the model does not take.
        """
        if self.vocab_size is None:
            return self._perceived(given, attention_mask)
        prompts = read_prompts(
            given.get(self.main),
            attention_mask,
            vocab_size=self.vocab_size,
            bos=config.bos_token_id,
            pad=config.pad_token_id,
            eos=config.eos,
            infer_mask=False,
            pad_left=False,
        )
        rows = [np.array(row, dtype=np.int64) for row in prompts.rows]
        return Conditions(_context(prompts), len(rows), rows)

    @property
    def names(self) -> tuple[str, ...]:
        """What a call may give, as it names it."""
        return self._inputs.names

    def _perceived(self, given: Mapping[str, Any], attention_mask: Any) -> Conditions:
        if given.get(self.main) is None:
            raise InputError(
                f"generate() needs {self.main}: this model answers what it {self._verb}. Pass {self._shape()}."
            )
        if attention_mask is not None:
            given = {**given, "attention_mask": attention_mask}
        context = self.checked(given)
        return Conditions(context, len(context[self.main]), None)

    def refuse(self, strange: Sequence[str]) -> InputError:
        """What to say of inputs of another kind."""
        if self.is_text:
            return InputError(f"this model reads texts alone; received {listing(strange)}. Pass input_ids.")
        return InputError(
            f"this model {self._verb}: its input is {self._shape()}; received {listing(strange)}. What its answers "
            "begin with is decoder_input_ids."
        )

    @property
    def _verb(self) -> str:
        return "sees" if self.ports[0].kind == "pixels" else "hears"

    def _shape(self) -> str:
        return f"{self.main} [{', '.join(map(str, self.ports[0].shape))}]"


def _context(source: Prompts) -> dict[str, Array]:
    """An encoder's input: ids and mask [N, S], without the columns at the end that are padding in every row."""
    last = int(np.flatnonzero(source.mask.any(axis=0))[-1]) + 1
    ids, mask = source.given[:, :last], source.mask[:, :last]
    # Padding may hold anything, and is looked up all the same.
    return {"input_ids": np.where(mask != 0, ids, 0), "attention_mask": mask}
