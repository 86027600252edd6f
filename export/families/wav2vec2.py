"""wav2vec 2.0: transformer layers over frames that convolutions make of samples. https://arxiv.org/abs/2006.11477"""

from __future__ import annotations

from dataclasses import dataclass

from precast.export.families import Family
from precast.export.head_sets.sound import speech_heads, xvector_names
from precast.export.skeletons.speech_encoder import (
    INERT,
    LAYER_NAMES,
    ODD,
    SPEAKERS,
    TINY,
    AdapterSpec,
    SpeechEncoder,
    adapter,
    encoder,
    layer,
    names,
    positions,
    speech,
)
from precast.export.spec import hf
from precast.export.weights import Rename

__all__ = ["FAMILY", "PRETRAINING", "Spec"]

PRETRAINING = (
    "a model in training, which tells hidden frames from others and hears no words. Its encoder can be exported with "
    "task 'feature-extraction'"
)


@dataclass(frozen=True, kw_only=True)
class Spec(AdapterSpec):
    """And adapters of each layer, which only pre-norm layers have."""

    adapter_attn_dim: int | None = hf(default=None)


def _body(spec: Spec) -> SpeechEncoder:
    layers = (layer(spec, adapter=spec.adapter_attn_dim) for _ in range(spec.num_hidden_layers))
    return speech(spec, encoder(spec, layers, positions(spec)), adapter=adapter(spec))


_ADAPTER = {"norm": "adapter_norm", "linear_1": "adapter.up_proj", "linear_2": "adapter.down_proj"}
_LAYER = (*LAYER_NAMES, *(Rename(f"adapter_layer.{old}.*", f"{new}.*") for old, new in _ADAPTER.items()))

FAMILY = Family(
    spec=Spec,
    heads=speech_heads(_body),
    weights=lambda spec: (*names(spec, "wav2vec2", layer=_LAYER), *xvector_names(spec)),
    inert=INERT,
    refused={"ForPreTraining": PRETRAINING},
    tiny={**TINY, **SPEAKERS},
    variations=(
        {**ODD, "adapter_attn_dim": 5},
        # Fewer frames behind the layers, of another size; a bias that a norm takes away again.
        {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 20, "do_stable_layer_norm": True}
        | {"conv_bias": True, "mask_time_prob": 0.0},
    ),
)
