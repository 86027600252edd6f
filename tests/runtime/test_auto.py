"""The Auto classes: artifacts opened, checkpoints exported once into the cache, and found again without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import tiny_artifacts
from support.hub_server import HubServer, Repo

import precast
from precast.export.families import find_family
from precast.export.reference import head_for
from precast.runtime import auto, cache
from precast.runtime.errors import (
    ArtifactError,
    CheckpointError,
    DependencyError,
    InputError,
    OfflineError,
    OutputExistsError,
    UnsupportedTaskError,
)

TEXTS = ["Hello world, my friend.", "It was the worst of times"]
CLASSIFIER = precast.AutoModelForSequenceClassification


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The exports that were asked for; each gives a copy of an artifact made once, with the source's true digests."""
    made: list[dict[str, Any]] = []

    def export(source: Any, out: Path, **options: Any) -> Path:
        made.append({"source": os.fspath(source), "out": out, **options})
        time.sleep(0.02)  # so that threads meet
        if out.exists():
            if not options["overwrite"]:
                raise OutputExistsError(f"{out} already holds an artifact.")
            shutil.rmtree(out)
        staged = out.with_name(f".{out.name}.{threading.get_ident()}")
        shutil.copytree(tiny_artifacts.artifact(options["task"]), staged)
        try:
            staged.rename(out)
        except OSError:
            shutil.rmtree(staged)
            raise OutputExistsError(f"{out} already holds an artifact.") from None
        return out

    monkeypatch.setattr(auto, "load_exporter", lambda source: export)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_artifacts.checkpoint("text-classification"), tmp_path / "checkpoint"))


def entries(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir() if not path.name.startswith("."))


# -- artifacts --------------------------------------------------------------------------------------------------------


def test_the_three_line_habit_gives_what_upstream_gives() -> None:
    folder, source = tiny_artifacts.artifact("text-classification"), tiny_artifacts.checkpoint("text-classification")
    tokenizer = precast.AutoTokenizer.from_pretrained(folder)
    model = CLASSIFIER.from_pretrained(folder, threads=1)
    outputs = model(**tokenizer(TEXTS, padding=True, return_tensors="np"))
    upstream = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        expected = upstream(
            **transformers.AutoTokenizer.from_pretrained(source)(TEXTS, padding=True, return_tensors="pt")
        )
    np.testing.assert_allclose(outputs.logits, expected.logits.numpy(), atol=1e-5)
    assert model.config["id2label"]["2"] == upstream.config.id2label[2] == "entailment"
    # A checkpoint's tokenizer is the one its artifact would have.
    assert dict(precast.AutoTokenizer.from_pretrained(source)(TEXTS)) == dict(tokenizer(TEXTS))


def test_the_class_must_fit_the_artifact() -> None:
    folder = tiny_artifacts.artifact("text-classification")
    with pytest.raises(UnsupportedTaskError) as caught:
        precast.AutoModelForQuestionAnswering.from_pretrained(folder)
    assert str(caught.value) == (
        f"AutoModelForQuestionAnswering needs an artifact exported for question-answering; {str(folder)!r} serves: "
        "text-classification, zero-shot-classification. Use AutoModelForSequenceClassification, or export again with "
        "--task question-answering."
    )
    assert len({kind.task for kind in auto._CLASSES}) == len(auto._CLASSES) == 34


