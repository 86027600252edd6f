"""Where padding changes upstream's answer and not ours: the places that docs/preprocessing.md lists, both shown.

Upstream's processors look at padded ids, and take padding for tokens that were there. (The third place, the bias of
Mamba's projections, is in tests/export/families/test_details_generation.py.)
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_engine import served, tiny_bart, tiny_llama

from precast.runtime.generation.api import generate

PROMPT = [5, 9, 7]
WIDTH = 4


def asked(model: Any, ids: Any, mask: Any, **arguments: Any) -> Any:
    """Upstream's answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its advice on how it is called
        made = model.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **arguments)
    return made.numpy()


def padded(pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """The prompt, and its mask, with padding beside it."""
    filling = np.full((1, WIDTH), pad)
    parts = [filling, np.array([PROMPT])]
    marks = [np.zeros_like(filling), np.ones((1, len(PROMPT)), int)]
    order = slice(None) if side == "left" else slice(None, None, -1)
    return np.concatenate(parts[order], axis=1), np.concatenate(marks[order], axis=1)


@pytest.mark.parametrize(
    ("make", "side", "how"),
    [
        (tiny_llama, "left", {"no_repeat_ngram_size": 1}),
        (tiny_bart, "right", {"encoder_repetition_penalty": 0.25}),
        (tiny_bart, "right", {"encoder_no_repeat_ngram_size": 1}),
    ],
)
def test_padding_is_no_token_here(make: Any, side: str, how: dict[str, Any]) -> None:
    model = make()
    ours = served(model)
    how = {**how, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    alone = asked(model, [PROMPT], [[1] * len(PROMPT)], pad_token_id=0, **how)[0, -8:]
    changed = 0
    for pad in sorted({*alone.tolist(), 3} - {2}):  # any token may be a model's padding
        ids, mask = padded(pad, side)
        theirs = asked(model, ids, mask, pad_token_id=pad, **how)[0, -8:]
        mine = generate(ours, ids, attention_mask=mask, pad_token_id=pad, **how)[0, -8:]
        assert np.array_equal(mine, alone), pad
        changed += not np.array_equal(theirs, alone)
    assert changed, "padding changes nothing of upstream's any more: strike it from docs/preprocessing.md"
