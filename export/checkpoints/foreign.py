"""What a folder is that is no checkpoint to export: told by its files, with what to do instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from precast.export.weight_names import MERGE
from precast.runtime.errors import listing

__all__ = ["explain", "router"]

# peft's class for each of its task types.
_PEFT = {
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForSeq2SeqLM",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "FEATURE_EXTRACTION": "ForFeatureExtraction",
}


def _adapter(name: str, names: Collection[str], config: Any) -> str | None:
    """The refusal of a folder that holds an adapter of peft; None where it holds none."""
    stored = {"adapter_model.safetensors", "adapter_model.bin"}.intersection(names)
    if not stored and "adapter_config.json" not in names:
        return None
    stated: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    kind, base = stated.get("peft_type", "LORA"), stated.get("base_model_name_or_path")
    of = f" of {base!r:.120}" if isinstance(base, str) and base else ""
    if kind != "LORA":
        return (
            f"{name} is an adapter{of} of the kind {kind!r:.40} (adapter_config.json), not a whole model. Export a "
            "whole model: where peft can merge this kind, merge it into its base as it says."
        )
    made = f"AutoPeftModel{_PEFT.get(str(stated.get('task_type')), '')}"
    return (
        f"{name} is a LoRA adapter{of} (adapter_config.json), not a whole model. Merge it first, where peft is: "
        f"{made}.{MERGE.replace('...', repr(name), 1)}, save the tokenizer there too, and export the folder 'merged'."
    )


def router(name: str, modules: Sequence[Mapping[str, Any]] | None) -> str | None:
    """The refusal of a sentence-transformers folder that computes queries and documents by different ways."""
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules or ()]
    if not {"Router", "Asym"}.intersection(kinds):
        return None
    return (
        f"{name}: modules.json names a {listing(kind for kind in kinds if kind in ('Router', 'Asym'))}, which sends "
        "queries and documents through different modules. An artifact holds one of them: save each route as a "
        "SentenceTransformer of its own (SentenceTransformer(modules=[...]).save_pretrained), and export those."
    )


def explain(name: str, names: Collection[str], adapter_config: Any) -> str | None:
    """What a folder without config.json or without weights is, by its files; None where nothing is known of them.

    Args:
        adapter_config: adapter_config.json's content, or None where it was not read.
    """
    if (refusal := _adapter(name, names, adapter_config)) is not None:
        return refusal
    gguf = sorted(file for file in names if file.endswith(".gguf"))
    if gguf:
        return f"{name} is a folder of GGUF files, of which one is a model: export {listing(gguf, 3)} by its path."
    if "model_index.json" in names:
        return f"{name} is a diffusers pipeline (model_index.json): several models, none of which this exports."
    if {"consolidated.safetensors", "consolidated.00.pth", "params.json"}.intersection(names):
        return (
            f"{name} has its weights in their authors' form (consolidated.*, params.json). Export the form that "
            "transformers reads: the Hub has it under a name that ends in -hf, or beside it as model*.safetensors."
        )
    if {"tf_model.h5", "flax_model.msgpack"}.intersection(names):
        return (
            f"{name} has weights of TensorFlow or Flax only. Save them once with transformers 4: "
            "AutoModel...from_pretrained(folder, from_tf=True or from_flax=True).save_pretrained('converted')."
        )
    if any(file.endswith(".onnx") for file in names):
        return f"{name} holds ONNX graphs, not a checkpoint: export the checkpoint that they were made from."
    return None
