"""Strict reading of config.json into a frozen spec: a key that any of upstream's config classes knows is understood,
known to be inert, or refused; one that none of them knows is ignored, as upstream ignores it."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from precast.runtime.errors import ConfigError, closest
from precast.runtime.fields import MOST, shown
from precast.runtime.generation.config_values import RULES

__all__ = ["INERT", "Spec", "config_keys", "hf", "ignored_keys", "ignored_values", "read_spec"]

# Keys that cannot change what an exported graph computes: training, bookkeeping, labels, what tasks and tokenizers
# read, and what generation does.
INERT = frozenset(
    """
    _attn_implementation _commit_hash _name_or_path _num_labels architectures assistant_lookbehind attention_dropout
    attention_probs_dropout_prob attn_dropout chunk_size_feed_forward classifier_dropout classifier_dropout_prob
    cls_token_id deterministic_flash_attn dropout dtype embedding_dropout gradient_checkpointing hidden_dropout_prob
    id2label initializer_cutoff_factor initializer_range label2id mask_token_id mlp_dropout model_max_length
    model_type num_labels output_attentions output_hidden_states prefix problem_type qa_dropout return_dict
    sep_token_id seq_classif_dropout sparse_pred_ignore_index sparse_prediction target_lookbehind
    task_specific_params tokenizer_class torch_dtype transformers_version
    """.split()
) | frozenset(RULES)

# What every config class of upstream's has where nothing is said: files of composites write it for each part, whether
# it has words or not.
_SAID_OF_PARTS = {"tie_word_embeddings": True}

_MISSING = object()
_MOST_MODULES = 1000
S = TypeVar("S", bound="Spec")


def hf(
    key: str | tuple[str, ...] | None = None,
    default: Any = _MISSING,
    *,
    only: tuple[Any, ...] | None = None,
    read: Callable[[Any], Any] | None = None,
    spec: type[Spec] | None = None,
    inert: frozenset[str] = frozenset(),
) -> Any:
    """A spec field read from config.json.

    Args:
        key: Hugging Face's own key, or several of which the first one counts that is there and not null; None: the
            field's name.
        default: what upstream's config class takes when the key is absent; without one the key is required.
        only: the values this family honours; any other one is refused.
        read: turns the JSON value into the field's value.
        spec: the value is an object inside config.json, read into this class (``text_config``). A ``default`` of ``{}``
            stands for that class's own defaults.
        inert: keys of that object that are known not to matter, beside `INERT`.
    """
    keys = (key,) if isinstance(key, str) else key
    metadata = {"keys": keys, "default": default, "only": only, "read": read, "spec": spec, "inert": inert}
    if default is _MISSING:
        return field(metadata=metadata)
    if spec is not None and isinstance(default, Mapping):
        return field(default_factory=functools.partial(read_spec, spec, default), metadata=metadata)
    return field(default=default, metadata=metadata)


# What stands for hf() where a field has none.
_PLAIN: Mapping[str, Any] = hf().metadata


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every family's spec. Fields are named by Hugging Face's keys; ``hf()`` says where they differ."""

    # Honoured everywhere in the same way: a model of another kind is not what the reference model computes.
    is_decoder: bool = hf(default=False, only=(False,))
    add_cross_attention: bool = hf(default=False, only=(False,))
    is_encoder_decoder: bool = hf(default=False, only=(False,))
    cross_attention_hidden_size: int | None = hf(default=None, only=(None,))
    pruned_heads: dict[str, Any] | None = hf(default=None, only=(None, {}))
    quantization_config: dict[str, Any] | None = hf(default=None, only=(None,))

    def ignored(self) -> tuple[str, ...]:
        """Keys of tables inside config.json that nothing reads, as ``table.key``."""
        return ()


def _matches(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, part) for part in typing.get_args(kind))
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None:
        return isinstance(value, (list, tuple) if origin in (tuple, list) else origin)
    return isinstance(value, kind)


