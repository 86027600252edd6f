"""From a checkpoint and a task to the reference model, its weights bound: the eager definition of correct."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from precast.export.blocks.tables import fill_tables, table_names
from precast.export.checkpoints.quantized import dequantized
from precast.export.components import parts_of
from precast.export.families import Family, find_family
from precast.export.heads import BASE, HEADS, SEQUENCE_CLASSIFICATION, Head
from precast.export.signatures import Signature, signature
from precast.export.spec import Spec
from precast.export.weight_names import unwrapped
from precast.export.weight_table import Lazy, StoredTensor, WeightMap, plan
from precast.export.weights import Ignore, rename
from precast.graphs.block_weight import Blocks
from precast.runtime import catalogue
from precast.runtime.errors import ConfigError, PrecastError, UnsupportedTaskError, listing

__all__ = ["Part", "Reference", "build", "head_for", "served_tasks"]


@dataclass(frozen=True)
class Part:
    """What becomes one component of an artifact: a module of the model, and what goes in and out of it."""

    name: str
    module: nn.Module
    signature: Signature


@dataclass(frozen=True)
class Reference:
    """A reference model with its weights, and what is known of it; ``parts`` in the order they run.

    ``ignored`` are weights, ``ignored_config`` keys of config.json that nothing reads. ``blocks``: by parameter, the
    integers that the checkpoint holds it in, where it does.
    """

    model: nn.Module
    model_type: str
    family: Family
    spec: Spec
    head: Head
    parts: tuple[Part, ...]
    ignored: tuple[str, ...]
    ignored_config: tuple[str, ...] = ()
    blocks: Mapping[nn.Parameter, Blocks] = field(default_factory=dict)

    @property
    def signature(self) -> Signature:
        """Of the first part, which is the only one but in encoder-decoders."""
        return self.parts[0].signature


def head_for(family: Family, config: Mapping[str, Any], task: str | None) -> Head:
    """The head to export: of ``task``, or of config.json's first architecture.

    Raises:
        UnsupportedTaskError: the task is unknown, or this family has no such head.
        ConfigError: no task was given and config.json names no architecture we know.
    """
    if task is not None:
        facts = catalogue.resolve(task)
        wanted = (facts.name, *facts.served_by) if facts.endings else facts.served_by
        for head in family.heads:
            if head.task in wanted:
                return head
        if facts is BASE.facts:  # upstream's AutoModel makes every class whose name says no more
            for head in family.heads:
                if "Model" in head.architectures:
                    return head
        raise UnsupportedTaskError(
            f"model_type {config.get('model_type')!r} has no head for task {task!r}; "
            f"it has: {listing(head.task for head in family.heads)}."
        )
    architectures = config.get("architectures") or []
    declared = _declared(family, config)
    if declared is not None:
        return declared
    refusal = _refusal(family, config)
    if refusal:
        raise UnsupportedTaskError(refusal)
    kind, has = config.get("model_type"), listing(head.task for head in family.heads)
    for architecture in architectures:
        for head in HEADS:
            if _ending(architecture) in head.architectures:
                raise UnsupportedTaskError(
                    f"{architecture} is made for task {head.task!r}, which is not exported of model_type {kind!r} so "
                    f"far; its tasks here: {has}."
                )
    said = f"{listing(map(str, architectures))}, which is for no task known here" if architectures else "not there"
    raise ConfigError(
        f"config.json says in 'architectures' what its weights are for, and it is {said}. If they are for "
        f"a task of model_type {kind!r} here ({has}), name it with task=."
    )


def _declared(family: Family, config: Mapping[str, Any]) -> Head | None:
    """The head that config.json's architectures name, or None."""
    for architecture in config.get("architectures") or []:
        for head in family.heads:
            if _ending(architecture) in head.architectures and _ending(architecture) not in family.refused:
                return head
    return None


_ENDING = re.compile(
    r"(ModelForConditionalGeneration|For[A-Z]\w*|LMHeadModel|MTModel|EncoderDecoderModel|GenerationDecoder|GenerationEncoder|Model|WithHifiGan|HifiGan)$"
)


def _ending(architecture: Any) -> str:
    match = _ENDING.search(str(architecture))
    return match.group(1) if match else ""


def _refusal(family: Family, config: Mapping[str, Any]) -> str:
    """What config.json's architecture is, where it looks like a head of the family and is none."""
    found = [name for name in config.get("architectures") or [] if _ending(name) in family.refused]
    return f"{found[0]} is {family.refused[_ending(found[0])]}." if found else ""


def served_tasks(head: Head, spec: Spec) -> tuple[str, ...]:
    """The tasks an artifact with this head can serve, its own first."""
    zero_shot = head is SEQUENCE_CLASSIFICATION and getattr(spec, "labels", 0) > 1
    return (head.task, "zero-shot-classification") if zero_shot else (head.task,)


