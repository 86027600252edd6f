"""An `Engine` over a tiny upstream model, to test the loop on its own: every feed computes whole rows again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from precast.runtime.backends.base import Array
from precast.runtime.errors import InputError
from precast.runtime.generation.sources import Source
from precast.runtime.ports import Port

__all__ = [
    "TorchEngine",
    "TorchSession",
    "random_prompts",
    "served",
    "tiny_bart",
    "tiny_gpt2",
    "tiny_llama",
    "tiny_t5",
    "upstream",
]


torch.set_num_threads(1)  # for models this small more threads only wait for each other


class TorchSession:
    """Rows as lists of tokens; right-padding needs no mask, for a causal model never looks there."""

    def __init__(self, engine: TorchEngine, rows: int, capacity: int, encoded: Any, mask: Any) -> None:
        self.engine, self.capacity = engine, capacity
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.encoded, self.mask = encoded, mask

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Array:
        return np.array([len(row) for row in self.tokens], dtype=np.int64)

    @property
    def rollback(self) -> int:
        longest = max((len(row) for row in self.tokens), default=0)
        return longest if self.engine.rollback is None else min(self.engine.rollback, longest)

    def feed(self, tokens: Sequence[Sequence[int]], keep: int = 1) -> Array:
        assert len(tokens) == self.rows and all(len(new) for new in tokens)
        self.engine.feeds.append([len(new) for new in tokens])
        if self.engine.on_feed is not None:
            self.engine.on_feed()
        for row, new in zip(self.tokens, tokens, strict=True):
            if len(row) + len(new) > self.capacity:
                raise InputError(f"A row holds at most {self.capacity} tokens; {len(row) + len(new)} were fed.")
            row.extend(int(token) for token in new)
        width = max(len(row) for row in self.tokens)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in self.tokens])
        with torch.no_grad():
            if self.encoded is None:
                every = self.engine.model(input_ids=ids).logits.float().numpy()
            else:
                every = self.engine.model(
                    encoder_outputs=(self.encoded,), attention_mask=self.mask, decoder_input_ids=ids, use_cache=False
                ).logits
                every = every.float().numpy()
        kept = np.full((self.rows, keep, every.shape[-1]), np.nan, dtype=np.float32)
        for r, (row, new) in enumerate(zip(self.tokens, tokens, strict=True)):
            shown = min(keep, len(new))
            kept[r, keep - shown :] = every[r, len(row) - shown : len(row)]
        return kept

    def select(self, rows: Sequence[int]) -> None:
        self.tokens = [list(self.tokens[row]) for row in rows]
        if self.encoded is not None:
            self.encoded, self.mask = self.encoded[list(rows)], self.mask[list(rows)]

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, length in zip(self.tokens, lengths, strict=True):
            assert 0 <= length <= len(row)
            if len(row) - length > self.rollback:
                raise InputError(f"The state goes back {self.rollback} tokens; {len(row) - length} were asked for.")
            del row[int(length) :]


class TorchEngine:
    """Records what it was fed in ``feeds``; ``on_feed`` is called before each feed (to fail, to wait, to count)."""

    def __init__(self, model: Any, *, rollback: int | None = None, max_length: int | None = None) -> None:
        self.model = model.eval()
        self.rollback, self.max_length = rollback, max_length
        self.vocab_size = int(model.config.vocab_size)
        self.among = None
        self.prompt_start = None
        self.source = _text(self.vocab_size) if model.config.is_encoder_decoder else None
        self.feeds: list[list[int]] = []
        self.opened = 0
        self.on_feed: Any = None

    def encoded(self, context: Mapping[str, Array]) -> Mapping[str, Array]:
        return context

    def open(self, rows: int, capacity: int, context: Mapping[str, Array] | None = None) -> TorchSession:
        self.opened += 1
        if context is None:
            return TorchSession(self, rows, capacity, None, None)
        ids, mask = torch.tensor(context["input_ids"]), torch.tensor(context["attention_mask"])
        assert len(ids) == rows
        with torch.no_grad():
            encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        return TorchSession(self, rows, capacity, encoded, mask)


def _text(vocab: int) -> Source:
    ids = Port("input_ids", "int64", ("batch", "sequence"), "ids", below=vocab)
    return Source((ids, Port("attention_mask", "int64", ids.shape, "mask", default=1)), {})


def served(model: Any, tokenizer: Any = None, **engine: Any) -> Any:
    """What `precast.runtime.generation.api.generate` takes, around an upstream model."""
    opened = TorchEngine(model, **engine)
    return SimpleNamespace(
        engine=lambda: opened,
        config=model.config.to_dict(),
        generation_config={k: v for k, v in model.generation_config.to_diff_dict().items() if v is not None},
        tokenizer=tokenizer,
    )


def random_prompts(
    seed: int, rows: int = 20, width: int = 9, vocab: int = 40, side: str = "left"
) -> tuple[Array, Array]:
    """[rows, width] ids with 0 to 4 of padding (0) on a side, and their mask."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(3, vocab, (rows, width))
    mask = np.ones_like(ids)
    for row, padding in enumerate(draw.integers(0, 5, rows)):
        hidden = slice(0, padding) if side == "left" else slice(width - padding, width)
        ids[row, hidden] = mask[row, hidden] = 0
    return ids, mask


def upstream(model: Any, ids: Any, mask: Any = None, **arguments: Any) -> Any:
    """What upstream's `generate` gives, its arrays as NumPy's."""
    mask = np.ones_like(ids) if mask is None else mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's advice on how it is called
        made = model.generate(
            torch.tensor(np.asarray(ids)), attention_mask=torch.tensor(np.asarray(mask)), **arguments, pad_token_id=0
        )
    if isinstance(made, torch.Tensor):
        return made.numpy()
    return SimpleNamespace(**{name: _numpy(value) for name, value in made.items() if name != "past_key_values"})


def _numpy(value: Any) -> Any:
    return tuple(_numpy(each) for each in value) if isinstance(value, tuple) else value.numpy()


def _sharpened(model: Any, seed: int) -> Any:
    """Weights large enough that the next token depends on what came before, and near ties are rare."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=made) * (0.6 if "relative" in name else 0.35))
            elif "bias" in name:
                value.copy_(torch.randn(value.shape, generator=made) * 0.1)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.eval()


def tiny_gpt2(seed: int = 0, vocab: int = 40, **config: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return _sharpened(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab,
                n_positions=96,
                n_embd=32,
                n_layer=2,
                n_head=4,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                **config,
            )
        ),
        seed,
    )


def tiny_llama(seed: int = 0, vocab: int = 40, **config: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return _sharpened(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                **config,
            )
        ),
        seed,
    )


def tiny_bart(seed: int = 0, vocab: int = 40, **config: Any) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    settings = {"forced_eos_token_id": None, **config}
    return _sharpened(
        BartForConditionalGeneration(
            BartConfig(
                vocab_size=vocab,
                d_model=32,
                encoder_layers=1,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=48,
                decoder_ffn_dim=48,
                max_position_embeddings=96,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
                decoder_start_token_id=2,
                **settings,
            )
        ),
        seed,
    )


def tiny_t5(seed: int = 0, vocab: int = 40, **config: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return _sharpened(
        T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocab,
                d_model=32,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
                eos_token_id=2,
                pad_token_id=0,
                decoder_start_token_id=0,
                **config,
            )
        ),
        seed,
    )