def test_which_variant() -> None:
    folder = tiny_artifacts.artifact("text-classification")
    assert CLASSIFIER.from_pretrained(folder, precision="fp32").variant.precision == "fp32"
    assert CLASSIFIER.from_pretrained(folder, variant="cpu-fp32").variant.name == "cpu-fp32"
    with pytest.raises(ArtifactError, match="precision 'int8'"):
        CLASSIFIER.from_pretrained(folder, precision="int8")
    with pytest.raises(ArtifactError, match="target 'cuda'"):
        CLASSIFIER.from_pretrained(folder, device="cuda:0")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("no/such/folder", {}, "There is no folder 'no/such/folder', and it is no Hub id"),
        ("FILE", {}, "is a folder, or a .gguf file; "),
        ("FOLDER", {"revision": "main"}, "A revision belongs to a Hub id"),
        ("FOLDER", {"torch_dtype": "float16"}, "Precision is chosen at export"),
        ("FOLDER", {"trust_remote_code": True}, "never executed"),
        ("FOLDER", {"thread": 2}, "Closest: threads"),
    ],
)
def test_bad_arguments(tmp_path: Path, source: str, options: dict[str, Any], message: str) -> None:
    folder = tiny_artifacts.artifact("text-classification")
    given = {"FOLDER": folder, "FILE": folder / "precast.json"}.get(source, source)
    with pytest.raises(InputError, match=message):
        CLASSIFIER.from_pretrained(given, **options)
    if "thread" not in options:
        with pytest.raises(InputError, match=message):
            precast.AutoTokenizer.from_pretrained(given, **options)
    for kind in (CLASSIFIER, precast.AutoTokenizer, precast.AutoImageProcessor):
        with pytest.raises(InputError, match=r"is made by .*from_pretrained"):
            kind()


def test_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json, so it is neither"):
        precast.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"has no tokenizer files .* It holds: config\.json"):
        precast.AutoTokenizer.from_pretrained(tmp_path)


def test_a_changed_tokenizer_of_an_artifact_is_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_artifacts.artifact("text-classification"), tmp_path / "copy"))
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"hello", b"hallo"))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        precast.AutoTokenizer.from_pretrained(copy)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_exported_once_and_found_again_without_torch(home: Path, checkpoint: Path) -> None:
    stages: list[str] = []
    first = CLASSIFIER.from_pretrained(checkpoint, progress=stages.append)
    assert "publishing" in stages
    assert first.path.parent == home / "models"
    code = (
        "import json, sys\nfrom precast import AutoModelForSequenceClassification, AutoTokenizer\n"
        f"source = {str(checkpoint)!r}\n"
        "model = AutoModelForSequenceClassification.from_pretrained(source)\n"
        "tokenizer = AutoTokenizer.from_pretrained(source)\n"
        f"logits = model(**tokenizer({TEXTS!r}, padding=True, return_tensors='np')).logits\n"
        "print(json.dumps([logits.tolist(), sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    logits, modules = json.loads(done.stdout)
    assert not {"torch", "onnx", "onnx_ir", "onnxscript", "transformers"} & set(modules)
    tokenizer = precast.AutoTokenizer.from_pretrained(checkpoint)
    np.testing.assert_array_equal(
        first(**tokenizer(TEXTS, padding=True, return_tensors="np")).logits, np.array(logits, np.float32)
    )
    assert len(entries(home)) == 1


def test_what_an_entry_depends_on(
    home: Path, checkpoint: Path, exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count() -> int:
        CLASSIFIER.from_pretrained(checkpoint)
        return len(exports)

    assert (count(), count()) == (1, 1)
    monkeypatch.setattr(auto, "_same_source", lambda *_: None)  # the copies' manifests name the first source
    assert exports[0] == {
        "source": str(checkpoint),
        "out": home / "models" / entries(home)[0],
        "task": "text-classification",
        "precision": "fp32",
        "target": "cpu",
        "overwrite": False,
        "revision": None,
        "token": None,
        "progress": None,
    }
    assert entries(home)[0].startswith("checkpoint-text-classification-cpu-fp32-")
    precast.AutoModel.from_pretrained(checkpoint)
    assert (len(exports), exports[1]["task"]) == (2, "feature-extraction")
    (checkpoint / "README.md").write_text("No part of an export.")
    assert count() == 2
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    assert count() == 3
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    assert count() == 4
    monkeypatch.setattr(cache, "version", lambda name: "9.9")
    assert (count(), count()) == (5, 5)
    available = cache.kernels.available()
    monkeypatch.setattr(cache.kernels, "available", lambda: not available)
    assert (count(), count()) == (6, 6)


def test_a_damaged_entry_is_made_anew(home: Path, checkpoint: Path, exports: list[dict[str, Any]]) -> None:
    model = CLASSIFIER.from_pretrained(checkpoint)
    graph = model.path / "encoder.cpu-fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    CLASSIFIER.from_pretrained(checkpoint)
    assert [made["overwrite"] for made in exports] == [False, True]
    assert graph.stat().st_size == model.artifact.manifest.files["encoder.cpu-fp32.onnx"].size


@pytest.mark.parametrize("lock", [True, False])
def test_many_at_once_make_one(
    home: Path, checkpoint: Path, exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, lock: bool
) -> None:
    tiny_artifacts.artifact("text-classification")
    if not lock:  # as on a system that has none: whoever comes second takes what is there
        monkeypatch.setattr(auto, "locked", lambda entry: nullcontext(entry.parent.mkdir(parents=True, exist_ok=True)))
    found: list[Any] = []

    def load() -> None:
        try:
            found.append(CLASSIFIER.from_pretrained(checkpoint).path)
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(str, found))) == 1, found
    assert len(exports) == 1 if lock else len(exports) >= 1
    assert (found[0] / "precast.json").is_file()