def build(
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    task: str | None = None,
    dtype: torch.dtype = torch.float32,
    family: Family | None = None,
    release: Callable[[], None] = lambda: None,
) -> Reference:
    """Build the reference model on the meta device, then bind the checkpoint's tensors to it.

    Args:
        task: what for; None: what config.json's ``architectures`` says.
        dtype: of parameters and tables; in float64, of a checkpoint in float64, nothing is rounded.
        family: of what no config.json describes; None: the one of config.json's ``model_type``.
        release: called after each weight that was read: gives back what that has made resident.

    Raises:
        UnsupportedModelError, UnsupportedTaskError, ConfigError, WeightsError
    """
    family = family or find_family(config.get("model_type"))
    tensors = unwrapped(tensors)
    with _consistent(config):
        config, tensors, zero_biases = dequantized(config, tensors)
        spec = family.read(config)
        head = head_for(family, config, task)
        reason = family.unfit(spec, head)
        if reason is not None:
            raise UnsupportedTaskError(f"this model is not made for task {head.task!r}: {reason}.")
        table = rename(tensors, (*map(Ignore, family.unloaded), *family.weights(spec)))
    absent = frozenset(part for part in family.optional if not any(f"{key}.".startswith(f"{part}.") for key in table))
    with torch.device("meta"), _consistent(config):
        models = {other: compose(spec, absent) for other, compose in family.heads.items()}
    if getattr(models.get(BASE), "pooler", None) is None:
        absent |= {"pooler"}  # also where only another head has parameters of that name
    names = {
        other: {name for name, _ in model.named_parameters(remove_duplicate=False)} for other, model in models.items()
    }
    model = models[head].eval()
    # A language model whose head is tied to its embeddings has none of its own to miss.
    if BASE in family.heads or not getattr(spec, "tie_word_embeddings", False):
        _check_head(family, head, table, names, config)
    elsewhere = set().union(*(names[other] for other in models if other is not head))
    elsewhere |= {name for name, lazy in table.items() if lazy.keys and zero_biases.issuperset(lazy.keys)}
    weights: WeightMap = plan(model, table, unused=elsewhere, computed=table_names(model))
    weights.bind(model, dtype, release)
    with _consistent(config):
        fill_tables(model, dtype)
    with _consistent(config):
        parts = tuple(Part(name, module.eval(), signature(module)) for name, module in parts_of(model).items())
        for part in parts:
            part.signature.example()  # sizes that no array has
    blocks = {
        model.get_parameter(name): lazy.blocks for name, lazy in weights.tensors.items() if lazy.blocks is not None
    }
    return Reference(
        model,
        str(config["model_type"]),
        family,
        spec,
        head,
        parts,
        weights.unused(tensors),
        family.ignored(config, spec),
        blocks,
    )


_CONTRADICTIONS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def _consistent(config: Mapping[str, Any]) -> Iterator[None]:
    """A family may divide and index by what its spec says: values of the right type that contradict one another, or a
    size that no tensor can have, fail somewhere in its arithmetic, and that is config.json's error."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element tensors")
            yield
    except PrecastError:
        raise
    except (*_CONTRADICTIONS, UserWarning) as error:
        reason = f"{type(error).__name__}: {error!s:.200}".splitlines()[0]
        raise ConfigError(
            f"config.json's values make no model of model_type {config.get('model_type')!r} ({reason}). Compare its "
            "sizes with the checkpoint's weights, or download it again."
        ) from error


def _check_head(
    family: Family, head: Head, table: Mapping[str, Lazy], names: Mapping[Head, set[str]], config: Mapping[str, Any]
) -> None:
    """A head none of whose own weights is there was never trained: say so, instead of listing its names.

    A family of language models has no base head: what is below their heads is the same in all of them."""
    body = ("model.",) if BASE in family.heads else ("model.", "encoder.", "decoder.")
    below = names.get(BASE) or {name for name in names[head] if name.startswith(body)}
    declared = _declared(family, config)
    embedded = {id(lazy) for name, lazy in table.items() if name.startswith(body)}

    def trained(other: Head) -> bool:
        own = names[other] - below
        if other is declared and own <= set(table):
            return True  # all of it may be tied to the embeddings
        # A decoder tied to the embeddings is in every checkpoint, whatever it was trained for.
        found = {name for name in own if name in table and id(table[name]) not in embedded}
        # Heads of one family share names: a text classifier's `classifier.weight` is no token classifier's.
        borrowed = declared not in (None, other, BASE) and found <= names[declared]
        return not own or bool(found and not borrowed)

    if trained(head):
        return
    has = [other.task for other, wanted in names.items() if wanted <= set(table) and trained(other)]
    raise UnsupportedTaskError(
        f"this checkpoint ({listing(config.get('architectures') or ['no architecture named'])}) has no trained head "
        f"for task {head.task!r}. It has: {listing(has)}. {_refusal(family, config)}".rstrip()
    )
