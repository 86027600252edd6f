"""The inputs of a call, each held to its port before a kernel sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError, closest, listing
from precast.runtime.ports import FINITE, FREE, OPTIONAL, Dim, Port

__all__ = ["Inputs"]

_SMALL = 1024  # numbers up to which a list is cheaper to check than an array
_KEPT = 64
# Many tokenizers and image processors give these to models that take none; upstream's models ignore them too.
_TOLERATED = ("attention_mask", "token_type_ids", "pixel_mask")
_FAMILIES = {"i": "iub", "u": "iub", "b": "iub", "f": "fiub"}
_NOUNS = {"i": "integers", "u": "integers", "b": "integers", "f": "numbers"}


class Inputs:
    """How a model is called: its ports, compiled once. Calls may come from many threads.

    Args:
        ports: what the caller may give.
        dims: how large their named dimensions may be.
        hidden: what a mask hides may hold anything, is given as 0, and does not count for the length of a text.
        partial: any of them may be left out, and has no constant then unless what is given says its size.
        optional: names of inputs that may be left out and have no constant.
    """

    def __init__(
        self,
        ports: Sequence[Port],
        dims: Mapping[str, Dim],
        *,
        hidden: bool = False,
        partial: bool = False,
        optional: frozenset[str] = frozenset(),
    ) -> None:
        self._ports = {port.name: port for port in ports}
        self._rank = {port.name: len(port.shape) for port in ports}
        self._dtype = {port.name: np.dtype(port.dtype) for port in ports}
        self._dims = dims
        self._hidden = hidden
        self._pages = [port for port in ports if port.kind == "boxes" and port.below is not None]
        self._patches = [port for port in ports if port.kind == "patches"]
        placed = (*self._pages, *self._patches)
        self._bounds = [(port.name, port.below) for port in ports if port.below is not None and port not in placed]
        self._finite = tuple(port.name for port in ports if port.kind in FINITE)
        self._masks = tuple(port.name for port in ports if port.kind == "mask")
        self._pixel_masks = tuple(port.name for port in ports if port.kind == "pixel_mask")
        bare = tuple(port.name for port in ports if port.default is None and port.name not in optional)
        self._needed = () if partial else bare
        self._partial = partial
        # Of recordings the shortest a model takes; a mask may not leave less of one.
        self._sample_masks = tuple(
            (port.name, dims.get(str(port.shape[-1]), FREE).least) for port in ports if port.kind == "sample_mask"
        )
        # Inputs of a text have one shape, which is looked at once; of its axes those that are not free.
        shapes = {port.shape for port in ports}
        self._one_shape = len(shapes) == 1 and all(isinstance(dim, str) for shape in shapes for dim in shape)
        self._axes = [
            (axis, str(name), dims[str(name)])
            for axis, name in enumerate(ports[0].shape if self._one_shape else ())
            if name in dims and not hidden
        ]
        # Of a text that is hidden in part, what is shown is counted.
        self._counted = {str(port.shape[-1]) for port in ports if port.kind == "mask"} if hidden else set()
        self._prompts = tuple(port for port in ports if port.kind in OPTIONAL)
        self._leading = next((port.name for port in ports if port.kind == "ids"), self.names[0] if ports else "")
        self._constants: dict[tuple[str, tuple[int, ...]], Array] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all inputs, in order."""
        return tuple(self._ports)

    @property
    def leading(self) -> str:
        """The input that is given by place: the ids, or the first."""
        return self._leading

    def checked(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """All inputs the graph wants, by name; constants stand for those that may be left out and are.

        A call finds its caches full of weights: a NumPy reduction costs it tens of microseconds, a list of a few
        hundred numbers a tenth of that. So small inputs are looked at as lists.

        Raises:
            InputError: a name, dtype, rank, shape, id, length, number or mask is outside what the ports say.
        """
        checked: dict[str, Array] = {}
        shape: tuple[int, ...] | None = None
        for name, value in inputs.items():
            plain = (
                type(value) is np.ndarray and value.dtype is self._dtype.get(name) and value.ndim == self._rank[name]
            )
            array = value if plain else self._converted(name, value)
            if array is None:
                continue
            if shape is None:
                shape = array.shape
            elif self._one_shape and array.shape != shape:
                raise InputError(f"all inputs have one shape; received {_shapes(inputs)}.")
            checked[name] = array
        for name in self._needed:
            if name not in checked:
                raise InputError(f"input {name!r} is needed; received: {listing(inputs)}.")
        small = False
        sizes: Mapping[str, int] = {}
        if self._one_shape and shape is not None:
            if 0 in shape:
                raise InputError(_empty(self._ports[self._leading], shape))
            for axis, dim, rule in self._axes:
                if not rule.holds(shape[axis]):
                    self._check_size(dim, shape[axis])
            small = len(shape) == 2 and shape[0] * shape[1] <= _SMALL
        else:
            sizes = self._sizes(checked, inputs)
        if not self._hidden:
            self._check_ids(checked, small)
        for name in self._masks:
            if name in checked:
                _check_mask(name, checked[name], small)
        for name in self._pixel_masks:
            if name in checked and not (seen := checked[name].any(axis=(1, 2))).all():
                raise InputError(
                    f"every picture needs one real pixel at least; the {name} of row {seen.argmin()} is all zero."
                )
        for name, least in self._sample_masks:
            if name in checked and (real := (checked[name] != 0).sum(axis=-1)).min() < least:
                whole, parts = ("picture", "patches") if self._patches else ("recording", "samples")
                raise InputError(
                    f"every {whole} has {least} {parts} at least; the {name} of row {int(real.argmin())} leaves "
                    f"{int(real.min())}."
                )
        if self._hidden:
            self._show(checked)
        for name in self._finite:
            if name in checked and not np.isfinite(checked[name]).all():
                raise InputError(
                    f"input {name!r} holds NaN or infinity; every {self._ports[name].noun} is a finite number."
                )
        for port in self._pages:
            if port.name in checked:
                _check_boxes(port, checked[port.name])
        for port in self._patches:
            if port.name in checked:
                _check_places(port, checked[port.name])
        if len(checked) < len(self._ports):
            if self._prompts:
                sizes = self._prompted(dict(sizes))
            for name, port in self._ports.items():
                if name in checked or port.default is None:
                    continue
                if self._one_shape and shape is not None:
                    checked[name] = self._default(port, shape)
                elif not self._partial or all(isinstance(dim, int) or dim in sizes for dim in port.shape):
                    checked[name] = self._default(port, self._shape(port, sizes))
        return checked

    def _converted(self, name: str, value: Any) -> Array | None:
        """What is no array of the port's type and rank yet, made one; None for an input that counts as left out."""
        port = self._ports.get(name)
        if port is None:
            if value is None or name in _TOLERATED:
                return None
            raise InputError(
                f"input {name!r} is not one of this model's: {listing(self._ports)}. "
                f"{closest(name, self.names)}".rstrip()
            )
        if value is None and name not in self._needed:
            return None
        array = value if type(value) is np.ndarray else _array(name, value)
        family = self._dtype[name].kind
        if array.dtype.kind not in _FAMILIES[family]:
            raise InputError(f"input {name!r} holds {_NOUNS[family]}; received dtype {array.dtype}.")
        if array.ndim != self._rank[name]:
            raise InputError(f"input {name!r} has {self._rank[name]} dimensions; received shape {array.shape}.")
        return array.astype(self._dtype[name])

    def _sizes(self, checked: Mapping[str, Array], inputs: Mapping[str, Any]) -> dict[str, int]:
        """The size of every named dimension, which is one size in all inputs."""
        sizes: dict[str, int] = {}
        for name, array in checked.items():
            for dim, size in zip(self._ports[name].shape, array.shape, strict=True):
                if size == 0:
                    raise InputError(_empty(self._ports[name], array.shape))
                if isinstance(dim, int):
                    if size != dim:
                        wanted = ", ".join(map(str, self._ports[name].shape))
                        raise InputError(f"input {name!r} is [{wanted}]; received shape {array.shape}.")
                elif sizes.setdefault(dim, size) != size:
                    raise InputError(f"{dim} is one size in all inputs; received {_shapes(inputs)}.")
        for dim, size in sizes.items():
            if dim not in self._counted:
                self._check_size(dim, size)
        return sizes

    def _prompted(self, sizes: dict[str, int]) -> Mapping[str, int]:
        """With those of prompts that are left out, where what they are for is given."""
        for port in self._prompts:
            if port.default is not None and port.shape[0] in sizes:
                for dim in port.shape:
                    if isinstance(dim, str):
                        sizes.setdefault(dim, 1)
        return sizes

    def _check_size(self, name: str, size: int) -> None:
        dim = self._dims.get(name, FREE)
        if dim.most is not None and size > dim.most:
            if name.endswith("sequence"):
                raise InputError(
                    f"a text may have {dim.most} tokens; received {size}. "
                    "Cut it (tokenizer(..., truncation=True)), or split it into windows (stride=...)."
                )
            raise InputError(f"{name} is {dim.most} at most; received {size}.")
        if size < dim.least or size % dim.multiple:
            steps = f", a multiple of {dim.multiple}" if dim.multiple > 1 else ""
            raise InputError(f"{name} is {dim.least} at least{steps}; received {size}.")

    def _check_ids(self, checked: Mapping[str, Array], small: bool) -> None:
        for name, bound in self._bounds:
            array = checked.get(name)
            if array is not None and not _within(array, bound, small):
                _refuse_ids(name, array, bound, self._ports[name])

    def _show(self, checked: dict[str, Array]) -> None:
        """Zeros where a mask hides what is there: padding may hold anything, and must be an id to be looked up."""
        for name in self._masks:
            shape = self._ports[name].shape
            length = str(shape[-1])
            alike = [other for other, port in self._ports.items() if port.shape == shape and other in checked]
            if name not in checked:
                for other in alike[:1]:
                    self._check_size(length, checked[other].shape[-1])
                continue
            seen = checked[name] != 0
            checked[name] = seen.astype(np.int64)
            self._check_size(length, int(seen.sum(axis=-1).max()))
            for other in alike:
                if other != name:
                    checked[other] = np.where(seen, checked[other], 0)
        self._check_ids(checked, small=False)

    def _shape(self, port: Port, sizes: Mapping[str, int]) -> tuple[int, ...]:
        missing = [dim for dim in port.shape if isinstance(dim, str) and dim not in sizes]
        if missing:
            raise InputError(f"input {port.name!r} is needed: nothing else says what its {listing(missing)} is.")
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in port.shape)

    def _default(self, port: Port, shape: tuple[int, ...]) -> Array:
        """The constant that stands for an input left out; a few are kept, since making one costs as much as a check."""
        array = self._constants.get((port.name, shape))
        if array is None:
            array = np.full(shape, port.default, dtype=port.dtype)
            array.flags.writeable = False
            if len(self._constants) < _KEPT:
                self._constants[port.name, shape] = array
        return array


