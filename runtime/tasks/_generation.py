"""What the generating tasks share: whose word counts for each argument, batches of prompts, and a request's sequences.

An argument is the call's, else the pipeline's, else the checkpoint's own for the task (``task_specific_params``), else
the checkpoint's (generation_config.json), else upstream's default for the task. What a request answers does not depend
on the others of its batch: lengths count from its own prompt, and with ``seed`` request i draws with seed + i.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from precast.runtime.errors import InputError
from precast.runtime.readers.text import PromptReader
from precast.runtime.tasks.base import Row, Task

if TYPE_CHECKING:
    from precast.runtime.generation.config import GenerationConfig
    from precast.runtime.generation.streaming import Stream

__all__ = ["GenerationArguments", "GenerationTask", "as_written", "stop_strings"]

_OURS = (
    "input_ids",
    "inputs",
    "input_features",
    "input_values",
    "pixel_values",
    "flattened_patches",
    "encoder_outputs",
    "attention_mask",
    "decoder_input_ids",
    "decoder_attention_mask",
    "past",
    "streamer",
)
_RESULTS = ("return_dict_in_generate", "output_scores", "output_logits")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_PREFIX = "generate."


class GenerationArguments:
    """Arguments of `generate` that a task was given, for a loaded model.

    Args:
        task: its name, for messages. usual: upstream's defaults of the task.
        specific: the checkpoint's own parameters for it, of a call's.
    """

    def __init__(
        self,
        task: str,
        model: Any,
        tokenizer: Any,
        usual: Mapping[str, Any],
        specific: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda parameters: {},
    ) -> None:
        self.name, self.model, self.tokenizer, self.usual, self.specific = task, model, tokenizer, usual, specific

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`, one entry each, so that those of a call override the pipeline's one by one.

        :raises InputError: one is unknown, impossible, contradicts another, or is not a pipeline's."""
        flat = dict(given)
        for name in flat:
            if name in _OURS:
                raise InputError(
                    f"{self.name} makes {name} itself, of the texts; to give your own, use model.generate."
                )
            if name in _RESULTS and flat[name]:
                raise InputError(f"{self.name} returns texts or ids; for {name}, use model.generate.")
        config = flat.get("generation_config")
        if isinstance(config, Mapping):
            del flat["generation_config"]
            flat = {**config, **flat}
        checked = {f"{_PREFIX}{name}": value for name, value in flat.items()}
        self.config(checked)
        return checked

    def config(self, parameters: Mapping[str, Any]) -> GenerationConfig:
        """What `generate` is asked for in a call, everything taken together."""
        if "config" in parameters:
            known: GenerationConfig = parameters["config"]
            return known
        from precast.runtime.generation.config import GenerationConfig, stated_by

        given = _generating(parameters)
        asked = given.pop("generation_config", None)
        own = {name: value for name, value in given.items() if name not in _objects()}
        if asked is None:
            return self._base(parameters, own).merged(own)
        if isinstance(asked, GenerationConfig):
            return asked.merged(own)
        stated = stated_by(asked)
        return replace(self._base(parameters, {**stated, **own}), **stated).merged(own)

    def _base(self, parameters: Mapping[str, Any], given: Mapping[str, Any]) -> GenerationConfig:
        """The checkpoint's word, and upstream's where there is none; ``given`` are the caller's arguments."""
        from precast.runtime.generation.config import GenerationConfig

        stated = getattr(self.model, "generation_config", None)
        base = GenerationConfig.from_checkpoint(stated, self.model.config)
        known = {field.name for field in fields(base)}
        specific = {name: value for name, value in self.specific(parameters).items() if name in known}
        plain = GenerationConfig()
        said = {name for name, value in (stated or {}).items() if value is not None}
        said |= {name for name in known if getattr(base, name) != getattr(plain, name)} | specific.keys()
        said |= given.keys()
        added = {name: value for name, value in self.usual.items() if name not in said}
        if "max_length" in said:
            added.pop("max_new_tokens", None)
        drawing = {"do_sample": base.do_sample, **added, **specific, **given}["do_sample"]
        if not drawing:
            added = {name: value for name, value in added.items() if name not in _SAMPLING}
        if base.pad_token_id is None and self.tokenizer.pad_token_id is not None:
            added["pad_token_id"] = self.tokenizer.pad_token_id
        return replace(base, **{**added, **specific})

    def objects(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that no configuration holds."""
        others = {name: value for name, value in _generating(parameters).items() if name in _objects()}
        others.pop("generation_config", None)
        others.setdefault("tokenizer", self.tokenizer)
        return others


class GenerationTask(Task[PromptReader]):
    """A task whose model generates: ``arguments`` checks what `generate` is to be given, ``compute`` calls it."""

    reads = PromptReader
    too_long = "Pass truncation=True to cut it."
    # Rows that generate keep a cache each: few long prompts at once, or some tens of short ones.
    cpu_budget = 1024
    usual: ClassVar[Mapping[str, Any]] = {}
    """Upstream's defaults of the task, for what neither the call nor the checkpoint says."""

    def __init__(self, model: Any, **defaults: Any) -> None:
        if not hasattr(model, "generate"):
            raise InputError(f"{self.name} needs a model that generates, and {model!r} does not.")
        super().__init__(model, **defaults)

    @property
    def decoder_only(self) -> bool:
        """Whether answers continue their prompts, as opposed to an encoder-decoder's."""
        return self.reader.continues

    def specific(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The checkpoint's own parameters for this task, ``prefix`` among them."""
        return self.task_specific(self.name)

    def task_specific(self, name: str) -> dict[str, Any]:
        """What config.json says for a task: T5 says how its texts begin."""
        table = self.model.config.get("task_specific_params")
        found = table.get(name) if isinstance(table, Mapping) else None
        return dict(found) if isinstance(found, Mapping) else {}

    def prefix(self, parameters: Mapping[str, Any]) -> str:
        """What every text begins with."""
        given = parameters.get("prefix")
        stated = self.specific(parameters).get("prefix", self.model.config.get("prefix"))
        return given if given is not None else stated if isinstance(stated, str) else ""

    # Arguments.

    @cached_property
    def asking(self) -> GenerationArguments:
        """Whose word counts for each argument."""
        return GenerationArguments(self.name, self.model, self.tokenizer, self.usual, self.specific)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See `GenerationArguments.checked`."""
        return self.asking.checked(given)

    def config(self, parameters: Mapping[str, Any]) -> GenerationConfig:
        """See `GenerationArguments.config`."""
        return self.asking.config(parameters)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts that end an answer: the pipeline's, or else the checkpoint's own."""
        return self.config(self._defaults).stop_strings or ()

    # Batches.

    def numbered(self, rows: Sequence[Row], parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Rows that know which of the call's requests they are."""
        for row in rows:
            row["number"] = np.array(next(parameters["numbers"]))
        return rows

    def _stream(self, inputs: Any, parameters: Mapping[str, Any], progress: Any, **limits: Any) -> Iterator[Any]:
        return super()._stream(inputs, self._of_call(parameters), progress, **limits)

    def _of_call(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {**parameters, "numbers": count(), "config": self.config(parameters)}

    def together(self, row: Row, parameters: Mapping[str, Any]) -> Hashable:
        """Only rows that may get equally many tokens share a batch: a batch has one budget."""
        return self._lengths(row, self.config(parameters))

    def compute(
        self, batch: Mapping[str, Any], rows: Sequence[Row], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``sequences`` [B, K, L] as `generate` gives them, and which part of each is new."""
        arguments = self.call_arguments(rows, parameters)
        output = self.model.generate(**batch, **arguments)
        total, length = output.sequences.shape
        returns = total // len(rows)
        sizes = np.array(output.new_tokens).reshape(len(rows), returns)
        return {
            "sequences": output.sequences.reshape(len(rows), returns, length),
            "sizes": sizes,
            "start": length - int(sizes.max()),
        }

    def call_arguments(self, rows: Sequence[Row], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `generate` for rows of one budget."""
        config = self.config(parameters)
        new, least, _ = self._lengths(rows[0], config)
        changes: dict[str, Any] = {"return_dict_in_generate": True}
        if self.decoder_only and new is not None and new > 0:
            changes |= {"max_new_tokens": new, "min_new_tokens": least, "min_length": 0}
        if config.seed is not None:
            changes["seed"] = _seeds(config.seed, [int(row["number"]) for row in rows])
        return {**self.asking.objects(parameters), "generation_config": replace(config, **changes)}

    def _lengths(self, row: Row, config: GenerationConfig) -> tuple[int | None, int | None, int | None]:
        """Tokens a row may get, must get, and has room for in the model, counted as if it were alone; an
        encoder-decoder's do not depend on it."""
        if not self.decoder_only:
            return None, None, None
        size = len(row["input_ids"])
        # A prefix does not count against a total length.
        counted = size - int(row.get("prefix", 0))
        new = config.total_length(counted) - counted
        limit = self.model.max_length
        room = new if limit is None else min(new, limit - size)
        least = max(config.min_new_tokens or 0, (config.min_length or 0) - counted)
        return new, min(least, room) or None, room

    def keep(self, outputs: Mapping[str, Any], index: int, span: slice, row: Row) -> list[np.ndarray]:
        """Each return's new tokens; of an encoder-decoder behind what it starts with."""
        start = outputs["start"]
        first = start if self.decoder_only else 0
        return [
            sequence[first : start + size]
            for sequence, size in zip(outputs["sequences"][index], outputs["sizes"][index], strict=True)
        ]

    # Streams.

    def stream(self, item: Any, **parameters: Any) -> Stream[str]:
        """The answer to one input, piece by piece while it is generated; ``past`` remembers a conversation.

        :raises InputError: as a call; or it asks for beams or several answers."""
        from precast.runtime.generation.streaming import stream_text

        past = parameters.pop("past", None)
        merged = self._of_call({**self._defaults, **self._check(parameters)})
        (request,) = self.prepare([item], merged)
        arguments = self.call_arguments(request.rows, merged)
        if past is not None:
            arguments["past"] = past
        keep = bool(merged.get("skip_special_tokens", True))

        def decode(ids: list[int]) -> str:
            text: str = self.tokenizer.decode(ids, skip_special_tokens=keep)
            return text

        beside = self.reader.beside(request.rows)
        return stream_text(self.model, request.rows[0]["input_ids"][None], decode=decode, **beside, **arguments)


def as_written(sequences: Sequence[np.ndarray], fill: int) -> list[np.ndarray]:
    """Sequences padded to the longest of them, as `generate` gives them to a request that is alone."""
    longest = max(map(len, sequences))
    return [np.concatenate([row, np.full(longest - len(row), fill, np.int64)]) for row in sequences]


def stop_strings(value: Any) -> list[str]:
    """``stop_sequence``, one text or several."""
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"stop_sequence is a text, or a list of texts, none of them empty; received {value!r}.")
    return texts


def _generating(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name[len(_PREFIX) :]: value for name, value in parameters.items() if name.startswith(_PREFIX)}


@cache
def _objects() -> frozenset[str]:
    """Arguments of `generate` that no configuration holds."""
    from precast.runtime.generation.api import prepare

    return frozenset(inspect.signature(prepare).parameters) - {"model", "arguments"}


def _seeds(seed: int | Sequence[int], numbers: Sequence[int]) -> tuple[int, ...]:
    if isinstance(seed, int):
        return tuple(seed + number for number in numbers)
    if max(numbers) >= len(seed):
        raise InputError(f"seed is one number, or one an input; received {len(seed)} for more inputs than that.")
    return tuple(seed[number] for number in numbers)
