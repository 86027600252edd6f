"""What every encoder-decoder can be exported for, and what their checkpoints and configs have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from precast.export import heads
from precast.export.generative import EncoderPart, PerceivingPart, Seq2SeqLM
from precast.export.weights import Ignore, Rule, Tie

__all__ = ["ENCODER_WORDS", "WORDS", "Part", "generation_keys", "plain_head", "seq2seq", "shared_words"]

Part = Callable[[Any, frozenset[str]], nn.Module]  # of a model, from its spec and what the checkpoint lacks of it

ENCODER_WORDS, WORDS = "encoder.embeddings.words.weight", "decoder.embeddings.words.weight"


def plain_head(spec: Any, absent: frozenset[str]) -> nn.Linear:
    """Logits without a bias."""
    return nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)


def seq2seq(
    encoder: Part,
    decoder: Part,
    *,
    lm_head: Callable[[Any, frozenset[str]], nn.Linear] = plain_head,
    positions: bool = True,
    scale: Callable[[Any], float | None] = lambda spec: None,
    head: heads.Head = heads.SEQ2SEQ_LM,
    aligned: bool = False,
) -> Mapping[heads.Head, Part]:
    """The heads of an encoder-decoder.

    Args:
        encoder: makes what reads a text: ids, mask [B, T] -> states [B, T, H].
        decoder: makes what attends to it: ids [B, S] at a `Step` -> states [B, S, H].
        lm_head: makes the projection of the decoder's states to logits.
        positions: the decoder uses absolute positions.
        scale: of the decoder's states in front of ``lm_head``, or None.
        head: what for; of `SPEECH_SEQ2SEQ` and `IMAGE_TEXT` the encoder's input is no text: pixels [B, C, H, W],
            features [B, ...] or samples [B, N] -> states [B, T, H]; where it takes a mask too -> these, and which of
            them are real, [B, T].
        aligned: one more component says of whole texts where each token was heard.
    """
    part: type[EncoderPart] = EncoderPart if head is heads.SEQ2SEQ_LM else PerceivingPart
    return {
        head: lambda spec, absent: Seq2SeqLM(
            encoder(spec, absent),
            decoder(spec, absent),
            lm_head(spec, absent),
            positions=positions,
            scale=scale(spec),
            part=part,
            aligned=aligned,
        ),
    }


def shared_words(head: bool) -> tuple[Rule, ...]:
    """Encoder and decoder have one table of words, stored as ``shared.weight`` or under the name of either of them.

    Args:
        head: the logits' matrix is this table too, and its name may be the only one that is stored.
    """
    ties = (Tie(ENCODER_WORDS, "shared.weight"), Tie(WORDS, "shared.weight"))
    return (*ties, *((Tie("lm_head.weight", "shared.weight"), *ties) if head else ()), Ignore("shared.weight"))


def generation_keys(**ids: int) -> dict[str, Any]:
    """`Family.generation` of a family whose ``{name}_token_id`` are these where config.json is silent."""
    return {"is_encoder_decoder": True, **{f"{name}_token_id": value for name, value in ids.items()}}
