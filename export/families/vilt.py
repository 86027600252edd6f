"""ViLT: one encoder over the words of a text and the patches of a picture of any size. https://arxiv.org/abs/2102.03334

Upstream draws the order of the patches anew in every call; here they come row by row, which changes no answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.embeddings import LearnedPositions, TextEmbeddings, mask_port
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import rows_of
from precast.export.blocks.places import mask_at
from precast.export.families import Family, vit
from precast.export.head_sets.seen import OfFirst, OfStates, OfWords, Seen
from precast.export.skeletons.detector import mask_port as pixel_mask_port
from precast.export.skeletons.post_norm import EMBEDDING_NAMES
from precast.export.skeletons.stack import stack
from precast.export.spec import hf
from precast.export.weights import Ignore, Rename, Rule, Tie, Within
from precast.runtime.ports import Dim, Port

__all__ = ["FAMILY", "Spec"]

_NORM = 1e-5  # of the classifier's norm


@dataclass(frozen=True, kw_only=True)
class Spec(vit.Sizes):
    """Defaults are those of the released models. The decoder is the table of words, whatever is said of it."""

    image_size: int = hf(default=384)
    patch_size: int = hf(default=32)
    vocab_size: int = hf(default=30522)
    type_vocab_size: int = hf(default=2)
    modality_type_vocab_size: int = hf(default=2)
    max_position_embeddings: int = hf(default=40)
    qkv_bias: bool = hf(default=True)
    max_image_length: int = hf(default=-1, only=(-1,))  # another one draws some of the patches


class PlacedPatches(nn.Module):
    """Pixels [B, C, H, W] and their mask -> a class token and a row for each patch [B, 1 + P, H], and which of them are
    the picture's [B, 1 + P].

    Positions were learned for a square of patches: its corners are those of each picture, which lies in the upper left
    of its batch, and places between are interpolated.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.patch, self.channels = spec.hidden_size, spec.patch_size, spec.num_channels
        self.side = spec.image_size // self.patch
        self.projection = nn.Conv2d(self.channels, size, self.patch, stride=self.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.side**2, size))

    def ports(self) -> tuple[Port, ...]:
        """A picture and its mask."""
        pixels = Port("pixel_values", "float32", ("batch", self.channels, "height", "width"), "pixels")
        return pixels, pixel_mask_port(pixels)

    def bounds(self) -> dict[str, Dim]:
        """What is no whole patch at the right and at the bottom is left out."""
        return dict.fromkeys(("height", "width"), Dim(least=self.patch))

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.projection(pixels)
        batch, size, rows, columns = grid.shape
        shown = mask_at(mask, rows, columns)
        down, across = self._shares(shown[:, :, 0]), self._shares(shown[:, 0])
        # Layouts in which no product has to repeat a side.
        places = down @ self.positions[0, 1:].view(self.side, self.side * size)
        places = places.view(batch, rows, self.side, size).transpose(1, 2).clone(memory_format=torch.contiguous_format)
        places = across @ places.view(batch, self.side, rows * size)
        places = places.view(batch, columns, rows, size).permute(0, 3, 2, 1)
        patches = rows_of(grid + places)
        first = (self.cls_token + self.positions[:, :1]).expand(batch, -1, -1)
        seen = shown.view(batch, rows * columns)
        return torch.cat((first, patches), dim=1), torch.cat((torch.ones_like(seen[:, :1]), seen), dim=1)

    def _shares(self, shown: Tensor) -> Tensor:
        """How much of each learned place is in each of a row of places, which are shown up to one, [B, R] -> [B, R, S];
        of one that is not shown, nothing."""
        like = self.positions
        step = (self.side - 1) / (shown.sum(dim=1, keepdim=True) - 1).clamp(min=1).to(like.dtype)
        place = torch.arange(shown.shape[1], device=shown.device).to(like.dtype) * step
        old = torch.arange(self.side, device=shown.device).to(like.dtype)
        return torch.relu(1 - (place[..., None] - old).abs()) * shown[..., None].to(like.dtype)


