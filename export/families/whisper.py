"""Whisper: an encoder-decoder that hears windows of one length and writes down what is said.
https://arxiv.org/abs/2212.04356"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.norms import normed_sum
from precast.export.families import Family
from precast.export.head_sets.seq2seq import generation_keys, seq2seq
from precast.export.head_sets.sound import weighted
from precast.export.signatures import Component
from precast.export.skeletons.decoder import Decoder
from precast.export.skeletons.encoder import PreNormLayer
from precast.export.skeletons.encoder_decoder import EncoderDecoderSpec, decoder, encoder_layers, names, norm
from precast.export.skeletons.stack import Stack
from precast.export.spec import hf
from precast.export.weights import Rename, Rule
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(EncoderDecoderSpec):
    """Defaults are upstream's, which are whisper-tiny's."""

    vocab_size: int = hf(default=51865)
    num_mel_bins: int = hf(default=80)
    hidden_size: int = hf(("d_model", "hidden_size"), default=384)
    encoder_layers: int = hf(default=4)
    encoder_ffn_dim: int = hf(default=1536)
    encoder_attention_heads: int = hf(default=6)
    decoder_layers: int = hf(default=4)
    decoder_ffn_dim: int = hf(default=1536)
    decoder_attention_heads: int = hf(default=6)
    max_source_positions: int = hf(default=1500)
    max_position_embeddings: int = hf("max_target_positions", default=448)
    use_weighted_layer_sum: bool = hf(default=False)
    classifier_proj_size: int = hf(default=256)

    @property
    def scale(self) -> None:
        """Nothing scales the words: upstream reads ``scale_embedding`` and does not use it."""
        return

    @property
    def shared(self) -> bool:
        """The encoder has no words."""
        return False


class Frames(nn.Module):
    """Features [B, F, 2 * T] -> two convolutions, the second of stride 2, and positions: [B, T, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(spec.num_mel_bins, spec.hidden_size, 3, padding=1)
        self.conv2 = nn.Conv1d(spec.hidden_size, spec.hidden_size, 3, stride=2, padding=1)
        self.positions = nn.Embedding(spec.max_source_positions, spec.hidden_size)

    def forward(self, input_features: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(input_features))))
        return x.transpose(1, 2) + self.positions.weight


class Hearing(Stack):
    """Features [B, F, 2 * T] -> states [B, T, H], of windows of one length."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(encoder_layers(spec, PreNormLayer, key_bias=False), norm(spec))
        self.embeddings = Frames(spec)
        self.bins, self.frames = spec.num_mel_bins, spec.max_source_positions

    def ports(self) -> tuple[Port, ...]:
        return (Port("input_features", "float32", ("batch", self.bins, 2 * self.frames), "features"),)

    def forward(self, input_features: Tensor) -> Tensor:  # type: ignore[override] # there is no mask
        return super().forward(self.embeddings(input_features))


class Classification(Component):
    """{"logits": [B, L]} of the mean of all frames: of the last states, or of a weighted sum of those of all layers."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.encoder = Hearing(spec)
        self.layer_weights = nn.Parameter(torch.empty(spec.encoder_layers + 1)) if spec.use_weighted_layer_sum else None
        self.projector = nn.Linear(spec.hidden_size, spec.classifier_proj_size)
        self.classifier = nn.Linear(spec.classifier_proj_size, spec.labels)

    def ports(self) -> tuple[Port, ...]:
        return self.encoder.ports()

    def outs(self) -> tuple[Out, ...]:
        return CATALOGUE["audio-classification"].outs

    def forward(self, input_features: Tensor) -> dict[str, Tensor]:
        if self.layer_weights is None:
            states = self.encoder(input_features)
        else:
            every = range(len(self.layer_weights))
            *made, last = self.encoder.states(self.encoder.embeddings(input_features), layers=every)
            last, _ = normed_sum(self.encoder.norm, last, None)
            states = weighted((*made, last), self.layer_weights)
        return {"logits": self.classifier(self.projector(states).mean(1))}


def _decoder(spec: Spec, absent: frozenset[str]) -> Decoder:
    return decoder(spec, pre_norm=True, normed=False, key_bias=False)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    beside = ("projector.*", "classifier.*", "layer_weights")
    return (
        Rename("proj_out.*", "lm_head.*"),
        *names(spec),
        *(Rename(f"model.{name}", name) for name in beside),
        *(Rename(f"encoder.{conv}.*", f"encoder.embeddings.{conv}.*") for conv in ("conv1", "conv2")),
        Rename("encoder.embeddings.positions.table.*", "encoder.embeddings.positions.*"),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        **seq2seq(lambda spec, absent: Hearing(spec), _decoder, head=heads.SPEECH_SEQ2SEQ, aligned=True),
        heads.AUDIO_CLASSIFICATION: lambda spec, absent: Classification(spec),
    },
    weights=_weights,
    # Training, and what generation or its tasks read.
    inert=frozenset(
        """
        activation_dropout apply_spec_augment decoder_layerdrop encoder_layerdrop forced_decoder_ids init_std
        mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob
        median_filter_width num_attention_heads num_hidden_layers num_key_value_heads
        """.split()
    ),
    final_norm=True,
    generation=generation_keys(pad=50256, bos=50256, eos=50256, decoder_start=50257),
    tiny={
        "d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_layers": 2,
        "decoder_ffn_dim": 48, "decoder_attention_heads": 4, "num_mel_bins": 10, "max_source_positions": 30,
        "max_target_positions": 160, "vocab_size": 99, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "decoder_start_token_id": 2, "begin_suppress_tokens": None,
    },
    variations=(
        {
            "d_model": 18, "encoder_layers": 1, "encoder_ffn_dim": 37, "encoder_attention_heads": 3,
            "decoder_layers": 3, "decoder_ffn_dim": 29, "decoder_attention_heads": 2, "activation_function": "relu",
            "scale_embedding": True, "vocab_size": 131, "num_mel_bins": 7, "max_source_positions": 17,
            "use_weighted_layer_sum": True, "classifier_proj_size": 11, "num_labels": 5, "tie_word_embeddings": False,
        },
    ),
)  # fmt: skip
