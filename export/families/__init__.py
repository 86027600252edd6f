"""One file an architecture, found by its name: ``model_type``, dashes or underscores alike. No central list."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from precast.export.heads import Head
from precast.export.spec import Spec, hf, ignored_keys, ignored_values, read_spec
from precast.export.weights import Rule
from precast.runtime.errors import UnsupportedModelError, closest, listing

__all__ = ["ALIASES", "Crossed", "Family", "LabelSpec", "TextSpec", "find_family", "model_types"]

# Weights of classes, which a loss of training holds as a buffer.
LOSSES = ("loss_fct.*", "loss_fn.*", "loss_function.*", "loss_func.*", "criterion.*", "loss.*")

# model_type -> the family that computes it. Each one has its own parity test (tests/export/families).
ALIASES: dict[str, str] = {"camembert": "roberta", "hifigan": "speecht5_hifigan", "xlm-roberta": "roberta"}


@dataclass(frozen=True, kw_only=True)
class LabelSpec(Spec):
    """What classifiers of any input read from every config.json."""

    num_labels: int = hf(("num_labels", "_num_labels"), default=2)
    id2label: dict[str, str] | None = hf(default=None)

    @property
    def labels(self) -> int:
        """Number of labels; id2label counts where both are given, as upstream."""
        return len(self.id2label) if self.id2label else self.num_labels


@dataclass(frozen=True, kw_only=True)
class TextSpec(LabelSpec):
    """And what the heads of text models read."""

    vocab_size: int
    pad_token_id: int | None = hf(default=None)
    tie_word_embeddings: bool = hf(default=True)


@dataclass(frozen=True)
class Crossed:
    """How a family's decoder stands behind an encoder of another family.

    Args:
        model: of a spec and of how many channels the states have that its layers attend to -> a `CausalLM`, whose
            weights `Family.weights` names.
        said: keys of its config.json that say there that it is one, as its spec wants them.
        weights: rules for it, where they are not the family's.
    """

    model: Callable[[Any, int], Any]
    said: Mapping[str, Any] = field(default_factory=dict)
    weights: Callable[[Any], tuple[Rule, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything export knows of an architecture.

    Args:
        model_type: as config.json spells it, where that is not the file's name.
        spec: the frozen spec class read from config.json.
        heads: what can be exported, and the function that composes it; it gets the spec and the set of optional
            parts that the checkpoint lacks.
        weights: the ordered rules from checkpoint names to parameter names, for a spec.
        optional: name prefixes of parts a checkpoint may lack as a whole (a pooler nobody trained).
        tiny: config.json of a tiny checkpoint for tests, over upstream's defaults.
        variations: further keys over ``tiny``, each one a test of its own: odd sizes, switches.
        final_norm: a norm follows the last layer.
        padded_rows_defined: upstream gives padded positions the same states as we do; not where it masks them as
            queries too, or where a window leaves them nothing to see.
        inert: keys of config.json that this family knows not to matter.
        generation: keys of config.json that only `generate` reads, and what upstream takes where they are absent.
        generates: what upstream's `generate` of this family takes of a spec, whatever generation_config.json says.
        unloaded: patterns of tensors in checkpoints that upstream's classes do not load; recorded. Any other name that
            no rule explains is an error.
        body: makes its network of maps, or of patches, for a spec, to stand inside others' models
            (`precast.export.backbones`); the spec says the ``widths`` of its states.
        body_names: rules behind ``weights`` for that network, where the heads here have it in another form.
        refused: endings of architectures that look like a head and are none, and what each one is.
        crossed: its decoder, to stand inside others' models (`precast.export.skeletons.composed`); None: it has none.
        unfit: why a model of a spec cannot be exported for one of the heads; None: it can.
    """

    spec: type[Spec]
    heads: Mapping[Head, Callable[[Any, frozenset[str]], nn.Module]]
    weights: Callable[[Any], tuple[Rule, ...]]
    tiny: Mapping[str, Any]
    variations: tuple[Mapping[str, Any], ...] = ()
    final_norm: bool = False
    padded_rows_defined: bool = True
    optional: tuple[str, ...] = ()
    inert: frozenset[str] = field(default_factory=frozenset)
    generation: Mapping[str, Any] = field(default_factory=dict)
    generates: Callable[[Any], Mapping[str, Any]] = lambda spec: {}
    unloaded: tuple[str, ...] = LOSSES
    refused: Mapping[str, str] = field(default_factory=dict)
    model_type: str | None = None
    body: Callable[[Any], Any] | None = None
    body_names: Callable[[Any], tuple[Rule, ...]] = lambda spec: ()
    crossed: Crossed | None = None
    unfit: Callable[[Any, Head], str | None] = lambda spec, head: None

    def read(self, config: Mapping[str, Any]) -> Spec:
        """The spec of a config.json; raises ConfigError."""
        return read_spec(self.spec, config, inert=self.inert)

    def ignored(self, config: Mapping[str, Any], spec: Spec) -> tuple[str, ...]:
        """Keys of a config.json that change nothing, as nothing of upstream's reads them either."""
        return (*ignored_keys(self.spec, config, inert=self.inert), *ignored_values(spec, config))


@functools.cache
def model_types() -> tuple[str, ...]:
    """Every ``model_type`` that can be exported: not of what only stands inside other models."""
    spelled = (_family(file).model_type or file for file in _files() if _family(file).heads)
    return tuple(sorted([*spelled, *ALIASES]))


@functools.cache
def _files() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__))


def _family(file: str) -> Family:
    family: Family = importlib.import_module(f"{__name__}.{file}").FAMILY
    return family


def find_family(model_type: Any) -> Family:
    """The family for a config.json's ``model_type``.

    Raises:
        UnsupportedModelError: there is none; names the closest.
    """
    aliases = {alias.replace("-", "_"): name for alias, name in ALIASES.items()}
    file = str(model_type).replace("-", "_")
    file = aliases.get(file, file).replace("-", "_")
    if file not in _files():
        raise UnsupportedModelError(
            f"model_type {model_type!r} is not supported. {closest(str(model_type), model_types())} "
            f"Supported: {listing(model_types())}."
        )
    return _family(file)
