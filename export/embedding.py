"""A sentence-transformers folder as data: what `precast.runtime.embedding` does around the encoder.

Read are modules.json, the folders it names, sentence_bert_config.json and config_sentence_transformers.json, in the
forms of sentence-transformers 1 to 6. What would change the vectors and is not honoured is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from precast.export import static_embedding
from precast.export.checkpoints.checkpoint import INPUT_MODULES, Checkpoint
from precast.export.heads import BASE, MASKED_LM, ZERO_SHOT_IMAGE
from precast.runtime.embedding import ACTIVATIONS, POOLING, SPLADE
from precast.runtime.errors import ConfigError, WeightsError, closest, listing
from precast.runtime.fields import Document, Fields
from precast.runtime.similarity import SIMILARITIES

__all__ = ["declared_task", "read_arrays", "read_cross_encoder", "read_modules"]

# In the order in which sentence-transformers puts the pooled vectors side by side.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_WIDTHS = {"embedding_dimension", "word_embedding_dimension"}
_POOLING_KEYS = {"pooling_mode", "include_prompt", *_POOLING_WIDTHS, *_POOLING_FLAGS}
_TORCH_ACTIVATIONS = {
    "GELU": "gelu",
    "Identity": "identity",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
# Keys of the Transformer module that do not change the vectors, or hold one of the values under which they do not.
_TRANSFORMER_KEYS: dict[str, tuple[Any, ...] | None] = {
    "max_seq_length": None,
    "do_lower_case": None,
    "backend": None,
    "unpad_inputs": None,
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": (None, {}),
    **{name: (None, {}) for name in ("model_args", "tokenizer_args", "config_args")},
    **{name: (None, {}) for name in ("model_kwargs", "processor_kwargs", "config_kwargs")},
}

_TRANSFORMER_TASKS: dict[str, dict[str, tuple[Any, ...]]] = {
    task: {
        "transformer_task": (task,),
        "modality_config": ({"text": {"method": "forward", "method_output_name": output}},),
    }
    for task, output in (("feature-extraction", "last_hidden_state"), ("fill-mask", "logits"))
}
_SPLADE = "SpladePooling"
# The module that has towers of texts and of pictures, and what its file says of them.
_TOWERS = "CLIPModel"
_TOWER_OUTPUTS = {kind: f"{kind}_features" for kind in ("text", "image")}
_TOWER_KEYS: dict[str, tuple[Any, ...] | None] = {
    "transformer_task": (BASE.task,),
    "modality_config": (
        {kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"} for kind in _TOWER_OUTPUTS},
    ),
    "module_output_name": ("sentence_embedding",),
}
_SPLADE_MODES = dict(
    zip((("max", "relu"), ("sum", "relu"), ("max", "log1p_relu"), ("sum", "log1p_relu")), SPLADE, strict=True)
)


def read_modules(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """How a checkpoint makes sentence embeddings, ready for JSON; None where it has no modules.json.

    ``{"pooling": [mode, ...], "include_prompt": bool, "dense": [{"weight", "bias", "activation"}], "normalize": bool,
    "max_seq_length": int | None, "do_lower_case": bool, "prompts": {name: text}, "default_prompt_name": str | None,
    "similarity": str | None}``, and where they are not the usual ones ``"output"`` (what is pooled: ``logits``),
    ``"towers"`` (outputs that need no pooling, by what they are of: ``text``, ``image``), ``"add_special_tokens"``,
    ``"empty"`` (``zeros``: the pooled vector of no tokens) and ``"max_active_dims"``. Dense layers name the files that
    `read_arrays` fills.

    Raises:
        ConfigError: a module, or a setting of one, that is not honoured here.
    """
    modules = checkpoint.modules
    if modules is None:
        return None
    kinds = [_kind(checkpoint, module) for module in modules]
    if kinds[0] not in INPUT_MODULES or sum(map(kinds.count, INPUT_MODULES)) > 1:
        raise ConfigError(
            f"{checkpoint.id}: modules.json must start with its one {' or '.join(INPUT_MODULES)} module; found "
            f"{listing(kinds)}."
        )
    data: dict[str, Any] = {"pooling": None, "include_prompt": True, "dense": [], "normalize": False}
    if kinds[0] == static_embedding.MODULE:
        data |= {"pooling": ["mean"], "add_special_tokens": False, "empty": "zeros"}
    towers = _has_towers(checkpoint, kinds)
    if towers:
        data |= {"pooling": [], "towers": _TOWER_OUTPUTS}
    for kind, module in zip(kinds[1:], modules[1:], strict=True):
        if kind == "Dropout":
            continue  # nothing outside training
        if data["normalize"]:
            raise ConfigError(
                f"{checkpoint.id}: modules.json puts {kind} after Normalize, and the order honoured here is "
                "Transformer, Pooling, Dense, Normalize."
            )
        if (data["pooling"] is None) != (kind in ("Pooling", _SPLADE)) or (_SPLADE in kinds and kind != _SPLADE):
            raise ConfigError(
                f"{checkpoint.id}: the modules {listing(kinds)} are not honoured in this order. It must be "
                "Transformer, Pooling, any number of Dense, Normalize; of sparse embeddings, Transformer and "
                "SpladePooling."
            )
        config = _module_config(checkpoint, str(module["path"]), kind)
        if kind == _SPLADE:
            data |= {"pooling": [_splade(checkpoint, config)], "output": "logits"}
        elif kind == "Pooling":
            data["pooling"], data["include_prompt"] = _pooling(checkpoint, config)
        elif kind == "Dense":
            data["dense"].append(_dense(checkpoint, config, str(module["path"]), len(data["dense"])))
        else:
            _require_plain(checkpoint, config, str(module["path"]))
            data["normalize"] = True
    if data["pooling"] is None:
        raise ConfigError(f"{checkpoint.id}: modules.json has no Pooling, so it gives tokens, not sentence embeddings.")
    if kinds[0] == static_embedding.MODULE:
        return data | _static(checkpoint) | _prompts(checkpoint)
    if towers:
        return data | _transformer(checkpoint, _TOWER_KEYS, kinds[0]) | _prompts(checkpoint)
    task = MASKED_LM.task if _SPLADE in kinds else BASE.task
    if kinds[0] == "MLMTransformer" and _SPLADE not in kinds:
        raise ConfigError(f"{checkpoint.id}: MLMTransformer gives logits of tokens, which only {_SPLADE} pools here.")
    own = _TRANSFORMER_TASKS[task]
    return data | _transformer(checkpoint, own, kinds[0]) | _prompts(checkpoint, sparse=_SPLADE in kinds)


def declared_task(checkpoint: Checkpoint) -> str | None:
    """What modules.json says the checkpoint is for, whatever config.json names; None where there is none.

    A CrossEncoder's names its Transformer alone: it is what config.json says."""
    kinds = [str(module["type"]).rpartition(".")[2] for module in checkpoint.modules or ()]
    if _SPLADE in kinds:
        return MASKED_LM.task
    if kinds and _has_towers(checkpoint, kinds):
        return ZERO_SHOT_IMAGE.task
    embeds = "Pooling" in kinds or static_embedding.MODULE in kinds
    return BASE.task if embeds else None


