"""Tokenizers out of GGUF metadata, held against sentencepiece, transformers' conversion and ids of llama.cpp itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from support import DATA
from support import gguf_samples as samples
from support.gguf_samples import add_tokenizer, byte_level_tokens, random_model, sentencepiece_tokens, write_model

from precast.export.checkpoints.gguf.splits import SPLITS
from precast.export.checkpoints.open import open_checkpoint
from precast.runtime.errors import CheckpointError, ConfigError, UnsupportedModelError
from precast.runtime.processors.text import Tokenizer

# What llama.cpp made of TEXTS with the vocabularies of gguf_samples (its server's /tokenize, special tokens parsed).
GOLDEN = json.loads((DATA / "gguf_llamacpp_ids.json").read_bytes())
TEXTS = [
    "hello world",
    "Hello, world! The hello.",
    "  hello   world  ",
    "aaaa aaaaa aaaaaaa",
    "日本語 é ü 🙂",
    "It's 12345 o'clock, don't",
    "a\n\nb\r\n\tc\n\n\nd",
    "<s>the<tag>an<|im_end|> in\n\nworld</s>",
    "<|im_start|>user\nhello<|im_end|><think> x</think>",
    "",
    " ",
    "x▁y <0x0A>",
    "f(x) == [1, 22, 333] && $y <= {z}; // 100%",
    "CamelCase snake_case WORLD worldhello",
]


def tokenizer(
    tmp_path: Path, model: str, pre: str | None = None, architecture: str = "llama", **flags: Any
) -> Tokenizer:
    path = write_model(
        tmp_path / "m.gguf",
        architecture,
        random_model(architecture).state_dict(),
        extra=lambda writer: add_tokenizer(writer, model, pre, **flags),
    )
    return Tokenizer.from_files(open_checkpoint(path).tokenizer_files(architecture))


def ids(tokens: Tokenizer, text: str) -> list[int]:
    return list(tokens(text)["input_ids"])


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_ids_are_llamacpps(case: str, tmp_path: Path) -> None:
    model, _, option = case.partition(" ")
    if model == "llama":
        tokens = tokenizer(tmp_path, model, add_space_prefix=option == "prefix")
    else:
        tokens = tokenizer(tmp_path, model, option)
    assert dict(zip(TEXTS, (ids(tokens, text) for text in TEXTS), strict=True)) == GOLDEN[case]


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_are_sentencepieces(prefix: bool, tmp_path: Path) -> None:
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in TEXTS if text] * 20),
        model_writer=made,
        vocab_size=350,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=["<tag>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(made.getvalue())
    oracle = SentencePieceProcessor(model_proto=made.getvalue())

    def vocabulary(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([piece.piece for piece in model.pieces])
        writer.add_token_scores([piece.score for piece in model.pieces])
        writer.add_token_types([piece.type for piece in model.pieces])
        writer.add_add_space_prefix(prefix)
        writer.add_add_bos_token(False)

    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=vocabulary)
    tokens = Tokenizer.from_files(open_checkpoint(path).tokenizer_files("llama"))
    rng = np.random.default_rng(0)
    letters = list("abcdeh lowrd  T.é日🙂\n")
    texts = [*TEXTS, *("".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(100))]
    texts = [text for text in texts if not any(special in text for special in ("<s>", "</s>"))]
    for text in texts:
        assert ids(tokens, text) == oracle.encode(text), text
        assert tokens.decode(ids(tokens, text)) == oracle.decode(oracle.encode(text)), text
    # After a token found whole, llama.cpp puts a space again, and so does every tokenizer.json of Llama.
    tag = oracle.piece_to_id("<tag>")
    again = [*ids(tokens, "a"), tag, *ids(tokens, "b")]
    assert ids(tokens, "a<tag>b") == again
    assert (oracle.encode("a<tag>b") == again) is not prefix


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken", "gpt-4o", "gpt-2", "dbrx"])
def test_byte_level_ids_are_those_of_transformers(pre: str, tmp_path: Path) -> None:
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    tokens = tokenizer(tmp_path, "gpt2", pre, add_bos_token=False)
    architecture, data, _ = get_gguf_tokenizer(str(tmp_path / "m.gguf"))
    backend, _ = convert_gguf_tokenizer(architecture, data)
    for text in TEXTS:
        assert ids(tokens, text) == backend.encode(text, add_special_tokens=False).ids, text


def test_gemmas_ids_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    tokens = tokenizer(tmp_path, "llama", architecture="gemma3", add_space_prefix=False, add_bos_token=False)
    architecture, data, _ = get_gguf_tokenizer(str(tmp_path / "m.gguf"))
    backend, _ = convert_gguf_tokenizer(architecture, data)
    for text in TEXTS:
        assert ids(tokens, text) == backend.encode(text, add_special_tokens=False).ids, text


def test_every_name_of_a_split_cuts_without_loss(tmp_path: Path) -> None:
    for pre in SPLITS:
        tokens = tokenizer(tmp_path, "gpt2", pre)
        for text in TEXTS:
            assert tokens.decode(ids(tokens, text), skip_special_tokens=False).endswith(text), (pre, text)


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_eos_token": True}, True, True),
    ],
)
def test_bos_and_eos_where_the_file_says_so(flags: dict[str, bool], first: bool, last: bool, tmp_path: Path) -> None:
    found = ids(tokenizer(tmp_path, "llama", **flags), "hello")
    assert ((found[0] == 1), (found[-1] == 2)) == (first, last)


def test_bos_and_eos_of_byte_level_vocabularies(tmp_path: Path) -> None:
    bos = byte_level_tokens()[0].index("<|endoftext|>")
    assert ids(tokenizer(tmp_path, "gpt2", "gpt-2"), "hello")[0] != bos
    assert ids(tokenizer(tmp_path, "gpt2", "llama-bpe"), "hello")[0] == bos
    assert ids(tokenizer(tmp_path, "gpt2", "llama-bpe", add_bos_token=False), "hello")[0] != bos


def test_special_tokens_and_templates(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokens = tokenizer(tmp_path, "llama", chat_template=template, ids={"pad": 2})
    assert (tokens.bos_token, tokens.eos_token, tokens.unk_token, tokens.pad_token) == ("<s>", "</s>", "<unk>", "</s>")
    assert tokens.chat_template == template
    end = sentencepiece_tokens()[0].index("<|im_end|>")
    assert ids(tokens, "<|im_end|>")[-1] == end
    # Control tokens are dropped on request, those a user defined are text.
    assert tokens.decode(ids(tokens, "the<tag><|im_end|>"), skip_special_tokens=True) == "the<tag>"
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    tokens = tokenizer(tmp_path, "llama", chat_template=named)
    assert tokens.chat_template == {"default": "a", "tool_use": "b"}


def test_ends_of_a_turn(tmp_path: Path) -> None:
    state = random_model("llama").state_dict()

    def ends(**given: int) -> Any:
        path = write_model(
            tmp_path / "m.gguf", "llama", state, extra=lambda writer: add_tokenizer(writer, "llama", ids=given)
        )
        checkpoint = open_checkpoint(path)
        generation = checkpoint.read_json("generation_config.json")
        assert generation["eos_token_id"] == checkpoint.config["eos_token_id"]
        return generation["eos_token_id"]

    end = sentencepiece_tokens()[0].index("<|im_end|>")
    assert ends() == [2, end]
    assert ends(eos=end) == end
    assert ends(eot=5) == [2, 5, end]


def _vocabulary(**more: Any) -> Any:
    """A writer's step that leaves out what is None."""
    content = {"tokens": ["<unk>", "a", "b", "ab"], "scores": [0.0, -1.0, -2.0, -0.5], "token_type": [2, 1, 1, 1]}
    content |= {"model": "llama"} | more

    def step(writer: gguf.GGUFWriter) -> None:
        for key, value in content.items():
            if value is not None:
                add = {list: writer.add_array, str: writer.add_string, int: writer.add_uint32, bool: writer.add_bool}
                add[type(value)](f"tokenizer.ggml.{key}", value)

    return step


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"scores": None}, CheckpointError, r"needs one score for each of 4 tokens.*there are 0"),
        ({"scores": [1.0]}, CheckpointError, r"needs one score for each of 4 tokens.*there are 1"),
        ({"scores": [float("nan")] * 4}, CheckpointError, "scores holds NaN or Inf"),
        ({"scores": ["a"] * 4}, ConfigError, r"scores must be an array of numbers; it is \['a'"),
        ({"token_type": [1, 1]}, CheckpointError, r"one entry for each of 4 tokens; it has 2"),
        ({"tokens": ["a", "b", "c", "x" * 30_000]}, CheckpointError, "the longest has 30000 characters: 'xxx"),
        ({"tokens": "abc"}, ConfigError, r"tokens must be an array of texts; it is 'abc'"),
        ({"bos_token_id": 4}, ConfigError, r"bos_token_id must be below the number of tokens, 4; it is 4"),
        ({"add_bos_token": "yes"}, ConfigError, r"add_bos_token must be true or false; it is 'yes'"),
        ({"model": "rwkv"}, UnsupportedModelError, r"the tokenizer model 'rwkv' is not read.*llama and gpt2 are"),
        ({"model": "gpt2", "pre": "viking"}, UnsupportedModelError, r"cuts text in the way 'viking'.*known are gpt-2"),
        ({"model": "gpt2"}, ConfigError, r"must state tokenizer\.ggml\.merges"),
        ({"model": "gpt2", "merges": ["ab"]}, CheckpointError, r"pairs with a space between; found 'ab'"),
        ({"model": "gpt2", "merges": ["a z"]}, UnsupportedModelError, "merges lead through pieces that have no id"),
    ],
)
def test_vocabularies_that_are_none(change: dict[str, Any], kind: type, message: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=_vocabulary(**change))
    with pytest.raises(kind, match=message):
        open_checkpoint(path).tokenizer_files("llama")


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    extra = _vocabulary(
        tokens=[f"t{index}" for index in range(samples.VOCAB + 1)], scores=None, token_type=None, model="none"
    )
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    with pytest.raises(ConfigError, match=r"has 353 tokens, and token_embd\.weight rows for 352 of them"):
        open_checkpoint(path)


