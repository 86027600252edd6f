"""Records what the question-answering pipeline of transformers 4.57, the last that had one, answers.

Run it in an environment of its own (torch and transformers==4.57.6), from tests/, once:

    python -m support.record_qa_goldens FOLDER_OF_ALL_MINILM_L6_V2 > data/qa_goldens.json
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from typing import Any

import transformers

from support import doubles

CONTEXTS = {
    "short": "My name is Wolfgang Müller-Lüdenscheidt and I live in Berlin, with 3 cats (Molly, Polly & Dolly).",
    "tiny": "Berlin.",
    "same": "Paris is Paris. paris, PARIS and paris again: Paris!",
    "marks": "日本の首都は東京です。 Tokyo 🗼 is—unbelievably—antidisestablishmentarianism's home; e-mail: a.b@c.de",
    "long": " ".join(
        f"In {1900 + year} the harbour of Port-{chr(65 + year % 26)}ville shipped {year * 37} crates of oranges, and "
        f"its mayor, Dr. O'{chr(66 + year % 24)}rien, opened the {year}th bridge over the river."
        for year in range(25)
    ),
}
QUESTIONS = {
    "name": "Where do I live?",
    "word": "Who",
    "far": "How many crates of oranges did the harbour of the unpronounceable town ship when the bridge was opened?",
}
PARAMETERS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_k": 5, "align_to_words": False},
    {"handle_impossible_answer": True, "top_k": 2},
    {"max_answer_len": 3, "top_k": 2},
    {"max_seq_len": 64, "doc_stride": 16, "top_k": 3},
    {"max_seq_len": 100, "doc_stride": 40, "handle_impossible_answer": True},
    {"padding": "max_length", "max_seq_len": 256},
]


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cases = []
    for seed in (0, 1):
        model = doubles.tiny_bert("BertForQuestionAnswering", seed, scale=3.0)
        answer = transformers.pipeline("question-answering", model=model, tokenizer=tokenizer, device="cpu")
        for question, context, parameters in itertools.product(QUESTIONS, CONTEXTS, range(len(PARAMETERS))):
            found = answer(question=QUESTIONS[question], context=CONTEXTS[context], **PARAMETERS[parameters])
            cases.append([seed, question, context, parameters, found])
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    sys.stdout.write(f'{{"transformers": "{transformers.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
