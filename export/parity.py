"""The inputs every export is tried on, and the two references: eager float32 and the float64 judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from precast.export.blocks.tables import fill_tables
from precast.export.reference import Part
from precast.export.signatures import Signature
from precast.runtime.artifact import StateSpec, TensorSpec
from precast.runtime.backends.base import Array
from precast.runtime.gates import LEAST
from precast.runtime.parity import Case, Recorded

__all__ = [
    "Reckoner",
    "cases",
    "cases_for",
    "evaluate",
    "generation_cases",
    "in_float64",
    "record",
    "specs",
    "streaming",
]

# Longest text tried where a model takes longer ones: the float64 judge needs S * S scores for every head.
LONGEST = 1024


# (batch, length, padding); 0 stands for the longest length. Batch 1, 2 and odd, lengths around powers of two.
_SHAPES = (
    (1, 1, "none"),
    (2, 2, "none"),
    (3, 7, "right"),
    (1, 8, "left"),
    (2, 63, "right"),
    (1, 64, "none"),
    (1, 127, "left"),
    (2, 128, "right"),
    (1, 0, "none"),
)

# What is drawn beside them where outputs are small: texts of so many tokens, so many in a call, and of a large model
# no more of them than these.
_SHORT, _ROWS, _FEWEST = 2, 512, 512


def _mask(rng: np.random.Generator, rows: int, length: int, padding: str) -> Array:
    mask = np.ones((rows, length), dtype=np.int64)
    if padding != "none":
        for row in range(rows if rows == 1 else rows - 1):  # the last row of a batch is full
            real = int(rng.integers(1, length + 1)) if row else max(1, length // 2)
            mask[row, real:] = 0
            if padding == "left":
                mask[row] = mask[row, ::-1]
    return mask


def cases(signature: Signature, *, shapes: Sequence[tuple[int, int, str]] = _SHAPES, seed: int = 0) -> list[Case]:
    """Random inputs for a signature: every shape of ``shapes`` that the model takes, garbage in padded positions."""
    rng = np.random.default_rng(seed)
    longest = min(signature.limits.get("max_positions", LONGEST), LONGEST)
    made: list[Case] = []
    for batch, asked, padding in shapes:
        length = asked or longest
        if length > longest:
            continue
        inputs: dict[str, Array] = {}
        for name, dims in signature.inputs.items():
            shape = tuple({"batch": batch, "choices": 3, "sequence": length}[dim] for dim in dims)
            if name == "attention_mask":
                inputs[name] = _mask(rng, int(np.prod(shape[:-1])), length, padding).reshape(shape)
            else:
                bound = signature.limits["type_vocab_size" if name == "token_type_ids" else "vocab_size"]
                inputs[name] = rng.integers(0, bound, size=shape, dtype=np.int64)
        name = f"{batch}x{length}-{padding}"
        again = sum(case.name.split("~")[0] == name for case in made)
        made.append(Case(f"{name}~{again}" if again else name, inputs))
    return made


def _many(part: Part, weights: int) -> list[tuple[int, int, str]]:
    """Shapes of short texts, as many as the smallest output needs to have `LEAST` numbers over all cases."""
    signature = part.signature
    longest = min(signature.limits.get("max_positions", LONGEST), LONGEST)
    first, second = (_numbers(part, length) for length in (1, min(2, longest)))

    def numbers(name: str, length: int) -> int:
        """Of one output for one text: they grow with its tokens or do not."""
        return first[name] + (second[name] - first[name]) * (length - 1)

    texts, length = 0, min(_SHORT, longest)
    for name in first:
        have = sum(rows * numbers(name, asked or longest) for rows, asked, _ in _SHAPES if (asked or 1) <= longest)
        texts = max(texts, -(-(LEAST - have) // numbers(name, length)))
    texts = min(texts, max(_FEWEST, _BUDGET * 10 // (max(1, weights) * length)))
    return [(min(_ROWS, texts - start), length, "none") for start in range(0, texts, _ROWS)]


def _numbers(part: Part, length: int) -> dict[str, int]:
    """How many numbers each output has for one text, found without computing them."""
    [case] = cases(part.signature, shapes=((1, length, "none"),))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        outputs = part.module(**{name: torch.from_numpy(array) for name, array in case.inputs.items()})
    return {name: value.numel() for name, value in outputs.items()}


# Calls in a row of a generative model: (rows, lengths of each call's tokens, how many of them are real in each row).
# A prompt and steps behind it, a prompt in chunks, rows of different length, one token alone.
_CHAINS: tuple[tuple[int, tuple[int, ...], str], ...] = (
    (1, (8, 1, 1, 1, 1), "full"),
    (3, (7, 1, 1, 1, 2, 1), "ragged"),
    (1, (64, 63, 1), "full"),
    (2, (1, 1, 1), "full"),
    (2, (127, 2), "ragged"),
    (1, (0,), "full"),
)
# Positions of a call whose logits are compared: of long calls not all, where a vocabulary is wide.
_KEPT = 4


# Weights times tokens of a float64 call that is still a matter of seconds; fewer tokens are tried of a larger model,
# never a looser gate.
_BUDGET = 4 * 10**10
_SHORTEST = 192


def cases_for(parts: Sequence[Part]) -> list[Case]:
    """The inputs an export of these parts is tried on."""
    weights = sum(value.numel() for value in parts[-1].module.parameters())
    if not parts[-1].signature.states:
        return cases(parts[0].signature, shapes=(*_SHAPES, *_many(parts[0], weights)))
    return generation_cases(parts, longest=min(LONGEST, max(_SHORTEST, _BUDGET // max(1, weights))), least=LEAST)


def generation_cases(
    parts: Sequence[Part],
    *,
    chains: Sequence[tuple[int, tuple[int, ...], str]] = _CHAINS,
    seed: int = 0,
    longest: int = LONGEST,
    least: int = 0,
) -> list[Case]:
    """Chains of calls of a decoder, with its encoder's call in front where there is one; random tokens throughout.

    Args:
        longest: tokens of a row; chains that are longer are left out, and 0 in a chain stands for it.
        least: numbers that are compared over all calls: of a small vocabulary at more positions, and of more rows.
    """
    decoder = parts[-1].signature
    longest = min(decoder.limits.get("max_positions", longest), longest)
    kept = _KEPT
    made = _chained(parts, chains, seed, longest, kept)
    while (missing := -(-least // decoder.limits["vocab_size"]) - _positions(made)) > 0:
        if kept < longest:
            kept *= 2
        else:
            chains = (*chains, (-(-missing // longest), (0,), "full"))
        made = _chained(parts, chains, seed, longest, kept)
    return made


def _positions(cases: Sequence[Case]) -> int:
    return sum(case.inputs["logit_positions"].size for case in cases if "logit_positions" in case.inputs)


def _chained(
    parts: Sequence[Part], chains: Sequence[tuple[int, tuple[int, ...], str]], seed: int, longest: int, kept: int
) -> list[Case]:
    rng = np.random.default_rng(seed)
    vocab = parts[-1].signature.limits["vocab_size"]
    made: list[Case] = []
    for number, (rows, calls, kind) in enumerate(chains):
        calls = tuple(length or longest for length in calls)
        if sum(calls) > longest:
            continue
        after: str | None = None
        if len(parts) > 1:
            reads = parts[0].signature
            wide = min(1 + 9 * number, reads.limits.get("max_positions", LONGEST))
            [source] = cases(reads, shapes=((rows, wide, "right"),), seed=seed + number)
            after = f"{number}-source"
            made.append(Case(after, source.inputs))
        held = np.zeros(rows, dtype=np.int64)
        for place, length in enumerate(calls):
            lengths = np.full(rows, length, dtype=np.int64)
            if kind == "ragged" and length > 1:
                lengths[: rows - 1] = rng.integers(1, length + 1, size=rows - 1)
            wanted = np.stack([np.sort(rng.choice(n, min(kept, lengths.min()), replace=False)) for n in lengths])
            wanted[:, -1] = lengths - 1
            inputs = {
                "input_ids": rng.integers(0, vocab, size=(rows, length), dtype=np.int64),
                "past_lengths": held.copy(),
                "lengths": lengths,
                "logit_positions": wanted.astype(np.int64),
            }
            if "position_ids" in parts[-1].signature.inputs:
                # Where padding would leave the model's positions it stays at the last one.
                inputs["position_ids"] = np.minimum(held[:, None] + np.arange(length), longest - 1)
            if after is not None and len(parts) > 1:
                inputs["encoder_attention_mask"] = source.inputs["attention_mask"]
            name = f"{number}-{place}-{rows}x{length}-{kind}"
            made.append(Case(name, inputs, parts[-1].name, after, capacity=longest + 8))
            after, held = name, held + lengths
    return made


def _widen(value: Any) -> Any:
    narrow = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.to(torch.float64) if narrow else value


_dtype_of: Any = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]


class _WidenedCalls(TorchFunctionMode):
    """Widens what is given to torch's functions, some of which compare types before any operator is called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _dtype_of:
            found = func(*args)
            return torch.float64 if found is torch.float32 else found
        if func is F.embedding or getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        return func(*tree_map(_widen, args), **tree_map(_widen, kwargs))


