"""Summaries and differences of artifacts: complete, JSON, and in a fixed order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import artifact_samples as samples

from precast.runtime.artifact import Artifact, Manifest
from precast.runtime.inspection import diff, summary, worst_errors


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make(tmp_path_factory.mktemp("template") / "tiny")


def test_summary(template: Path) -> None:
    shown = summary(Artifact.open(template))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["tasks"] == {"feature-extraction": "encoder"}
    assert shown["size"] == {"total": 1086, "weights": 616, "files": 5}
    variant = shown["components"]["encoder"]["variants"]["cpu-fp32"]
    assert list(variant["operators"]) == ["MatMul", "SkipLayerNormalization"]
    assert variant["errors"] == {"cosine": 0.9999999, "max_abs": 1e-6}
    assert variant["size"] == {"graph": 250, "weights": 616}
    assert variant["recipe"] == ["fuse-attention", "fuse-norm"]
    assert "work" not in variant


def test_work(template: Path, tmp_path: Path) -> None:
    terms = {"flops": [{"coefficient": 3, "dimensions": {"batch": 1, "sequence": 2}}], "uncounted": ["Swirl"]}

    def edit(made: Manifest) -> Manifest:
        encoder = made.components["encoder"]
        variant = encoder.variants["cpu-fp32"]._replace(work=terms)
        return made._replace(components={"encoder": encoder._replace(variants={"cpu-fp32": variant})})

    other = Artifact.open(samples.make(tmp_path / "other", edit=edit))
    assert other.component("encoder").variants["cpu-fp32"].work == terms
    # At the longest text of the sample, 64 tokens.
    shown = summary(other)["components"]["encoder"]["variants"]["cpu-fp32"]["work"]
    assert shown["at"] == {"batch": 1, "sequence": 64}
    assert (shown["flops"], shown["bytes"], shown["uncounted"]) == (3 * 64 * 64, 0, ["Swirl"])
    changes = diff(Artifact.open(template), other)["components"]["changed"]["encoder"]["variants"]["changed"]
    assert changes["cpu-fp32"] == {
        "work": {"flops": [None, terms["flops"]], "uncounted": [None, ["Swirl"]]},
    }


def test_worst_errors() -> None:
    record = {
        "a": {"1x8": {"max_abs": 1e-6, "cosine": 0.9}},
        "b": {"max_abs": 3e-6, "cosine": 1, "gate": True, "x": "y"},
    }
    assert worst_errors(record) == {"cosine": 0.9, "max_abs": 3e-6}
    assert worst_errors({}) == {}


def test_equal_but_for_cost(template: Path, tmp_path: Path) -> None:
    other = samples.make(tmp_path / "other", edit=lambda made: made._replace(cost={"seconds": 2}))
    assert diff(Artifact.open(template), Artifact.open(template)) == {"same": True}
    assert diff(Artifact.open(template), Artifact.open(other)) == {"same": True, "cost": {"seconds": [1.5, 2]}}


def test_diff(template: Path, tmp_path: Path) -> None:
    def edit(made: Manifest) -> Manifest:
        encoder = made.components["encoder"]
        variant = encoder.variants["cpu-fp32"]._replace(
            operators={"MatMul": 10, "Gelu": 2},
            recipe=("fuse-norm",),
            parity={"last_hidden_state": {"1x8": {"max_abs": 2e-6, "cosine": 0.9999999}}},
            session={},
        )
        component = encoder._replace(variants={"cpu-fp32": variant}, outputs=())
        tasks = {**made.tasks, "fill-mask": {"component": "encoder"}}
        return made._replace(components={"encoder": component}, tasks=tasks, producer={"precast": "0.2.0"})

    other = samples.make(tmp_path / "other", seed=1, edit=edit)
    samples.make(other, mode="add", precision="int8", edit=lambda m: edit_outputs(m))
    changes = diff(Artifact.open(template), Artifact.open(other))
    assert json.loads(json.dumps(changes)) == changes
    assert changes["same"] is False
    assert changes["tasks"] == {"fill-mask.component": [None, "encoder"]}
    assert len(changes["files"]["added"]) == 3
    assert list(changes["files"]["changed"]) == ["encoder.cpu-fp32.onnx"]
    encoder = changes["components"]["changed"]["encoder"]
    assert encoder["outputs"] == {"removed": ["last_hidden_state"]}
    assert encoder["variants"]["added"] == ["cpu-int8"]
    variant = encoder["variants"]["changed"]["cpu-fp32"]
    assert variant["operators"] == {"Gelu": [None, 2], "MatMul": [12, 10], "SkipLayerNormalization": [4, None]}
    assert variant["recipe"] == [["fuse-attention", "fuse-norm"], ["fuse-norm"]]
    assert variant["errors"] == {"max_abs": [1e-6, 2e-6]}
    assert variant["parity"] == {"last_hidden_state.1x8.max_abs": [1e-6, 2e-6]}
    assert variant["session"] == {"graph_optimization_level": ["all", None]}
    assert list(changes) == list(
        diff(Artifact.open(shutil.copytree(template, tmp_path / "copy")), Artifact.open(other))
    )


def edit_outputs(made: Manifest) -> Manifest:
    return made._replace(components={"encoder": made.components["encoder"]._replace(outputs=())})
