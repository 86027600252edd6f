"""Bark: each of its three GPTs and its codec as upstream, in float64; and what the runtime lays out between them, text
to waveform, token by token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from support.lowering import states
from support.oracle import apart, float64, sources, upstream, widened
from torch import Tensor

from precast.export import parity
from precast.export.families import find_family
from precast.export.heads import TEXT_TO_WAVEFORM
from precast.export.reference import Part, Reference, build
from precast.runtime.errors import ConfigError

VARIATIONS = range(1 + len(find_family("bark").variations))
CHAINS: tuple[tuple[int, tuple[int, ...], str], ...] = (
    (1, (9, 1, 1, 7), "full"),
    (2, (1, 1), "full"),
    (1, (0,), "full"),
)


@pytest.fixture(scope="module", params=VARIATIONS)
def both(request: pytest.FixtureRequest) -> tuple[Reference, Any]:
    family, index = find_family("bark"), request.param
    config, narrow = upstream("bark", TEXT_TO_WAVEFORM, family.variations[index - 1] if index else {}, seed=index)
    model: Any = widened(narrow)
    return build(config, sources(model), dtype=torch.float64), model


def close(pairs: Iterable[tuple[str, Tensor, Tensor]]) -> None:
    for name, made, wanted in pairs:
        excess = apart(made, wanted)
        assert excess <= 1, f"{name}: {excess:.2f} times the gate"


@pytest.mark.parametrize("stage", ["semantic", "coarse"])
def test_every_layer_of_a_decoder_equals_upstream(both: tuple[Reference, Any], stage: str) -> None:
    ours, model = both
    theirs = model.semantic if stage == "semantic" else model.coarse_acoustics
    part = next(part for part in ours.parts if part.name == stage)
    runner = parity.ReferenceRunner([part])
    kept, hooks = states(part.module, part.module.model.layers)  # type: ignore[union-attr, arg-type]
    rows: list[list[int]] = []
    for case in parity.generation_cases([part], chains=CHAINS, seed=1):
        kept.clear()
        outputs = runner.run(case)
        ids, past = case.inputs["input_ids"], int(case.inputs["past_lengths"][0])
        rows = [[*held, *row] for held, row in zip(rows if past else [[]] * len(ids), ids.tolist(), strict=True)]
        embedded = theirs.input_embeds_layer(torch.tensor(rows))
        if "history_ids" in case.inputs:
            beside = torch.from_numpy(case.inputs["history_ids"])[:, : embedded.shape[1]]
            embedded[:, : beside.shape[1]] += theirs.input_embeds_layer(beside)
        with float64():
            expected = theirs(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        where = torch.from_numpy(past + case.inputs["logit_positions"])[..., None].expand(
            -1, -1, expected.logits.shape[2]
        )
        close([("logits", torch.from_numpy(outputs["logits"]), expected.logits.gather(1, where))])
        # The last state is there behind the final norm alone, which the logits cover.
        pairs = zip(kept[:-1], expected.hidden_states[1:-1], strict=True)
        close((f"layer {number}", made, wanted[:, past:]) for number, (made, wanted) in enumerate(pairs))
    for hook in hooks:
        hook.remove()


def test_every_codebook_equals_upstream(both: tuple[Reference, Any]) -> None:
    ours, model = both
    fine: Part = ours.parts[2]
    given = model.config.fine_acoustics_config.n_codes_given
    kept, hooks = states(fine.module, fine.module.stack.layers)  # type: ignore[union-attr, arg-type]
    for length in (1, 13, fine.signature.longest or 0):
        for codebook in range(model.config.fine_acoustics_config.n_codes_total - given):
            [case] = parity.cases(fine.signature, shapes=((2, length, "none"),), seed=codebook)[:1]
            ids = torch.from_numpy(case.inputs["input_ids"])
            kept.clear()
            with torch.no_grad():
                found = fine.module(ids, torch.full((2,), codebook))["logits"]
            with float64():
                expected = model.fine_acoustics(codebook + given, ids, output_hidden_states=True)
            pairs = zip(kept[:-1], expected.hidden_states[1:-1], strict=True)
            close((f"layer {number}", *pair) for number, pair in enumerate(pairs))
            close([(f"logits of codebook {codebook}", found, expected.logits)])
    for hook in hooks:
        hook.remove()


def test_a_waveform_of_codes_equals_upstream(both: tuple[Reference, Any]) -> None:
    ours, model = both
    codec = ours.parts[3]
    least: int = codec.module.frames.least  # type: ignore[union-attr, assignment]
    for rows, frames in ((1, least), (3, 17), (2, 1), (2, least - 1)):
        [case] = parity.cases(codec.signature, shapes=((rows, max(least, frames), "none"),))[:1]
        codes, mask = torch.from_numpy(case.inputs["audio_codes"]), torch.from_numpy(case.inputs["frame_mask"])
        mask[:, frames:] = 0  # what is behind a recording that is too short to be mirrored
        with torch.no_grad():
            found = codec.module(codes, mask)["waveform"][:, : frames * codec.module.spec.codec.hop]  # type: ignore[union-attr, operator]
        with float64():
            expected = model.codec_decode(codes[..., :frames])
        close([("waveform", found, expected)])


def test_contradictions_are_refused() -> None:
    family = find_family("bark")
    for wrong, reason in (
        ({"fine_acoustics_config": {"n_codes_given": 8}}, "'n_codes_given' is 1 or more and below 'n_codes_total'"),
        ({"codec_config": {"target_bandwidths": [1.5]}}, "the codec has 2 codebooks, fewer than 'n_codes_total' 8"),
        ({"codec_config": {"audio_channels": 2}}, "'codec_config.audio_channels' is 2, and only 1 is honoured"),
        ({"codec_config": {"model_type": "dac"}}, "'codec_config.model_type' is 'dac', and only 'encodec'"),
        ({"semantic_config": {"num_heads": 7}}, "'semantic_config': heads share the channels"),
    ):
        with pytest.raises(ConfigError, match=reason):
            family.read({"model_type": "bark", **wrong})
