"""X-CLIP: CLIP of videos, whose frames tell each other what they show, and whose texts are read in the light of what is
seen. https://arxiv.org/abs/2208.02816

Three components: ``text`` makes features of texts, ``video`` embeddings and what texts are to know, ``similarity``
compares those it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from precast.export import heads
from precast.export.blocks.activations import Activation, activation
from precast.export.blocks.attention import SelfAttention, head_size
from precast.export.blocks.mlp import MLP
from precast.export.blocks.norms import LayerNorm
from precast.export.blocks.patches import Patches
from precast.export.components import Composite
from precast.export.families import clip, clip_text_model, clip_vision_model
from precast.export.image_heads import ImageModel
from precast.export.operators import attention
from precast.export.signatures import Component
from precast.export.skeletons.stack import stack
from precast.export.skeletons.two_towers import EndOfText, TextEmbeds
from precast.export.spec import hf
from precast.export.weights import Rename, Rule, Transpose, Within
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import ConfigError
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "Spec", "VisionSpec"]

_LARGEST = 2  # that of configs which mean the largest id of a text, as these models do whatever their own says
_INERT = clip_vision_model.INERT | {"drop_path_rate"}


@dataclass(frozen=True, kw_only=True)
class VisionSpec(clip_vision_model.Spec):
    mit_hidden_size: int = hf(default=512)
    mit_intermediate_size: int = hf(default=2048)
    mit_num_hidden_layers: int = hf(default=1)
    mit_num_attention_heads: int = hf(default=8)
    num_frames: int = hf(default=8)


@dataclass(frozen=True, kw_only=True)
class Spec(clip.Spec):
    vision: VisionSpec = hf(("vision_config_dict", "vision_config"), default={}, spec=VisionSpec, inert=_INERT)
    prompt_layers: int = hf(default=2)
    prompt_hidden_act: Activation = hf(default=activation("quick_gelu"), read=activation)
    prompt_num_attention_heads: int = hf(default=8)

    def __post_init__(self) -> None:
        if self.vision.mit_hidden_size != self.projection_dim:
            raise ConfigError(
                f"'vision_config.mit_hidden_size' {self.vision.mit_hidden_size} must be 'projection_dim' "
                f"{self.projection_dim}: what frames make is put together there"
            )


class _Frames(Patches):
    """Pixels [V, F, C, I, I] -> [V * F, 1 + P, H]."""

    def __init__(self, spec: VisionSpec) -> None:
        size, image = spec.hidden_size, spec.image_size
        super().__init__(size, image=image, patch=spec.patch_size, channels=spec.num_channels, bias=False)
        self.frames = spec.num_frames

    def ports(self) -> tuple[Port, ...]:
        shape = ("videos", self.frames, self.channels, self.image, self.image)
        return (Port("pixel_values", "float32", shape, "pixels"),)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(pixels.view(pixels.shape[0] * self.frames, *pixels.shape[2:]), mask)


class _Layer(nn.Module):
    """A layer of CLIP, in which every frame has a message of all frames among its patches, [V * F, S, H]."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        size, count, self.frames = spec.hidden_size, spec.num_attention_heads, spec.num_frames
        self.message = nn.Linear(size, size)
        self.message_attn, self.self_attn = (SelfAttention(size, heads=count) for _ in range(2))
        self.message_norm, self.attention_norm, self.mlp_norm = (LayerNorm(size, spec.layer_norm_eps) for _ in range(3))
        self.mlp = MLP(size, spec.intermediate_size, spec.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        every, patches, size = x.shape
        message = self.message(x[:, 0]).view(every // self.frames, self.frames, size)
        message = message + self.message_attn(self.message_norm(message), None)
        x = torch.cat((x, message.view(every, 1, size)), dim=1)
        x = (x + self.self_attn(self.attention_norm(x), None))[:, :patches]
        return x + self.mlp(self.mlp_norm(x))


class _Layers(nn.Module):
    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.num_hidden_layers))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@dataclass(frozen=True)
class _Together:
    """Sizes of the layers over frames, as `stack` reads them."""

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    num_hidden_layers: int
    hidden_act: Activation
    layer_norm_eps: float


