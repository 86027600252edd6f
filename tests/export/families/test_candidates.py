"""CLVP: each of its parts as upstream, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import states
from support.oracle import apart, float64, sources, upstream, widened
from torch import Tensor

from precast.export import parity
from precast.export.families import find_family
from precast.export.heads import SPEECH_CANDIDATES
from precast.export.reference import Part, Reference, build
from precast.runtime.errors import ConfigError

VARIATIONS = range(1 + len(find_family("clvp").variations))
CHAINS = ((1, (4, 6, 1, 1), "full"), (2, (9, 1, 1), "full"), (1, (1,), "full"))


@pytest.fixture(scope="module", params=VARIATIONS)
def both(request: pytest.FixtureRequest) -> tuple[Reference, Any]:
    family, index = find_family("clvp"), request.param
    config, narrow = upstream("clvp", SPEECH_CANDIDATES, family.variations[index - 1] if index else {}, seed=index)
    model: Any = widened(narrow)
    return build(config, sources(model), dtype=torch.float64), model


def part_of(ours: Reference, name: str) -> Part:
    return next(part for part in ours.parts if part.name == name)


def close(name: str, made: Tensor, wanted: Tensor) -> None:
    excess = apart(made, wanted)
    assert excess <= 1, f"{name}: {excess:.2f} times the gate"


@pytest.mark.parametrize("shape", [(1, 1, "none"), (3, 7, "right"), (2, 50, "left")], ids=str)
def test_towers_and_their_similarity_equal_upstream(both: tuple[Reference, Any], shape: tuple[int, int, str]) -> None:
    ours, model = both
    text, speech = part_of(ours, "text"), part_of(ours, "speech")
    inputs = {
        name: torch.from_numpy(array) for name, array in parity.cases(text.signature, shapes=(shape,))[0].inputs.items()
    }
    ids = torch.from_numpy(parity.cases(speech.signature, shapes=((2, shape[1], "none"),))[0].inputs["speech_ids"])
    for part, theirs, given in (
        (text, model.text_encoder_model, inputs),
        (speech, model.speech_encoder_model, {"input_ids": ids}),
    ):
        kept, hooks = states(part.module, part.module.tower.stack.layers)  # type: ignore[union-attr, arg-type]
        with torch.no_grad():
            made = part.module.tower(*given.values())  # type: ignore[operator, union-attr]
        for hook in hooks:
            hook.remove()
        with float64():
            expected = theirs(**given, output_hidden_states=True)
        pairs = zip(kept, expected.hidden_states[1:], strict=True)
        for number, (state, wanted) in enumerate(pairs):
            if number < len(kept) - 1:  # the last is there behind the final norm, which the embedding covers
                close(f"{part.name}, layer {number}", state, wanted)
        close(part.name, made, expected.embeds / expected.embeds.norm(dim=-1, keepdim=True))
    with torch.no_grad():
        found = speech.module(ids, text.module(**inputs)["text_embeds"])
    with float64():
        one, other = model.text_encoder_model(**inputs).embeds, model.speech_encoder_model(input_ids=ids).embeds
        logits = torch.nn.functional.normalize(one, eps=0) @ torch.nn.functional.normalize(other, eps=0).t()
        close("logits", found["logits_per_text"], logits * model.logit_scale.exp())
    assert torch.equal(found["logits_per_speech"], found["logits_per_text"].t())


@pytest.mark.parametrize(("rows", "length", "frames"), [(1, 3, 2), (3, 9, 21)])
def test_what_is_begun_with_equals_upstream(both: tuple[Reference, Any], rows: int, length: int, frames: int) -> None:
    ours, model = both
    part = part_of(ours, "conditioning")
    rng = np.random.default_rng(frames)
    features = torch.from_numpy(rng.standard_normal((rows, model.config.decoder_config.feature_size, frames)))
    ids = torch.from_numpy(rng.integers(1, model.config.text_config.vocab_size, (rows, length)))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    whole, ends = model.config.text_config, (1, 1)
    given = torch.nn.functional.pad(ids, ends, value=whole.eos_token_id)
    given[:, 0] = whole.bos_token_id
    with torch.no_grad():
        found = part.module(features, given, torch.nn.functional.pad(mask, (2, 0), value=1))
    decoder = model.speech_decoder_model
    table = decoder.model.decoder.position_embeds_layer.weight
    with float64():
        expected = model.conditioning_encoder(features, ids, attention_mask=mask)
        begun, _, _ = decoder._prepare_model_inputs(None, None, {"conditioning_embeds": expected})
    close("as forward has it", found["placed_embeds"], expected + table[: expected.shape[1]])
    close("as generation has it", found["conditioning_embeds"], begun + table[0])


def test_every_layer_of_the_decoder_equals_upstream(both: tuple[Reference, Any]) -> None:
    ours, model = both
    part, theirs = part_of(ours, "decoder"), model.speech_decoder_model
    runner = parity.ReferenceRunner([part])
    kept, hooks = states(part.module, part.module.model.layers)  # type: ignore[union-attr, arg-type]
    words, table = theirs.model.decoder.input_embeds_layer, theirs.model.decoder.position_embeds_layer.weight
    rows: list[list[int]] = []
    for case in parity.generation_cases([part], chains=CHAINS, seed=1):
        kept.clear()
        before = torch.from_numpy(case.inputs["conditioning_embeds"]).double()
        wide = {**case.inputs, "conditioning_embeds": before.numpy()}
        outputs = runner.run(parity.Case(case.name, wide, case.component, case.after, case.capacity))
        ids, past = case.inputs["input_ids"], int(case.inputs["past_lengths"][0])
        rows = [[*held, *row] for held, row in zip(rows if past else [[]] * len(ids), ids.tolist(), strict=True)]
        count = before.shape[1]
        behind = [*range(2, 2 + len(rows[0]))][: max(0, len(rows[0]) - count)]
        embedded = torch.cat((before, words(torch.tensor(rows))[:, count:] + table[behind]), dim=1)[:, : len(rows[0])]
        with float64():  # whose positions are added, as upstream's generation takes them away
            expected = theirs(
                inputs_embeds=embedded - table[: embedded.shape[1]], output_hidden_states=True, use_cache=False
            )
        places = torch.from_numpy(past + case.inputs["logit_positions"])
        wanted = expected.logits.gather(1, places[..., None].expand(-1, -1, expected.logits.shape[2]))
        close(f"logits of {case.name}", torch.from_numpy(outputs["logits"]), wanted)
        for number, (made, state) in enumerate(zip(kept[:-1], expected.hidden_states[1:-1], strict=True)):
            close(f"layer {number} of {case.name}", made, state[:, past:])
    for hook in hooks:
        hook.remove()


def test_contradictions_are_refused() -> None:
    family = find_family("clvp")
    for wrong, reason in (
        ({"text_config": {"hidden_size": 60, "num_attention_heads": 3}}, "a head turns 128 channels, and has 20"),
        ({"text_config": {"summary_type": "attn"}}, "'text_config.summary_type' is 'attn', and only"),
        ({"decoder_config": {"decoder_fixing_codes": [9000]}}, "'decoder_fixing_codes' are tokens below 8194"),
        ({"decoder_config": {"decoder_fixing_codes": []}}, "'decoder_fixing_codes' are tokens"),
        ({"decoder_config": {"hidden_size": 34, "num_attention_heads": 2}}, "norms have more than two groups"),
    ):
        with pytest.raises(ConfigError, match=reason):
            family.read({"model_type": "clvp", **wrong})
