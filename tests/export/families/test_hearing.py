"""T0 to T3: classes of what the encoder of an encoder-decoder hears, against upstream, float64 and the gates of
PARITY.md; and where tokens were heard. Speech to text itself is in test_language_models.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.lowering import lower, states
from support.oracle import apart, float64, sources, upstream, widened

from precast.export import parity
from precast.export.families import TextSpec, find_family, model_types
from precast.export.generative import ALIGNMENT
from precast.export.heads import AUDIO_CLASSIFICATION, SPEECH_SEQ2SEQ
from precast.export.reference import build
from precast.runtime.gates import gate
from precast.runtime.parity import compare

EVERY = [
    (name, index)
    for name in model_types()
    if issubclass(find_family(name).spec, TextSpec) and AUDIO_CLASSIFICATION in find_family(name).heads
    for index in range(1 + len(find_family(name).variations))
]


@pytest.mark.parametrize(("model_type", "index"), EVERY)
def test_reference_equals_upstream(model_type: str, index: int) -> None:
    """T0 and T1: the strict loader takes the checkpoint, and every hidden state equals upstream's, in float64."""
    family = find_family(model_type)
    overrides = family.variations[index - 1] if index else {}
    config, narrow = upstream(model_type, AUDIO_CLASSIFICATION, overrides, seed=index)
    model = widened(narrow)
    ours = build(config, sources(model), dtype=torch.float64)
    kept, hooks = states(ours.model, ours.model.encoder.layers)  # type: ignore[union-attr, arg-type]
    for case in parity.cases(ours.signature, shapes=((1, 1, "none"), (3, 7, "right")), seed=1):
        kept.clear()
        inputs = {name: torch.from_numpy(array).double() for name, array in case.inputs.items()}
        with torch.no_grad():
            logits = ours.model(**inputs)["logits"]
        with float64():
            expected = model(**inputs, output_hidden_states=True)
        pairs = [(f"layer {i}", a, b) for i, (a, b) in enumerate(zip(kept, expected.hidden_states[1:], strict=True))]
        if family.final_norm:
            pairs.pop()  # upstream gives the last state after the final norm, which the logits cover
        for name, a, b in (*pairs, ("logits", logits, expected.logits)):
            excess = apart(a, b)
            assert excess <= 1, f"{name} of {case.name}: {excess:.2f} times the gate"
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("model_type", "index"), EVERY)
def test_graphs_equal_reference(model_type: str, index: int, tmp_path: Path) -> None:
    """T2 and T3: each dialect unoptimised and each recipe, within P0 and P1."""
    overrides = find_family(model_type).variations[index - 1] if index else {}
    config, model = upstream(model_type, AUDIO_CLASSIFICATION, overrides, seed=index)
    ours = build(config, sources(model))
    recorded = parity.record(ours.parts, parity.cases_for(ours.parts))
    where = f"{model_type} {AUDIO_CLASSIFICATION.task} {index}"
    for lowered in lower(ours.parts, tmp_path, where, raw=not index):
        gate("fp32", list(compare(lowered.parts, recorded)), lowered.name)


@pytest.mark.parametrize(("model_type", "index"), [("whisper", index) for index in range(2)])
def test_every_head_looks_where_upstream_s_does(model_type: str, index: int) -> None:
    """What the alignment's queries make of the encoder's keys, of every layer and head, in float64; T2 and T3 are those
    of the whole model's graphs."""
    overrides = find_family(model_type).variations[index - 1] if index else {}
    config, narrow = upstream(model_type, SPEECH_SEQ2SEQ, overrides, seed=index)
    model = widened(narrow)
    model.config._attn_implementation = "eager"
    parts = {part.name: part for part in build(config, sources(model), dtype=torch.float64).parts}
    features = torch.from_numpy(
        parity.cases(parts["encoder"].signature, shapes=((2, 1, "none"),))[0].inputs["input_features"]
    )
    tokens = torch.from_numpy(
        parity.cases(parts[ALIGNMENT].signature, shapes=((2, 11, "none"),))[0].inputs["input_ids"]
    )
    with torch.no_grad():
        heard = parts["encoder"].module(input_features=features.double())
        read = {name: value for name, value in heard.items() if name.startswith("cross_")}
        asked = parts[ALIGNMENT].module(input_ids=tokens, states=read)["cross_query"]
    with float64():
        expected = model(input_features=features.double(), decoder_input_ids=tokens, output_attentions=True)
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    queries = asked.unflatten(-1, (layers, heads, -1))
    for layer, wanted in enumerate(expected.cross_attentions):
        keys = heard[f"cross_key.{layer}"].unflatten(-1, (heads, -1))
        got = torch.einsum("bsnd,btnd->bnst", queries[:, :, layer], keys).softmax(-1)
        assert apart(got, wanted) <= 1, f"layer {layer}"
