"""int8 and int4 of language models: held to their divergence from the reference, stored once, replayed and refused."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import oracle
from support.lowering import wide
from support.quantized_samples import graph_of
from typer.testing import CliRunner

import precast
from precast.export import evaluation
from precast.export.checkpoints.open import open_checkpoint
from precast.export.exporter import export_model
from precast.export.heads import BASE, CAUSAL_LM, SEQ2SEQ_LM
from precast.export.reference import Part, build
from precast.export.sensitivity import sensitivity
from precast.export.trace import trace
from precast.graphs.passes.quantize_weights import QuantizeWeights
from precast.runtime.artifact import Artifact
from precast.runtime.cli.app import app
from precast.runtime.divergence import BOUNDS, Divergence, kl_divergence
from precast.runtime.errors import InputError, ParityError

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def checkpoint(folder: Path, *, wild: bool = False, **overrides: Any) -> tuple[Path, Any]:
    config, model = oracle.upstream("llama", CAUSAL_LM, {**SIZES, **overrides})
    if not wild:
        oracle.calm(model)
    return oracle.save_checkpoint(folder, config, model), model


@cache
def artifacts() -> tuple[Path, Any]:
    """One artifact with fp32, int8 and int4, of a model whose head is tied to its embedding."""
    import atexit
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="precast-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, model = checkpoint(folder / "checkpoint", tie_word_embeddings=True)
    export_model(source, folder / "artifact")
    for precision in ("int8", "int4"):
        export_model(source, folder / "artifact", precision=precision, add=True)
    return folder / "artifact", model


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_divergence_is_measured_and_small(precision: str) -> None:
    path, model = artifacts()
    artifact = Artifact.open(path)
    ids = np.random.default_rng(0).integers(3, 99, size=(4, 40))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    variants = [variant for variant in artifact.variants("decoder") if variant.precision == precision]
    assert {variant.isa is None for variant in variants} == {True, False}
    for variant in variants:
        recorded = variant.parity["divergence"]
        assert recorded["kl_mean"] <= BOUNDS[precision][0]
        assert recorded["positions"] > 100 and recorded["text"] is False
        logits = precast.load(path, variant=variant.name)(input_ids=ids)["logits"]
        found = kl_divergence(expected, logits).mean()
        assert 0 < found <= BOUNDS[precision][0]


def test_rounding_is_rounding() -> None:
    """8 bits are nearer to the reference than 4, by far, and neither is the reference."""
    path, model = artifacts()
    ids = np.random.default_rng(1).integers(3, 99, size=(2, 50))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    errors = [
        np.abs(precast.load(path, variant=name)(input_ids=ids)["logits"] - expected).max()
        for name in ("cpu-fp32", "cpu-int8", "cpu-int4")
    ]
    assert errors[0] < 1e-5 < errors[1] * 0.1
    assert errors[1] * 5 < errors[2]


def test_tied_weights_are_stored_once() -> None:
    path, _ = artifacts()
    artifact = Artifact.open(path)
    table = 99 * 64
    for precision, bits in (("int8", 8), ("int4", 4)):
        for variant in artifact.variants("decoder"):
            if variant.precision != precision:
                continue
            held = sum(artifact.manifest.files[name].size for name in variant.weights)
            layers = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 96)
            # Values and a scale (and zero point) for every 32 of them; small weights lie in the graph.
            assert held <= (table + layers) * (bits / 8 + 0.2) + 8 * 64 * 4


def test_verify_replays_low_precision() -> None:
    path, _ = artifacts()
    report = precast.verify(path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}
    assert len(report["variants"]) == 6


def test_generation_follows_the_precision() -> None:
    """Greedy tokens of int8 are those of fp32 wherever the reference is sure."""
    path, model = artifacts()
    ids = np.random.default_rng(2).integers(3, 99, size=(6, 9))
    full, low = (
        precast.load(path, variant=name).generate(ids, max_new_tokens=16, do_sample=False)
        for name in ("cpu-fp32", "cpu-int8")
    )
    for row, other in zip(full, low, strict=True):
        differing = np.flatnonzero(row != other)
        if len(differing):
            with torch.no_grad():
                logits = model(torch.tensor(row[None, : differing[0]])).logits[0, -1]
            best = logits.topk(2).values
            assert best[0] - best[1] < 0.05


def outliers(weight: torch.Tensor, size: float) -> None:
    """One weight of every block that much larger than the others."""
    weight[:, ::32] *= size


def test_a_model_that_rounding_ruins_is_refused(tmp_path: Path) -> None:
    source, model = checkpoint(tmp_path / "checkpoint", wild=True)
    with torch.no_grad():
        model.lm_head.weight *= 1e5  # next to its logits, 12 bits are few
    model.save_pretrained(source)
    with pytest.raises(ParityError, match=r"variant cpu-int8 is too far .*KL divergence .* is above 0\.001.*Export"):
        export_model(source, tmp_path / "out", precision="int8")
    assert not (tmp_path / "out").exists()


# --- caches in 8 bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "model_type"),
    [
        # Of rings and of caches without one, of 8 bits and of 4: each once, all of them where a family changes.
        ("int8", "gemma3_text"),
        ("int4", "llama"),
        pytest.param("int8", "llama", marks=wide("llama")),
        pytest.param("int4", "gemma3_text", marks=wide("gemma3_text")),
    ],
)
def test_a_cache_in_eight_bits(model_type: str, precision: str, tmp_path: Path) -> None:
    """Rings included. It is a variant of its own, a quarter as large a token, and near the one with a float32 cache."""
    config, model = oracle.upstream(model_type, CAUSAL_LM)
    oracle.calm(model)
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    path = export_model(source, tmp_path / "out", precision=precision, cache="int8")
    export_model(source, path, precision=precision, add=True)
    narrow, wide = f"cpu-{precision}-native-int8-cache", f"cpu-{precision}-native"
    artifact = Artifact.open(path)
    variants = {variant.name: variant for variant in artifact.variants("decoder")}
    assert set(variants) == {f"cpu-{precision}", narrow, wide}
    assert variants[narrow].state == {"ring": True, "int8": True}
    assert set(variants[narrow].weights) == set(variants[wide].weights)
    assert precast.load(path).variant.name == wide  # which of them runs is not changed by another being there
    # Measured where it is read: a text goes through in pieces. Another cache is another figure, and a near one.
    kl = {name: variants[name].parity["divergence"]["kl_mean"] for name in (narrow, wide)}
    assert variants[narrow].parity["divergence"] != variants[wide].parity["divergence"]
    assert abs(kl[narrow] - kl[wide]) < 1e-4 and kl[narrow] <= BOUNDS[precision][0]
    ids = np.random.default_rng(3).integers(3, 99, size=(3, 40))
    # Steps, a batch of rows and beams read what other calls have written.
    tokens = precast.load(path, variant=narrow).generate(ids[:, :9], max_new_tokens=20, do_sample=False)
    other = precast.load(path, variant=wide).generate(ids[:, :9], max_new_tokens=20, do_sample=False)
    assert (tokens == other).mean() > 0.7
    beams = precast.load(path, variant=narrow).generate(ids[:1, :9], max_new_tokens=20, num_beams=3, do_sample=False)
    assert beams.shape == (1, 29)
    report = precast.verify(path)
    assert {entry["status"] for entry in report["variants"].values()} == {"verified"}


def test_caches_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for arguments in ({"precision": "fp32", "cache": "int8"}, {"precision": "int8", "cache": "int4"}):
        with pytest.raises(
            InputError, match=r"cache 'int\d' is not available for .* There is the cache int8 for cpu and int8, int4"
        ):
            export_model(tmp_path, tmp_path / "out", **arguments)


# --- weights that 4 bits are too few for --------------------------------------------------------------------------


def widths(path: Path, variant: str) -> dict[str, set[int]]:
    """The bits of each kind of weight, and of what 8 bits leave of it."""
    found: dict[str, set[int]] = {}
    for node in graph_of(path, variant):
        if node.op_type == "MatMulNBits":
            kind = re.sub(r"\d+", "*", str(node.inputs[1].name).split(".int")[0])  # type: ignore[union-attr]
            kind = kind.removesuffix(".rest")
            found.setdefault(kind, set()).add(node.attributes["bits"].as_int())
    return found


def ruined(folder: Path, head: float, size: float) -> tuple[Path, int]:
    """A checkpoint of whose weights one kind has outliers, beside which rounding leaves little of the others."""
    source, model = checkpoint(folder, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight *= head
        for layer in model.model.layers:
            outliers(layer.self_attn.v_proj.weight, size)
    model.save_pretrained(source)
    return source, len(model.model.layers)


def held_to(path: Path, precision: str, wide: set[int], few: int, told: str, layers: int) -> None:
    """That kind has the bits ``wide``, every other one ``few``, and what was made is within its gate and says so."""
    found = widths(path, f"cpu-{precision}")
    assert found.pop("model.layers.*.self_attn.v_proj.weight") == wide
    assert len(found) == 7 and set(map(tuple, found.values())) == {(few,)}
    for variant in Artifact.open(path).variants("decoder"):
        assert variant.parity["divergence"]["kl_mean"] <= BOUNDS[precision][0]
        declined = next(step["declined"] for step in variant.recipe if step["pass"].startswith("QuantizeWeights"))
        assert declined[told] == layers  # beside which an embedding may be wide too


def test_weights_that_four_bits_ruin_have_eight(tmp_path: Path) -> None:
    source, layers = ruined(tmp_path / "checkpoint", 6, 40)
    path = export_model(source, tmp_path / "out", precision="int4")
    held_to(path, "int4", {8}, 4, "Linear: 4 bits are too few, it has 8", layers)


def test_weights_that_eight_bits_ruin_have_twelve(tmp_path: Path) -> None:
    """What was refused for one kind of weight passes: 8 bits, and 4 more for what they leave, of that kind alone."""
    source, layers = ruined(tmp_path / "checkpoint", 10, 400)
    path, told = tmp_path / "out", "Linear: 8 bits are too few, it has 12"
    done = CliRunner().invoke(app, ["export", str(source), str(path), "--precision", "int8"])
    assert done.exit_code == 0, done.output
    for name in ("cpu-int8", "cpu-int8-native"):
        assert f"{name}, beside eager PyTorch: mean KL divergence" in done.stdout
    assert done.stdout.count(f"{layers} x {told}") == 2
    assert "max abs error" not in done.stdout
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert "cpu-int8 beside the reference: mean KL divergence" in shown.stdout, shown.output
    held_to(path, "int8", {8, 4}, 8, told, layers)
    assert {entry["status"] for entry in precast.verify(path)["variants"].values()} == {"verified"}


def traced_of(source: Path) -> tuple[Part, dict[str, Any]]:
    opened = open_checkpoint(source)
    [part] = build(opened.config, opened.tensors).parts
    at = part.signature
    return part, {part.name: trace(part.module, at.example(), at.dynamic, at.outputs, part.name, at.bounds)}


def test_the_fewest_weights_are_wide_and_the_reference_is_left_as_it_was(tmp_path: Path) -> None:
    source, _ = checkpoint(tmp_path / "checkpoint", wild=True, tie_word_embeddings=True)
    part, traced = traced_of(source)
    before = {name: value.clone() for name, value in part.module.named_parameters(remove_duplicate=False)}
    texts = evaluation.evaluation_set([part], {}, "divergence")
    weights, (alone, wide) = sensitivity([part], traced, {part.name: QuantizeWeights(4)}, texts, "int4")
    assert evaluation.judged_reference(texts, [part]).shares("int4") == (0.0,)
    for name, value in part.module.named_parameters(remove_duplicate=False):
        assert torch.equal(value, before[name]), name
    assert wide and all(figure > 0 for figure in wide.values()) and wide.items() <= alone.items()
    assert set(weights) == {part.name} and set(weights[part.name]) <= set(traced[part.name].graph.initializers)
    marked = {re.sub(r"\d+", "*", name) for name in weights[part.name]}
    assert {kind.split(": ")[1] for kind in wide} == marked
    part, traced = traced_of(checkpoint(tmp_path / "calm", tie_word_embeddings=True)[0])
    texts = evaluation.evaluation_set([part], {}, "divergence")
    assert sensitivity([part], traced, {part.name: QuantizeWeights(4)}, texts, "int4") == ({}, ({}, {}))


def test_a_cache_of_nobody_is_refused(tmp_path: Path) -> None:
    config, model = oracle.upstream("bert", BASE)
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    with pytest.raises(
        InputError,
        match=r"cache 'int8' is made of components that remember something between calls only, and a bert for "
        r"feature-extraction has none\. Export it without",
    ):
        export_model(source, tmp_path / "out", precision="int8", cache="int8")


def test_an_encoder_in_front_of_a_decoder_is_rounded_and_has_no_cache(tmp_path: Path) -> None:
    """Each component by the recipe for its role: what remembers nothing is made as without the cache."""
    config, model = oracle.upstream("t5", SEQ2SEQ_LM)
    oracle.calm(model)
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    path = export_model(source, tmp_path / "out", precision="int8", cache="int8")
    export_model(source, path, precision="int8", add=True)
    narrow, wide = "cpu-int8-native-int8-cache", "cpu-int8-native"
    encoder, decoder = (Artifact.open(path).component(name).variants for name in ("encoder", "decoder"))
    assert encoder[narrow].fingerprint == encoder[wide].fingerprint
    assert decoder[narrow].fingerprint != decoder[wide].fingerprint
    assert encoder[narrow].state == {} and decoder[narrow].state["int8"]
    assert "precast.cpu::BlockLinear" in encoder[narrow].operators, encoder[narrow].operators
    assert [("divergence" in variant.parity) for variant in (encoder[narrow], decoder[narrow])] == [False, True]
    assert {entry["status"] for entry in precast.verify(path)["variants"].values()} == {"verified"}


def test_bounds_can_break() -> None:
    reference = np.random.default_rng(0).standard_normal((50, 9)).astype(np.float32)
    near = Divergence.over({"logits": [(reference, reference + 1e-4)]}, text=True, data="")
    assert near.mean < 1e-9 and near.top == 1.0
    far = Divergence.over({"logits": [(reference, reference[:, ::-1])]}, text=True, data="")
    with pytest.raises(ParityError, match=r"divergence .* is above 0.001; the most likely token is the same at"):
        far.gate("int8", "cpu-int8")
    lost = Divergence.over({"logits": [(reference, np.full_like(reference, np.nan))]}, text=False, data="")
    with pytest.raises(ParityError, match="mean KL divergence inf"):
        lost.gate("int4", "cpu-int4")
    Divergence(1e-3, 1.0, 0.99, 5, True, "").gate("int8", "cpu-int8")


def test_divergence_is_the_definition() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 7, 11)) * 4
    p, q = (torch.log_softmax(torch.tensor(x), -1) for x in (a, b))
    expected = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).numpy()
    np.testing.assert_allclose(kl_divergence(a, b), expected, rtol=1e-12)
