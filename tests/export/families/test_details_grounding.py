"""Grounding DINO: phrases of a text, which random ids have none of."""

from __future__ import annotations

import torch
from transformers.models.grounding_dino import modeling_grounding_dino as upstreams

from precast.export.families.grounding_dino import Phrases

CLS, SEP, STOP, MARK = upstreams.SPECIAL_TOKENS


def test_words_of_a_phrase_see_each_other_and_no_other_word() -> None:
    ids = torch.tensor(
        [
            [CLS, 5, 6, STOP, 7, 8, 9, MARK, SEP],
            [CLS, 5, STOP, 6, 7, 8, SEP, 0, 0],
            [3, 4, 5, 6, 7, 8, 9, 10, 11],
            [STOP, STOP, 5, 6, CLS, 7, SEP, SEP, 8],
        ]
    )
    together, places = upstreams.generate_masks_with_special_tokens_and_transfer_map(
        ids, torch.tensor(upstreams.SPECIAL_TOKENS)
    )
    ours = Phrases()(ids)
    assert torch.equal(ours[0], together) and torch.equal(ours[1], places)
    assert ours[1][0].tolist() == [0, 0, 1, 2, 0, 1, 2, 3, 0]
    one = Phrases()(torch.tensor([[CLS]]))
    assert one[0].tolist() == [[[True]]] and one[1].tolist() == [[0]]
