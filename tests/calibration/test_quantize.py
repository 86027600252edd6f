"""quantize(): few bits for an artifact, from its own graphs and a user's data; nothing where these do not let it."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import oracle, tiny_artifacts
from support.trained_classifier import classifier
from support.workers import once

import precast
from precast.calibration.corpus import PASSAGES
from precast.calibration.quantize import MOST_LOST, BudgetError, quantize
from precast.calibration.trial import Trial
from precast.export.exporter import export_model
from precast.export.heads import BASE, CAUSAL_LM, SEQ2SEQ_LM, Head
from precast.runtime import kernels
from precast.runtime.artifact import Artifact
from precast.runtime.backends.onnxruntime import OnnxRuntime
from precast.runtime.errors import ArtifactError, InputError, OutputExistsError

TEXTS = [" ".join(passage.split()[start : start + 12]) for passage, _ in PASSAGES for start in (0, 12)]


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def exported(folder: Path, model_type: str, head: Head, dtype: torch.dtype | None = None, **overrides: Any) -> Path:
    """The artifact of a calm tiny checkpoint, which stands beside it: a copy of what is exported once."""

    def make(made: Path) -> None:
        config, model = oracle.upstream(model_type, head, overrides)
        oracle.calm(model)
        source = oracle.save_checkpoint(made / "checkpoint", config, model if dtype is None else model.to(dtype))
        export_model(source, made / "artifact")

    name = "-".join(
        ["calm", model_type, head.task, str(dtype), *(f"{key}-{value}" for key, value in overrides.items())]
    )
    shutil.copytree(once(name, make), folder, dirs_exist_ok=True)
    return folder / "artifact"


def variants_of(path: Path) -> dict[str, Any]:
    return {name: entry["status"] for name, entry in precast.verify(path)["variants"].items()}


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize(
    ("model_type", "head", "dtype", "overrides"),
    [
        ("bert", BASE, torch.float16, {}),  # weights in 16 bits, in panels
        ("llama", CAUSAL_LM, torch.bfloat16, {"tie_word_embeddings": True}),  # a table that a product reads too
        ("gpt2", CAUSAL_LM, None, {}),
        ("t5", SEQ2SEQ_LM, torch.bfloat16, {}),  # two components
        ("mamba", CAUSAL_LM, None, {}),  # states that are no cache
    ],
    ids=lambda value: str(value)[:12],
)
def test_every_kind_of_model(
    precision: str, model_type: str, head: Head, dtype: torch.dtype | None, overrides: dict[str, Any], tmp_path: Path
) -> None:
    path = exported(tmp_path, model_type, head, dtype, **overrides)
    before = Artifact.open(path)
    made = quantize(path, precision=precision)
    after = Artifact.open(path)
    assert made["variants"] == [f"cpu-{precision}", *([f"cpu-{precision}-native"] if kernels.available() else [])]
    for name, component in before.components.items():
        for variant in component.variants.values():
            assert after.components[name].variants[variant.name]._replace(producer={}) == variant._replace(producer={})
    assert set(variants_of(path).values()) == {"verified"}
    for variant in made["variants"]:
        told = after.manifest.calibration[variant]  # type: ignore[index]
        assert told["data"]["name"] == "made up" and told["data"]["sha256"] is None
        assert told["method"] == made["method"] and told["attempts"][-1]["met"]
        judged = after.choose_variant(after.component_for(None).name, variant=variant).parity
        assert {"divergence", "cosine"} & set(judged)
    assert after.manifest.cost["seconds"] == before.manifest.cost["seconds"]
    assert set(made["speed"]) == {made["variants"][-1]}


def test_it_is_what_an_export_of_the_checkpoint_gives(tmp_path: Path) -> None:
    """Weights are rounded to the same integers, whichever way the graph came by them."""
    path = exported(tmp_path, "bert", BASE)
    quantize(path, precision="int8")
    direct = export_model(tmp_path / "checkpoint", tmp_path / "direct", precision="int8")
    for variant in Artifact.open(direct).variants("encoder"):
        ours = Artifact.open(path).choose_variant("encoder", variant=variant.name)
        assert set(ours.weights) == set(variant.weights)
        assert ours.operators == variant.operators


def test_what_has_nothing_to_round_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path, "resnet", BASE)
    with pytest.raises(InputError, match=r"has no weights of linear layers or token embeddings, .*what fp32 is"):
        quantize(path)


@pytest.mark.parametrize("model_type", ["vit", "clip"])
def test_pictures_that_are_made_up(model_type: str, tmp_path: Path) -> None:
    path = copied(tiny_artifacts.pictures(model_type), tmp_path / "artifact")
    quantize(path)
    assert set(variants_of(path).values()) == {"verified"}


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.pictures("vit"), tmp_path / "artifact")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(9):
        pixels = rng.integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    made = quantize(path, tmp_path / "photos")
    assert made["data"]["name"] == "photos" and made["data"]["samples"] == 9
    assert made["metric"] == "agreement" and made["loss"] <= MOST_LOST
    with pytest.raises(InputError, match=r"data: sample 1: .*Once upon"):
        quantize(copied(tiny_artifacts.pictures("vit"), tmp_path / "second"), ["Once upon a time"] * 8)


def labelled(folder: Path, path: Path) -> Path:
    """A table of texts, and the label that the model gives each; what it wavers about is left out."""
    scores = precast.pipeline("text-classification", path)(TEXTS, top_k=None)
    rows = [
        (number, text, first["label"])
        for number, (text, (first, second, *_)) in enumerate(zip(TEXTS, scores, strict=True))
        if first["score"] - second["score"] > 0.05
    ]
    assert len(rows) > 20
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["number", "text", "right"])
        table.writerows(rows)
    return folder / "texts.csv"


def test_labels_are_counted_by_the_tasks_own_pipeline(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("text-classification"), tmp_path / "artifact")
    data = labelled(tmp_path, path)
    made = quantize(path, data, label="right", budget=0.005)
    assert made["metric"] == "accuracy" and made["attempts"][-1]["score"] >= 0.995 and made["loss"] <= 0.005
    assert made["data"]["name"] == "texts.csv" and len(made["data"]["sha256"]) == 64
    again = copied(tiny_artifacts.artifact("text-classification"), tmp_path / "again")
    assert quantize(again, data, label="right", score="f1")["metric"] == "f1"
    with pytest.raises(InputError, match=r"the label 7; the model's are contradiction, neutral, entailment, or"):
        quantize(
            copied(tiny_artifacts.artifact("text-classification"), tmp_path / "wrong"),
            [{"text": text, "right": 7} for text in TEXTS],
            label="right",
        )


def test_pairs_with_a_number_each(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    model = precast.load(path)
    pairs = list(itertools.pairwise(TEXTS))
    near = model.similarity_pairwise(model.encode([one for one, _ in pairs]), model.encode([two for _, two in pairs]))
    rows = [
        {"sentence1": one, "sentence2": two, "score": float(value)}
        for (one, two), value in zip(pairs, near, strict=True)
    ]
    made = quantize(path, rows, label="score")
    assert made["metric"] == "spearman" and made["attempts"][-1]["score"] > 0.99


def loud(folder: Path, factor: float) -> Path:
    """A GPT-2 in which a channel of every norm is ``factor`` times as loud, and what reads it as much quieter: the same
    answers."""
    config, model = oracle.upstream("gpt2", CAUSAL_LM, {"n_embd": 64})
    oracle.calm(model)
    with torch.no_grad():
        for block in model.transformer.h:
            for norm, reader in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                norm.weight[5] *= factor
                norm.bias[5] *= factor
                reader.weight[5] /= factor
    return export_model(oracle.save_checkpoint(folder / "checkpoint", config, model), folder / "artifact")


def test_a_loud_channel_is_made_as_quiet_as_the_others(tmp_path: Path) -> None:
    """https://arxiv.org/abs/2211.10438: rounded by itself the channel's weights are lost beside their neighbours'."""
    lost = quantize(loud(tmp_path / "quiet", 1.0), precision="int8")["loss"]
    path = loud(tmp_path / "loud", 100.0)
    budget = 2 * lost
    made = quantize(path, precision="int8", budget=budget)
    assert [(one["method"], one["met"]) for one in made["attempts"]] == [("rounded", False), ("smoothed", True)]
    assert made["attempts"][0]["loss"] > budget > made["loss"]
    assert set(variants_of(path).values()) == {"verified"}
    behind = {kind: said for kind, said in made["parts"].items() if said["outlier"] > 50}
    assert {kind.split(".")[-2] for kind in behind} == {"q_proj", "k_proj", "v_proj", "up_proj"}
    for said in behind.values():
        assert 100 * said["error"] < said["error_rounded"]


