"""The whole way: a checkpoint on disk to a published artifact, and what a bad checkpoint meets on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import good
from support.oracle import save_checkpoint, upstream

import precast
from precast.export.families import find_family
from precast.export.heads import BASE, MASKED_LM, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from precast.export.reference import head_for
from precast.runtime.artifact import Artifact
from precast.runtime.errors import (
    CheckpointError,
    ConfigError,
    DiskSpaceError,
    InputError,
    IntegrityError,
    OutputExistsError,
    ParityError,
    PrecastError,
    UnsafeFileError,
    UnsupportedModelError,
    UnsupportedTaskError,
    WeightsError,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, model = upstream("bert", SEQUENCE_CLASSIFICATION)
    config |= {"unsloth_version": "2024.9", "finetuned_from": "org/name"}  # read by nobody
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.linear.Identity"  # by CrossEncoder alone
    return save_checkpoint(tmp_path_factory.mktemp("source") / "tiny-bert", config, model)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return precast.export_model(checkpoint, tmp_path_factory.mktemp("out") / "artifact")


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def inputs(rows: int = 3, length: int = 11, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), dtype=np.int64)
    mask[0, length // 2 :] = 0
    return {"input_ids": rng.integers(0, 99, (rows, length)), "attention_mask": mask}


def test_artifact_computes_what_upstream_computes(artifact: Path) -> None:
    _, model = upstream("bert", SEQUENCE_CLASSIFICATION)
    given = inputs()
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits.numpy()
    loaded = precast.load(artifact)
    outputs = loaded(**given)
    assert list(outputs) == ["logits"]
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs["logits"], loaded(**given, token_type_ids=np.zeros((3, 11), int)).logits)
    full = {name: array[1:] for name, array in given.items()}
    np.testing.assert_array_equal(loaded(**full).logits, loaded(input_ids=full["input_ids"]).logits)
    assert loaded.tasks == ("text-classification", "zero-shot-classification")


def test_verify_replays_the_record(artifact: Path) -> None:
    report = precast.verify(artifact)
    assert report["variants"]
    for entry in report["variants"].values():
        assert entry["status"] == "verified"
        assert entry["cases"] > 5
        assert entry["outputs"]["logits"]["excess"] <= 1


def test_two_exports_are_one_digest(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    again = precast.export_model(checkpoint, tmp_path / "again")
    first, second = Artifact.open(artifact), Artifact.open(again)
    assert first.digest == second.digest
    assert {n: r.sha256 for n, r in first.manifest.files.items()} == {
        n: r.sha256 for n, r in second.manifest.files.items()
    }


def test_digest_does_not_depend_on_the_hash_seed(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    """Sets and dicts must not leak their order into the bytes: another process, another PYTHONHASHSEED."""
    code = "import sys, precast; precast.export_model(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(checkpoint), str(tmp_path / "other")]
    # As many threads as here: how sums are shared out among them is in the last digits of what is recorded.
    env = {"PYTHONHASHSEED": "4711", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
    subprocess.run(command, check=True, env=env, cwd="/")
    assert Artifact.open(tmp_path / "other").digest == Artifact.open(artifact).digest


def test_runtime_process_never_loads_torch(artifact: Path) -> None:
    code = (
        "import sys, numpy as np, precast\n"
        "model = precast.load(sys.argv[1])\n"
        "model(input_ids=np.ones((1, 4), dtype=np.int64))\n"
        "precast.verify(sys.argv[1])\n"
        "from precast.runtime.tasks import TASKS\n"
        "[TASKS[name] for name in TASKS]\n"
        "banned = {'torch', 'onnx', 'onnx_ir', 'onnxscript', 'transformers'} & set(sys.modules)\n"
        "assert not banned, banned\n"
    )
    subprocess.run([sys.executable, "-c", code, str(artifact)], check=True, cwd="/")


def test_threads_give_the_same_bytes(artifact: Path) -> None:
    model = precast.load(artifact)
    requests = [inputs(rows=1 + seed % 4, length=3 + seed % 40, seed=seed) for seed in range(64)]
    serial = [model(**request).logits.tobytes() for request in requests]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda request: model(**request).logits.tobytes(), requests))
    assert parallel == serial


def test_a_flipped_bit_anywhere_is_refused(artifact: Path, tmp_path: Path) -> None:
    """1,000 places, each file hit in proportion to its size and at least ten times: refused before any output."""
    folder = copy(artifact, tmp_path / "flipped")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    sizes = np.array([path.stat().st_size for path in files], dtype=float)
    hits = [index for index in range(len(files)) for _ in range(10)]
    hits += rng.choice(len(files), 1000 - len(hits), p=sizes / sizes.sum()).tolist()
    for index in hits:
        path = files[index]
        raw = path.read_bytes()
        place, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        path.write_bytes(raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :])
        with pytest.raises(PrecastError):
            precast.load(folder)
        path.write_bytes(raw)
    precast.load(folder)


def test_existing_output_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"mine exists\. Choose a folder that does not exist"):
        precast.export_model(checkpoint, tmp_path / "mine")
    with pytest.raises(PrecastError, match="mine"):
        precast.export_model(checkpoint, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
    assert leftovers(tmp_path) == ["mine"]


def test_overwrite_exchanges_and_add_refuses_what_is_there(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    folder = copy(artifact, tmp_path / "artifact")
    before = Artifact.open(folder).digest
    assert precast.export_model(checkpoint, folder, overwrite=True) == folder
    assert Artifact.open(folder).digest == before
    with pytest.raises(OutputExistsError, match="already holds encoder/cpu-fp32"):
        precast.export_model(checkpoint, folder, add=True)
    assert Artifact.open(folder).digest == before
    assert leftovers(tmp_path) == ["artifact"]
    with pytest.raises(InputError, match="exclude each other"):
        precast.export_model(checkpoint, folder, add=True, overwrite=True)


def test_add_refuses_another_checkpoint(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    """Of the same config.json, and other weights."""
    _, model = upstream("bert", SEQUENCE_CLASSIFICATION, seed=9)
    other = save_checkpoint(tmp_path / "other", json.loads((checkpoint / "config.json").read_text()), model)
    folder = copy(artifact, tmp_path / "artifact")
    with pytest.raises(PrecastError, match="same checkpoint as the artifact"):
        precast.export_model(other, folder, add=True)
    assert Artifact.open(folder).digest == Artifact.open(artifact).digest


def refused(source: Path, out: Path, kind: type[Exception], match: str, **options: Any) -> str:
    """The export fails with this message and leaves nothing behind; the whole message."""
    with pytest.raises(kind, match=match) as found:
        precast.export_model(source, out / "artifact", **options)
    assert leftovers(out) == []
    return str(found.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_unknown_model_type(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    edit_config(source, model_type="bertt")
    refused(source, out, UnsupportedModelError, r"model_type 'bertt' is not supported. Closest: bert")


def test_unknown_task_target_precision(checkpoint: Path, out: Path) -> None:
    refused(
        checkpoint,
        out,
        UnsupportedTaskError,
        "text-clasification.*Closest: text-classification",
        task="text-clasification",
    )
    refused(checkpoint, out, InputError, "target 'gpu' is unknown", target="gpu")
    refused(checkpoint, out, InputError, "precision 'fp8' is not available for target 'cpu'", precision="fp8")


def test_a_head_the_checkpoint_lacks(checkpoint: Path, out: Path) -> None:
    refused(
        checkpoint,
        out,
        UnsupportedTaskError,
        "no trained head for task 'question-answering'. It has: .*text-classification",
        task="question-answering",
    )


def test_a_head_of_the_same_names_is_not_the_head(checkpoint: Path, out: Path) -> None:
    """A text classifier's weights would fit a token classifier, and mean nothing there."""
    message = r"no trained head for task 'token-classification'. It has: feature-extraction, text-classification\."
    refused(checkpoint, out, UnsupportedTaskError, message, task="token-classification")