@functools.cache
def config_keys() -> frozenset[str]:
    """Every key of config.json that upstream's code looks for, whatever the model."""
    lines = Path(__file__).with_name("config_keys.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def read_spec(cls: type[S], config: Mapping[str, Any], *, inert: frozenset[str] = frozenset()) -> S:
    """Read ``config`` into ``cls``; all problems are reported at once, those of nested objects with their path.

    Raises:
        ConfigError: keys that are missing, have a wrong type or an unhonoured value, or that upstream knows and that
            are not known to be inert.
    """
    values, problems = _read(cls, config, inert)
    if problems:
        kind = config.get("model_type")
        raise ConfigError(f"{'; '.join(problems)}: config.json of model_type {kind!r} cannot be honoured.")
    return cls(**values)


def _read(
    cls: type[Spec], config: Mapping[str, Any], inert: frozenset[str], path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """The values of the fields of ``cls``, and what is wrong with ``config``, which is at ``path`` in config.json."""
    kinds = typing.get_type_hints(cls)
    strange = _ignored(cls, config, inert)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for entry in dataclasses.fields(cls):
        rule, keys = {**_PLAIN, **entry.metadata}, _keys(entry)
        only, read, spec, default = rule["only"], rule["read"], rule["spec"], rule["default"]
        found = _found(keys, config)
        if not found:
            if default is _MISSING:
                problems.append(f"{path + keys[0]!r} is missing. {closest(keys[0], strange)}".rstrip(". "))
            continue
        key, value = found[0], config[found[0]]
        name = f"{path}{key}"
        if value is None and not _matches(None, kinds[entry.name]) and default is not _MISSING:
            continue  # null stands for the default, as upstream's config classes take it
        if only is not None and value not in only:
            honoured = " or ".join(map(repr, only))
            problems.append(f"{name!r} is {shown(value)}, and only {honoured} is honoured here")
            continue
        if spec is not None and isinstance(value, Mapping):
            value, wrong = _nested(spec, value, rule["inert"], name)
            problems += wrong
            if wrong:
                continue
        if read is not None:
            try:
                value = read(value)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                problems.append(f"{name!r} is {shown(value)}: {error}")
                continue
        if not _matches(value, kinds[entry.name]):
            expected = "an object" if spec is not None else _kind_name(kinds[entry.name])
            problems.append(f"{name!r} is {shown(value)}, expected {expected}")
            continue
        most = _most(key)
        if not all(abs(one) <= most for one in _numbers(value) if type(one) is int):
            problems.append(f"{name!r} is {shown(value)}, expected {most} at most")
            continue
        values[entry.name] = float(value) if kinds[entry.name] is float else value
    for key in sorted(set(config) - _understood(cls, inert) - set(strange)):
        if path and _SAID_OF_PARTS.get(key) == config[key]:
            continue
        problems.append(f"{path + key!r} = {config[key]!r:.80} is not honoured here, and might change the computation")
    return values, problems


def _nested(
    cls: type[Spec], config: Mapping[str, Any], inert: frozenset[str], name: str
) -> tuple[Spec | None, list[str]]:
    """The spec of the object ``name``, or what is wrong with it."""
    values, problems = _read(cls, config, inert, f"{name}.")
    if problems:
        return None, problems
    try:
        return cls(**values), []
    except ConfigError as error:
        return None, [f"{name!r}: {error}"]


def ignored_keys(cls: type[Spec], config: Mapping[str, Any], *, inert: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The keys of ``config`` that neither this family nor any of upstream's config classes knows, or that say null;
    those of nested objects as ``text_config.key``."""
    found = _ignored(cls, config, inert)
    for key, spec, more in _inside(cls, config):
        found += [f"{key}.{name}" for name in ignored_keys(spec, config[key], inert=more)]
    return tuple(sorted(found))


def ignored_values(spec: Spec, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What `Spec.ignored` says of a spec read from ``config``, and of those nested in it, with their path."""
    found = list(spec.ignored())
    for entry in dataclasses.fields(spec):
        value = getattr(spec, entry.name)
        key = next(iter(_found(_keys(entry), config)), None)
        if isinstance(value, Spec) and key is not None and isinstance(config[key], Mapping):
            found += [f"{key}.{name}" for name in ignored_values(value, config[key])]
    return tuple(found)


def _ignored(cls: type[Spec], config: Mapping[str, Any], inert: frozenset[str]) -> list[str]:
    foreign = set(config) - _understood(cls, inert)
    return sorted(key for key in foreign if key not in config_keys() or config[key] is None)


def _inside(cls: type[Spec], config: Mapping[str, Any]) -> Iterator[tuple[str, type[Spec], frozenset[str]]]:
    """The objects in ``config`` that are read into classes of their own, each with its class and its inert keys."""
    for entry in dataclasses.fields(cls):
        key = next(iter(_found(_keys(entry), config)), None)
        if key is not None and entry.metadata.get("spec") is not None and isinstance(config[key], Mapping):
            yield key, entry.metadata["spec"], entry.metadata["inert"]


def _numbers(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _most(key: str) -> int:
    """Modules are made one by one, so that their number must be bounded before the first; sizes only be sizes."""
    return _MOST_MODULES if any(word in key for word in ("layer", "expert", "depth", "repeat")) else MOST


def _understood(cls: type[Spec], inert: frozenset[str]) -> set[str]:
    return {key for entry in dataclasses.fields(cls) for key in _keys(entry)} | INERT | inert


def _keys(entry: dataclasses.Field[Any]) -> tuple[str, ...]:
    keys: tuple[str, ...] = entry.metadata.get("keys") or (entry.name,)
    return keys


def _found(keys: tuple[str, ...], config: Mapping[str, Any]) -> list[str]:
    """Those of ``keys`` that are there, what is null behind what is not."""
    return sorted((key for key in keys if key in config), key=lambda key: config[key] is None)


def _kind_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