def read_arrays(checkpoint: Checkpoint, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays the dense layers name: file name -> float32, weights ``[out, in]``, biases ``[out]``.

    Raises:
        WeightsError: a layer's weights are missing, of the wrong shape, or not finite.
    """
    arrays: dict[str, np.ndarray] = {}
    for layer in data.get("dense") or ():
        folder, outputs, inputs = layer["source"], layer["outputs"], layer["inputs"]
        tensors = checkpoint.weights(folder)
        expected = {"linear.weight": (outputs, inputs)} | ({"linear.bias": (outputs,)} if layer["bias"] else {})
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected:
            raise WeightsError(
                f"{checkpoint.id}/{folder}: the weights must be {_shapes(expected)}, as its config.json says; "
                f"found {_shapes(found)}."
            )
        for key, name in (("weight", "linear.weight"), ("bias", "linear.bias")):
            if layer[key]:
                array = tensors[name].load().to(torch.float32).numpy().copy()
                if not np.isfinite(array).all():
                    raise WeightsError(f"{checkpoint.id}/{folder}: {name} holds NaN or Inf.")
                arrays[layer[key]] = array
    return arrays


def read_cross_encoder(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What CrossEncoder.predict passes logits through, by the name of torch's class, where the checkpoint states it.

    It looks in these places in this order, and trusts torch's own classes alone. transformers' pipeline looks in none.
    """
    for place in (
        checkpoint.read_json("config_sentence_transformers.json") if checkpoint.modules is not None else None,
        checkpoint.config.get("sentence_transformers"),
        {"activation_fn": checkpoint.config.get("sbert_ce_default_activation_function")},
    ):
        stated = place.get("activation_fn") if isinstance(place, Mapping) else None
        if isinstance(stated, str):
            return {"activation_fn": stated} if stated.startswith("torch.") else None
    return None


def _has_towers(checkpoint: Checkpoint, kinds: list[str]) -> bool:
    """Whether texts and pictures are embedded, by the module's name or by what its file says."""
    said = _module_file(checkpoint)[1].get("modality_config") if kinds[0] == "Transformer" else None
    return kinds[0] == _TOWERS or said in (_TOWER_KEYS["modality_config"] or ())


def _kind(checkpoint: Checkpoint, module: Mapping[str, Any]) -> str:
    package, _, kind = str(module["type"]).rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise ConfigError(
            f"{checkpoint.id}: modules.json names {module['type']!r}, which is code of the checkpoint's own; only "
            "sentence-transformers' own modules are honoured."
        )
    honoured = (*INPUT_MODULES, "Pooling", _SPLADE, "Dense", "Normalize", "Dropout")
    if kind not in honoured:
        raise ConfigError(
            f"{checkpoint.id}: the module {kind!r} of modules.json is not honoured; {listing(honoured)} are. "
            f"{closest(kind, honoured)}".rstrip()
        )
    return kind


def _module_config(checkpoint: Checkpoint, path: str, kind: str) -> dict[str, Any]:
    config = checkpoint.read_json(f"{path}/config.json", optional=kind == "Normalize")
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{checkpoint.id}: {path}/config.json must be an object; found {type(config).__name__}.")
    return config


def _pooling(checkpoint: Checkpoint, config: dict[str, Any]) -> tuple[list[str], bool]:
    _refuse_unknown(checkpoint, "Pooling", config, _POOLING_KEYS)
    fields = _fields(checkpoint, "Pooling's config.json", config)
    width = next((config[name] for name in sorted(_POOLING_WIDTHS) if name in config), None)
    hidden = checkpoint.config.get("hidden_size")
    if width is not None and hidden is not None and width != hidden:
        raise ConfigError(
            f"{checkpoint.id}: Pooling expects tokens of {width} numbers, and config.json's hidden_size is {hidden}."
        )
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        modes = [named] if isinstance(named, str) else list(fields.texts("pooling_mode"))
    else:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    for mode in modes:
        if mode not in POOLING:
            raise ConfigError(
                f"{checkpoint.id}: pooling must be of {listing(POOLING)}; found {mode!r}. {closest(str(mode), POOLING)}"
            )
    return modes, fields.flag("include_prompt", True)


def _dense(checkpoint: Checkpoint, config: dict[str, Any], path: str, number: int) -> dict[str, Any]:
    known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    _require_plain(checkpoint, config, path, known)
    if config.get("use_residual"):
        raise ConfigError(f"{checkpoint.id}: {path} adds a residual (use_residual), which is not honoured.")
    fields = _fields(checkpoint, f"{path}/config.json", config)
    inputs, outputs = fields.count("in_features"), fields.count("out_features")
    # sentence-transformers takes tanh where nothing is said.
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, kind = named.rpartition(".")
    if package.split(".")[0] != "torch" or kind not in _TORCH_ACTIVATIONS:
        raise ConfigError(
            f"{checkpoint.id}: {path} uses the activation {named!r}; honoured are torch.nn's "
            f"{listing(_TORCH_ACTIVATIONS)}."
        )
    activation = _TORCH_ACTIVATIONS[kind]
    assert activation in ACTIVATIONS
    return {
        "weight": f"dense_{number}.weight.npy",
        "bias": f"dense_{number}.bias.npy" if fields.flag("bias", True) else None,
        "activation": activation,
        "inputs": inputs,
        "outputs": outputs,
        "source": path,
    }


def _require_plain(checkpoint: Checkpoint, config: dict[str, Any], path: str, known: set[str] | None = None) -> None:
    """A module that reads and writes the sentence embedding, with no settings but the known ones."""
    _refuse_unknown(checkpoint, path, config, (known or set()) | {"module_input_name", "module_output_name"})
    for name in ("module_input_name", "module_output_name"):
        if config.get(name, "sentence_embedding") not in ("sentence_embedding", None):
            raise ConfigError(
                f"{checkpoint.id}: {path} works on {config[name]!r}; only sentence_embedding is honoured."
            )


def _splade(checkpoint: Checkpoint, config: dict[str, Any]) -> str:
    """The pooling of masked-LM logits over tokens, by the runtime's name for it."""
    known = {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension", "chunk_size"}
    _refuse_unknown(checkpoint, _SPLADE, config, known)
    strategy, function = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    mode = _SPLADE_MODES.get((strategy, function)) if isinstance(strategy, str) and isinstance(function, str) else None
    if mode is None:
        raise ConfigError(
            f"{checkpoint.id}: {_SPLADE} has a pooling_strategy of max or sum and an activation_function of relu or "
            f"log1p_relu; found {strategy!r:.40} and {function!r:.40}."
        )
    return mode


def _static(checkpoint: Checkpoint) -> dict[str, Any]:
    """A text is cut where tokenizer.json says so itself: sentence-transformers reads nothing else."""
    content = checkpoint.read_json("tokenizer.json", optional=False)
    cut = content.get("truncation") if isinstance(content, dict) else None
    longest = cut.get("max_length") if isinstance(cut, dict) else None
    return {"max_seq_length": longest if type(longest) is int else None, "do_lower_case": False}


def _transformer(checkpoint: Checkpoint, own: Mapping[str, tuple[Any, ...] | None], kind: str) -> dict[str, Any]:
    name, config = _module_file(checkpoint)
    if kind == "Transformer":
        config = {"transformer_task": BASE.task, **config}  # sentence-transformers' default; MLMTransformer has its own
    known = {**_TRANSFORMER_KEYS, **own}
    _refuse_unknown(checkpoint, str(name), config, set(known))
    for key, value in config.items():
        allowed = known[key]
        if allowed is not None and value not in allowed:
            raise ConfigError(
                f"{checkpoint.id}: {name} sets {key} to {value!r:.200}, which is not honoured; "
                f"{' or '.join(repr(one) for one in allowed)} is."
            )
    longest = config.get("max_seq_length")
    if longest is not None and (type(longest) is not int or longest < 1):
        raise ConfigError(f"{checkpoint.id}: {name} must give max_seq_length as a number of tokens; found {longest!r}.")
    return {"max_seq_length": longest, "do_lower_case": bool(config.get("do_lower_case", False))}


def _module_file(checkpoint: Checkpoint) -> tuple[str | None, dict[str, Any]]:
    """The file of the module that reads inputs, and what it says."""
    name = next((name for name in _TRANSFORMER_FILES if checkpoint.has(name)), None)
    config = checkpoint.read_json(name) if name else {}
    if not isinstance(config, dict):
        raise ConfigError(f"{checkpoint.id}: {name} must be an object; found {type(config).__name__}.")
    return name, config


def _prompts(checkpoint: Checkpoint, *, sparse: bool = False) -> dict[str, Any]:
    name = "config_sentence_transformers.json"
    config = checkpoint.read_json(name)
    fields = _fields(checkpoint, name, {} if config is None else config)
    stated = fields.take("prompts", "an object of texts by name, or null", _are_prompts, None)
    prompts = {"query": None, "document": None, **(stated or {})}
    default = fields.take("default_prompt_name", "a string or null", lambda v: v is None or isinstance(v, str), None)
    if default is not None and default not in prompts:
        raise ConfigError(
            f"{checkpoint.id}: default_prompt_name is {default!r}, and the prompts are {listing(prompts)}. "
            f"{closest(str(default), prompts)}".rstrip()
        )
    compared = fields.take("similarity_fn_name", "a string or null", lambda v: v is None or isinstance(v, str), None)
    if compared is not None and compared not in SIMILARITIES:
        raise ConfigError(
            f"{checkpoint.id}: similarity_fn_name must be one of {listing(SIMILARITIES)}; found {compared!r}. "
            f"{closest(str(compared), SIMILARITIES)}".rstrip()
        )
    most = fields.optional_count("max_active_dims", None, least=1)
    if most is not None and not sparse:
        raise ConfigError(
            f"{checkpoint.id}: max_active_dims is how many numbers of a sparse embedding are kept; "
            f"config_sentence_transformers.json has {most!r:.40}."
        )
    return {
        "prompts": {name: text or "" for name, text in prompts.items()},
        "default_prompt_name": default,
        "similarity": compared or ("dot" if sparse else None),
        **({"max_active_dims": most} if most is not None else {}),
    }


def _are_prompts(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and all(text is None or isinstance(text, str) for text in value.values())
    )


def _fields(checkpoint: Checkpoint, name: str, config: Any) -> Fields:
    """A file of the checkpoint, to be read through types."""
    return Fields(
        config, document=Document(f"{checkpoint.id}: {name}", ConfigError, "Correct it, or download it again.")
    )


def _refuse_unknown(checkpoint: Checkpoint, where: str, config: Mapping[str, Any], known: set[str]) -> None:
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{checkpoint.id}: {where} sets {key!r}, which is not honoured. {closest(key, known)}".rstrip()
            )


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return listing(f"{name} {list(shape)}" for name, shape in shapes.items())
