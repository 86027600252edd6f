"""Videos of which some patches are hidden, to be drawn of those that are not: which ones, as numbers. How many a call
hides, a graph knows by these alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from precast.runtime.artifact import Artifact
from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, listing
from precast.runtime.fields import Fields
from precast.runtime.flow import Flow
from precast.runtime.model import Model, Outputs

__all__ = ["MaskedPatchesModel"]

_SEEN, _HIDDEN, _MASK = "visible_patches", "hidden_patches", "bool_masked_pos"


class MaskedPatchesModel(Model):
    """A model that draws what ``bool_masked_pos`` hides; made by `precast.load`."""

    def __init__(self, artifact: Artifact, flow: Flow) -> None:
        super().__init__(artifact, flow)
        fields = Fields(dict(artifact.reading("masked_patches")), "processing.masked_patches")
        self.patches = fields.count("patches")
        fields.close()
        others = (name for name in self.input_names if name not in (_SEEN, _HIDDEN))
        self.input_names = (*others, _MASK)

    def __call__(self, *positional: Any, bool_masked_pos: Any = None, **inputs: Any) -> Outputs:
        """``logits [B, M, pixels]`` of the M patches of each video that are hidden.

        Args:
            bool_masked_pos: which patches are, [B, P] of truth values, in every row as many.

        Raises:
            InputError: as of any model, or it hides none, all, or not as many in every row.
        """
        if positional:
            inputs = self._named(positional, inputs)
        for name in (_SEEN, _HIDDEN):
            if name in inputs:
                raise InputError(f"{name} are made of {_MASK}; give that. Inputs: {listing(self.input_names)}.")
        seen, hidden = self._numbers(bool_masked_pos)
        return super().__call__(**inputs, **{_SEEN: seen, _HIDDEN: hidden})

    def _numbers(self, mask: Any) -> tuple[Array, Array]:
        """Of patches that are seen, and of those that are not, a row for each video."""
        if mask is None:
            raise InputError(f"input {_MASK!r} is needed: which of a video's {self.patches} patches are hidden.")
        found = np.asarray(mask)
        if found.ndim != 2 or found.shape[1] != self.patches or found.dtype.kind not in "biu":
            raise InputError(
                f"{_MASK} is [batch, {self.patches}] of truth values; received {found.dtype} of shape {found.shape}."
            )
        hides = found != 0
        counts = np.unique(hides.sum(axis=1))
        if len(counts) != 1 or not 0 < counts[0] < self.patches:
            raise InputError(
                f"{_MASK} hides some patches of each video and not all, in every row as many; received rows that hide "
                f"{listing(map(str, counts.tolist()))} of {self.patches}."
            )
        seen, hidden = (np.nonzero(which)[1].reshape(len(found), -1).astype(np.int64) for which in (~hides, hides))
        return seen, hidden