class _WidenedOperators(TorchDispatchMode):
    """Widens what every operator reads, wherever it is called from."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.ops.aten.embedding.default:
            # A lookup is exact in any type: widen the rows, not the table.
            return func(*args, **kwargs).to(torch.float64)
        return func(*tree_map(_widen, args), **tree_map(_widen, kwargs))


@contextmanager
def in_float64() -> Iterator[None]:
    """Run float32 models in float64: what each call reads is widened for it.

    So the judge of a model needs no second, twice as large copy of its weights.
    """
    with torch.no_grad(), _WidenedCalls(), _WidenedOperators():
        yield


@contextmanager
def streaming(model: nn.Module, release: Callable[[], None]) -> Iterator[None]:
    """Call ``release`` after each layer, so that mapped weights are resident one layer at a time.

    A gate must not need more memory than the export it guards.
    """
    layers = [child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module]
    hooks = [layer.register_forward_hook(lambda *_: release()) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Reckoner:
    """Runs the parts of a reference model on cases in order, carrying what they remember from one to the next.

    ``exact``: in float64, weights widened operator by operator and tables computed anew.
    """

    def __init__(self, parts: Sequence[Part], *, exact: bool = False) -> None:
        self._parts = {part.name: part for part in parts}
        self._exact = exact
        self._remembered: dict[str, dict[str, torch.Tensor]] = {}

    def run(self, case: Case) -> dict[str, Array]:
        """The outputs of one case; states are not among them."""
        outputs = self._call(self._parts[case.component].module, self.inputs(case))
        hidden = {name: value for name, value in outputs.items() if name.startswith(_HIDDEN)}
        if hidden:
            after = {name.replace("present_", "past_", 1): value for name, value in hidden.items()}
            self._remembered[case.name] = {**self._remembered.get(case.after or "", {}), **after}
        return {name: value.numpy() for name, value in outputs.items() if name not in hidden}

    def inputs(self, case: Case) -> dict[str, Any]:
        """What the model is given for a case, its ``states`` as the cases before have left them."""
        part = self._parts[case.component]
        inputs: dict[str, Any] = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        rows = len(next(iter(case.inputs.values())))
        before = self._remembered.get(case.after or "", {})
        if part.signature.floats:
            inputs["states"] = {
                name: before[name] if name in before else _fresh(shape, rows, case.capacity)
                for name, shape in part.signature.floats.items()
            }
        return inputs

    def _call(self, module: nn.Module, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            if not self._exact:
                return module(**inputs)
            fill_tables(module, torch.float64)
            try:
                with in_float64():
                    return module(**inputs)
            finally:
                fill_tables(module)


# Outputs that the model itself reads again.
_HIDDEN = ("present_", "cross_")


def _fresh(shape: Sequence[int | str], rows: int, capacity: int) -> torch.Tensor:
    return torch.zeros([rows if dim == "batch" else capacity if isinstance(dim, str) else dim for dim in shape])


def specs(signature: Signature) -> tuple[tuple[TensorSpec, ...], tuple[StateSpec, ...]]:
    """A part's inputs and states as a manifest describes them."""
    integers = [
        TensorSpec(name, "int64", dims, optional=not signature.floats and name != "input_ids")
        for name, dims in signature.inputs.items()
    ]
    floats = [TensorSpec(name, "float32", shape) for name, shape in signature.floats.items()]
    states = [
        StateSpec(name, name.replace("past_", "present_", 1), state.window) for name, state in signature.states.items()
    ]
    return (*integers, *floats), tuple(states)


def record(parts: Sequence[Part], cases: Sequence[Case]) -> list[Recorded]:
    """Both references of every case."""
    eager, exact = Reckoner(parts), Reckoner(parts, exact=True)
    return [Recorded(case, eager.run(case), exact.run(case)) for case in cases]


def evaluate(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of an eager model without states for one input."""
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}
