"""Upstream `transformers` as the oracle: tiny models with every weight randomised, and their state as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from precast.export.families import find_family
from precast.export.heads import (
    AUDIO_CLASSIFICATION,
    BASE,
    CAUSAL_LM,
    CTC,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    QUESTION_ANSWERING,
    VOCODER,
    VOICE_CONVERSION,
    Head,
)
from support.torch_translations import remember

remember()

# Attention as upstream computes it by default, where its eager form is another: Falcon's adds linear biases twice, that
# of the BERT in Grounding DINO adds a mask of true and false to scores.
_ATTENTION = {"falcon": "sdpa"}
_INSIDE = {"grounding-dino": ("model.text_backbone", "sdpa")}


# As checkpoints on the Hub have it, and upstream once did.
_RENAMED = {"hifigan": "speecht5_hifigan"}
_VOCODERS: dict[str, Any] = {
    f"{name}HifiGanConfig": getattr(transformers, f"{name}HifiGan") for name in ("SpeechT5", "FastSpeech2Conformer")
}


@dataclass(frozen=True)
class TensorSource:
    """A state-dict entry in the form `precast.export.reference.build` reads."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def load(self) -> torch.Tensor:
        return self.tensor


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Every parameter away from its initial value: norms around one, biases away from zero, no two rows alike."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.nn.Conv1d, torch.nn.ConvTranspose1d
    kernels = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            norm = value.ndim == 1 and "norm" in name.lower() and name.endswith(("weight", "gamma"))
            if value.ndim < 2:
                value.copy_(1 + 0.2 * noise if norm or not value.ndim else 0.3 * noise)
            else:
                # What several convolutions of a stem make would grow from one to the next; patches alone may be large.
                stem = value.ndim == 4 and name.endswith("convolution.weight")
                kernel = value.ndim == 4 or name in kernels or (value.ndim == 3 and "conv" in name)
                table = not stem and not (kernel and value.ndim == 3) and ("embed" in name.lower() or "shared" in name)
                read = value[0].numel() if kernel else value.shape[-1]  # what a kernel sums over
                value.copy_(noise * (0.7 if table else 1.2 / read**0.5))
        for module in model.modules():
            if hasattr(module, "parametrizations"):
                # A norm of all weights of a place: so long that what a kernel makes is as large as its input.
                kept: Any = module.parametrizations
                lengths, directions = kept.weight.original0, kept.weight.original1
                noise = torch.randn(lengths.shape, generator=generator)
                few = lengths.shape[0] == 1
                lengths.copy_((1 + 0.2 * noise) * (directions.shape[0] / directions.shape[-1] if few else 1) ** 0.5)
            if hasattr(module, "key_value_proj_dim"):
                # T5 scales no scores: its queries are small instead, in upstream's initial weights too.
                query: Any = module.q if hasattr(module, "q") else module.query
                query.weight.mul_(module.key_value_proj_dim**-0.5)  # type: ignore[operator]
            if hasattr(module, "wi_0"):
                module.wo.weight.mul_(0.5)  # type: ignore[union-attr, operator] # products of gates are larger
            if hasattr(module, "A_log"):
                # Mamba multiplies what this makes with itself and its input: rounding errors would grow with them.
                module.x_proj.weight.mul_(0.5)  # type: ignore[union-attr, operator]
            if hasattr(module, "tail_bound"):
                # A spline whose slopes differ much magnifies every rounding; training begins with none that do.
                module.conv_proj.weight.mul_(0.3)  # type: ignore[union-attr, operator]
        for name, value in model.named_buffers():
            normal = name.endswith(("final_logits_bias", "running_mean", "codebook.embed"))
            if normal or name.rpartition(".")[2] == "mean":
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif name.endswith((".weight", ".bias")) and value.is_floating_point():  # of norms that are frozen
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(1 + 0.2 * noise if name.endswith(".weight") else 0.3 * noise)
            elif name.endswith("running_var") or name.rpartition(".")[2] == "scale":
                value.copy_(torch.exp(0.3 * torch.randn(value.shape, generator=generator)))


def hears(model_type: str) -> bool:
    """Whether a family's inputs are recordings alone, of any length; patches of a spectrogram are those of a
    picture."""
    family = find_family(model_type)
    heard = not {AUDIO_CLASSIFICATION, CTC}.isdisjoint(family.heads)
    return heard and not any(entry.name == "patch_size" for entry in fields(family.spec))


