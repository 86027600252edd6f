"""The keys of config.json that upstream knows: `python -m support.record_config_keys` in tests/ writes
export/config_keys.txt."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import transformers
from transformers import GenerationConfig, PretrainedConfig

import precast.export.spec

__all__ = ["config_keys", "record", "table"]

_ROOT = Path(transformers.__file__).parent
# How a config class takes keys that are no fields of it out of its other keyword arguments, or looks for them.
_TAKEN = re.compile(r"""\bkwargs\.(?:pop|get|setdefault)\(\s*["'](\w+)["']""")
_ASKED = re.compile(r"""\b(?:getattr|hasattr)\(\s*self,\s*["'](\w+)["']""")
# How modelling code reads a config.
_READ = re.compile(
    r"""(?<![\w.])(?:self\.)?config\.(\w+)|\b(?:getattr|hasattr)\(\s*(?:self\.)?config,\s*["'](\w+)["']"""
)


def config_keys() -> set[str]:
    """Every key that a config class has as a field or another name of one, takes out of its keyword arguments or looks
    for in itself, that modelling code looks for in a config, or that generation does."""
    keys: set[str] = set(GenerationConfig._get_default_generation_params())
    for path in [_ROOT / "configuration_utils.py", *sorted(_ROOT.glob("models/*/configuration_*.py"))]:
        module = importlib.import_module(".".join(path.relative_to(_ROOT.parent).with_suffix("").parts))
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, PretrainedConfig) and found.__module__ == module.__name__:
                keys |= {field.name for field in dataclasses.fields(found)}  # type: ignore[arg-type]
                keys |= set(inspect.signature(found.__init__).parameters)
                keys |= {*found.attribute_map, *found.attribute_map.values()}
        text = path.read_text("utf-8")
        # The base class has methods that take what is no key of a config: its reading alone counts.
        taken = text if path.parent != _ROOT else inspect.getsource(PretrainedConfig.__post_init__)
        keys |= {*_TAKEN.findall(taken), *_ASKED.findall(text)}
    rope = (_ROOT / "modeling_rope_utils.py").read_text("utf-8")
    keys |= {*_TAKEN.findall(rope), *_ASKED.findall(rope)}
    for path in [_ROOT / "modeling_utils.py", *sorted(_ROOT.glob("models/*/modeling_*.py"))]:
        keys |= {one or other for one, other in _READ.findall(path.read_text("utf-8"))}
    methods = {name for name in dir(PretrainedConfig) if callable(getattr(PretrainedConfig, name))}
    # What says where a config is to be had, and the file's name in comments.
    opening = {*inspect.signature(PretrainedConfig.from_pretrained).parameters, "trust_remote_code", "code_revision"}
    return {key for key in keys if not key.startswith("__")} - methods - opening - {"self", "args", "kwargs", "json"}


def table() -> str:
    """The file's text: whose keys they are, and one a line."""
    head = f"# Keys of config.json that transformers {transformers.__version__} knows: support/record_config_keys.py"
    return "\n".join([head, *sorted(config_keys()), ""])


def record() -> Path:
    """Write the file."""
    path = Path(precast.export.spec.__file__).with_name("config_keys.txt")
    path.write_text(table(), "utf-8")
    return path


if __name__ == "__main__":
    print(record())
