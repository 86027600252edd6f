"""Tiny tokenizers of every kind of decoder, for tests of stop strings and grammars."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["KINDS", "tiny_tokenizer"]

KINDS = ("byte_level", "byte_fallback", "metaspace", "wordpiece", "word_end")
SPECIAL = ["</s>", "<pad>", "<unk>"]
TEXTS = [
    '{"name": "Bob", "age": 12, "tags": ["a", "b"], "ok": true}',
    "stop stopping topper opera. The last stopped at the top; 3.14 and 27!",
    "abcdef abc def of fed",
    "Déjà vu 👍 日本語 ça va? Größe",
]


def tiny_tokenizer(kind: str) -> Tokenizer:
    """About 300 tokens; 0 ends, 1 pads, 2 is unknown."""
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        _train(tokenizer, trainers.BpeTrainer, 330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    elif kind == "byte_fallback":
        pieces = _spaced_pieces()
        names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
        vocab = [(name, 0.0 if index < 259 else -float(index)) for index, name in enumerate(names)]
        tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    elif kind == "metaspace":
        names = [*SPECIAL, *_spaced_pieces()]
        tokenizer = Tokenizer(models.Unigram([(name, -float(i)) for i, name in enumerate(names)], unk_id=2))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        _train(tokenizer, trainers.WordPieceTrainer, 200)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
        _train(tokenizer, trainers.BpeTrainer, 200, end_of_word_suffix="</w>")
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


def _train(tokenizer: Tokenizer, trainer: type, size: int, **options: object) -> None:
    made = trainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **options)
    tokenizer.train_from_iterator([text for text in TEXTS for _ in range(2)], made)


def _spaced_pieces() -> list[str]:
    text = " ".join(TEXTS).replace(" ", "▁")
    characters = sorted(set(text))
    longer = dict.fromkeys(text[start : start + size] for size in (2, 3, 5) for start in range(0, len(text), size + 1))
    return [*characters, *(piece for piece in longer if piece not in characters)]
