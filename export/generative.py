"""Language models over a cache, as graphs: one decoder, with an encoder beside it or without.

A part of a model is what becomes a component of an artifact: a module whose inputs and outputs are a signature's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from precast.export.blocks.attention import CrossAttention
from precast.export.blocks.cache import State, Step, states_of
from precast.export.signatures import Component, dims_of
from precast.runtime.backends.base import Array
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.generation.among import FEATURES, ROWS
from precast.runtime.generation.grids import AXES, Grids
from precast.runtime.generation.tiles import Tiles
from precast.runtime.ports import FREE, Dim, Out, Port
from precast.runtime.processors.joint import Spelled

__all__ = [
    "ALIGNMENT",
    "DECODER",
    "ENCODER",
    "AlignmentPart",
    "CausalLM",
    "EncoderPart",
    "Joined",
    "PerceivingPart",
    "Seq2SeqLM",
]

ALIGNMENT, DECODER, ENCODER = "alignment", "decoder", "encoder"
_SHOWN = frozenset(("sample_mask", "pixel_mask"))


class Joined(NamedTuple):
    """What a decoder has among its tokens: features [F, H] that another component makes.

    Args:
        source: that component. token: the id that holds the place of one. width: H.
        places: how many of them a picture has.
        tiles: how pictures are cut whose features stand in another order, behind one that ends their lines; None: they
            are not. ``places`` are those of a picture of one tile then.
        spelled: what stands around the places of a picture, and of each of its tiles; None: nothing.
        grids: how pictures of any size are patches, whose features have places in height and width; None: they have one
            size. ``places`` are those of the smallest then, unless `of` says which.
        grid: rows and columns of a picture's features.
    """

    source: str
    token: int
    width: int
    places: int
    tiles: Tiles | None = None
    spelled: Spelled | None = None
    grids: Grids | None = None
    grid: tuple[int, int] = (1, 1)

    def of(self, given: Mapping[str, Array]) -> Joined:
        """For pictures that are given to the component, by its name and the port's."""
        if self.grids is None:
            return self
        height, width = given[f"{self.source}.pixel_values"].shape[-2:]
        grid = height // self.grids.unit, width // self.grids.unit
        return self._replace(places=grid[0] * grid[1], grid=grid)

    def processing(self) -> Mapping[str, Any]:
        """What the runtime has to know of them."""
        said: dict[str, Any] = {"token": self.token, "count": self.places}
        said |= {} if self.tiles is None else {"tiles": self.tiles.to_json()}
        said |= {} if self.grids is None else {"grid": self.grids.to_json()}
        return said if self.spelled is None else {**said, "spelled": self.spelled._asdict()}

    def standing(self, picture: int) -> Array:
        """Which features stand at the places of one of several pictures that are made up; it is its own and only
        tile."""
        if self.tiles is None:
            return picture * self.places + np.arange(self.places)
        order, one = self.tiles.order(self.tiles.tile, self.tiles.tile), self.tiles.features
        return np.where(order < 0, 0, 1 + picture * one + order % one)

    def ports(self, words: Port) -> tuple[Port, ...]:
        """The features, and which of them stands at each token."""
        features = Port(FEATURES, "float32", (FEATURES, self.width), "features", source=self.source)
        return features, Port(ROWS, "int64", words.shape, "rows")


