"""StaticEmbedding of sentence-transformers and model2vec: a table with a vector for each token; a text is their mean.
https://huggingface.co/blog/static-embeddings"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from precast.export.blocks.embeddings import mask_port, words_port
from precast.export.families import Family
from precast.export.heads import BASE
from precast.export.signatures import Component
from precast.export.spec import Spec, hf
from precast.export.tokenizers.files import STATIC_TABLE
from precast.export.weight_table import StoredTensor
from precast.export.weights import Rename, Rule
from precast.runtime.catalogue import CATALOGUE
from precast.runtime.errors import WeightsError, listing
from precast.runtime.ports import Out, Port

__all__ = ["FAMILY", "MODULE", "config", "holds"]

MODULE = "StaticEmbedding"

_TABLES = ("embedding.weight", "embeddings")  # sentence-transformers' name, and model2vec's


@dataclass(frozen=True, kw_only=True)
class StaticSpec(Spec):
    """The table's size."""

    vocab_size: int = hf()
    hidden_size: int = hf()
    pad_token_id: int | None = hf(default=None)


class StaticTokens(Component):
    """{"last_hidden_state": [B, S, H]}: the row of each token. Their mean is taken where all pooling is."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, size)

    def ports(self) -> tuple[Port, ...]:
        """Ids, and the mask of what is no padding."""
        words = words_port(self.embedding)
        return words, mask_port(words)

    def outs(self) -> tuple[Out, ...]:
        """As of any base model without a pooler."""
        return CATALOGUE["feature-extraction"].outs[:1]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return {
            "last_hidden_state": self.embedding(input_ids) * attention_mask[..., None].to(self.embedding.weight.dtype)
        }


def holds(modules: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether a folder's modules.json begins with such a table."""
    return bool(modules) and str((modules or [{}])[0].get("type")).rpartition(".")[2] == MODULE


def config(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """What a config.json would say of the table.

    Raises:
        WeightsError: there is no table, or one whose rows are shared or weighed.
    """
    table = next((tensors[name] for name in _TABLES if name in tensors), None)
    if table is None or len(table.shape) != 2:
        raise WeightsError(
            f"a StaticEmbedding has its table of [tokens, size] under {' or '.join(_TABLES)}; found: "
            f"{listing((f'{name} {list(tensor.shape)}' for name, tensor in tensors.items()), 5)}."
        )
    if folded := {"mapping", "weights"}.intersection(tensors):
        raise WeightsError(
            f"this table of model2vec shares or weighs its rows ({listing(sorted(folded))}). Fold them once, with "
            "sentence-transformers: StaticEmbedding.from_model2vec(...), in a SentenceTransformer that is saved anew."
        )
    rows, size = table.shape
    return {"model_type": STATIC_TABLE, "architectures": ["StaticModel"], "vocab_size": rows, "hidden_size": size}


def _weights(spec: StaticSpec) -> tuple[Rule, ...]:
    return (Rename("embeddings", "embedding.weight"),)


FAMILY = Family(
    spec=StaticSpec,
    heads={BASE: lambda spec, absent: StaticTokens(spec.vocab_size, spec.hidden_size)},
    weights=_weights,
    tiny={},
)
