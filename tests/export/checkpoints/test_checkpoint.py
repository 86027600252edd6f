"""Checkpoints in folders: what is read, how it is checked, and what is said about what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from precast.export.checkpoints.checkpoint import FileInfo
from precast.export.checkpoints.open import open_checkpoint
from precast.runtime import hub
from precast.runtime.errors import CheckpointError, ConfigError, UnsafeFileError

Make = Callable[..., Path]

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "b": torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
    "d": torch.tensor([2.5], dtype=torch.float64),
    "e": torch.tensor([True, False, True]),
    "f": torch.tensor([1, 255], dtype=torch.uint8),
    "g": torch.empty(0, 5),
    "h": torch.tensor([-3], dtype=torch.int32),
    "i": torch.tensor([-3], dtype=torch.int8),
    "j": torch.tensor([-3], dtype=torch.int16),
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(config: bytes | None = b'{"model_type": "bert"}', **files: bytes) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        if config is not None:
            (folder / "config.json").write_bytes(config)
        for name, data in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return build


def whole(make: Make, tensors: Mapping[str, torch.Tensor] = TENSORS) -> Path:
    return make(**{"model.safetensors": save(dict(tensors))})


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sharded(make: Make, weight_map: dict[str, Any] | None = None, **extra: bytes) -> Path:
    files = {
        "model-00001-of-00002.safetensors": save({"a": torch.ones(2), "b": torch.zeros(3)}),
        "model-00002-of-00002.safetensors": save({"c": torch.full((2, 2), 3.0)}),
    }
    default = {"a": 1, "b": 1, "c": 2}
    names = weight_map or {key: f"model-0000{shard}-of-00002.safetensors" for key, shard in default.items()}
    index = json.dumps({"metadata": {"total_size": 36}, "weight_map": names}).encode()
    return make(**{**files, "model.safetensors.index.json": index, **extra})


# -- what is read ----------------------------------------------------------------------------------------------------


def test_every_element_type_loads(make: Make) -> None:
    checkpoint = open_checkpoint(whole(make))
    assert set(checkpoint.tensors) == set(TENSORS)
    for name, expected in TENSORS.items():
        source = checkpoint.tensors[name]
        assert (source.name, source.shape, source.dtype) == (name, tuple(expected.shape), expected.dtype)
        assert source.nbytes == expected.numel() * expected.element_size()
        loaded = source.load()
        assert loaded.dtype == expected.dtype
        assert loaded.is_contiguous()
        assert torch.equal(loaded, expected)


def test_tensors_are_lazy_and_alias_the_file(make: Make) -> None:
    checkpoint = open_checkpoint(whole(make, {"a": torch.randn(64, 64)}))
    first, second = checkpoint.tensors["a"].load(), checkpoint.tensors["a"].load()
    assert first.data_ptr() == second.data_ptr()
    before = first.clone()
    checkpoint.release()
    assert torch.equal(first, before)


def test_a_change_of_a_tensor_never_reaches_the_file(make: Make) -> None:
    folder = whole(make)
    before = (folder / "model.safetensors").read_bytes()
    open_checkpoint(folder).tensors["a.weight"].load().zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_shards(make: Make) -> None:
    checkpoint = open_checkpoint(sharded(make))
    assert {name: source.load().flatten()[0].item() for name, source in checkpoint.tensors.items()} == {
        "a": 1.0,
        "b": 0.0,
        "c": 3.0,
    }
    assert checkpoint.tensors["c"].file_name == "model-00002-of-00002.safetensors"
    assert set(checkpoint.digests()) == {
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_digests_are_those_of_the_files_used(make: Make) -> None:
    folder = whole(make)
    (folder / "vocab.txt").write_bytes(b"[PAD]\n")
    (folder / "unused.txt").write_bytes(b"x")
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.digests()) == {"config.json"}
    assert checkpoint.read_bytes("vocab.txt") == b"[PAD]\n"
    assert checkpoint.tensors
    (folder / "merges.txt").write_bytes(b"a b")
    checkpoint.note_used("merges.txt")
    checkpoint.note_used("tokenizer.json")  # made at export, not found here
    expected = {
        name: FileInfo((folder / name).stat().st_size, hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for name in ("config.json", "merges.txt", "model.safetensors", "vocab.txt")
    }
    assert checkpoint.digests() == expected == checkpoint.files


def test_identity_holds_no_path(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole(make)
    assert open_checkpoint(folder).id == "tiny"
    assert open_checkpoint(f"{folder}/").id == "tiny"
    monkeypatch.chdir(folder)
    checkpoint = open_checkpoint(".")
    assert (checkpoint.id, checkpoint.revision) == ("tiny", None)
    (folder.parent / "link").symlink_to(folder)
    assert open_checkpoint(folder.parent / "link").folder == folder


def test_files_beside_the_weights(make: Make) -> None:
    checkpoint = open_checkpoint(whole(make))
    assert checkpoint.config == {"model_type": "bert"}
    assert checkpoint.has("config.json")
    assert not checkpoint.has("vocab.txt")
    assert checkpoint.read_json("special_tokens_map.json") is None
    with pytest.raises(CheckpointError, match=r"tiny has no vocab\.txt\. It holds: config\.json, model\.safetensors\."):
        checkpoint.read_bytes("vocab.txt")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        checkpoint.read_json("tokenizer.json", optional=False)
    for name in ("../config.json", "/etc/passwd", "a\\b", "", "C:/x"):
        with pytest.raises(UnsafeFileError, match="is not a name inside a checkpoint"):
            checkpoint.has(name)


def test_sentence_transformers_modules(make: Make) -> None:
    modules = [
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 0, "name": "0", "path": "0_Transformer/", "type": "sentence_transformers.models.Transformer"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    folder = make(
        config=None,
        **{
            "modules.json": json.dumps(modules).encode(),
            "0_Transformer__config.json": b'{"model_type": "mpnet"}',
            "0_Transformer__model.safetensors": save({"a": torch.ones(1)}),
            "0_Transformer__vocab.txt": b"x",
            "1_Pooling__config.json": b'{"pooling_mode_mean_tokens": true}',
            "2_Dense__config.json": b"{}",
            "2_Dense__model.safetensors": save({"linear.weight": torch.eye(2)}),
        },
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.modules is not None
    assert [module["path"] for module in checkpoint.modules] == ["0_Transformer", "1_Pooling", "2_Dense"]
    assert checkpoint.prefix == "0_Transformer"
    assert checkpoint.config == {"model_type": "mpnet"}
    assert checkpoint.read_bytes("vocab.txt") == b"x"
    assert checkpoint.read_json("1_Pooling/config.json") == {"pooling_mode_mean_tokens": True}
    assert checkpoint.transformer_folder == folder / "0_Transformer"
    assert list(checkpoint.tensors) == ["a"]
    assert torch.equal(checkpoint.weights("2_Dense")["linear.weight"].load(), torch.eye(2))
    assert "2_Dense/model.safetensors" in checkpoint.digests()
    modules[0]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UnsafeFileError, match=r"A module's path in modules\.json leads out of the checkpoint"):
        open_checkpoint(folder)
    (folder / "modules.json").write_text('[{"idx": 0}]')
    with pytest.raises(ConfigError, match=r"modules\.json must be a list of modules with idx, path and type"):
        open_checkpoint(folder)


def test_from_the_hub(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole(make)
    digest = "0" * 64
    found = hub.Resolved(folder, "org/tiny", "f" * 40, {"model.safetensors": digest}, ("README.md",))
    asked: dict[str, Any] = {}

    def resolve(source: str, **options: Any) -> hub.Resolved:
        asked.update(options, source=source)
        return found

    monkeypatch.setattr(hub, "resolve", resolve)
    checkpoint = open_checkpoint("org/tiny", revision="main", token="t", offline=True, cache_dir="c")
    assert asked == {"source": "org/tiny", "revision": "main", "token": "t", "offline": True, "cache_dir": "c"}
    assert (checkpoint.id, checkpoint.revision) == ("org/tiny", "f" * 40)
    assert checkpoint.tensors
    assert checkpoint.digests()["model.safetensors"].sha256 == digest  # taken over, not read again


def test_the_layout_of_a_hub_cache_is_followed(make: Make, tmp_path: Path) -> None:
    folder = whole(make)
    storage = tmp_path / "models--org--tiny"
    snapshot = storage / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (storage / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, storage / "blobs" / name)
        (snapshot / name).symlink_to(os.path.relpath(storage / "blobs" / name, snapshot))
    assert set(open_checkpoint(snapshot).tensors) == set(TENSORS)


# -- what is refused -------------------------------------------------------------------------------------------------


def test_sources_that_are_none(make: Make, tmp_path: Path) -> None:
    folder = whole(make)
    with pytest.raises(CheckpointError, match=r"There is no folder '.*/tinny'.*Closest: tiny\."):
        open_checkpoint(str(tmp_path / "tinny"))
    with pytest.raises(CheckpointError, match=r"is a file\. Give its folder"):
        open_checkpoint(folder / "config.json")
    with pytest.raises(CheckpointError, match="A revision belongs to a Hub id"):
        open_checkpoint(folder, revision="main")


def test_folders_that_are_no_checkpoints(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"empty has no config\.json, so it is not a checkpoint\. It holds: nothing"
    ):
        open_checkpoint(tmp_path / "empty")
    folder = make(**{"notes.h5": b"x"})
    with pytest.raises(
        CheckpointError, match=r"has no weights that are read here: .*It holds: config\.json, notes\.h5"
    ):
        open_checkpoint(folder)
    (folder / "precast.json").write_bytes(b"{}")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tiny is an artifact already.*precast\.load"):
        open_checkpoint(folder)


LORA = b'{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base"}'


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"adapter_config.json": LORA, "adapter_model.safetensors": b"x"},
            r"tiny is a LoRA adapter of 'org/base' .*Merge it first, where peft is: AutoPeftModelForCausalLM\."
            r"from_pretrained\('tiny'\)\.merge_and_unload\(\)\.save_pretrained\('merged'\), save the tokenizer there",
        ),
        ({"adapter_config.json": b"{}"}, r"tiny is a LoRA adapter \(adapter_config\.json\).* AutoPeftModel\.from_pre"),
        ({"adapter_config.json": b"[1]"}, r"tiny is a LoRA adapter \(adapter_config\.json\), not a whole model"),
        ({"adapter_config.json": b'{"peft_type": "PROMPT_TUNING"}'}, r"an adapter of the kind 'PROMPT_TUNING'"),
        ({"adapter_config.json": b"{"}, r"adapter_config\.json is not valid JSON"),
        ({"a.Q4_K_M.gguf": b"x"}, r"a folder of GGUF files, .*export a\.Q4_K_M\.gguf by its path"),
        ({"model_index.json": b"{}"}, r"a diffusers pipeline \(model_index\.json\)"),
        ({"params.json": b"{}", "consolidated.00.pth": b"x"}, r"weights in their authors' form"),
        ({"tf_model.h5": b"x"}, r"weights of TensorFlow or Flax only\. Save them once with transformers 4"),
        ({"model.onnx": b"x"}, r"holds ONNX graphs, not a checkpoint"),
    ],
)
@pytest.mark.parametrize("config", [None, b'{"model_type": "bert"}'], ids=["bare", "with config.json"])
def test_folders_say_what_they_are(make: Make, config: bytes | None, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(make(config, **files))


def test_of_an_adapter_on_the_hub_enough_is_fetched_to_name_it() -> None:
    assert hub.wanted_files(["README.md", "adapter_config.json", "adapter_model.safetensors"]) == [
        "adapter_config.json"
    ]


def test_an_adapter_beside_weights_is_not_left_out(make: Make) -> None:
    """Upstream would put it onto them; the config of an adapter that was merged says nothing."""
    folder = make(**{"model.safetensors": save(dict(TENSORS)), "adapter_config.json": LORA})
    assert set(open_checkpoint(folder).tensors) == set(TENSORS)
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="tiny is a LoRA adapter of 'org/base'"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        (b'{"a": {"b": 1, "b": 1}}', "the key 'b' appears twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "does not fit a float64"),
        (b"[1]", "it holds a list where an object belongs"),
        (b"", "Expecting value"),
        (b'{"a": ', "Expecting value"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "has 5000 digits"),
    ],
)
def test_a_config_that_is_not_strict_json(make: Make, config: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"tiny: config\.json is not valid: .*") as caught:
        open_checkpoint(make(config=config, **{"model.safetensors": b"x"}))
    assert reason in str(caught.value)
    assert "Download it again." in str(caught.value)


def test_links_out_of_the_folder(make: Make, tmp_path: Path) -> None:
    folder = whole(make)
    outside = tmp_path / "outside.safetensors"
    shutil.move(folder / "model.safetensors", outside)
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(UnsafeFileError, match=r"model\.safetensors is a link to a place outside the checkpoint"):
        _ = open_checkpoint(folder).tensors
    with pytest.raises(UnsafeFileError, match="is a link to a place outside"):
        _ = open_checkpoint(folder).transformer_folder
    (folder / "inner").mkdir()
    shutil.move(outside, folder / "inner" / "weights")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("inner/weights")
    assert set(open_checkpoint(folder).tensors) == set(TENSORS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX FIFOs")
def test_a_fifo_does_not_hang(make: Make) -> None:
    folder = make()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors, which is missing"):
        _ = open_checkpoint(folder).tensors


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "model.safetensors is empty"),
        (b"1234", "it has 4 bytes and needs at least 8"),
        (header({}, length=1 << 40), "it announces a header of 1099511627776 bytes, more than"),
        (header({}, length=500), "it announces a header of 500 bytes and has 2 left: it is truncated"),
        ((3).to_bytes(8, "little") + b"{{{", "its header is not valid JSON"),
        ((4).to_bytes(8, "little") + b"[12]", "it holds a list where an object belongs"),
        (b"\x0d" + bytes(7) + b'{"a":1,"a":2}', "the key 'a' appears twice"),
        (header({"a": 1}), "the entry of 'a' must hold dtype, shape and data_offsets"),
        (header({"a": entry([-1], 0, 4)}), "the shape of 'a' is not a list"),
        (header({"a": entry([True], 0, 4)}), "the shape of 'a' is not a list"),
        (header({"a": entry([1], 4, 0)}, bytes(4)), "'a' needs 4 bytes for its shape and has -4"),
        (header({"a": entry([2], 0, 4)}, bytes(4)), "'a' needs 8 bytes for its shape and has 4"),
        (header({"a": entry([1], 0, 4, "F4")}, bytes(4)), "has the element type 'F4', which is not read here"),
        (header({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)), "'b' overlaps the tensor before it"),
        (header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "'b' leaves a gap before it"),
        (header({"a": entry([2], 0, 8)}, bytes(7)), "it is truncated"),
        (header({"a": entry([1 << 40, 1 << 40], 0, 1 << 60)}), "for its shape and has"),
        (header({"a": entry([1], 0, 4)}, bytes(5)), "it has bytes no tensor owns"),
    ],
)
def test_damaged_safetensors(make: Make, data: bytes, reason: str) -> None:
    checkpoint = open_checkpoint(make(**{"model.safetensors": data}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        _ = checkpoint.tensors
    assert reason in str(caught.value)
    assert "ownload it again" in str(caught.value) or "Convert" in str(caught.value)


@pytest.mark.parametrize(
    "shard",
    [
        "../model-00001-of-00002.safetensors",
        "/tmp/model.safetensors",
        "C:model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "model.bin",
        "config.json",
        "",
        "..",
        7,
        None,
        "a\0.safetensors",
        "a\n.safetensors",
    ],
)
def test_index_entries_that_are_no_bare_names(make: Make, shard: Any) -> None:
    checkpoint = open_checkpoint(sharded(make, {"a": shard}))
    with pytest.raises(
        UnsafeFileError, match=r"model\.safetensors\.index\.json places 'a' in .*A shard is the bare name"
    ):
        _ = checkpoint.tensors


def test_indices_and_shards_that_do_not_fit(make: Make) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    with pytest.raises(CheckpointError, match=r"names lost\.safetensors, which is missing"):
        _ = open_checkpoint(sharded(make, {"a": first, "c": "lost.safetensors"})).tensors
    with pytest.raises(CheckpointError, match=f"{second} lacks tensors that .* places in it: a, b"):
        _ = open_checkpoint(sharded(make, {"a": second, "b": second})).tensors
    again = {second: save({"b": torch.ones(3), "c": torch.ones(1)})}
    with pytest.raises(CheckpointError, match=f"Tensors are in two shards, {first} and {second}: b"):
        _ = open_checkpoint(sharded(make, **again)).tensors
    for index in (b"{}", b'{"weight_map": {}}', b'{"weight_map": []}'):
        with pytest.raises(CheckpointError, match="must hold a weight_map"):
            _ = open_checkpoint(sharded(make, **{"model.safetensors.index.json": index})).tensors
    for index in (b"nonsense", b'{"weight_map": {"a": "x", "a": "y"}}'):
        with pytest.raises(CheckpointError, match="is not valid JSON"):
            _ = open_checkpoint(sharded(make, **{"model.safetensors.index.json": index})).tensors


def test_a_shard_behind_a_link_out(make: Make, tmp_path: Path) -> None:
    folder = sharded(make)
    name = "model-00002-of-00002.safetensors"
    shutil.move(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(UnsafeFileError, match=f"{name} is a link to a place outside"):
        _ = open_checkpoint(folder).tensors


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_fuzzed_safetensors_load_or_are_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = _fuzz_folder(tmp_path_factory)
    good = save({name: TENSORS[name] for name in ("a.weight", "a.bias", "c", "e")})
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))
    (folder / "model.safetensors").write_bytes(changed[:cut])
    try:
        tensors = open_checkpoint(folder).tensors
    except CheckpointError:
        return
    for source in tensors.values():
        assert tuple(source.load().shape) == source.shape


def _fuzz_folder(factory: pytest.TempPathFactory) -> Path:
    folder = factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(b"{}")
    return folder


def test_real_files_of_the_library_are_read_as_the_library_reads_them(make: Make) -> None:
    folder = make()
    torch.manual_seed(0)
    tensors = {f"layer.{i}.weight": torch.randn(i + 1, 7, dtype=torch.float16) for i in range(20)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    read = open_checkpoint(folder).tensors
    assert all(torch.equal(read[name].load(), tensor) for name, tensor in tensors.items())