def test_what_a_file_leaves_out(tmp_path: Path) -> None:
    """llama.cpp's defaults: empty tokens get a name; sentencepiece's ids; -1 and 2^32 - 1 stand for none."""
    extra = _vocabulary(tokens=["<unk>", "<s>", "</s>", "", "a"], scores=[0.0] * 5, token_type=[2, 3, 3, 1, 1])
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    checkpoint = open_checkpoint(path)
    assert checkpoint.read_json("generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2}
    tokens = Tokenizer.from_files(checkpoint.tokenizer_files("llama"))
    assert tokens.convert_ids_to_tokens(3) == "[EMPTY_3]"
    extra = _vocabulary(bos_token_id=0xFFFF_FFFF)
    path = write_model(tmp_path / "n.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    assert open_checkpoint(path).config["bos_token_id"] is None


def test_a_text_of_several_ids_is_the_last_of_them_and_all_are_read_as_it(tmp_path: Path) -> None:
    """As llama.cpp, whose table of texts keeps the last id, and whose table of ids keeps every text."""
    extra = _vocabulary(
        tokens=["<unk>", "<s>", "</s>", "<s>", "a", "b", "ab", "a", "ab", "<0x0A>", "<0x0A>"],
        scores=[0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -0.5, -1.0, -0.5, 0.0, 0.0],
        token_type=[2, 3, 3, 3, 1, 1, 1, 1, 1, 6, 6],
        bos_token_id=1,
        add_bos_token=True,
        add_space_prefix=False,
    )
    path = write_model(tmp_path / "m.gguf", "llama", random_model("llama").state_dict(), extra=extra)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["bos_token_id"] == 1
    tokens = Tokenizer.from_files(checkpoint.tokenizer_files("llama"))
    assert ids(tokens, "abba<s>a") == [1, 8, 5, 7, 3, 7]  # the id that the file states begins the text
    assert [tokens.decode([index]) for index in (4, 7, 6, 8, 9, 10)] == ["a", "a", "ab", "ab", "\n", "\n"]
    assert tokens.decode([1, 3, 4, 6]) == "<s><s>aab"
    assert tokens.decode([1, 3, 4, 6], skip_special_tokens=True) == "aab"


def test_a_text_of_several_ids_in_a_byte_level_vocabulary(tmp_path: Path) -> None:
    words, merges, kinds = byte_level_tokens()
    extra = _vocabulary(
        model="gpt2",
        pre="qwen2",
        scores=None,
        tokens=[*words, "hello", "<think>"],
        merges=merges,
        token_type=[*kinds, 1, 4],
    )
    path = write_model(tmp_path / "m.gguf", "qwen2", random_model("qwen2").state_dict(), extra=extra)
    tokens = Tokenizer.from_files(open_checkpoint(path).tokenizer_files("qwen2"))
    twice, think = words.index("hello"), words.index("<think>")
    assert ids(tokens, "hello<think>") == [len(words), len(words) + 1]
    assert [tokens.decode([index]) for index in (twice, len(words))] == ["hello", "hello"]
    assert [tokens.decode([index]) for index in (think, len(words) + 1)] == ["<think>", "<think>"]
