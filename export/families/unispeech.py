"""UniSpeech: wav2vec 2.0's encoder, trained with and without transcripts. https://arxiv.org/abs/2101.07597"""

from __future__ import annotations

from precast.export.families import Family, wav2vec2
from precast.export.head_sets.sound import speech_heads
from precast.export.skeletons.speech_encoder import INERT, ODD, TINY, SpeechSpec, body, names
from precast.export.weights import Ignore

__all__ = ["FAMILY"]

FAMILY = Family(
    spec=SpeechSpec,
    heads=speech_heads(body, every=False),
    weights=lambda spec: (*names(spec, "unispeech"), Ignore("ctc_proj.*")),  # of training alone
    inert=INERT | {"num_ctc_classes", "replace_prob"},
    refused={"ForPreTraining": wav2vec2.PRETRAINING},
    tiny=TINY,
    variations=(ODD,),
)
