"""ELECTRA: BERT's layers over factorised embeddings, trained as a discriminator beside a small generator.
https://arxiv.org/abs/2003.10555"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch.nn.functional import gelu  # of the heads, whatever hidden_act says

from precast.export.blocks.activations import Activation
from precast.export.families import bert
from precast.export.head_sets.encoders import SummarySpec, encoder_heads, first_token, optional_activation, summarised
from precast.export.skeletons.post_norm import ODD, TINY, body, lm_names, names, tied, transform
from precast.export.skeletons.post_norm_decoder import CausalSpec, causal_head, causal_lm, causal_names, crossed
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename

__all__ = ["FAMILY", "Spec"]

_DISCRIMINATOR = (
    "a discriminator: it tells replaced tokens from real ones and predicts no words. Its encoder can be exported with "
    "task 'feature-extraction'; for 'fill-mask' take the generator that was trained beside it (ElectraForMaskedLM)"
)


@dataclass(frozen=True, kw_only=True)
class Spec(SummarySpec, bert.Spec):
    """BERT's keys with the defaults of ELECTRA-small."""

    embedding_size: int = hf(default=128)
    hidden_size: int = hf(default=256)
    num_attention_heads: int = hf(default=4)
    intermediate_size: int = hf(default=1024)
    summary_activation: Activation | None = hf(default=gelu, read=optional_activation)


_causal_lm = partial(causal_lm, act=gelu)


@dataclass(frozen=True, kw_only=True)
class _Spec(CausalSpec, Spec):
    """And whether it is a decoder."""


FAMILY = replace(
    bert.FAMILY,
    spec=_Spec,
    heads={
        **encoder_heads(
            body, transform=partial(transform, act=gelu), pooler=None, text=first_token(gelu), choice=summarised
        ),
        **causal_head(_causal_lm),
    },
    weights=lambda spec: (
        *names("electra"),
        Ignore("discriminator_predictions.*"),  # a head of pretraining only
        Rename("embeddings_project.*", "model.projection.*"),
        *lm_names("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
        Rename("sequence_summary.summary.*", "classifier.dense.*"),
        *tied(spec),
        *causal_names(spec),
    ),
    crossed=crossed(_causal_lm),
    refused={"ForPreTraining": _DISCRIMINATOR},
    inert=frozenset({"summary_first_dropout", "summary_last_dropout"}),
    tiny={**TINY, "embedding_size": 20},
    variations=(
        # No projection, an activation the heads must not follow, a summary without projection.
        {**ODD, "embedding_size": 21, "type_vocab_size": 3, "hidden_act": "relu", "summary_use_proj": False}
        | {"summary_activation": "tanh"},
        {"hidden_act": "gelu_new", "type_vocab_size": 1, "num_labels": 1, "summary_activation": ""},
    ),
)
