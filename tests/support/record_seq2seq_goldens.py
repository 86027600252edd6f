"""Records what the text2text, summarization and translation pipelines of transformers 4.57, the last that had them,
answer with tiny models; and the tokenizers they did it with.

Run it in an environment of its own (torch, sentencepiece and transformers==4.57.6), from tests/, once:

    python -m support.record_seq2seq_goldens > data/seq2seq_goldens.json
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import transformers

from support import doubles

TEXTS = ["the cat sat on a mat", "hello, world", "an unbelievably long tale of two cities and a sea", "x"]
GREEDY = {"num_beams": 1, "max_new_tokens": 10}
SPECIFIC = {
    "summarization": {
        "prefix": "sum: ",
        "num_beams": 2,
        "length_penalty": 2.0,
        "min_length": 4,
        "early_stopping": True,
    },
    "translation_en_to_de": {"prefix": "en to de: ", "num_beams": 1},
}
PAIR = {"src_lang": "en_XX", "tgt_lang": "ro_RO"}
# What is asked: the model, the task, its parameters, the inputs.
CASES: list[tuple[str, str, dict[str, Any], Any]] = [
    ("t5", "text2text-generation", GREEDY, TEXTS[0]),
    ("t5", "text2text-generation", GREEDY, TEXTS),
    ("t5", "text2text-generation", {"max_new_tokens": 8}, TEXTS),
    ("t5", "text2text-generation", {"max_new_tokens": 8, "num_return_sequences": 3}, TEXTS),
    ("t5", "text2text-generation", {"max_new_tokens": 8, "num_return_sequences": 3}, TEXTS[1]),
    ("t5", "text2text-generation", {**GREEDY, "return_tensors": True}, TEXTS),
    ("t5", "text2text-generation", {"max_new_tokens": 6, "num_return_sequences": 2, "return_tensors": True}, TEXTS),
    ("t5", "text2text-generation", {**GREEDY, "clean_up_tokenization_spaces": True}, TEXTS),
    ("t5", "text2text-generation", {**GREEDY, "truncation": True}, TEXTS),
    ("t5", "summarization", {"max_new_tokens": 9}, TEXTS),
    ("t5", "summarization", {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2}, TEXTS[:2]),
    ("t5", "translation_en_to_de", {"max_new_tokens": 9}, TEXTS),
    ("t5", "translation_en_to_de", {"max_new_tokens": 9, "return_tensors": True}, TEXTS[0]),
    ("t5", "translation_en_to_fr", GREEDY, TEXTS),
    *(
        (name, task, {**GREEDY, **parameters}, TEXTS)
        for name in ("mbart", "mbart50")
        for task, parameters in (
            ("translation", PAIR),
            ("translation", {"src_lang": "de_DE", "tgt_lang": "fr_XX", "return_tensors": True}),
            ("translation", {**PAIR, "num_beams": 3, "truncation": True}),
            ("text2text-generation", {}),
        )
    ),
]


def backend() -> Any:
    """Letters and a few words, in fairseq's order."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = "the a cat sat on mat hello world an long tale of two and sea sum en to de".split()
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz,.:"]
    pieces += [(f"▁{word}", -4.0) for word in words]
    made = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 2)]
    )
    return made


def tokenizer(name: str) -> Any:
    """Upstream's tokenizer of 4.57."""
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 16}
    if name == "t5":
        return transformers.PreTrainedTokenizerFast(tokenizer_object=backend(), **named)
    with tempfile.TemporaryDirectory() as folder:
        backend().save(f"{folder}/tokenizer.json")
        kind = {"mbart": transformers.MBartTokenizerFast, "mbart50": transformers.MBart50TokenizerFast}[name]
        return kind(tokenizer_file=f"{folder}/tokenizer.json", bos_token="<s>", **named)


def model(name: str, vocab_size: int) -> Any:
    """Random weights, the same in every version."""
    tokens = {"eos_token_id": 2, "pad_token_id": 1, "vocab_size": vocab_size}
    if name == "t5":
        config = transformers.T5Config(
            d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=1, **tokens
        )
        made = transformers.T5ForConditionalGeneration(config)
        made.config.task_specific_params = copy.deepcopy(SPECIFIC)  # upstream takes prefixes out of it
    else:
        config = transformers.MBartConfig(
            d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=96, bos_token_id=0,
            decoder_start_token_id=2, forced_eos_token_id=2, scale_embedding=True, **tokens,
        )  # fmt: skip
        made = transformers.MBartForConditionalGeneration(config)
    # Embeddings as large as what comes between them, so that answers follow their texts.
    doubles.randomise(made, 1)
    with doubles.torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return made


def plain(found: Any) -> Any:
    """Tensors and arrays as lists."""
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    return [plain(item) for item in found] if isinstance(found, list) else getattr(found, "tolist", lambda: found)()


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    tokenizers, cases = {}, []
    for name in ("t5", "mbart", "mbart50"):
        used = tokenizer(name)
        with tempfile.TemporaryDirectory() as folder:
            used.save_pretrained(folder)
            kept = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
            files = {
                path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir() if path.name in kept
            }
        tokenizers[name] = {file: json.loads(text) for file, text in sorted(files.items())}
        tokenizers[name]["size"] = len(used)
        for number, (own, task, parameters, inputs) in enumerate(CASES):
            if own == name:
                answer = transformers.pipeline(task, model=model(name, len(used)), tokenizer=used, device="cpu")
                cases.append([number, plain(answer(inputs, **parameters))])
    document = {"transformers": transformers.__version__, "tokenizers": tokenizers, "cases": cases}
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