def _array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name!r} is no rectangular array: {error}. Pad the rows to one length.") from error


def _shapes(inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(np.shape(entry)) for key, entry in inputs.items() if entry is not None}


def _empty(port: Port, shape: tuple[int, ...]) -> str:
    if port.kind in ("ids", "mask", "types"):
        return f"inputs must hold at least one token of one text; received shape {shape}."
    return f"input {port.name!r} must hold at least one {port.noun}; received shape {shape}."


def _check_mask(name: str, mask: Array, small: bool) -> None:
    if all(map(any, mask.tolist())) if small else mask.any(axis=-1).all():
        return
    rows = np.argwhere(~mask.any(axis=-1))
    row = int(rows[0][0]) if rows.shape[1] == 1 else tuple(map(int, rows[0]))
    raise InputError(f"every text needs one real token at least; the {name} of row {row} is all zero.")


def _check_boxes(port: Port, boxes: Array) -> None:
    """Boxes [B, S, 4] lie on their page, and none of them is turned."""
    assert port.below is not None
    most = port.below - 1
    begins, ends = boxes[..., :2], boxes[..., 2:]
    right = ((begins >= 0) & (begins <= ends) & (ends <= most)).all(axis=-1)
    if not right.all():
        row, word = np.argwhere(~right)[0]
        box = boxes[row, word].tolist()
        raise InputError(
            f"{port.name} of token {word} of row {row} is {box}, and a box is x0, y0, x1, y1 with "
            f"0 <= x0 <= x1 <= {most} and 0 <= y0 <= y1 <= {most}, in parts of its page: {most} are all of its width, "
            "and all of its height."
        )


def _check_places(port: Port, patches: Array) -> None:
    """Patches [B, P, 2 + D] begin with their row and their column, which are whole numbers."""
    assert port.below is not None
    places = patches[..., :2]
    right = (places >= 0) & (places < port.below) & (places == np.floor(places))
    if not right.all():
        row, patch, side = np.argwhere(~right)[0]
        raise InputError(
            f"{port.name} of patch {patch} of row {row} begin with its row and its column, whole numbers from 0 to "
            f"{port.below - 1}; received {places[row, patch, side]:g}. The image processor makes them."
        )


def _within(array: Array, bound: int, small: bool) -> bool:
    """Whether all ids are 0 to ``bound - 1``."""
    if small:
        return all(max(row) < bound and min(row) >= 0 for row in array.tolist())
    # Read as unsigned, a negative id is larger than any bound.
    return bool(array.view(np.uint64).max() < bound)


def _refuse_ids(name: str, array: Array, bound: int, port: Port) -> None:
    worst = int(array.min()) if array.min() < 0 else int(array.max())
    hint = " Is this the tokenizer the model was trained with?" if port.kind in ("ids", "types") else ""
    raise InputError(f"{name} must be 0 to {bound - 1}; received {worst}.{hint}")
