"""Image-text-to-text: pictures and a text, or a chat about pictures, continued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from precast.runtime import arguments
from precast.runtime.errors import InputError
from precast.runtime.readers.chat import Chat
from precast.runtime.readers.pictured import PicturedReader
from precast.runtime.tasks._generation import GenerationTask, stop_strings
from precast.runtime.tasks.base import Request

__all__ = ["PIPELINE", "ImageTextToText"]


class ImageTextToText(GenerationTask):
    """Pictures and a text -> ``[{"input_text": ..., "generated_text": ...}]``, one a return; the text says where each
    picture stands. ``generated_text`` begins with it unless ``return_full_text=False``.

    A chat, a list of ``{"role", "content"}`` whose contents hold pictures, is answered by the checkpoint's chat
    template. Stops after 256 tokens unless the checkpoint or the call says otherwise, as upstream does.
    """

    name = "image-text-to-text"
    reads = PicturedReader
    beside = ("question",)
    usual = {"max_new_tokens": 256}  # noqa: RUF012 - read only
    reader: PicturedReader

    def __init__(self, model: Any, **defaults: Any) -> None:
        super().__init__(model, **defaults)
        if not self.decoder_only:
            raise InputError(
                "image-text-to-text continues texts that have pictures among their tokens; this model writes of a "
                "picture alone: pipeline('image-to-text', ...)."
            )

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """One input: its result. A list: a list.

        Args:
            images: a picture, or several of one text; with a list of texts, a list of those of each. Or a chat, or
                ``{"images", "text"}``, or a list of these.
            text: a text that says where its pictures stand, or a list of them; or a chat.
            options: as of every pipeline.
        """
        if images is None and text is None:
            raise InputError("image-text-to-text needs a text, pictures, or both: pipe(images, text=...).")
        return super().__call__(self._items(images, text), **options)

    def line(self, text: Any, question: str | None = None) -> Any:
        """A picture's file, and what is asked of it: a message of a chat where the model has a template, else a text
        behind its picture."""
        if not isinstance(text, str):
            return text
        if question is None:
            raise InputError('image-text-to-text asks something of a picture: --question "What is this?"')
        if self.reader.joint.image_token in question or self.tokenizer.chat_template is None:
            marked = question if self.reader.joint.image_token in question else self.reader.joint.image_token + question
            return {"images": [text], "text": marked}
        return Chat([{"role": "user", "content": [{"type": "image", "url": text}, {"type": "text", "text": question}]}])

    def _items(self, images: Any, text: Any) -> Any:
        """What was given, as items: told one from several."""
        if text is None or (images is None and not isinstance(text, str) and not _texts(text)):
            given = images if text is None else text
            if isinstance(given, (Mapping, Chat, Iterator)):
                return given
            several = isinstance(given, (list, tuple)) and bool(given)
            if several and isinstance(given[0], Mapping) and "role" in given[0]:
                return Chat(list(given))
            if several and all(isinstance(one, (list, tuple, Mapping)) for one in given):
                return [one if isinstance(one, Mapping) else Chat(list(one)) for one in given]
            if text is None:
                raise InputError(
                    "image-text-to-text needs a text beside the pictures: pipe(images, text=...); or a chat."
                )
        if isinstance(text, str):
            return {"images": images, "text": text}
        if not _texts(text):
            raise InputError(
                f"text is a text, a list of texts, or a chat; received {type(text).__name__}: {text!r:.80}."
            )
        if images is None:
            return [{"text": one} for one in text]
        if not isinstance(images, (list, tuple)) or len(images) != len(text):
            count = len(images) if isinstance(images, (list, tuple)) else 1
            raise InputError(
                f"a list of texts has a list of pictures for each; received {len(text)} texts and {count} of pictures."
            )
        return [{"images": picture, "text": one} for picture, one in zip(images, text, strict=True)]

    def check(
        self,
        *,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        continue_final_message: bool | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Any] | None = None,
        **generation: Any,
    ) -> dict[str, Any]:
        if return_tensors and return_full_text is not None:
            raise InputError("return_full_text is about text and return_tensors asks for ids: give one of them.")
        given = {} if generate_kwargs is None else dict(arguments.mapping("generate_kwargs", generate_kwargs))
        twice = sorted(given.keys() & generation.keys())
        if twice:
            raise InputError(f"{twice[0]} is given in generate_kwargs and beside it: give one of them.")
        if stop_sequence is not None:
            given["stop_strings"] = stop_strings(stop_sequence)
        checked = self.arguments({**given, **generation})
        if return_tensors:
            checked["form"] = "tensors"
        elif return_full_text is not None:
            checked["form"] = "full" if return_full_text else "new"
        others = {
            "clean": clean_up_tokenization_spaces,
            "skip_special_tokens": skip_special_tokens,
            "continued": continue_final_message,
            "tools": tools,
        }
        return checked | {name: value for name, value in others.items() if value is not None}

    def prepare(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Request]:
        requests = []
        for item in items:
            template: dict[str, Any] = {}
            if isinstance(item, Chat):
                continued = self._continued(item, parameters)
                template = {"add_generation_prompt": not continued, "continue_final_message": continued}
                if "tools" in parameters:
                    template["tools"] = parameters["tools"]
            requests.append(Request([self.reader.read(item, template)], {"item": item}))
        self.numbered([request.rows[0] for request in requests], parameters)
        return requests

    def finish(self, request: Request, kept: list[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        (sequences,) = kept
        item, form = request.state["item"], parameters.get("form", "full")
        asked = item.messages if isinstance(item, Chat) else item["text"]
        ids = request.rows[0]["input_ids"].tolist()
        if form == "tensors":
            return [{"input_text": asked, "generated_token_ids": ids + row.tolist()} for row in sequences]
        before = self._decoded(ids, parameters)
        results = []
        for sequence in sequences:
            text = self._decoded(ids + sequence.tolist(), parameters)
            begins = text.find(before)
            # As upstream: what precedes the prompt's text there are special tokens' remains.
            text = text[begins + len(before) :] if 0 <= begins <= 2 else text
            whole = self._whole(item, text, parameters) if form == "full" else text
            results.append({"input_text": asked, "generated_text": whole})
        return results

    def stream(self, item: Any, **parameters: Any) -> Any:
        return super().stream(item if isinstance(item, (Mapping, Chat)) else Chat(list(item)), **parameters)

    def _decoded(self, ids: list[int], parameters: Mapping[str, Any]) -> str:
        skipped = parameters.get("skip_special_tokens", True)
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=skipped, clean_up_tokenization_spaces=parameters.get("clean")
        )
        return text

    def _continued(self, chat: Chat, parameters: Mapping[str, Any]) -> bool:
        last = chat.messages[-1] if chat.messages else None
        default = isinstance(last, Mapping) and last.get("role") == "assistant"
        return bool(parameters.get("continued", default))

    def _whole(self, item: Any, text: str, parameters: Mapping[str, Any]) -> Any:
        """The prompt with its answer."""
        if not isinstance(item, Chat):
            return item["text"] + text
        if not self._continued(item, parameters):
            return [*item.messages, {"role": "assistant", "content": text}]
        *before, last = item.messages
        if isinstance(last["content"], str):
            return [*before, {**last, "content": last["content"] + text}]
        *parts, end = last["content"]
        return [*before, {"role": last["role"], "content": [*parts, {**end, "text": end["text"] + text}]}]


def _texts(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and bool(given) and all(isinstance(one, str) for one in given)


PIPELINE = ImageTextToText
