"""UniSpeech-SAT: wav2vec 2.0's encoder, trained to tell speakers apart. https://arxiv.org/abs/2110.05752"""

from __future__ import annotations

from precast.export.families import Family, wav2vec2
from precast.export.head_sets.sound import speech_heads, xvector_names
from precast.export.skeletons.speech_encoder import INERT, ODD, SPEAKERS, TINY, XVectorSpec, body, names
from precast.export.weights import Ignore

__all__ = ["FAMILY"]

# Of training alone.
_TRAINING = tuple(map(Ignore, ("speaker_proj.*", "label_embeddings_concat", "layer_norm_for_extract.*")))

FAMILY = Family(
    model_type="unispeech-sat",
    spec=XVectorSpec,
    heads=speech_heads(body),
    weights=lambda spec: (*names(spec, "unispeech_sat"), *_TRAINING, *xvector_names(spec)),
    inert=INERT | {"num_clusters"},
    refused={"ForPreTraining": wav2vec2.PRETRAINING},
    tiny={**TINY, **SPEAKERS},
    variations=(ODD,),
)