def upstream(
    model_type: str, head: Head, overrides: Mapping[str, Any] | None = None, seed: int = 0
) -> tuple[dict[str, Any], torch.nn.Module]:
    """(config.json, model in eval mode) of a tiny random upstream model."""
    values = {**find_family(model_type).tiny, **(overrides or {})}
    if head in (QUESTION_ANSWERING, MULTIPLE_CHOICE, NEXT_SENTENCE):
        values.pop("num_labels", None)  # the number of outputs is fixed by the task
    if head is CAUSAL_LM and BASE in find_family(model_type).heads:
        values["is_decoder"] = True  # a text encoder that reads from left to right
    config = transformers.AutoConfig.for_model(_RENAMED.get(model_type, model_type), **values)
    attention = _ATTENTION.get(model_type, "eager")
    config._attn_implementation = attention
    config._experts_implementation = "eager"  # the others know no float64
    if head is VOCODER:  # of which upstream has no class for all
        model = _VOCODERS[type(config).__name__](config).eval()
    elif head is VOICE_CONVERSION:
        model = transformers.SpeechT5ForSpeechToSpeech(config).eval()
    else:
        kind: Any = getattr(transformers, str(head.facts.auto), None)
        if kind is not None and type(config) in kind._model_mapping:
            model = kind.from_config(config, attn_implementation=attention).eval()
        else:  # one that no class of upstream's finds has its own name
            stem = type(config).__name__.removesuffix("Config")
            [named] = [name for ending in head.facts.endings if hasattr(transformers, name := f"{stem}{ending}")]
            model = getattr(transformers, named)._from_config(config, attn_implementation=attention).eval()
    _set_inside(model)
    randomise(model, seed)
    written = json.loads(model.config.to_json_string(use_diff=False))
    written |= {"architectures": [type(model).__name__], "model_type": model_type}
    return written, model


def _set_inside(model: torch.nn.Module) -> None:
    """The attention of a part, where that is another."""
    name, attention = _INSIDE.get(model.config.model_type, ("", ""))  # type: ignore[union-attr, arg-type]
    if name:
        model.get_submodule(name).config._attn_implementation = attention  # type: ignore[union-attr]


class _Unnarrowed(TorchDispatchMode):
    """Upstream widens to float32 what half precision cannot hold (norms, softmax, gates), and would narrow float64 to
    it: such casts leave it as it is. Rotary angles and the like are float32 numbers by definition, in our reference
    too, whatever the default type is; what is taken of them is taken in float64. What is drawn, as the order of ViLT's
    patches, is all there is, in order."""

    _TAKEN = (torch.ops.aten.cos.default, torch.ops.aten.sin.default, torch.ops.aten.sqrt.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten.multinomial.default:
            return torch.arange(args[1]) % len(args[0])
        if func is torch.ops.aten._to_copy.default and args[0].dtype is torch.float64:
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        elif func in self._TAKEN and args[0].dtype is torch.float32:
            args = (args[0].double(), *args[1:])
        elif func is torch.ops.aten.div.Tensor and not any(_is_float(value) for value in args):
            return func(*args, **kwargs).to(torch.float32)  # of integers: in the default type
        return func(*args, **kwargs)


def _is_float(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, torch.Tensor) else isinstance(value, float)


@contextmanager
def float64() -> Iterator[None]:
    """Upstream computes in float64, whatever its code asks for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), _Unnarrowed():
            yield
    finally:
        torch.set_default_dtype(before)


def widened(model: torch.nn.Module) -> torch.nn.Module:
    """The same model in float64, to be called in `float64`: constants it computes are computed anew."""
    config: Any = deepcopy(model.config)
    kind: Any = type(model)
    with float64():
        wide = kind._from_config(config, dtype=torch.float64, attn_implementation=config._attn_implementation).eval()
    _set_inside(wide)
    # What is one tensor here is one there: a checkpoint may untie what its config ties.
    made: dict[int, torch.nn.Parameter] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        parameter = made.setdefault(id(value), torch.nn.Parameter(value.double(), requires_grad=False))
        setattr(wide.get_submodule(owner), leaf, parameter)
    wide.load_state_dict(model.state_dict())  # and the buffers
    return wide


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far two results in float64 are apart, over what PARITY.md's P-ref allows: 1e-8 of the largest number."""
    assert ours.dtype == theirs.dtype == torch.float64, f"{ours.dtype} and {theirs.dtype} are not both float64"
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)} differ"
    if not torch.equal(ours.isfinite(), theirs.isfinite()):
        return float("inf")
    if not theirs.isfinite().all():
        if not torch.equal(ours[~ours.isfinite()], theirs[~theirs.isfinite()]):
            return float("inf")
        ours, theirs = ours[ours.isfinite()], theirs[theirs.isfinite()]
    largest = float(theirs.abs().max())
    difference = float((ours - theirs).abs().max())
    return difference / (1e-8 * largest) if largest else float("inf") if difference else 0.0


def sources(model: torch.nn.Module) -> dict[str, TensorSource]:
    return {name: TensorSource(tensor) for name, tensor in model.state_dict().items()}


def calm(model: torch.nn.Module) -> None:
    """Weights as wide as training leaves them: with the wild ones of the parity tests, rounding is far."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 2:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3 / value.shape[-1] ** 0.5)


def save_checkpoint(folder: Path, config: Mapping[str, Any], model: torch.nn.Module) -> Path:
    """Write what a user would have on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tied = {id(value): name for name, value in reversed(list(model.named_parameters(remove_duplicate=False)))}
    names = set(tied.values())
    aliases = {name for name, value in model.named_parameters(remove_duplicate=False)} - names
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items() if name not in aliases}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
