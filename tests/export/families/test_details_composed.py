"""What the discovered tests of models made of others cannot see: what does not fit together."""

from __future__ import annotations

import re
from typing import Any

import pytest

from precast.export.families import find_family
from precast.export.reference import build
from precast.runtime.errors import UnsupportedTaskError


@pytest.mark.parametrize(
    ("model_type", "keys", "task", "message"),
    [
        ("bert", {"is_decoder": True}, "fill-mask", "'is_decoder' is true: its tokens see those in front of them"),
        ("roberta", {}, "text-generation", "'is_decoder' is not true: it reads whole texts"),
    ],
)
def test_what_a_text_encoder_reads(model_type: str, keys: dict[str, Any], task: str, message: str) -> None:
    config = {**find_family(model_type).tiny, "model_type": model_type, **keys}
    with pytest.raises(UnsupportedTaskError, match=re.escape(message)):
        build(config, {}, task)
