"""Which architectures upstream has for its ``AutoModel`` classes, of which the documentation calls some owed:
`python -m support.record_upstream_models` in tests/ writes it anew."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers.models.auto import modeling_auto

from support import DATA

__all__ = ["FILE", "record"]

FILE = DATA / "upstream_models.json"


def record() -> Path:
    """Write the file: a line a class."""
    classes = {
        name: getattr(modeling_auto, name) for name in sorted(dir(modeling_auto)) if name.startswith("AutoModel")
    }
    models = {
        name: sorted(found._model_mapping._model_mapping)
        for name, found in classes.items()
        if hasattr(found, "_model_mapping")
    }
    lines = [f"{json.dumps(name)}: {json.dumps(types)}" for name, types in models.items()]
    head = f'"transformers": {json.dumps(transformers.__version__)}'
    FILE.write_text("{\n" + ",\n".join([head, *lines]) + "\n}\n", "utf-8")
    return FILE


if __name__ == "__main__":
    print(record())
