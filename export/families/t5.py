"""T5: a pre-norm encoder-decoder with RMS norms, no biases, and relative positions in place of absolute ones.
https://arxiv.org/abs/1910.10683; v1.1, FLAN (https://arxiv.org/abs/2210.11416), UL2 (https://arxiv.org/abs/2205.05131),
ByT5 (https://arxiv.org/abs/2105.13626) and MADLAD-400 (https://arxiv.org/abs/2309.04662) differ in their configs."""

from __future__ import annotations

from precast.export.families import Family
from precast.export.head_sets.seq2seq import generation_keys
from precast.export.skeletons.relative import NAMES, RelativeSpec, heads_of
from precast.export.weights import Rename, Rule

__all__ = ["FAMILY"]


def _weights(spec: RelativeSpec) -> tuple[Rule, ...]:
    # Stored with the first layer, and shared by all.
    return (*NAMES, *(Rename(f"{part}.layers.0.bias.*", f"{part}.bias.*") for part in ("encoder", "decoder")))


FAMILY = Family(
    spec=RelativeSpec,
    heads=heads_of(),
    weights=_weights,
    final_norm=True,
    # Training, and lengths that relative positions do not need.
    inert=frozenset({"dropout_rate", "initializer_factor", "n_positions"}),
    generation=generation_keys(pad=0, eos=1),
    tiny={
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99,
        "decoder_start_token_id": 0,
    },
    variations=(
        # v1.1: gates, logits that are not scaled, heads that do not add up to the width, fewer layers here than there
        # (upstream's cache has no room for more).
        {
            "d_model": 26, "d_kv": 6, "num_heads": 3, "d_ff": 37, "num_layers": 3, "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-3, "vocab_size": 131,
        },
        {"feed_forward_proj": "gated-silu", "num_heads": 2, "d_kv": 16, "num_decoder_layers": 1},
    ),
)  # fmt: skip
