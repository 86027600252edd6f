"""A new architecture, a new task and a new engine are one file each (the task a row too): added from outside here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import tiny_artifacts
from support.oracle import save_checkpoint, upstream

import precast
from precast.export import families
from precast.export.heads import SEQUENCE_CLASSIFICATION
from precast.runtime import backends, catalogue, tasks
from precast.runtime.artifact import Artifact, ArtifactWriter
from precast.runtime.backends import engines
from precast.runtime.catalogue import TaskFacts
from precast.runtime.errors import ProviderError


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a file beside those of a package."""

    def added(package: ModuleType, name: str, code: str) -> None:
        folder = tmp_path / package.__name__
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        for cached in caches:
            cached.cache_clear()

    caches = (families._files, families.model_types, engines.engines, engines._known)
    yield added
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_an_architecture_is_one_file(add: Any, tmp_path: Path) -> None:
    add(
        families,
        "toy_bert",
        '''
        """BERT, under another name, without token types."""
        from dataclasses import dataclass, replace

        from precast.export.families import bert
        from precast.export.spec import hf


        @dataclass(frozen=True, kw_only=True)
        class Spec(bert.Spec):
            type_vocab_size: int = hf(default=1, only=(1,))


        FAMILY = replace(bert.FAMILY, spec=Spec)
        ''',
    )
    assert "toy_bert" in families.model_types()
    config, model = upstream("bert", SEQUENCE_CLASSIFICATION, {"type_vocab_size": 1})
    source = save_checkpoint(tmp_path / "toy", {**config, "model_type": "toy-bert"}, model)
    path = precast.export_model(source, tmp_path / "artifact")
    served = precast.load(path)
    assert served.artifact.manifest.model_type == "toy-bert"
    assert served.input_names == ("input_ids", "attention_mask")
    assert served(input_ids=np.array([[1, 2, 3]])).logits.shape == (1, 2)


def test_a_task_is_a_row_and_one_file(add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    add(
        tasks,
        "toy_length",
        '''
        """How many labels a text has, which is the same for all."""
        from precast.runtime.tasks.text_classification import PIPELINE as CLASSIFIER


        class Lengths(CLASSIFIER):
            def __call__(self, inputs, **parameters):
                return len(super().__call__(inputs, top_k=None, **parameters))


        PIPELINE = Lengths
        ''',
    )
    row = TaskFacts("toy-length", aliases=("length",), served_by=("text-classification",))
    monkeypatch.setitem(catalogue.CATALOGUE, row.name, row)
    monkeypatch.setattr(catalogue, "_ROWS", (*catalogue._ROWS, row))
    monkeypatch.setattr(tasks, "TASKS", tasks._Tasks())
    for name in ("toy-length", "length"):
        assert tasks.pipeline(name, str(tiny_artifacts.artifact("text-classification")))("Bread is baked.") == 3


def test_an_engine_is_one_file(add: Any, tmp_path: Path) -> None:
    add(
        backends,
        "toy_engine",
        '''
        """ONNX Runtime, with every output doubled."""
        from precast.runtime.backends.onnxruntime import OnnxRuntime


        class Doubled(OnnxRuntime):
            def load(self, graph, **options):
                runner = super().load(graph, **options)
                run = runner.run
                runner.run = lambda inputs: [2 * output for output in run(inputs)]
                return runner


        def backend(provider):
            return Doubled(provider)
        ''',
    )
    assert engines.engines() == ("onnxruntime", "toy_engine")
    base = tiny_artifacts.artifact("feature-extraction")
    plain = precast.load(base, variant="cpu-fp32")
    manifest = Artifact.open(base).manifest
    component = manifest.components["encoder"]
    variant = component.variants["cpu-fp32"]._replace(name="toy", engine="toy_engine")
    with ArtifactWriter(tmp_path / "doubled") as writer:
        for name in manifest.files:
            if name.startswith("weights/"):
                writer.add_weight([(base / name).read_bytes()])
            else:
                writer.write_bytes(name, (base / name).read_bytes())
        writer.publish(manifest._replace(components={"encoder": component._replace(variants={"toy": variant})}))
    ids = np.array([[1, 2, 3]])
    doubled = precast.load(tmp_path / "doubled")(input_ids=ids).last_hidden_state
    np.testing.assert_array_equal(doubled, 2 * plain(input_ids=ids).last_hidden_state)


def test_an_engine_that_is_none_is_named() -> None:
    with pytest.raises(ProviderError, match=r"engine 'os' is not known to this precast\. .*Engines: onnxruntime"):
        engines.backend_for("os", "x")
    with pytest.raises(ProviderError, match="engine 'base' is not known"):
        engines.backend_for("base", "x")