def test_a_checkpoint_that_changes_meanwhile_is_not_kept(
    home: Path, checkpoint: Path, exports: list[dict[str, Any]]
) -> None:
    digests = auto.checkpoint_digests
    try:
        auto.checkpoint_digests = lambda *given: {**digests(*given), "model.safetensors": "0" * 64}
        with pytest.raises(ArtifactError, match=r"changed while it was exported: model\.safetensors"):
            CLASSIFIER.from_pretrained(checkpoint)
    finally:
        auto.checkpoint_digests = digests
    assert entries(home) == []


def test_without_the_extra_it_says_how_to_get_it(home: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = auto.importlib.util.find_spec
    monkeypatch.setattr(
        auto.importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest)
    )
    with pytest.raises(DependencyError, match=r'needs torch, not installed here.*pip install "precast\[export\]"'):
        CLASSIFIER.from_pretrained(checkpoint)


def test_a_failed_export_leaves_nothing_and_says_why(home: Path, checkpoint: Path) -> None:
    with pytest.raises(UnsupportedTaskError, match="fill-mask"):
        precast.AutoModelForMaskedLM.from_pretrained(checkpoint)
    assert entries(home) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="Point PRECAST_CACHE to a folder that can"):
        CLASSIFIER.from_pretrained(checkpoint, cache_dir=tmp_path / "file")


# -- the cache itself -------------------------------------------------------------------------------------------------


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRECAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "precast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "precast"
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    assert cache.cache_folder(tmp_path / "given") == tmp_path / "given"


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "modules.json").write_text('[{"path": "1_Pooling"}, {"path": "../elsewhere"}, {"path": "/etc"}]')
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(2 << 20))
    (folder / "optimizer.pt").write_bytes(b"not read")
    hashed: list[int] = []
    real = cache.hashlib.sha256

    def sha256(*given: Any) -> Any:
        hashed.append(1)
        return real(*given)

    monkeypatch.setattr(cache.hashlib, "sha256", sha256)

    def digests() -> tuple[dict[str, str], int]:
        hashed.clear()
        return cache.checkpoint_digests(folder, tmp_path / "cache"), len(hashed)

    first, count = digests()
    assert sorted(first) == ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json"]
    assert count == 4
    assert digests() == (first, 4)  # too fresh: a change in the same tick would not show
    past = time.time() - 60
    os.utime(folder / "model.safetensors", (past, past))
    monkeypatch.setattr(cache, "_RACY", -1)  # the time of the last change of status cannot be set back
    assert digests() == (first, 4)
    assert digests() == (first, 3)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[7] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    os.utime(folder / "model.safetensors", (past, past))
    second, count = digests()
    assert count == 4
    assert second["model.safetensors"] != first["model.safetensors"]
    (tmp_path / "cache" / "digests.json").write_text("{damaged")
    assert digests() == (second, 4)