class CausalLM(Component):
    """{"logits": [B, K, V]} of the new tokens at ``logit_positions`` [B, K], and the successors of all states.

    Args:
        model: ids [B, S] at a `Step` -> hidden states [B, S, H].
        positions: the model uses absolute positions.
        transform: between hidden states and ``lm_head``, or None.
        softcap: c * tanh(logits / c), or None. scale: factor of the hidden states before the head.
    """

    _BODY: ClassVar = "model"

    def __init__(
        self,
        model: nn.Module,
        lm_head: nn.Linear,
        *,
        positions: bool = True,
        transform: nn.Module | None = None,
        softcap: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.add_module(self._BODY, model)
        self.transform = transform
        self.lm_head = lm_head
        self.positions = positions
        self.softcap = softcap
        self.scale = scale
        self.joined: Joined | None = None

    @property
    def body(self) -> nn.Module:
        """What makes hidden states of ids."""
        made: nn.Module = getattr(self, self._BODY)
        return made

    def ports(self) -> tuple[Port, ...]:
        """New tokens, how many are held and new, which positions are wanted, and the states."""
        [words] = self.body.ports()  # type: ignore[operator]
        batch = words.shape[:1]
        made = [
            words,
            Port("past_lengths", "int64", batch, "number"),
            Port("lengths", "int64", batch, "number"),
            Port("logit_positions", "int64", (*batch, "kept"), "positions"),
        ]
        if self.positions:
            longest = self.dims().get("sequence", FREE).most
            axes = () if self.joined is None or self.joined.grids is None else (AXES,)
            made.append(Port("position_ids", "int64", (*words.shape, *axes), "positions", below=longest))
        if self.joined is not None:
            made += self.joined.ports(words)
        encoder = self.reader()
        made += () if encoder is None else encoder.shown()
        made += [Port(name, "float32", state.shape, "state") for name, state in self.states().items()]
        made += () if encoder is None else encoder.read()
        return tuple(made)

    def outs(self) -> tuple[Out, ...]:
        """Logits, and the states' successors."""
        states = self.states().items()
        successors = [Out(name.replace("past_", "present_", 1), state.shape, "state") for name, state in states]
        return (*CATALOGUE["text-generation"].outs, *successors)

    def dims(self) -> Mapping[str, Dim]:
        """How large its body's dimensions may be."""
        return dims_of(self.body)

    def processing(self) -> Mapping[str, Any]:
        """Which tokens hold the places of what is perceived."""
        return {} if self.joined is None else {"join": self.joined.processing()}

    def states(self) -> Mapping[str, State]:
        """What its layers remember."""
        return states_of(self.body)

    def reader(self) -> EncoderPart | None:
        """What its layers attend to, or None."""
        return None

    def cross(self) -> list[CrossAttention]:
        """The attentions over an encoder, in order."""
        return [module for module in self.body.modules() if isinstance(module, CrossAttention)]

    def forward(
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        lengths: Tensor,
        logit_positions: Tensor,
        states: Mapping[str, Tensor],
        position_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        features: Tensor | None = None,
        feature_rows: Tensor | None = None,
        **conditions: Tensor,
    ) -> dict[str, Tensor]:
        step = Step(
            past_lengths,
            lengths,
            position_ids,
            past={name: value for name, value in states.items() if name.startswith("past_")},
            cross={name: value for name, value in states.items() if name.startswith("cross_")},
            encoder_mask=encoder_attention_mask,
            conditions=conditions,
            features=features,
            feature_rows=feature_rows,
        )
        hidden = self.body(input_ids, step)
        kept = hidden.gather(1, logit_positions[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.scale is not None:
            kept = kept * self.scale
        if self.transform is not None:
            kept = self.transform(kept)
        logits = self.lm_head(kept)
        if self.softcap is not None:
            logits = self.softcap * (logits / self.softcap).tanh()
        return {"logits": logits, **step.present}

    def parts(self) -> dict[str, nn.Module]:
        return {DECODER: self}


class EncoderPart(Component):
    """{"last_hidden_state": [B, T, H], "cross_key.0": [B, T, N*D], ...}: an encoder, and what its decoder reads."""

    mask: str | None = "attention_mask"
    """The port or output that says which of its states are real; None: all of them are."""
    length: int | str = "source"
    """Its states, as the decoder calls their dimension."""

    def __init__(self, encoder: nn.Module, cross: list[CrossAttention]) -> None:
        super().__init__()
        self.encoder = encoder
        self.cross = nn.ModuleList(cross)

    def attentions(self) -> list[CrossAttention]:
        """The decoder's attentions over this encoder, in order."""
        return [attention for attention in self.cross if isinstance(attention, CrossAttention)]

    def ports(self) -> tuple[Port, ...]:
        """What the encoder takes."""
        made: tuple[Port, ...] = self.encoder.ports()  # type: ignore[operator]
        return made

    def outs(self) -> tuple[Out, ...]:
        """Hidden states, and what the decoder's layers read of them."""
        row = ("batch", self._own_length())
        read = [
            Out(name, (*row, attention.heads * attention.size), "features")
            for index, attention in enumerate(self.attentions())
            for name in _cross_names(index)
        ]
        return (Out("last_hidden_state", (*row, "size"), "states"), *read)

    def _own_length(self) -> int | str:
        """Its states, as it calls their dimension itself."""
        return "sequence"

    def shown(self) -> tuple[Port, ...]:
        """The decoder's port of its mask, where it has one."""
        if self.mask is None:
            return ()
        source = f"{ENCODER}.{self.mask}"
        return (Port("encoder_attention_mask", "int64", ("batch", self.length), "mask", source=source),)

    def read(self) -> tuple[Port, ...]:
        """The decoder's ports of what its layers read of it."""
        return tuple(
            Port(name, "float32", ("batch", self.length, attention.heads * attention.size), "features", source=ENCODER)
            for index, attention in enumerate(self.attentions())
            for name in _cross_names(index)
        )

    def dims(self) -> Mapping[str, Dim]:
        """How large the encoder's dimensions may be."""
        return dims_of(self.encoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return self.outputs(self.encoder(input_ids, attention_mask))

    def outputs(self, states: Tensor) -> dict[str, Tensor]:
        """Hidden states, and what the decoder's layers read of them."""
        outputs = {"last_hidden_state": states}
        bridge = getattr(self.encoder, "bridge", None)  # to the channels of another model's decoder
        read = states if bridge is None else bridge(states)
        for index, attention in enumerate(self.attentions()):
            outputs |= zip(_cross_names(index), attention.keys_and_values(read), strict=True)
        return outputs


class PerceivingPart(EncoderPart):
    """The same of what is no text: pixels [B, C, H, W], features [B, ...] or samples [B, N], with a mask or without ->
    states [B, T, H].

    The states' places are not those of the input: where there is a mask, the encoder says itself which of its states
    are real, {"frame_mask": [B, T]}; and it says as ``frames`` how many there are, where that is one number.
    """

    def __init__(self, encoder: nn.Module, cross: list[CrossAttention]) -> None:
        super().__init__(encoder, cross)
        frames: int | None = getattr(encoder, "frames", None)
        self.length = "source" if frames is None else frames
        self.mask = "frame_mask" if any(port.kind in _SHOWN for port in self.ports()) else None

    def outs(self) -> tuple[Out, ...]:
        """And which of its states are real."""
        made = super().outs()
        if self.mask is None:
            return made
        return (*made, Out(self.mask, ("batch", self._own_length()), "features", dtype="int64"))

    def _own_length(self) -> int | str:
        return "places" if isinstance(self.length, str) else self.length

    def processing(self) -> Mapping[str, Any]:
        """What its encoder asks for."""
        return self.encoder.processing() if isinstance(self.encoder, Component) else {}

    def forward(  # type: ignore[override] # what it takes has one of several names
        self,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        flattened_patches: Tensor | None = None,
    ) -> dict[str, Tensor]:
        named = (input_features, input_values, pixel_values, flattened_patches)
        perceived = next(value for value in named if value is not None)
        if self.mask is None:
            return self.outputs(self.encoder(perceived))
        states, real = self.encoder(perceived, attention_mask)
        return {**self.outputs(states), self.mask: real}


class AlignmentPart(Component):
    """{"cross_query": [B, S, L*N*D]}: what each of L layers asks of the encoder at each token of whole texts, scaled.

    Where in a recording a token was heard says the attention of some heads to its frames: softmax of these times
    ``cross_key``. A decoder's steps know nothing of it.
    """

    def __init__(self, decoder: nn.Module, encoder: EncoderPart) -> None:
        super().__init__()
        self.decoder = decoder
        self._encoder = (encoder,)  # whose weights are not its own

    def ports(self) -> tuple[Port, ...]:
        """Tokens, and what all layers but the last read of the encoder."""
        encoder = self._encoder[0]
        return (*self.decoder.ports(), *encoder.shown(), *encoder.read()[:-2])  # type: ignore[operator]

    def outs(self) -> tuple[Out, ...]:
        """The queries."""
        return (Out("cross_query", ("batch", "sequence", "size"), "scores"),)

    def dims(self) -> Mapping[str, Dim]:
        """How large the decoder's dimensions may be."""
        return dims_of(self.decoder)

    def forward(
        self,
        input_ids: Tensor,
        states: Mapping[str, Tensor] | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None].expand(input_ids.shape)
        none, asked = torch.zeros_like(input_ids[:, 0]), list[Tensor]()
        step = Step(
            none,
            none,
            places,
            past={},
            cross=states or {},
            encoder_mask=encoder_attention_mask,
            whole=True,
            asked=asked,
        )
        decoder: Any = self.decoder
        x, update = decoder.embeddings(input_ids, step), None
        *layers, last = decoder.layers
        for layer in layers:
            x, update = layer(x, update, step)
        return {"cross_query": torch.cat((*asked, last.asks(x, update, step)), dim=-1)}


class Seq2SeqLM(CausalLM):
    """A `CausalLM` whose layers attend to an encoder: ids [B, T], mask [B, T] -> hidden states [B, T, H].

    Args:
        part: what the encoder becomes; a `PerceivingPart` where it reads no text.
        aligned: an `AlignmentPart` says of whole texts where each token was heard.
    """

    _BODY: ClassVar = "decoder"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        lm_head: nn.Linear,
        *,
        positions: bool = True,
        transform: nn.Module | None = None,
        scale: float | None = None,
        part: type[EncoderPart] = EncoderPart,
        aligned: bool = False,
    ) -> None:
        super().__init__(decoder, lm_head, positions=positions, transform=transform, scale=scale)
        self.encoder, self._part, self._aligned = encoder, part, aligned
        for index, attention in enumerate(self.cross()):
            attention.index = index

    def reader(self) -> EncoderPart:
        return self._part(self.encoder, self.cross())

    def parts(self) -> dict[str, nn.Module]:
        encoder = self.reader()
        aligned = {ALIGNMENT: AlignmentPart(self.body, encoder)} if self._aligned else {}
        return {ENCODER: encoder, **aligned, DECODER: self}


def _cross_names(index: int) -> tuple[str, str]:
    """The keys and values that a decoder's attention reads of the encoder."""
    return f"cross_key.{index}", f"cross_value.{index}"
