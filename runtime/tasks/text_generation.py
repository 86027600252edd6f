"""Text generation: a prompt continued, or a chat answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.chat import Chat, ChatReader
from precast.runtime.readers.text import tokenizer_options
from precast.runtime.tasks._generation import GenerationTask, as_written, stop_strings
from precast.runtime.tasks.base import Request

__all__ = ["PIPELINE", "Chat", "TextGeneration"]

_TOKENIZER = ("add_special_tokens", "padding", "truncation", "max_length")


class TextGeneration(GenerationTask):
    """A prompt -> ``[{"generated_text": ...}]``, one a return; with the prompt unless ``return_full_text=False``.

    A chat, a list of ``{"role", "content"}``, is answered by the checkpoint's chat template; the text is then the
    conversation with the answer, a chat that ends with an assistant's message being continued. Draws with temperature
    0.7 and stops after 256 tokens unless the checkpoint or the call says otherwise, as upstream does.
    """

    name = "text-generation"
    reads = ChatReader
    usual = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}  # noqa: RUF012 - read only

    def check(
        self,
        *,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        prefix: str | None = None,
        handle_long_generation: str | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        add_special_tokens: bool | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        continue_final_message: bool | str | None = None,
        tokenizer_encode_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        if return_full_text is not None and return_text is not None:
            raise InputError("return_text and return_full_text say the same: give one of them.")
        if return_tensors is not None and (return_full_text is not None or return_text is not None):
            other = "return_full_text" if return_full_text is not None else "return_text"
            raise InputError(f"{other} is about text and return_tensors asks for ids: give one of them.")
        if handle_long_generation not in (None, "hole"):
            raise InputError(f"handle_long_generation is 'hole' or None; received {handle_long_generation!r}.")
        if prefix is not None and not isinstance(prefix, str):
            raise InputError(f"prefix is a text; received {prefix!r}.")
        if tokenizer_encode_kwargs is not None:
            options = dict(arguments.mapping("tokenizer_encode_kwargs", tokenizer_encode_kwargs))
            options.pop("return_tensors", None)
            tokenizer_options(self.name, options)
        if stop_sequence is not None:
            generation["stop_strings"] = stop_strings(stop_sequence)
        if max_length is not None:
            generation["max_length"] = max_length
        checked = self.arguments(generation)
        if return_tensors:
            checked["form"] = "tensors"
        elif return_full_text is not None:
            checked["form"] = "full" if return_full_text else "new"
        given = {
            "clean": clean_up_tokenization_spaces,
            "skip_special_tokens": skip_special_tokens,
            "prefix": prefix,
            "hole": handle_long_generation,
            "continued": continue_final_message,
            "tools": tools,
            "documents": documents,
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "encode": tokenizer_encode_kwargs,
        }
        return checked | {name: value for name, value in given.items() if value is not None}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        options = {name: parameters[name] for name in _TOKENIZER if name in parameters}
        if options.get("padding") != "max_length":
            options.pop("padding", None)  # batches are padded here
        options |= {name: value for name, value in (parameters.get("encode") or {}).items() if name != "return_tensors"}
        prefix = self.prefix(parameters)
        encoded: list[list[int]] = []
        for item in items:
            if isinstance(item, Chat):
                encoded.append(self._chat_ids(item, options, parameters))
            elif isinstance(item, str):
                encoded.append(self.tokenizer(prefix + item, **options)["input_ids"])
            else:
                raise InputError(
                    f"{self.name} takes a text, a chat (a list of messages), or a list of these; received "
                    f"{type(item).__name__}: {item!r:.80}."
                )
        before = len(self.tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
        requests = []
        for item, ids in zip(items, encoded, strict=True):
            shown = True
            if not ids:
                ids, shown = self._beginning(parameters), False
            if parameters.get("hole"):
                ids = self._shortened(ids, parameters)
            row = self.reader.row({"input_ids": ids})
            row["prefix"] = np.array(0 if isinstance(item, Chat) else before)
            requests.append(Request([row], {"item": item, "prompt": ids if shown else []}))
        self.numbered([request.rows[0] for request in requests], parameters)
        return requests

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        (sequences,) = kept
        form = parameters.get("form", "full")
        if form == "tensors":
            ids = request.rows[0]["input_ids"].tolist()
            fill = self._fill_token(parameters)
            return [{"generated_token_ids": ids + row.tolist()} for row in as_written(sequences, fill)]
        results = []
        for sequence in sequences:
            # An empty prompt is the beginning token, which upstream counts as generated.
            before = [] if request.state["prompt"] else request.rows[0]["input_ids"].tolist()
            text = self.tokenizer.decode(
                before + sequence.tolist(),
                skip_special_tokens=parameters.get("skip_special_tokens", True),
                clean_up_tokenization_spaces=parameters.get("clean"),
            )
            results.append({"generated_text": self._whole(request.state["item"], text, parameters, form)})
        return results

    @property
    def returns_full_text(self) -> bool:
        """Whether the pipeline's results begin with their prompts."""
        return bool(self._defaults.get("form", "full") == "full")

    def stream(self, item: Any, **parameters: Any) -> Any:
        return super().stream(ChatReader.one(item), **parameters)

    def _chat_ids(self, chat: Chat, options: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[int]:
        continued = self._continued(chat, parameters)
        ids: list[int] = self.tokenizer.apply_chat_template(
            chat.messages,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            tools=parameters.get("tools"),
            documents=parameters.get("documents"),
            **{name: value for name, value in options.items() if name != "add_special_tokens"},
        )["input_ids"]
        return ids

    def _continued(self, chat: Chat, parameters: Mapping[str, Any]) -> Any:
        last = chat.messages[-1] if chat.messages else None
        default = isinstance(last, Mapping) and last.get("role") == "assistant"
        return parameters.get("continued", default)

    def _whole(self, item: Any, text: str, parameters: Mapping[str, Any], form: str) -> Any:
        if form == "new":
            return text
        if isinstance(item, str):
            return item + text
        if self._continued(item, parameters):
            last = item.messages[-1]
            return [*item.messages[:-1], {"role": last["role"], "content": last["content"] + text}]
        return [*item.messages, {"role": "assistant", "content": text}]

    def _beginning(self, parameters: Mapping[str, Any]) -> list[int]:
        """What an empty prompt stands for."""
        bos = self.config(parameters).bos_token_id
        if bos is None:
            raise InputError(
                "an empty text gives the model nothing to go on with, and it has no beginning token (bos_token_id). "
                "Give it a text."
            )
        return [bos]

    def _shortened(self, ids: list[int], parameters: Mapping[str, Any]) -> list[int]:
        """``handle_long_generation="hole"``: of a long prompt its end, with room for the answer."""
        limit = self.reader.longest
        config = self.config(parameters)
        new = config.total_length(len(ids)) - len(ids)
        if new < 0:
            raise InputError(f"max_length must leave room for an answer to a prompt of {len(ids)} tokens.")
        if limit is None or len(ids) + new <= limit:
            return ids
        if new >= limit:
            raise InputError(
                f"the model holds {limit} tokens, prompt and answer together, and {new} are to be generated. Lower "
                "max_new_tokens."
            )
        return ids[len(ids) - (limit - new) :]

    def _fill_token(self, parameters: Mapping[str, Any]) -> int:
        config = self.config(parameters)
        if config.pad_token_id is not None:
            return config.pad_token_id
        return config.eos[0] if config.eos else 0


PIPELINE = TextGeneration