# -- the Hub ----------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_on_the_hub(
    server: HubServer,
    home: Path,
    exports: list[dict[str, Any]],
    no_network: Callable[[], None],
) -> None:
    source = files(tiny_artifacts.checkpoint("text-classification"))
    server.repos["org/tiny"] = Repo({"main": source, "v2": {**source, "README.md": b"# two"}})
    tokenizer = precast.AutoTokenizer.from_pretrained("org/tiny")
    assert not any("model.safetensors" in line for line in server.log if "/resolve/" in line)
    model = CLASSIFIER.from_pretrained("org/tiny", revision="v2")
    assert model(**tokenizer("Hello", return_tensors="np")).logits.shape == (1, 3)
    assert (exports[0]["source"], len(exports[0]["revision"])) == ("org/tiny", 40)
    assert entries(home)[0].startswith("org-tiny-text-classification-cpu-fp32-")
    CLASSIFIER.from_pretrained("org/tiny", revision="v2")
    no_network()
    CLASSIFIER.from_pretrained("org/tiny", revision="v2")
    assert len(exports) == 1
    with pytest.raises(OfflineError, match="'org/other' is not in the cache"):
        CLASSIFIER.from_pretrained("org/other")


def test_an_artifact_on_the_hub(
    server: HubServer,
    home: Path,
    exports: list[dict[str, Any]],
    no_network: Callable[[], None],
) -> None:
    folder = tiny_artifacts.artifact("text-classification")
    server.repos["org/made"] = Repo({"main": files(folder)})
    model = CLASSIFIER.from_pretrained("org/made")
    assert model.artifact.digest == precast.load(folder).artifact.digest
    assert model.path.parent == home / "artifacts"
    log = len([line for line in server.log if "encoder.cpu-fp32.onnx" in line])
    no_network()
    assert CLASSIFIER.from_pretrained("org/made").path == model.path
    assert precast.AutoTokenizer.from_pretrained("org/made")("Hello")["input_ids"]
    assert len([line for line in server.log if "encoder.cpu-fp32.onnx" in line]) == log
    assert exports == []


def test_an_image_processor_on_the_hub(server: HubServer, home: Path) -> None:
    source, path = tiny_artifacts.pictures_checkpoint("clip")[0], tiny_artifacts.pictures("clip")
    server.repos["org/seen"] = Repo({"main": files(source)})
    server.repos["org/cast"] = Repo({"main": files(path)})
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = precast.AutoImageProcessor.from_pretrained(path)(picture).pixel_values
    for name in ("org/seen", "org/cast"):
        found = precast.AutoImageProcessor.from_pretrained(name)
        np.testing.assert_array_equal(found(picture).pixel_values, expected)
        both = precast.AutoProcessor.from_pretrained(name)(images=picture, text="a cat")
        np.testing.assert_array_equal(both.pixel_values, expected)
    server.repos["org/sights"] = Repo({"main": files(tiny_artifacts.pictures("vit"))})
    assert isinstance(precast.AutoProcessor.from_pretrained("org/sights"), type(found))
    fetched = [line for line in server.log if "/resolve/" in line]
    assert fetched and not any(part in line for line in fetched for part in (".safetensors", ".onnx", ".bin"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_auto_model_makes_both_towers() -> None:
    """As upstream's, whose class for them is called a model and nothing more."""
    found = precast.AutoModel.from_pretrained(tiny_artifacts.pictures("clip"))
    assert found.tasks == ("zero-shot-image-classification",)
    assert found.get_text_features(input_ids=[[5, 3]]).pooler_output.shape == (1, 24)
    with pytest.raises(UnsupportedTaskError, match="AutoModelForImageClassification needs an artifact exported for"):
        precast.AutoModelForImageClassification.from_pretrained(tiny_artifacts.pictures("clip"))
    source = tiny_artifacts.pictures_checkpoint("clip")[0]
    config = json.loads((source / "config.json").read_text())
    assert head_for(find_family("clip"), config, "feature-extraction").task == found.tasks[0]
