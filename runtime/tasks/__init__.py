"""Pipelines: ``pipeline("text-classification", "artifact")``. A task is a row of `precast.runtime.catalogue` and a
file of this folder, named after it, that holds its class as ``PIPELINE``: ``text_classification.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from precast.runtime import arguments, catalogue
from precast.runtime.errors import InputError, UnsupportedTaskError, listing

if TYPE_CHECKING:
    from precast.runtime.tasks.base import Task

__all__ = ["TASKS", "pipeline"]

_SHARED = {"base"}


class _Tasks(Mapping[str, "type[Task[Any]]"]):
    """Task name -> class, found by file name; a task's module is imported when it is asked for."""

    def __init__(self) -> None:
        self._files = {
            module.name.replace("_", "-"): module.name
            for module in iter_modules(__path__)
            if module.name not in _SHARED and not module.name.startswith("_")
        }

    def __getitem__(self, name: str) -> type[Task[Any]]:
        found: type[Task[Any]] = import_module(f"{__name__}.{self._files[name]}").PIPELINE
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def resolve(self, name: object) -> str:
        """The pipeline ``name`` means; an unknown one is an error with near matches."""
        facts = catalogue.resolve(name)
        if facts.name not in self._files:
            raise UnsupportedTaskError(
                f"Task {name!r} has no pipeline: call the model itself, precast.load(artifact)(...). "
                f"Pipelines: {listing(self)}."
            )
        return facts.name


TASKS = _Tasks()


def pipeline(
    task: str,
    model: Any,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    feature_extractor: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    variant: str | None = None,
    **defaults: Any,
) -> Any:
    """A callable that answers ``task`` with an artifact: same calls, same results as upstream's pipelines.

    Args:
        task: a name of `TASKS` or one of their aliases.
        model: path of an artifact, or a loaded model.
        tokenizer: used in place of the artifact's own; or the folder that holds one.
        image_processor, feature_extractor: likewise, or the artifact or checkpoint that has one.
        device, threads, variant: how to open the artifact; not used with a loaded model.
        defaults: the task's own parameters, for every call; also ``batch_size``, ``token_budget``, ``progress``.

    Raises:
        UnsupportedTaskError: there is no such task, or the artifact cannot serve it.
    """
    name = TASKS.resolve(task)
    kind = TASKS[name]
    if isinstance(model, (str, os.PathLike)):
        from precast.runtime.loading import load

        model = load(model, device=device, threads=threads, variant=variant)
    if isinstance(model, type) or not hasattr(model, "tasks"):
        raise InputError(
            f"model is the path of an artifact, or a loaded model; received {type(model).__name__}: {model!r:.80}."
        )
    served = (name, *catalogue.CATALOGUE[name].served_by)
    if not any(own in model.tasks for own in served):
        raise UnsupportedTaskError(
            f"Task {name!r} needs an artifact exported for {' or '.join(served)}; this one serves: "
            f"{listing(model.tasks)}. Ask for one of these, or export again with that task."
        )
    if isinstance(tokenizer, (str, os.PathLike)):
        from precast.runtime.processors.text import Tokenizer

        tokenizer = Tokenizer.from_folder(arguments.path("tokenizer", tokenizer))
    if tokenizer is not None and (isinstance(tokenizer, type) or not hasattr(tokenizer, "model_input_names")):
        raise InputError(
            "tokenizer is the path of a folder that holds one, or a tokenizer; received "
            f"{type(tokenizer).__name__}: {tokenizer!r:.80}."
        )
    if tokenizer is not None:
        defaults["tokenizer"] = tokenizer
    defaults |= _readers(image_processor=(image_processor, "pixels"), feature_extractor=(feature_extractor, "heard"))
    return kind.serving(model)(model, **{**kind.implied(task), **defaults})


def _readers(**given: tuple[Any, str]) -> dict[str, Any]:
    """What a call gave in place of the artifact's own, by name: each opened where it is a path, and held to have what
    tells it from others."""
    from precast.runtime.auto import PROCESSORS

    made: dict[str, Any] = {}
    for name, (value, mark) in given.items():
        if value is None:
            continue
        if isinstance(value, (str, os.PathLike)):
            value = PROCESSORS[name].from_pretrained(arguments.path(name, value))
        if isinstance(value, type) or not hasattr(value, mark):
            noun = name.replace("_", " ")
            raise InputError(
                f"{name} is {arguments.article(noun)} of Precast, or the path of an artifact or a checkpoint that has "
                f"one; received {type(value).__name__}: {value!r:.80}."
            )
        made[name] = value
    return made