def test_missing_and_extra_weights_are_all_listed(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")

    def change(state: dict[str, torch.Tensor]) -> None:
        for layer in (0, 1):
            del state[f"bert.encoder.layer.{layer}.attention.self.key.bias"]
        state["bert.encoder.layer.0.adapter.weight"] = torch.zeros(2)
        state["strange"] = torch.zeros(3)

    edit_weights(source, change)
    with pytest.raises(WeightsError) as caught:
        precast.export_model(source, out / "artifact")
    text = str(caught.value)
    for name in (
        "layers.0.self_attn.k_proj.bias",
        "layers.1.self_attn.k_proj.bias",
        "encoder.layer.0.adapter.weight",
        "strange",
    ):
        assert name in text
    assert leftovers(out) == []


def test_a_weight_of_another_shape(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    edit_weights(source, lambda state: state.update({"classifier.bias": torch.zeros(7)}))
    refused(source, out, WeightsError, r"classifier.bias is \(7,\), expected \(2,\)")


def test_weights_that_are_not_finite(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")

    def change(state: dict[str, torch.Tensor]) -> None:
        state["bert.pooler.dense.weight"][1, 2] = torch.nan
        state["classifier.bias"][0] = torch.inf

    edit_weights(source, change)
    refused(source, out, WeightsError, r"NaN or Inf: .*classifier.bias \(1 of 2 values\)")


@pytest.mark.parametrize(
    ("model_type", "architectures", "kind", "message"),
    [
        (
            "llama",
            ["LlamaForTokenClassification"],
            UnsupportedTaskError,
            r"^LlamaForTokenClassification is made for task 'token-classification', which is not exported of "
            r"model_type 'llama' so far; its tasks here: text-generation, text-classification\.$",
        ),
        ("gpt2", ["GPT2ForTokenClassification"], UnsupportedTaskError, r"is made for task 'token-classification'"),
        ("llama", ["LlamaForPoetry"], ConfigError, r"it is LlamaForPoetry, which is for no task known here\. If they"),
        ("llama", None, ConfigError, r"and it is not there\. .*\(text-generation, text-classification\), name it"),
    ],
)
def test_architectures_that_are_not_exported(
    model_type: str, architectures: list[str] | None, kind: type[PrecastError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        head_for(find_family(model_type), {"model_type": model_type, "architectures": architectures}, None)


def test_config_keys_that_nobody_reads_are_recorded_and_shown(artifact: Path) -> None:
    ignored = ["finetuned_from", "sbert_ce_default_activation_function", "unsloth_version"]
    assert Artifact.open(artifact).manifest.processing["ignored_config"] == ignored
    assert json.loads(good("inspect", artifact, "--json"))["ignored_config"] == ignored
    shown = good("inspect", artifact)
    assert "not read:    of config.json, as no transformers model reads it: finetuned_from, sbert_ce_" in shown
    assert "scores:      of a CrossEncoder are torch.nn.modules.linear.Identity of the logits" in shown


def test_config_keys_that_are_not_honoured(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    edit_config(source, position_embedding_type="relative_key", window_size=4)
    refused(
        source,
        out,
        ConfigError,
        r"^'position_embedding_type' is 'relative_key'.*'window_size' = 4 is not honoured here.* of model_type 'bert' "
        r"cannot be honoured",
    )
    edit_config(source, position_embedding_type="absolute", window_size=None, hidden_size="32")
    refused(source, out, ConfigError, r"'hidden_size' is '32', expected int")


def test_truncated_weights(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(source, out, CheckpointError, "model.safetensors")


def test_a_pickle_with_a_foreign_global(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    (source / "model.safetensors").unlink()

    class Foreign:
        def __reduce__(self) -> Any:
            return (print, ("owned",))

    torch.save({"x": Foreign()}, source / "pytorch_model.bin")
    refused(source, out, UnsafeFileError, "print")


def test_a_shard_outside_the_folder(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    source = copy(checkpoint, tmp_path / "source")
    (source / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.bias": "../elsewhere.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(source, out, UnsafeFileError, "elsewhere")


def test_no_disk_space(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    real = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskSpaceError):
        precast.export_model(checkpoint, out / "artifact")
    monkeypatch.undo()
    assert leftovers(out) == []


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator is lowered with another epsilon."""
    from precast.graphs.dialects import onnxruntime

    def wrong(tape: Any, node: Any) -> Any:
        x, residual, weight, bias = (*node.inputs, None)[:4]
        outputs = tape.op_multi_out(
            "SkipLayerNormalization",
            [x, residual, weight, bias],
            {"epsilon": 1e-3},
            num_outputs=1,
            domain="com.microsoft",
        )
        return [outputs[0], None]

    monkeypatch.setitem(onnxruntime.ONNXRUNTIME.spellings, "AddLayerNorm", wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("coarse")
def test_a_graph_that_computes_something_else_is_not_published(checkpoint: Path, out: Path) -> None:
    """The gate can fail: it is caught, nothing is left, and the message says which rule, where, and what to do."""
    found = refused(checkpoint, out, ParityError, "cpu-fp32.*abs diff")
    for part in (
        r"root mean square of its errors against float64, \S+, is \S+ times eager's \S+, and may be \S+ times that",
        r"In case \S+ the error starts at model\.\S+ \(\w+\), whose output is \S+ from float64 and eager's",
        r"report this message with the output of `precast env`",
    ):
        assert re.search(part, found), found


@pytest.mark.usefixtures("coarse")
def test_a_refusal_stands_where_it_cannot_be_explained(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that cannot be opened at its modules hides nothing: the message says so, and what was broken."""
    from precast.export import locate

    def lost(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(locate, "_opened", lost)
    found = refused(checkpoint, out, ParityError, "cpu-fp32.*abs diff")
    assert "Where the error starts could not be found: MemoryError: no room." in found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [[1, 2, 99]]}, r"input_ids must be 0 to 98; received 99"),
        ({"input_ids": [[1, -1, 2]]}, r"input_ids must be 0 to 98; received -1"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 2]]}, r"token_type_ids must be 0 to 1; received 2"),
        ({"input_ids": np.ones((1, 161), int)}, r"a text may have 160 tokens; received 161"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [0, 0]]}, r"attention_mask of row 1 is all zero"),
        ({"input_ids": [1, 2]}, r"'input_ids' has 2 dimensions; received shape \(2,\)"),
        ({"input_ids": np.ones((0, 4), int)}, r"at least one token of one text; received shape \(0, 4\)"),
        ({"input_ids": np.ones((2, 0), int)}, r"at least one token of one text; received shape \(2, 0\)"),
        ({"input_ids": np.ones((1, 4))}, r"holds integers; received dtype float64"),
        ({"input_ids": np.array([[np.nan]])}, r"holds integers"),
        ({"input_ids": [[1, 2], [3]]}, r"no rectangular array"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]}, r"all inputs have one shape"),
        ({"input_idss": [[1]]}, r"'input_idss' is not one of this model's.*Closest: input_ids"),
        ({"attention_mask": [[1]]}, r"'input_ids' is needed"),
        ({}, r"'input_ids' is needed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_inputs_never_reach_a_kernel(artifact: Path, given: dict[str, Any], message: str) -> None:
    model = precast.load(artifact)
    with pytest.raises(InputError, match=message):
        model(**given)


def test_bad_ways_to_open(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device is cpu, cuda or tensorrt"):
        precast.load(artifact, device="gpu")
    with pytest.raises(InputError, match="threads must be an integer of at least 1"):
        precast.load(artifact, threads=0)
    with pytest.raises(PrecastError, match="holds no variant of 'encoder' for target 'cuda'"):
        precast.load(artifact, device="cuda")
    with pytest.raises(PrecastError, match=r"cpu-fp23.*Closest: cpu-fp32"):
        precast.load(artifact, variant="cpu-fp23")
    with pytest.raises(PrecastError, match="no folder"):
        precast.load(tmp_path / "nowhere")
    broken = copy(artifact, tmp_path / "broken")
    (broken / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        precast.load(broken)


def test_a_target_without_its_library_says_what_to_install(checkpoint: Path, out: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return  # then the export itself is tested, on a machine with a GPU
    refused(checkpoint, out, PrecastError, r"CUDAExecutionProvider.*pip install", target="cuda")
    refused(checkpoint, out, PrecastError, r"TensorrtExecutionProvider.*pip install", target="tensorrt")


def test_token_types_a_model_does_not_have_are_ignored(tmp_path: Path) -> None:
    """As upstream: ``model(**tokenizer(...))`` works though many tokenizers give token types to every model."""
    config, model = upstream("distilbert", BASE)
    loaded = precast.load(
        precast.export_model(save_checkpoint(tmp_path / "source", config, model), tmp_path / "artifact")
    )
    assert loaded.input_names == ("input_ids", "attention_mask")
    given = inputs()
    types = np.ones_like(given["input_ids"])
    expected = loaded(**given).last_hidden_state
    np.testing.assert_array_equal(loaded(**given, token_type_ids=types).last_hidden_state, expected)


@pytest.mark.parametrize("head", [BASE, MASKED_LM, QUESTION_ANSWERING], ids=lambda head: head.task)
def test_other_heads_export(head: Any, tmp_path: Path) -> None:
    config, model = upstream("bert", head)
    folder = precast.export_model(save_checkpoint(tmp_path / "source", config, model), tmp_path / "artifact")
    given = inputs()
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in given.items()})
    for name, value in precast.load(folder)(**given).items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-5)


def test_a_tokenizer_that_cannot_be_expressed_is_named(checkpoint: Path, tmp_path: Path) -> None:
    """The model of a BertJapanese checkpoint exports; what needs its MeCab tokenizer says why it is not there."""
    source = copy(checkpoint, tmp_path / "source")
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nと\n")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    artifact = precast.export_model(source, tmp_path / "artifact")
    model = precast.load(artifact)
    assert model.tokenizer is None
    assert "BertJapanese" in model.why_no_tokenizer
    assert model(**inputs()).logits.shape == (3, 2)
    with pytest.raises(InputError, match=r"needs a tokenizer.*BertJapanese"):
        precast.pipeline("text-classification", artifact)
    with pytest.raises(InputError, match=r"no tokenizer: .*BertJapanese"):
        precast.AutoTokenizer.from_pretrained(artifact)
