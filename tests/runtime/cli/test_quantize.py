"""``precast quantize`` and ``precast report``: from the keyboard, on a terminal and for programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_artifacts
from typer.testing import CliRunner

import precast
from precast.calibration.corpus import PASSAGES
from precast.runtime.artifact import Artifact
from precast.runtime.artifact.manifest import Manifest, calibrated
from precast.runtime.cli.app import app
from precast.runtime.errors import ArtifactError
from precast.runtime.report import html


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with int4 that needed all ways, by a user's texts."""
    folder = tmp_path_factory.mktemp("quantized")
    path = folder / "artifact"
    shutil.copytree(tiny_artifacts.artifact("feature-extraction"), path)
    (folder / "texts.txt").write_text("\n".join(passage for passage, _ in PASSAGES), encoding="utf-8")
    done = CliRunner().invoke(
        app, ["quantize", str(path), "--data", str(folder / "texts.txt"), "--precision", "int4", "--budget", "0.02%"]
    )
    assert done.exit_code == 0, done.output
    for said in ("Tried", "each weight by itself", "more bits for some weights", "What rounding moves most"):
        assert said in done.stdout
    assert "of a budget of 0.0200%" in done.stdout and "half of them not measured on" in done.stdout
    assert "Time of a call beside fp32: cpu-int4" in done.stdout
    return path


def test_it_can_be_inspected_verified_and_loaded(quantized: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(quantized)])
    assert "cpu-int4 beside the reference: cosine 0.999" in shown.stdout, shown.output
    assert "cpu-int4 was quantised on 49 samples of texts.txt: 1 - cosine 0.0" in shown.stdout
    assert {entry["status"] for entry in precast.verify(quantized)["variants"].values()} == {"verified"}
    assert precast.load(quantized, variant="cpu-int4").encode("Some text.").shape


def test_for_programs(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    shutil.copytree(tiny_artifacts.artifact("feature-extraction"), path)
    refused = CliRunner().invoke(app, ["quantize", str(path), "--budget", "1e-10%", "--precision", "int4", "--json"])
    assert refused.exit_code == 1
    told = json.loads(refused.stdout)
    assert "no way to round" in told["error"] and [one["met"] for one in told["attempts"]] == [False] * 3
    assert told["parts"] and "precast: error: no way to round" in refused.stderr
    done = CliRunner().invoke(app, ["quantize", str(path), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["variants"][0] == "cpu-int8" and told["attempts"][-1]["met"]


@pytest.mark.parametrize("budget", ["half", "50%", "0", "-1%", "nan"])
def test_budgets_that_are_none(budget: str) -> None:
    path = tiny_artifacts.artifact("feature-extraction")
    done = CliRunner().invoke(app, ["quantize", str(path), "--budget", budget])
    assert done.exit_code in (1, 2)
    assert "budget" in done.stderr


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    shutil.copytree(tiny_artifacts.artifact("text-classification"), path)
    code = (
        "import sys, precast\n"
        f"precast.quantize({str(path)!r})\n"
        "print([name for name in ('torch', 'onnxscript', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_the_page(quantized: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(quantized), str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    for said in (
        "cpu-int4",
        "texts.txt",
        "rounding makes up for itself",
        "refused",
        "passes",
        "more bits",
        "SHA-256 of",
    ):
        assert said in text
    assert "<script" not in text and "http:" not in text and "https:" not in text
    again = CliRunner().invoke(app, ["report", str(quantized), str(page)])
    assert again.exit_code == 1 and "is there already" in again.stderr
    assert CliRunner().invoke(app, ["report", str(quantized), str(page), "--overwrite"]).exit_code == 0
    nowhere = CliRunner().invoke(app, ["report", str(quantized), str(tmp_path / "none" / "page.html")])
    assert nowhere.exit_code == 1 and "a folder that exists" in nowhere.stderr


def test_a_page_of_an_artifact_that_has_none_of_it() -> None:
    assert "No variant was made of this artifact by" in html(Artifact.open(tiny_artifacts.artifact("fill-mask")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "much"}, r"calibration\.cpu-int4\.loss must be a number, 0 or more, got 'much'"),
        ({"budget": True}, r"calibration\.cpu-int4\.budget must be a number or null, got True"),
        ({"data": {"name": "", "samples": 1, "sha256": None}}, r"data\.name must be a non-empty string"),
        ({"attempts": [{"method": "rounded", "met": 1, "loss": 0.0}]}, r"attempts\[0\]\.met must be true or false"),
        ({"parts": {"a": {"alone": -1.0}}}, r"parts\.a\.alone must be a number, 0 or more, got -1\.0"),
        ({"parts": []}, r"parts must be an object"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_a_manifest_says_is_read_through_types(quantized: Path, change: dict[str, Any], message: str) -> None:
    document = json.loads((quantized / "precast.json").read_text(encoding="utf-8"))
    assert calibrated(Manifest.from_json(document))["cpu-int4"].data == "texts.txt"
    document["calibration"]["cpu-int4"].update(change)
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_json(document)


def test_names_in_a_page_are_text(quantized: Path) -> None:
    artifact = Artifact.open(quantized)
    assert artifact.manifest.calibration is not None
    wild = {
        name: {**said, "data": {**said["data"], "name": "<b>&"}} for name, said in artifact.manifest.calibration.items()
    }
    artifact.__dict__["manifest"] = artifact.manifest._replace(calibration=wild)
    assert "&lt;b&gt;&amp;" in html(artifact) and "<b>&" not in html(artifact)