def test_of_few_bits_those_that_need_them_get_more(tmp_path: Path) -> None:
    config, model = oracle.upstream("bert", BASE, {"hidden_size": 64, "intermediate_size": 128})
    source = oracle.save_checkpoint(tmp_path / "checkpoint", config, model)
    path = export_model(source, tmp_path / "artifact")
    made = quantize(path, precision="int4", budget=5e-4)
    assert [one["method"] for one in made["attempts"]] == ["rounded", "feedback", "mixed"]
    losses = [one["loss"] for one in made["attempts"]]
    assert losses == sorted(losses, reverse=True) and losses[0] > 5e-4 >= made["loss"]
    wide = made["attempts"][-1]["wider"]
    assert wide and wide == sorted(kind for kind, said in made["parts"].items() if said.get("wider"))
    assert all(said["error"] <= said["error_rounded"] for said in made["parts"].values() if "error" in said)
    assert set(variants_of(path).values()) == {"verified"}


def test_what_no_way_reaches_is_refused_and_nothing_is_published(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    before = (path / "precast.json").read_bytes()
    with pytest.raises(BudgetError, match=r"no way to round .* to int4 meets the budget of 0\.0000%") as caught:
        quantize(path, precision="int4", budget=1e-12)
    assert [one.method for one in caught.value.attempts] == ["rounded", "feedback", "mixed"]
    assert not any(one.met for one in caught.value.attempts) and caught.value.parts
    assert (path / "precast.json").read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("last", [1, 3, 5])
def test_an_interrupt_leaves_the_artifact_as_it_was(last: int, tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    seen: list[str] = []

    def interrupted(stage: str) -> None:
        seen.append(stage)
        if len(seen) == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(path, progress=interrupted)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert sorted(path.parent.iterdir()) == [path]


def test_what_is_no_artifact_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere") as caught:
        quantize(tmp_path / "nowhere")
    assert "--add" not in str(caught.value)


def test_a_variant_is_not_replaced(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    quantize(path)
    with pytest.raises(OutputExistsError, match=r"already holds cpu-int8.*which quantize does not replace"):
        quantize(path)
    direct = export_model(tiny_artifacts.checkpoint("feature-extraction"), tmp_path / "direct", precision="int8")
    with pytest.raises(ArtifactError, match=r"has no fp32 variant for cpu that runs here, which quantize starts"):
        quantize(direct, precision="int4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, r"precision must be one of int8, int4; received 'fp16'"),
        ({"budget": 0}, r"budget must be above 0 and at most 0\.01 .*received 0"),
        ({"budget": float("nan")}, r"budget must be above 0 .*received nan"),
        ({"budget": 0.02}, r"what loses more is not shipped; received 0\.02"),
        ({"budget": True}, r"budget must be above 0 .*received True"),
        ({"label": "right"}, r"column, label and score say how data is read: give data too"),
        ({"data": ["text"] * 8, "score": "f1"}, r"score 'f1' counts labels: say which column holds them"),
        ({"data": ["text"] * 7}, r"data must hold 8 samples or more.*samples has 7"),
        ({"data": 5}, r"data must be the path of a file or folder, or a list of inputs; received 5"),
        ({"data": ["text"] * 9, "samples": 1}, r"samples must be an integer of at least 8; received 1"),
        ({"data": [1] * 8}, r"quantize takes a text \(str\) or a list of texts; received int: 1"),
        ({"data": [{"text": "a", "x": "b"}] * 8, "label": "x", "score": "f1"}, r"score must be one of spearman;"),
        ({"data": [{"input_ids": np.array([1, 2, 10**6])}] * 8}, r"1000000"),
        ({"data": [{"pixels": np.array([1.0, 2.0])}] * 8}, r"sample 1 has pixels, and the model takes input_ids"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_bad_input(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    before = (path / "precast.json").read_bytes()
    with pytest.raises(InputError, match=message):
        quantize(path, **options)
    assert (path / "precast.json").read_bytes() == before


def test_a_trial_computes_what_the_variant_does(tmp_path: Path) -> None:
    """Its weights are raised, and spelled again: with none exchanged, the same bytes; with one exchanged, others."""
    path = exported(tmp_path, "bert", BASE, torch.float16)
    artifact = Artifact.open(path)
    component, variant = artifact.component_for(None), artifact.choose_variant("encoder", variant="cpu-fp32")
    trial = Trial(artifact, component, variant, tmp_path)
    runner = OnnxRuntime("CPUExecutionProvider").load(
        Path(artifact.file(variant.graph)), session=variant.session, threads=None
    )
    shape = (2, 5)
    inputs = {port.name: np.ones(shape, np.int64) for port in component.inputs}
    expected = runner.run(inputs)
    for ours, theirs in zip(trial.loaded({}).runner.run(inputs), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name, tensor in trial.weights.items():
        doubled = trial.loaded({name: lambda tensor=tensor: 2 * tensor.numpy()}).runner.run(inputs)
        assert any(not np.array_equal(ours, theirs) for ours, theirs in zip(doubled, expected, strict=True)), name
    assert not list(tmp_path.glob("*.onnx"))


def test_a_graph_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    path = copied(tiny_artifacts.artifact("feature-extraction"), tmp_path / "artifact")
    manifest = json.loads((path / "precast.json").read_text())
    assert manifest["calibration"] is None
    artifact = Artifact.open(path)
    from precast.calibration.opened import opened

    variant = artifact.choose_variant("encoder", variant="cpu-fp32")
    with pytest.raises(ArtifactError, match=r"which is no weight of it"):
        opened(artifact, variant._replace(weights=()))


@pytest.fixture(scope="module")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source, unseen = classifier()
    return export_model(source, tmp_path_factory.mktemp("documentation") / "artifact"), unseen


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_classifier_of_real_texts_is_right_as_often(
    precision: str, documentation: tuple[Path, Path], tmp_path: Path
) -> None:
    path, unseen = copied(documentation[0], tmp_path / "artifact"), documentation[1]
    rows = [json.loads(line) for line in unseen.read_text(encoding="utf-8").splitlines()]
    made = quantize(path, unseen, label="part", precision=precision, budget=0.005)
    assert made["metric"] == "accuracy"
    texts = [row["text"] for row in rows]
    answers = {
        variant: precast.pipeline("text-classification", path, variant=variant)(texts, truncation=True, top_k=2)
        for variant in ("cpu-fp32", *made["variants"])
    }
    # Where float32 itself all but wavers, rounding decides nothing that it knew.
    sure = [first["score"] - second["score"] > 0.1 for first, second in answers["cpu-fp32"]]
    assert sum(sure) > 0.75 * len(rows)
    right = {
        variant: np.mean(
            [one[0]["label"] == row["part"] for one, row in itertools.compress(zip(found, rows, strict=True), sure)]
        )
        for variant, found in answers.items()
    }
    assert right["cpu-fp32"] > 0.65, "it has learnt what it was taught; chance is a third"
    for variant in made["variants"]:
        assert right[variant] >= 0.995 * right["cpu-fp32"], right
