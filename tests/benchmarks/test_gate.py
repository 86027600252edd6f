"""A slice of the gate's evidence: right models pass, every kind of fault is refused once, and a run goes on from its
journal. `python -m benchmarks gate` makes all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as program
from benchmarks import gate
from benchmarks.planted_faults import FAULTS
from benchmarks.right_models import STRAINS, Kind, Traced, kinds
from precast.export import parity

# Between them these have a place for every fault; each is planted in the first that has one.
PLANTED = (
    "bert text-classification tiny",
    "gemma3_text text-generation variation 1",
    "modernbert feature-extraction tiny",
    "t5 text2text-generation tiny",
    "mixtral text-generation tiny",
    "bloom text-generation tiny",
    "mamba text-generation tiny",
    "clip zero-shot-image-classification tiny",
)
KINDS = {str(kind): kind for kind in kinds()}


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers enough of every output, of few inputs."""
    whole = Traced.cases

    def cases(self: Traced) -> list[Any]:
        if self.parts[-1].signature.states:
            chains = ((2, (9, 1, 1), "ragged"), (1, (64, 1), "full"))
            return parity.generation_cases(self.parts, chains=chains, longest=80, least=4096)
        return [case for case in whole(self) if case.inputs.get("input_ids", np.empty(0)).size <= 1024]

    monkeypatch.setattr(Traced, "cases", cases)


def test_every_fault_is_refused() -> None:
    """Whatever moves the result by more than three of eager's largest errors: each in the first model where it does,
    which is another where a processor's sums have other errors; and most of them do in one."""
    left, planted = list(FAULTS), set()
    for name in PLANTED:
        for entry in gate.faults_of(Traced.of(KINDS[name]), tuple(left)):
            assert entry.get("built", True), entry
            assert entry["refused"] or entry["moved"] <= 3, entry
            planted.add(entry["fault"])
            if entry["moved"] > 3:
                left.remove(entry["fault"])
    assert planted == set(FAULTS)
    # All of them where this was written; a kernel with larger errors of its own may hide one or two.
    assert len(FAULTS) - len(left) >= 0.95 * len(FAULTS) >= 40, left


def test_right_models_pass() -> None:
    """Drawn anew under one trace, plain and strained, with every instruction set there is."""
    found = list(gate.models_of(Traced.of(KINDS["llama text-generation tiny"]), [1], STRAINS))
    assert [entry for entry in found if entry["broken"]] == []
    assert {entry["strain"] for entry in found} == set(STRAINS)
    assert any(entry["strained"] for entry in found)


def test_a_run_goes_on_from_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is not done again; the record has the machine, the constants, counts and distributions."""
    drawn: list[str] = []

    def models(traced: Any, seeds: list[int], strains: tuple[str, ...]) -> Any:
        for seed in seeds:
            drawn.append(f"{traced} {seed}")
            ratios = {"logits": {"rms": 1.1, "largest": 1.2, "answer": 1.3}}
            what = {"kind": str(traced), "strain": strains[0], "seed": seed, "recipe": "cpu-fp32", "isa": None}
            yield {**what, "broken": [], "strained": False, "shares": ratios, "ratios": ratios}

    monkeypatch.setattr(gate, "models_of", models)
    monkeypatch.setattr(gate, "FAULTY", ())
    monkeypatch.setattr(Traced, "of", staticmethod(lambda kind: kind))
    arguments = ["gate", "--kind", "bert ", "--journal", str(tmp_path / "j"), "--json", str(tmp_path / "r.json")]
    first = CliRunner().invoke(program.app, [*arguments, "--models", "5"])
    assert first.exit_code == 0, first.output
    assert "0 of 8 right models refused, of 1 families." in first.output
    again = CliRunner().invoke(program.app, [*arguments, "--models", "9"])
    assert again.exit_code == 0 and "0 of 12 right models" in again.output
    assert len(set(drawn)) == len(drawn) == 12
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["gate"]["right"]["models"] == 12 and written["gate"]["constants"].keys() == {"calm", "strained"}
    assert written["gate"]["right"]["ratios"]["plain"]["largest"]["p99"] == 1.2
    assert written["machine"] and written["gate"]["faults"] == {}


def test_what_was_missed_is_an_exit_status(tmp_path: Path) -> None:
    """A fault that moves the result and passes, and more than one right model in a thousand refused."""
    fault = {
        "kind": "bert",
        "strain": "plain",
        "fault": "no mask",
        "moved": 4.0,
        "refused": False,
        "shares": {"rms": 0.5, "largest": 0.9},
    }
    right = {"strain": "plain", "seed": 1, "recipe": "cpu-fp32", "isa": None, "strained": False, "ratios": {}}
    refused = [{**right, "kind": f"bert {index}", "shares": {}, "broken": ["logits: far"]} for index in range(2)]
    for entries, message in (([fault], "no mask"), (refused, "2 of 2 right models refused")):
        journal = tmp_path / f"{len(entries)}.jsonl"
        journal.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        found = CliRunner().invoke(program.app, ["gate", "--models", "0", "--no-faults", "--journal", str(journal)])
        assert found.exit_code == 1 and message in found.output


def test_kinds_have_their_names() -> None:
    assert set(gate.FAULTY) <= set(KINDS) and set(PLANTED) <= set(KINDS)
    assert all(isinstance(kind, Kind) for kind in KINDS.values())
