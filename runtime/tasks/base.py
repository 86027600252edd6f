"""What every pipeline task shares: which inputs make one result or many, batches, order, errors.

A task holds a reader (`precast.runtime.readers`), which knows what one input is. It turns inputs into requests
(`prepare`), may say how outputs are computed (`compute`), keeps what it needs of each row of them (`keep`), and turns a
request's rows into the result (`finish`). Everything between is here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from precast.runtime import arguments, batching
from precast.runtime.errors import ConfigError, InputError, closest, listing
from precast.runtime.fields import Document, Fields
from precast.runtime.readers.base import Reader, Row

__all__ = ["Request", "Row", "Task", "config_fields", "id2label", "sigmoid", "softmax"]

Reads = TypeVar("Reads", bound=Reader)

_HELD = 8  # budgets of tokens of rows that are made as they are asked for


@dataclass(slots=True)
class Request:
    """One input: the rows the model is to compute for it, and whatever `Task.finish` wants to see again.

    Args:
        coming: rows behind these that are made as they are asked for, and of which few are held at once.
    """

    rows: list[Row]
    state: dict[str, Any] = field(default_factory=dict)
    coming: Iterable[Row] = ()


class Task(Generic[Reads]):
    """A pipeline: call it with one input for one result, a list for a list, an iterator for an iterator.

    Subclasses name their reader, give `prepare`, `keep` and `finish`, and `check`, whose keyword arguments are the
    task's parameters: accepted by ``pipeline(...)`` as defaults and by every call.
    """

    name: ClassVar[str]
    reads: ClassVar[type[Any]] = Reader
    """The class of the reader: ``Task[TextReader]`` says the same to a type checker."""
    too_long: ClassVar[str] = ""
    """What to do about an input that is larger than the model takes; empty: what the reader says."""
    beside: ClassVar[tuple[str, ...]] = ()
    """What all inputs of a command line may share: keyword arguments of `line`."""
    cpu_budget: ClassVar[int] = batching.CPU_BUDGET

    def __init__(self, model: Any, **defaults: Any) -> None:
        self.model = model
        given = {name: defaults.pop(name) for name in self.reads.parts if name in defaults}
        if self.too_long:
            given["too_long"] = self.too_long
        self.reader: Reads = self.reads(model, task=self.name, **given)
        self._batching = {key: defaults.pop(key, None) for key in ("batch_size", "token_budget")}
        batching.check_limits(**self._batching)
        self._progress = batching.check_progress(defaults.pop("progress", False))
        defaults.pop("num_workers", None)
        self._known = _parameters(self)
        self._defaults = self._check(defaults)

    @property
    def tokenizer(self) -> Any:
        """What reads texts; None for a task without any."""
        return getattr(self.reader, "tokenizer", None)

    @property
    def image_processor(self) -> Any:
        """What reads pictures; None for a task without any."""
        return getattr(self.reader, "image_processor", None)

    # What a task defines.

    def line(self, text: Any) -> Any:
        """The input that one of a command line stands for: a text, or what its JSON holds."""
        return self.reader.line(text) if isinstance(text, str) else text

    def check(self) -> dict[str, Any]:
        """Validate the parameters that were given (its keyword arguments) and return them as `prepare` wants them."""
        return {}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        """One request per input; several are asked for at once so that a tokenizer can work on them together."""
        raise NotImplementedError

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Rows share a batch only where this is equal, and the reader agrees."""
        return None

    def collate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """Rows as one batch of model inputs."""
        return self.reader.collate(rows)

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The model's outputs for rows, which the reader made a batch: one pass forward, unless a task needs more."""
        outputs: Mapping[str, Any] = self.model(**batch)
        return outputs

    def keep(self, outputs: Mapping[str, Any], index: int, span: slice, row: Row) -> Any:
        """What of row ``index`` of a batch is needed later; ``span`` is where its own values lie in the padded row."""
        raise NotImplementedError

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> Any:
        """The result for one input from what was kept of its rows, in order."""
        raise NotImplementedError

    @classmethod
    def serving(cls, model: Any) -> type[Task[Any]]:
        """What serves a model: this class, or another one where the model does the task in another way."""
        return cls

    @classmethod
    def implied(cls, asked: str) -> dict[str, Any]:
        """Parameters that are in the name a pipeline was asked for by: those of "translation_en_to_de"."""
        return {}

    # What every task gets.

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        token_budget: int | None = None,
        progress: batching.Progress | None = None,
        num_workers: int | None = None,
        **parameters: Any,
    ) -> Any:
        """One input: its result. A list or tuple: a list. An iterator: an iterator that reads it lazily.

        Args:
            batch_size: most rows in one batch; None leaves it to the token budget. With 1, a stream is answered
                input by input.
            token_budget: most padded tokens in one batch; None chooses for the device.
            progress: ``True`` for a bar on a terminal, or a function of (done, total or None).
            num_workers: accepted for compatibility; the tokenizer brings its own threads.
        """
        inputs = self.reader.plain(inputs)
        merged = {**self._defaults, **self._check(parameters)}
        limits = {
            "batch_size": batch_size if batch_size is not None else self._batching["batch_size"],
            "token_budget": token_budget if token_budget is not None else self._batching["token_budget"],
        }
        batching.check_limits(**limits)
        shown = self._progress if progress is None else batching.check_progress(progress)
        if isinstance(inputs, (list, tuple)):
            stream = self._stream(inputs, merged, shown, total=len(inputs), **limits)
            return list(stream)
        if self.reader.single(inputs):
            return next(self._stream([inputs], merged, shown, total=1, **limits))
        total = len(inputs) if isinstance(inputs, Sized) else None
        return self._stream(inputs, merged, shown, total=total, **limits)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task={self.name!r})"

    def _check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if self._known is not None:
            for key in given:
                if key not in self._known:
                    raise InputError(
                        f"{self.name} takes the arguments {listing(self._known)}; received {key!r}. "
                        f"{_RENAMED.get(key) or closest(key, self._known)}".rstrip()
                    )
        return self.check(**{name: arguments.listed(value) for name, value in given.items()})

    def _stream(
        self,
        inputs: Iterable[Any],
        parameters: Mapping[str, Any],
        progress: batching.Progress,
        *,
        total: int | None,
        batch_size: int | None,
        token_budget: int | None,
    ) -> Iterator[Any]:
        limits = batching.limits(self.model, token_budget, self.cpu_budget)
        if isinstance(inputs, (list, tuple)):
            limit, first = self.reader.window, None
        elif batch_size == 1:
            limit, first = 1, None
        else:
            limit, first = min(batching.STREAM_WINDOW, self.reader.window), batch_size or 1
        with batching.reporter(progress, total, self.name) as report:
            done = 0
            for window in batching.windows(inputs, limit=limit, first=first):
                for result in self.answers(window, parameters, batch_size=batch_size, limits=limits):
                    done += 1
                    report(done)
                    yield result

    def answers(
        self,
        window: Sequence[Any],
        parameters: Mapping[str, Any],
        *,
        batch_size: int | None,
        limits: Mapping[str, Any],
    ) -> Iterator[Any]:
        """The results of a few inputs, in order; their rows share batches."""
        requests = self.prepare(window, parameters)
        kept: list[list[Any]] = [[] for _ in requests]
        finished = 0
        for owners, rows, complete in _spans(requests, self.reader.cost, _HELD * limits["token_budget"]):
            found: list[Any] = [None] * len(rows)
            for batch in batching.plan([self.reader.cost(row) for row in rows], batch_size=batch_size, **limits):
                self._forward([rows[index] for index in batch], batch, found, parameters)
            for owner, value in zip(owners, found, strict=True):
                kept[owner].append(value)
            del rows, found  # in front of those that come
            for number in range(finished, complete):
                result = self.finish(requests[number], kept[number], parameters)
                kept[number] = []
                yield result
            finished = complete

    def _forward(
        self, rows: Sequence[Row], places: Sequence[int], kept: list[Any], parameters: Mapping[str, Any]
    ) -> None:
        groups: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault((self.reader.group(row), self.together(row, parameters)), []).append(index)
        for group in groups.values():
            batch = [rows[index] for index in group]
            outputs = self.compute(self.collate(batch), batch, parameters)
            for index, (place, row) in enumerate(zip(group, batch, strict=True)):
                kept[places[place]] = self.keep(outputs, index, self.reader.span(row), row)


