"""`python -m benchmarks greedy`: texts of an artifact and of llama.cpp from one file, without llama.cpp itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.gguf_samples import random_model, write_model
from typer.testing import CliRunner

from benchmarks import __main__ as program
from benchmarks import greedy
from precast.export.exporter import export_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_model(path, "llama", random_model("llama").state_dict(), kind="Q8_0", tokenizer=True)


@pytest.fixture(scope="module")
def artifact(file: Path) -> Path:
    return export_model(file, file.parent / "artifact")


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(program.app, ["greedy", *map(str, arguments)])


def test_a_file_as_floats_means_the_same(file: Path, tmp_path: Path) -> None:
    greedy.floats(file, tmp_path / "floats.gguf")
    before, after = gguf.GGUFReader(file), gguf.GGUFReader(tmp_path / "floats.gguf")
    own = {name for name in before.fields if name.startswith("GGUF.")}
    assert set(before.fields) - own == set(after.fields) - own - {"general.file_type"}
    for name in set(before.fields) - own:
        assert before.fields[name].contents() == after.fields[name].contents()
        assert before.fields[name].types == after.fields[name].types
    assert len(before.tensors) == len(after.tensors)
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (new.name, new.tensor_type) == (old.name, gguf.GGMLQuantizationType.F32)
        assert np.array_equal(gguf.quants.dequantize(old.data, old.tensor_type), new.data)


def test_where_texts_part_is_found_and_recorded(
    artifact: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import precast

    model = precast.load(artifact)

    def texts(folder: Path, starts: Any, new_tokens: int, threads: int, exact: bool) -> list[list[int]]:
        """Ours; from the file as it is, another token at step 3 of the second prompt."""
        kind = gguf.GGUFReader(folder / "model.gguf").get_tensor(0).tensor_type
        assert (kind == gguf.GGMLQuantizationType.F32) == exact
        made = [model.generate([start], do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
                [0][len(start) :].tolist() for start in starts]  # fmt: skip
        if not exact:
            logits = model(input_ids=np.array([starts[1] + made[1][:3]]))["logits"][0, -1]
            made[1][3] = int(np.argsort(logits)[-3])
        return made

    monkeypatch.setattr(greedy, "_texts", texts)
    done = call(artifact, file, "--prompts", 3, "--new-tokens", 5, "--json", tmp_path / "record.json")
    assert done.exit_code == 0, done.output
    first, second = json.loads((tmp_path / "record.json").read_text())["greedy"]
    assert (first["weights"], first["same"], second["weights"], second["same"]) == (
        "as in the file", 2, "as floats", 3
    )  # fmt: skip
    [parted] = first["parted"]
    assert (parted["prompt"], parted["step"], parted["rank"]) == (1, 3, 2) and parted["margin"] > 0
    assert second["parted"] == []
    assert "2 of 3" in done.stdout and "3 of 3" in done.stdout


def test_what_is_missing_is_said(artifact: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECAST_BENCH_HOME", str(tmp_path))
    done = call(artifact, file, "--prompts", 1, "--new-tokens", 2)
    assert done.exit_code == 1
    assert "python -m benchmarks setup llamacpp" in done.stderr
    done = call(artifact, file, "--prompts", 10_000, "--new-tokens", 2)
    assert done.exit_code == 1 and "10000 were asked for" in done.stderr
