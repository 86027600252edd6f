"""Names that training programs leave on a checkpoint's tensors: stripped, or named where something is left to do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from precast.export.weight_table import StoredTensor
from precast.runtime.errors import WeightsError, listing

__all__ = ["MERGE", "unwrapped"]

MERGE = "from_pretrained(...).merge_and_unload().save_pretrained('merged')"
"""What turns an adapter of peft and the model below it into one checkpoint."""

# What torch.compile, data-parallel wrappers and peft put before the names of the model inside.
_COMPILED = re.compile(r"(?:(?<=\.)|^)_orig_mod\.")
_AROUND = ("module.", "base_model.model.")
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save)\.")


def unwrapped(tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """The tensors under the names that the model itself gives them.

    Raises:
        WeightsError: two tensors have one name then, or they are a model and an adapter that was not merged into it.
    """
    adapter = [name for name in tensors if _ADAPTER.search(name)]
    if adapter:
        raise WeightsError(
            f"these weights hold a LoRA adapter that was not merged: {listing(adapter, 3)}. Merge it where it was "
            f"trained, with peft: model.{MERGE.partition('.')[2]}; then export the folder 'merged'."
        )
    names = {name: _COMPILED.sub("", name) for name in tensors}
    while around := [prefix for prefix in _AROUND if names and all(name.startswith(prefix) for name in names.values())]:
        names = {name: inner.removeprefix(around[0]) for name, inner in names.items()}
    found: dict[str, str] = {}
    for name, inner in names.items():
        if inner in found:
            raise WeightsError(
                f"two tensors of the checkpoint are both {inner!r} once torch.compile's and data-parallel prefixes are "
                f"left out: {found[inner]!r} and {name!r}. Save the model inside the wrapper: model.save_pretrained."
            )
        found[inner] = name
    return {inner: tensors[name] for inner, name in found.items()}