class Joined(nn.Module):
    """ids, mask, token types [B, S], pixels [B, C, H, W] and their mask -> states of words and patches, in this order,
    [B, S + 1 + P, H]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, epsilon = spec.hidden_size, spec.layer_norm_eps
        self.embeddings = TextEmbeddings(
            spec.vocab_size,
            size,
            positions=LearnedPositions(spec.max_position_embeddings, size),
            token_types=spec.type_vocab_size,
            norm=LayerNorm(size, epsilon),
        )
        self.patches = PlacedPatches(spec)
        self.kinds = nn.Embedding(spec.modality_type_vocab_size, size)
        self.stack = stack(spec, bias=spec.qkv_bias)

    def ports(self) -> tuple[Port, ...]:
        """A text, and a picture."""
        words, *others = self.embeddings.ports()
        return words, mask_port(words), *others, *self.patches.ports()

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None, pixels: Tensor, pixel_mask: Tensor) -> Tensor:
        patches, shown = self.patches(pixels, pixel_mask)
        words = self.embeddings(ids, types) + self.kinds.weight[0]
        states = torch.cat((words, patches + self.kinds.weight[1]), dim=1)
        return self.stack(states, torch.cat((mask, shown), dim=1))


def _answers(spec: Spec) -> nn.Module:
    size = spec.hidden_size
    return nn.Sequential(
        nn.Linear(size, 2 * size), LayerNorm(2 * size, _NORM), nn.GELU(), nn.Linear(2 * size, spec.labels)
    )


def _words(spec: Spec) -> nn.Module:
    size = spec.hidden_size
    transform = heads.LMTransform(size, size, spec.hidden_act, LayerNorm(size, spec.layer_norm_eps))
    return nn.Sequential(transform, nn.Linear(size, spec.vocab_size))


def _pooler(spec: Spec) -> nn.Module:
    return heads.TanhPooler(spec.hidden_size)


def _weights(spec: Spec) -> tuple[Rule, ...]:
    return (
        Rename("vilt.*", "*"),
        Within("embeddings.text_embeddings.", EMBEDDING_NAMES, to="model.embeddings."),
        Rename("embeddings.token_type_embeddings.*", "model.kinds.*"),
        Rename("embeddings.patch_embeddings.*", "model.patches.*"),
        Rename("embeddings.cls_token", "model.patches.cls_token"),
        Rename("embeddings.position_embeddings", "model.patches.positions"),
        vit.layer_names("encoder.layer.{}.", "model.stack.layers.{}."),
        Rename("layernorm.*", "model.stack.norm.*"),
        Rename("pooler.*", "head.pooler.*"),
        Rename("rank_output.*", "head.classifier.*"),
        Rename("classifier.*", "head.classifier.*"),
        Ignore("mlm_score.bias"),
        Rename("mlm_score.transform.dense.*", "head.classifier.0.dense.*"),
        Rename("mlm_score.transform.LayerNorm.*", "head.classifier.0.norm.*"),
        Rename("mlm_score.decoder.*", "head.classifier.1.*"),
        Tie("head.classifier.1.weight", "model.embeddings.words.weight"),
    )


FAMILY = Family(
    spec=Spec,
    heads={
        heads.BASE: lambda spec, absent: Seen(Joined(spec), OfStates(None if "pooler" in absent else _pooler(spec))),
        heads.MASKED_LM: lambda spec, absent: Seen(Joined(spec), OfWords(_words(spec), heads.MASKED_LM)),
        heads.TOKEN_CLASSIFICATION: lambda spec, absent: Seen(
            Joined(spec), OfWords(nn.Linear(spec.hidden_size, spec.labels), heads.TOKEN_CLASSIFICATION)
        ),
        heads.IMAGE_TEXT_RETRIEVAL: lambda spec, absent: Seen(
            Joined(spec), OfFirst(_pooler(spec), nn.Linear(spec.hidden_size, 1), heads.IMAGE_TEXT_RETRIEVAL)
        ),
        heads.VISUAL_QUESTIONS: lambda spec, absent: Seen(
            Joined(spec), OfFirst(_pooler(spec), _answers(spec), heads.VISUAL_QUESTIONS)
        ),
    },
    weights=_weights,
    optional=("pooler",),
    inert=frozenset({"num_images", "tie_word_embeddings"}),
    final_norm=True,
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    | {"vocab_size": 99, "max_position_embeddings": 80, "image_size": 24, "patch_size": 6},
    variations=(
        # 3 heads of 7 channels, a square that is no multiple of its patches, one channel, one kind of token.
        {"hidden_size": 21, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 37}
        | {"vocab_size": 131, "image_size": 17, "patch_size": 5, "num_channels": 1, "qkv_bias": False}
        | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 1, "modality_type_vocab_size": 3}
        | {"num_labels": 5},
    ),
)
