"""The inputs every export is tried on, and the two references: eager float32 and the float64 judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from precast.export.blocks.tables import fill_tables
from precast.export.generative import Joined
from precast.export.operators import resized_by_inverse
from precast.export.reference import Part
from precast.export.signatures import Signature
from precast.runtime.artifact import StateSpec
from precast.runtime.backends.base import Array
from precast.runtime.gates import EAGER, LEAST, measure
from precast.runtime.generation.grids import walked
from precast.runtime.kinds import absent, edges, sample
from precast.runtime.parity import Case, Recorded, finished
from precast.runtime.ports import OPTIONAL, Port

__all__ = [
    "ReferenceRunner",
    "cases",
    "cases_for",
    "evaluate",
    "generation_cases",
    "in_float64",
    "record",
    "reordered",
    "streaming",
    "successors",
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

# And of pictures whose size a call may choose, by height: as small as may be, odd, even, and as large as most are;
# padded, where a mask says what of them is padding.
_PICTURES = (
    (1, 1, "none"),
    (2, 2, "none"),
    (3, 7, "right"),
    (1, 33, "right"),
    (2, 64, "right"),
    (1, 127, "none"),
    (1, 224, "none"),
)

# And of recordings, by what they have beside the shortest a model takes, in `_SOUND` samples: that one, one sample more
# and one less than a step, odd ones, and so many that frames are as many as tokens of a text; of frames by frames.
_SOUNDS = _PICTURES[:-1]
_SOUND = 160

# What is drawn beside them where outputs are small: texts of so many tokens, pictures of so many rows, so many tokens
# in a call, and of a large model no more of them than these.
_SHORT, _LOW, _CALL, _FEWEST = 2, 8, 1024, 1024
# Numbers of a picture that cost what a token costs: a patch of 16 x 16 in three colours.
_PATCH = 768


def cases(
    signature: Signature,
    *,
    shapes: Sequence[tuple[int, int, str]] | None = None,
    seed: int = 0,
    component: str = "encoder",
) -> list[Case]:
    """Random values of every port a call brings itself: at every shape of ``shapes`` that the dimensions allow (None:
    the usual ones), garbage in padded positions; and where a kind has rare values, those too.

    A length stands for every dimension that is no batch: as near as that may come. A picture's height it is, and where
    it is odd the picture is half as wide again.
    """
    rng = np.random.default_rng(seed)
    made: list[Case] = []
    for batch, length, padding in _usual(signature) if shapes is None else _allowed(signature, shapes):
        sizes = _sizes(signature, batch, length)
        inputs = {
            port.name: sample(rng, port, sizes, padding, signature.dim(str(port.shape[-1])).least)
            for port in signature.given
        }
        _end(signature, inputs)
        name = f"{batch}x{length}-{padding}"
        again = sum(case.name.split("~")[0] == name for case in made)
        made.append(Case(f"{name}~{again}" if again else name, inputs, component))
    sizes = _sizes(signature, 1, 3 if _samples(signature) else 1)
    rare = [(port.name, *edge) for port in signature.given for edge in edges(port, sizes)]
    rare += [(port.name, "absent", absent(port, sizes)) for port in signature.given if _left_out(port)]
    usual = {port.name: sample(rng, port, sizes) for port in signature.given} if rare else {}
    made += [Case(f"{port}-{name}", {**usual, port: value}, component) for port, name, value in rare]
    return made


def _left_out(port: Port) -> bool:
    """Whether it is a prompt that a call may leave out."""
    return port.default is not None and port.kind in (*OPTIONAL, "pixels")


def _end(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Rows end with the id that they are read at, on their last token; of three or more the first one has none."""
    mask = next((inputs[port.name] for port in signature.given if port.kind == "mask"), None)
    for name, end in signature.ends.items():
        ids = inputs[name]
        last = ids.shape[1] - 1 if mask is None else ids.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        whole = np.arange(len(ids) >= 3, len(ids))
        ids[whole, np.broadcast_to(last, len(ids))[whole]] = end


