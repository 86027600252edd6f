"""Small artifacts made through the writer: bytes stand for graphs and weights. Shared by the artifact tests."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from precast.runtime.artifact import Component, FileRecord, Manifest, Source, Variant
from precast.runtime.artifact.manifest import canonical
from precast.runtime.artifact.writer import ArtifactWriter
from precast.runtime.ports import Dim, Out, Port

SOURCE = Source(
    "acme/tiny", "abc123", {"config.json": FileRecord(2, "0" * 64), "model.safetensors": FileRecord(9, "1" * 64)}
)
PRODUCER = {"precast": "0.1.0", "onnxruntime": "1.31.1"}


def blob(seed: Any, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def manifest(
    *variants: Variant, component: str = "encoder", task: str = "feature-extraction", **changes: Any
) -> Manifest:
    made = Manifest(
        source=SOURCE,
        model_type="bert",
        tasks={task: {"component": component}},
        default_task=task,
        components={
            component: Component(
                name=component,
                inputs=(
                    Port("input_ids", "int64", ("batch", "sequence"), "ids", below=100),
                    Port("token_type_ids", "int64", ("batch", "sequence"), "types", default=0, below=2),
                ),
                outputs=(Out("last_hidden_state", ("batch", "sequence", 32), "states"),),
                variants={variant.name: variant for variant in variants},
                dims={"sequence": Dim(most=64)},
            )
        },
        producer=PRODUCER,
        processing={"pooling": {"mode": "mean", "normalize": True}},
        parity={"encoder": {"file": "parity/encoder.npz", "inputs_digest": "5" * 64}},
        cost={"seconds": 1.5},
    )
    return made._replace(**changes)


def fill(
    writer: ArtifactWriter, *, precision: str = "fp32", seed: Any = 0, size: int = 300, parity: Any = 0
) -> Variant:
    """Write one variant's files and describe it."""
    writer.write_bytes("config.json", b'{"vocab_size": 100}\n')
    writer.write_bytes("parity/encoder.npz", blob(("parity", parity), 200))
    shared, _ = writer.add_weight([blob("embeddings", size), blob("more", 16)])
    own, _ = writer.add_weight([blob((precision, seed), size)])
    graph = f"encoder.cpu-{precision}.onnx"
    writer.write_bytes(graph, blob(("graph", precision, seed), 250))
    return Variant(
        name=f"cpu-{precision}",
        graph=graph,
        target="cpu",
        precision=precision,
        dialect="onnxruntime",
        provider="CPUExecutionProvider",
        opset={"": 21, "com.microsoft": 1},
        session={"graph_optimization_level": "all"},
        weights=(shared, own),
        operators={"MatMul": 12, "SkipLayerNormalization": 4},
        fusions={"attention": 2},
        fingerprint=hashlib.sha256(graph.encode()).hexdigest(),
        recipe=("fuse-attention", "fuse-norm"),
        parity={"last_hidden_state": {"1x8": {"max_abs": 1e-6, "cosine": 0.9999999}}},
    )


def make(
    out: Path,
    *,
    mode: str = "create",
    precision: str = "fp32",
    seed: Any = 0,
    size: int = 300,
    edit: Callable[[Manifest], Manifest] = lambda made: made,
) -> Path:
    with ArtifactWriter(out, mode=mode) as writer:
        return writer.publish(edit(manifest(fill(writer, precision=precision, seed=seed, size=size))))


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """What a forger does: change the manifest and make it consistent again."""
    import json

    path = folder / "precast.json"
    document = json.loads(path.read_bytes())
    change(document)
    bare = {key: value for key, value in document.items() if key not in ("digest", "seal", "cost")}
    document["digest"] = hashlib.sha256(canonical(bare)).hexdigest()
    document.pop("seal", None)
    document["seal"] = hashlib.sha256(canonical(document)).hexdigest()
    path.write_bytes(canonical(document))


def record(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