class _Texts(TextEmbeds):
    """ids, mask [T, S] -> {"text_features": [T, P]}, which are an embedding beside a video alone."""

    def __init__(self, spec: Spec) -> None:
        text, width = spec.text, spec.projection_dim
        projection = nn.Linear(text.hidden_size, width, bias=False)
        super().__init__(clip_text_model.body(text), EndOfText(_LARGEST), projection, width)
        self.given = ("features",)


class _Videos(Component):
    """Pixels [V, F, C, I, I] -> {"video_embeds": [V, P]} of length 1, {"video_features": [V, P]} of any, and
    {"video_states": [V, S, P]}, what each patch shows over all frames."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        vision, self.width = spec.vision, spec.projection_dim
        size, epsilon, self.frames = vision.hidden_size, vision.layer_norm_eps, vision.num_frames
        self.patches = (vision.image_size // vision.patch_size) ** 2
        self.model = ImageModel(_Frames(vision), _Layers(vision), before=LayerNorm(size, epsilon))
        self.pooler, self.projection = clip_vision_model.pooler(vision), nn.Linear(size, self.width, bias=False)
        together: Any = _Together(
            *(vision.mit_hidden_size, vision.mit_num_attention_heads, vision.mit_intermediate_size),
            *(vision.mit_num_hidden_layers, vision.hidden_act, epsilon),
        )
        self.times, self.together = nn.Parameter(torch.empty(1, self.frames, self.width)), stack(together, normed=False)
        self.seen_norm, self.seen = LayerNorm(size, epsilon), nn.Linear(size, self.width, bias=False)

    def ports(self) -> tuple[Port, ...]:
        return self.model.ports()

    def outs(self) -> tuple[Out, ...]:
        return (
            *(Out(f"video_{name}", ("videos", self.width), "embedding") for name in ("embeds", "features")),
            Out("video_states", ("videos", self.patches, self.width), "features"),
        )

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        states, videos = self.model(pixel_values), pixel_values.shape[0]
        frames = self.projection(self.pooler(states)).view(videos, self.frames, self.width)
        features = (frames + self.together(frames + self.times)).mean(dim=1)
        seen = self.seen(self.seen_norm(states[:, 1:]))
        return {
            "video_embeds": features / features.norm(dim=-1, keepdim=True),
            "video_features": features,
            "video_states": seen.view(videos, self.frames, self.patches, self.width).mean(dim=1),
        }


class _PromptLayer(nn.Module):
    """x = x + attention(norm(x), seen); x = x + mlp(norm(x)), [V, T, P]."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        size, self.heads, epsilon = spec.projection_dim, spec.prompt_num_attention_heads, spec.text.layer_norm_eps
        self.scale = head_size(size, self.heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.o_proj, self.mlp = nn.Linear(size, size), MLP(size, 4 * size, spec.prompt_hidden_act)
        self.attention_norm, self.mlp_norm = LayerNorm(size, epsilon), LayerNorm(size, epsilon)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        query = self.q_proj(self.attention_norm(x))
        made = attention(query, self.k_proj(seen), self.v_proj(seen), heads=self.heads, scale=self.scale)
        x = x + self.o_proj(made)
        return x + self.mlp(self.mlp_norm(x))


class _Similarity(Component):
    """[V, P], [V, S, P], [T, P] -> {"logits_per_video": [V, T], "logits_per_text": [T, V]}, and {"text_embeds": [V, T,
    P]}, texts beside each video."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.width, self.patches = spec.projection_dim, (spec.vision.image_size // spec.vision.patch_size) ** 2
        self.scale = nn.Parameter(torch.empty(()))
        self.norm = LayerNorm(self.width, spec.vision.layer_norm_eps)
        self.layers = nn.ModuleList(_PromptLayer(spec) for _ in range(spec.prompt_layers))
        self.alpha = nn.Parameter(torch.empty(self.width))

    def ports(self) -> tuple[Port, ...]:
        return (
            Port("video_embeds", "float32", ("videos", self.width), "features", source="video"),
            Port("video_states", "float32", ("videos", self.patches, self.width), "features", source="video"),
            Port("text_features", "float32", ("texts", self.width), "features", source="text"),
        )

    def outs(self) -> tuple[Out, ...]:
        beside = Out("text_embeds", ("videos", "texts", self.width), "embedding")
        return (*CATALOGUE["zero-shot-video-classification"].outs, beside)

    def forward(self, video_embeds: Tensor, video_states: Tensor, text_features: Tensor) -> dict[str, Tensor]:
        texts = text_features[None].expand(video_embeds.shape[0], -1, -1)
        x, seen = texts, self.norm(video_states)
        for layer in self.layers:
            x = layer(x, seen)
        texts = texts + self.alpha * x
        texts = texts / texts.norm(dim=-1, keepdim=True)
        logits = (self.scale.exp() * texts @ video_embeds[:, :, None])[:, :, 0]
        return {"logits_per_video": logits, "logits_per_text": logits.t(), "text_embeds": texts}


def _compose(spec: Spec, absent: frozenset[str]) -> nn.Module:
    return Composite({"text": _Texts(spec), "video": _Videos(spec), "similarity": _Similarity(spec)})


def _weights(spec: Spec) -> tuple[Rule, ...]:
    layer = (
        Rename("message_fc.*", "message.*"),
        Rename("message_ln.*", "message_norm.*"),
        Rename("message_attn.out_proj.*", "message_attn.o_proj.*"),
    )
    vision = (
        Rename("pre_layernorm.*", "pre_layrnorm.*"),
        Within("encoder.layers.{}.", layer),
        *clip_vision_model.names(),
    )
    prompt = (
        *(Rename(f"cross_attn.{part}_proj.*", f"{part}_proj.*") for part in "qkv"),
        Rename("cross_attn.proj.*", "o_proj.*"),
        Rename("norm1.*", "attention_norm.*"),
        Rename("norm3.*", "mlp_norm.*"),
        Rename("mlp.0.*", "mlp.up_proj.*"),
        Rename("mlp.3.*", "mlp.down_proj.*"),
    )
    return (
        Within("text_model.", clip_text_model.names(), to="text."),
        Within("vision_model.", vision, to="video."),
        Rename("text_projection.*", "text.projection.*"),
        Rename("visual_projection.*", "video.projection.*"),
        clip_vision_model.layer_names("mit.encoder.layers", "video.together.layers"),
        Rename("mit.position_embedding", "video.times"),
        Rename("prompts_visual_layernorm.*", "video.seen_norm.*"),
        Transpose("prompts_visual_projection"),
        Rename("prompts_visual_projection", "video.seen.weight"),
        Rename("prompts_generator.layernorm.*", "similarity.norm.*"),
        Within("prompts_generator.decoder.{}.", prompt, to="similarity.layers.{}."),
        Rename("prompts_generator.alpha", "similarity.alpha"),
        Rename("logit_scale", "similarity.scale"),
    )


FAMILY = replace(
    clip.FAMILY,
    spec=Spec,
    heads={heads.ZERO_SHOT_VIDEO: _compose},
    weights=_weights,
    inert=clip.FAMILY.inert | {"prompt_alpha", "prompt_attention_dropout", "prompt_projection_dropout"},
    tiny={
        "text_config": clip_text_model.TINY,
        "vision_config": {**clip_vision_model.TINY, "image_size": 18, "num_frames": 3}
        | {"mit_hidden_size": 24, "mit_intermediate_size": 32, "mit_num_attention_heads": 4},
        "projection_dim": 24,
    },
    variations=(
        {
            "text_config": clip_text_model.ODD,
            "vision_config": {**clip_vision_model.ODD, "image_size": 12, "num_frames": 2, "mit_num_hidden_layers": 2}
            | {"mit_hidden_size": 15, "mit_intermediate_size": 20, "mit_num_attention_heads": 3},
            "projection_dim": 15,
            "prompt_layers": 1,
            "prompt_hidden_act": "relu",
            "prompt_num_attention_heads": 5,
        },
    ),
)