# Dimensions that count inputs instead of measuring one.
_COUNTED = {"choices": 3}
# And those that are as large as they may be where an input is longer.
_CLIPPED = frozenset({"quantizers"})


def _free(signature: Signature) -> list[str]:
    """Dimensions that measure an input, whose sizes a call may choose."""
    named = dict.fromkeys(dim for port in signature.given for dim in port.shape[1:] if isinstance(dim, str))
    return [name for name in named if name not in _COUNTED]


def _allowed(signature: Signature, shapes: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The shapes a model takes, 0 replaced by its longest length; of a model of one size only rows count."""
    free = _free(signature)
    measured = [name for name in free if name not in _CLIPPED]
    masked = any(port.kind in ("mask", "pixel_mask", "sample_mask") for port in signature.given)
    longest = min(
        [signature.largest or LONGEST, *(most for name in measured if (most := signature.dim(name).most) is not None)]
    )
    taken = [(batch, length or longest, padding) for batch, length, padding in shapes if length <= longest]
    return [(batch, length if free else 1, padding if masked else "none") for batch, length, padding in taken]


def _widths(signature: Signature) -> set[str]:
    """Dimensions that are the width of a picture whose size a call may choose."""
    return {str(port.shape[-1]) for port in signature.given if port.kind == "pixels"} & set(_free(signature))


def _samples(signature: Signature) -> set[str]:
    """Dimensions that are samples of a recording whose length a call may choose."""
    return {str(port.shape[-1]) for port in signature.given if port.kind == "waveform"} & set(_free(signature))


def _usual(signature: Signature) -> list[tuple[int, int, str]]:
    """Each of the usual shapes once, as the model takes it."""
    shapes = _PICTURES if _widths(signature) else _SOUNDS if _samples(signature) else _SHAPES
    return list(dict.fromkeys(_allowed(signature, shapes)))


def _sizes(signature: Signature, batch: int, length: int) -> dict[str, int]:
    """The size of every named dimension: the first of a port counts rows."""
    sizes, widths = {str(port.shape[0]): batch for port in signature.given}, _widths(signature)
    samples = _samples(signature)
    for name in _free(signature):
        wide = length + length // 2 if name in widths and length % 2 else length
        if name in samples:
            wide = signature.dim(name).least + (length - 1) * _SOUND - (length % 2 == 0)
        sizes[name] = signature.dim(name).at(wide) or 1
    return {**_COUNTED, **sizes}


def _many(part: Part) -> list[tuple[int, int, str]]:
    """Shapes of short texts, pictures or recordings, so many that the smallest output has `LEAST` numbers over all."""
    signature = part.signature
    longest = min(signature.longest or LONGEST, LONGEST)
    recordings = bool(_samples(signature))
    pictures = bool(_widths(signature)) or recordings
    tried = _usual(signature)
    first = _numbers(part, 1)
    if min(first.values()) * sum(rows for rows, _, _ in tried) >= LEAST:
        return []  # texts of one token would do
    second = first if pictures else _numbers(part, min(2, longest))

    def numbers(name: str, length: int) -> int:
        """Of one output for one text: they grow with its tokens or do not. Of a picture at least as many as of the
        smallest."""
        return first[name] + (second[name] - first[name]) * (length - 1)

    texts, length = 0, _LOW if pictures and not recordings else min(_SHORT, longest)
    for name in first:
        have = sum(rows * numbers(name, at) for rows, at, _ in tried)
        texts = max(texts, -(-(LEAST - have) // numbers(name, length)))
    sizes = _sizes(signature, 1, length)
    read = sum(math.prod(sizes[dim] if isinstance(dim, str) else dim for dim in port.shape) for port in signature.given)
    counted = _free(signature) and not pictures and signature.largest is None
    tokens = length if counted else max(1, read // _PATCH)
    texts = min(texts, max(_FEWEST, _BUDGET * 10 // max(1, _weights(part))) // tokens)
    rows = max(1, _CALL // tokens)
    return [(min(rows, texts - start), length, "none") for start in range(0, texts, rows)]


def _weights(part: Part) -> int:
    return sum(value.numel() for value in part.module.parameters())


def _numbers(part: Part, length: int) -> dict[str, int]:
    """How many numbers each output that is compared has for one row, found without computing them; of those that other
    components read where none is."""
    case = cases(part.signature, shapes=((1, length, "none"),))[0]
    given: dict[str, Any] = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    example = part.signature.example()
    for port in part.signature.ports:
        if port.name not in given:
            given[port.name] = example[port.name][:1]  # type: ignore[index]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        outputs = part.module(**given)
    compared = outputs.keys() - set(part.signature.hidden) or outputs.keys()
    return {name: value.numel() for name, value in outputs.items() if name in compared}


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
    """The inputs an export of these parts is tried on: each one's own, and behind others what these made."""
    if parts[-1].signature.states:
        return _generated(parts)
    made: list[Case] = []
    for number, part in enumerate(parts):
        if part.signature.states:
            made += [_named(part.name, case) for case in _generated([part])]
            continue
        read = [port for port in part.signature.ports if port.origin is not None and port.kind != "codes"]
        sources = {port.origin[0] for port in read if port.origin is not None}
        if not sources:
            own = cases(
                part.signature, shapes=(*_usual(part.signature), *_many(part)), seed=number, component=part.name
            )
            if len(parts) > 1:
                own = [replace(case, name=f"{part.name}-{case.name}") for case in own]
            made += own
            continue
        behind = [[case for case in made if case.component == source] for source in sorted(sources)]
        calls = list(zip(*behind, strict=False))
        if len({port.shape[0] for port in read}) > 1:
            # What counts rows of one beside rows of another has many numbers only where both have many rows.
            calls.append(tuple(max(each, key=_rows) for each in behind))
        if part.signature.given:
            made += _answers(part, number, behind)
            continue
        for index, before in enumerate(calls):
            made.append(Case(f"{part.name}-{index}", {}, part.name, tuple(case.name for case in before)))
    return made


def _generated(parts: Sequence[Part]) -> list[Case]:
    longest = max(_SHORTEST, _BUDGET // max(1, _weights(parts[-1])))
    return generation_cases(parts, longest=min(LONGEST, longest), least=LEAST)


def _named(name: str, case: Case) -> Case:
    """A case of one decoder of several, which have cases of the same names."""
    return replace(case, name=f"{name}-{case.name}", after=tuple(f"{name}-{other}" for other in case.after))


def _answers(part: Part, seed: int, behind: Sequence[Sequence[Case]]) -> list[Case]:
    """Cases of a part that reads other components beside what a call brings itself: each of its own is behind cases of
    as many rows, and of small outputs there are more, behind those that have most."""
    widest = max(_rows(max(each, key=_rows)) for each in behind)
    own = cases(part.signature, shapes=_usual(part.signature), seed=seed, component=part.name)
    length = part.signature.largest or 1
    least = min(_numbers(part, length).values()) * widest
    have = sum(min(_numbers(part, 1).values()) * _rows(case) for case in own)
    example: dict[str, Any] = dict(part.signature.example())
    read = sum(int(example[port.name][:1].numel()) for port in part.signature.ports)
    more = min(-(-max(0, LEAST - have) // least), _CALL // (max(1, read // _PATCH) * widest))
    shapes = ((widest, length, "none"),) * more
    own += cases(part.signature, shapes=shapes, seed=seed + 1, component=part.name)[:more]
    made = []
    for index, case in enumerate(own):
        before = [next((one for one in each if _rows(one) == _rows(case)), None) for each in behind]
        if all(before):
            after = tuple(one.name for one in before if one is not None)
            made.append(replace(case, name=f"{part.name}-{index}-{case.name}", after=after))
    return made


def _rows(case: Case) -> int:
    return len(next(iter(case.inputs.values())))


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
    longest = min(decoder.longest or longest, longest)
    kept = _KEPT
    made = _chained(parts, chains, seed, longest, kept)
    width = getattr(getattr(parts[-1].module, "lm_head", None), "out_features", decoder.vocab_size)
    while (missing := -(-least // width) - _positions(made)) > 0:
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
    vocab = parts[-1].signature.vocab_size
    made: list[Case] = []
    shared: dict[tuple[str, int], Case] = {}
    whole = [[length or longest for length in calls] for _, calls, _ in chains]
    most_first = max((calls[0] for calls in whole if sum(calls) <= longest), default=0)
    for number, (rows, calls, kind) in enumerate(chains):
        calls = tuple(length or longest for length in calls)
        if sum(calls) > longest:
            continue
        after: tuple[str, ...] = ()
        given: dict[str, Array] = {}
        for part in parts[:-1]:
            reads = part.signature
            if (part.name, rows) in shared:
                # What is of one size costs as much in every chain: it is computed once for as many rows.
                source = shared[part.name, rows]
                after = (*after, source.name)
                given |= {f"{part.name}.{key}": array for key, array in source.inputs.items()}
                continue
            most = [reads.dim(name).most or LONGEST for name in _free(reads)]
            wide = min(1 + 9 * number, reads.longest or LONGEST, *most)
            source = cases(reads, shapes=((rows, wide, "right"),), seed=seed + number)[0]
            name = f"{number}-source" if part is parts[0] else f"{number}-{part.name}"
            behind = after if any(port.origin is not None for port in reads.ports) else ()
            made.append(Case(name, source.inputs, part.name, behind))
            after = (*after, name)
            if not _free(reads):
                shared[part.name, rows] = made[-1]
            given |= {f"{part.name}.{key}": array for key, array in source.inputs.items()}
        own = parts[-1].signature
        free = [str(dim) for port in own.once for dim in port.shape[1:]]
        sizes = {"batch": rows} | {dim: own.dim(dim).at(7) or 1 for dim in free}
        conditions = {port.name: sample(rng, port, sizes) for port in own.once}
        held, stood = np.zeros(rows, dtype=np.int64), list[list[tuple[int, int, int]]]()
        # More than its tokens need; once, as much as any text of the model's may.
        room = (sum(calls) if number else longest) + 8
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
                **conditions,
            }
            if parts[-1].signature.port("position_ids") is not None:
                # Where padding would leave the model's positions it stays at the last one.
                inputs["position_ids"] = np.minimum(held[:, None] + np.arange(length), longest - 1)
            for port in own.ports:
                if port.source in given:
                    inputs[port.name] = given[port.source]
                elif port.kind == "rows":
                    joined: Any = parts[-1].module.joined.of(given)  # type: ignore[operator, union-attr]
                    inputs[port.name] = _standing(rng, lengths, place == 0, joined, part=joined.places > most_first)
                    if joined.grids is not None:
                        stood = _stood(inputs[port.name], joined) if place == 0 else stood
                        walks = [
                            walked(past, length, stands) for past, stands in zip(held.tolist(), stood, strict=True)
                        ]
                        inputs["position_ids"] = np.minimum(np.stack(walks), longest - 1)
            name = f"{number}-{place}-{rows}x{length}-{kind}"
            made.append(Case(name, inputs, parts[-1].name, after, capacity=room))
            after, held = (name,), held + lengths
    return made


def _standing(rng: np.random.Generator, lengths: Array, first: bool, joined: Joined, *, part: bool) -> Array:
    """Which features stand at new tokens, -1 for none: in a first call those of a picture for each row, where all rows
    have room for them; ``part``: no call has, and each holds as many of them as leave room for words."""
    rows = np.full((len(lengths), int(lengths.max())), -1, np.int64)
    if first and int(lengths.min()) >= joined.places:
        for row, length in enumerate(lengths):
            places = np.sort(rng.choice(int(length), joined.places, replace=False))
            if joined.grids is not None:  # one behind another
                places = int(places[0]) % (int(length) - joined.places + 1) + np.arange(joined.places)
            rows[row, places] = joined.standing(row)
    elif first and part and joined.grids is None:
        some = np.linspace(0, joined.places - 1, 3 * int(lengths.min()) // 4).astype(np.int64)
        for row, length in enumerate(lengths):
            rows[row, np.sort(rng.choice(int(length), len(some), replace=False))] = joined.standing(row)[some]
    return rows


def _stood(rows: Array, joined: Joined) -> list[list[tuple[int, int, int]]]:
    """Where the picture of each row stands, with the rows and columns of its features."""
    return [[(int((row >= 0).argmax()), *joined.grid)] if (row >= 0).any() else [] for row in rows]


def _widen(value: Any) -> Any:
    """An argument in float64, and what a list, tuple or dict of arguments holds."""
    if isinstance(value, torch.Tensor):
        return value.to(torch.float64) if value.dtype == torch.float32 else value
    if type(value) in (list, tuple):
        return type(value)(map(_widen, value))
    return _widened(value) if type(value) is dict else value


def _widened(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _widen(value) for name, value in named.items()}


_dtype_of: Any = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
# Elements of a matrix that is widened into memory held for the next one: to map new memory for each takes longer than
# to fill it. Larger ones, tables of words, come once a call.
_HELD = 1 << 23


class _WidenedCalls(TorchFunctionMode):
    """Widens what is given to torch's functions, some of which compare types before any operator is called."""

    def __init__(self) -> None:
        super().__init__()
        self._held = torch.empty(0, dtype=torch.float64)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _dtype_of:
            found = func(*args)
            return torch.float64 if found is torch.float32 else found
        if func is F.embedding or getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        if func is F.linear and len(args) > 1:
            # Nothing of a product shares memory with its matrix.
            args = (args[0], self._matrix(args[1]), *args[2:])
        return func(*_widen(tuple(args)), **_widened(kwargs))

    def _matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight in float64, until the next one is asked for."""
        if weight.dtype != torch.float32 or weight.numel() > _HELD:
            return weight
        if self._held.numel() < weight.numel():
            self._held = torch.empty(weight.numel(), dtype=torch.float64)
        return self._held[: weight.numel()].view(weight.shape).copy_(weight)


class _WidenedOperators(TorchDispatchMode):
    """Widens what every operator reads, wherever it is called from."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is torch.ops.aten.embedding.default:
            # A lookup is exact in any type: widen the rows, not the table.
            return func(*args, **kwargs).to(torch.float64)
        if func is torch.ops.aten.copy_.default and args[0].dtype is torch.float64:
            return func(*args, **kwargs)  # it widens what it reads
        return func(*_widen(tuple(args)), **_widened(kwargs))


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


class ReferenceRunner:
    """Runs the parts of a reference model on cases in order, carrying what they remember from one to the next.

    ``exact``: in float64, weights widened operator by operator and tables computed anew.
    """

    def __init__(self, parts: Sequence[Part], *, exact: bool = False) -> None:
        self._parts = {part.name: part for part in parts}
        self._exact = exact
        self._remembered: dict[str, dict[str, torch.Tensor]] = {}

    def run(self, case: Case) -> dict[str, Array]:
        """The outputs of one case; states are not among them."""
        part = self._parts[case.component]
        outputs = self._call(part.module, self.inputs(case))
        hidden = part.signature.hidden
        # States go on under the names of the ports that take them, the rest under its own.
        kept = {name.replace("present_", "past_", 1): value for name, value in outputs.items()}
        self._remembered[case.name] = {**self._before(case), **kept}
        return {name: value.numpy() for name, value in outputs.items() if name not in hidden}

    def forget(self, names: Iterable[str]) -> None:
        """Let go of what these cases have left: none takes it up any more (`precast.runtime.parity.finished`)."""
        for name in names:
            self._remembered.pop(name, None)

    def through(self, cases: Sequence[Case]) -> Iterator[tuple[Case, dict[str, Array]]]:
        """Every case in order, with its outputs."""
        for case, over in zip(cases, finished(cases), strict=True):
            outputs = self.run(case)
            self.forget(over)
            yield case, outputs

    def _before(self, case: Case) -> dict[str, torch.Tensor]:
        return {name: value for other in case.after for name, value in self._remembered[other].items()}

    def inputs(self, case: Case) -> dict[str, Any]:
        """What the model is given for a case, its ``states`` as the cases before have left them."""
        signature = self._parts[case.component].signature
        inputs: dict[str, Any] = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
        before = self._before(case)
        rows = len(next(iter((*inputs.values(), *before.values()))))
        together: dict[str, torch.Tensor] = {}
        for port in signature.ports:
            if port.name in inputs:
                continue
            origin = port.name if port.origin is None else port.origin[1]
            value = before[origin] if origin in before else _fresh(port.shape, rows, case.capacity)
            (inputs if port.name.isidentifier() else together)[port.name] = value
        return {**inputs, "states": together} if together else inputs

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


def _fresh(shape: Sequence[int | str], rows: int, capacity: int) -> torch.Tensor:
    return torch.zeros([rows if dim == "batch" else capacity if isinstance(dim, str) else dim for dim in shape])


def successors(signature: Signature) -> tuple[StateSpec, ...]:
    """What a component remembers, as a manifest describes it."""
    return tuple(
        StateSpec(name, name.replace("past_", "present_", 1), state.window) for name, state in signature.states.items()
    )


def record(parts: Sequence[Part], cases: Sequence[Case]) -> list[Recorded]:
    """Both references of every case."""
    eager, exact = ReferenceRunner(parts).through(cases), ReferenceRunner(parts, exact=True).through(cases)
    return [Recorded(case, near, true) for (case, near), (_, true) in zip(eager, exact, strict=True)]


# Products whose sums `_OtherOrder` begins elsewhere, with the dimension of both factors that is summed over.
_SUMS: Mapping[Any, tuple[int, int]] = {
    F.linear: (-1, -1),
    **dict.fromkeys((torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__), (-1, -2)),
    F.conv1d: (-2, -2),
    F.conv2d: (-3, -3),
    F.conv3d: (-4, -4),
    F.conv_transpose1d: (-2, -3),
    F.conv_transpose2d: (-3, -4),
}


class _OtherOrder(TorchFunctionMode):
    """Products whose sums begin elsewhere: the same numbers, rounded in another order. A convolution's sums begin at
    another channel, where all of them are summed; where a map's new places lie is rounded as engines round it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SUMS and len(args) >= 2 and kwargs.get("groups", args[6] if len(args) > 6 else 1) == 1:
            (left, right), (one, two) = _SUMS[func], args[:2]
            if min(one.dim(), two.dim()) > 1 and one.shape[left] == two.shape[right]:
                by = round(self._share * one.shape[left])
                args = (one.roll(by, left), two.roll(by, right), *args[2:])
        return (resized_by_inverse if func is torch.ops.precast.resized else func)(*args, **kwargs)


# Orders tried, as the share of a sum that comes first.
_ORDERS = tuple(place / 8 for place in range(1, 8))


def reordered(parts: Sequence[Part], recorded: Sequence[Recorded]) -> Iterator[dict[tuple[str, str], dict[str, float]]]:
    """Eager's figures with its sums in other orders, an order at a time: by output and case, each of `EAGER`.

    One order's error is small by luck where a model magnifies every rounding: such a point says how far float32 goes
    only in several.
    """
    outs = {out.name: out for part in parts for out in part.signature.outs}
    for share in _ORDERS:
        found: dict[tuple[str, str], dict[str, float]] = {}
        with _OtherOrder(share):
            made = ReferenceRunner(parts).through([item.case for item in recorded])
            runs = [outputs for _, outputs in made]
        for item, outputs in zip(recorded, runs, strict=True):
            for name, array in outputs.items():
                seen = measure(outs[name], item.case.name, array, array, item.exact[name])
                found[name, item.case.name] = {"orders": 1, **{key: getattr(seen, key) for key in EAGER}}
        yield found


def evaluate(model: nn.Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of an eager model without states for one input."""
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}