def _spans(
    requests: Sequence[Request], cost: Callable[[Row], int], most: int
) -> Iterator[tuple[list[int], list[Row], int]]:
    """Rows with the numbers of their requests, all at once but for those that come: of these about ``most`` tokens. And
    how many requests have no more of them."""
    owners: list[int] = []
    rows: list[Row] = []
    held = 0
    for number, request in enumerate(requests):
        owners += [number] * len(request.rows)
        rows += request.rows
        for row in request.coming:
            owners.append(number)
            rows.append(row)
            held += cost(row)
            if held >= most:
                yield owners, rows, number
                owners, rows, held = [], [], 0
    yield owners, rows, len(requests)


_RENAMED = {
    "topk": "Write top_k.",
    "grouped_entities": "Write aggregation_strategy='simple'.",
    "ignore_subwords": "Write aggregation_strategy='first'.",
    "return_all_scores": "It is text-classification's; leave it out.",
    "dtype": "Precision is chosen at export: precast export --precision.",
    "torch_dtype": "Precision is chosen at export: precast export --precision.",
    "framework": "There is one framework here; leave it out.",
}


def _parameters(task: Task[Any]) -> tuple[str, ...] | None:
    """Names `check` takes, or None where it takes any."""
    found = inspect.signature(task.check).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found):
        return None
    return tuple(parameter.name for parameter in found)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, shifted by its maximum."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: np.ndarray = exponent / exponent.sum(axis=-1, keepdims=True)
    return normalised


_CONFIG = Document("config.json", ConfigError, "Correct it in the checkpoint, and export that again.")
_NUMBER = re.compile(r"[0-9]{1,18}")


def _is_label_table(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(_NUMBER.fullmatch(str(key)) for key in value))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow for large negative values."""
    tail = np.exp(-np.abs(logits))
    value: np.ndarray = np.where(logits >= 0, 1.0, tail) / (1.0 + tail)
    return value


def config_fields(config: Mapping[str, Any]) -> Fields:
    """config.json of a checkpoint, to be read through types."""
    return Fields(dict(config), document=_CONFIG)


def id2label(config: Mapping[str, Any], count: int) -> list[Any]:
    """Names of ``count`` labels, as the config has them; ``LABEL_i`` where it has none, as upstream.

    :raises ConfigError: config.json has something else there."""
    table = config_fields(config).take("id2label", "an object of label names by number", _is_label_table, None) or {}
    names = {int(key): value for key, value in table.items()}
    return [names.get(index, f"LABEL_{index}") for index in range(count)]
