"""Chats to prompts: a checkpoint's Jinja template applied to messages, as transformers' ``apply_chat_template`` does.

The template runs in the sandbox of chat_sandbox.py and sees plain data only: texts, numbers, lists and tables.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precast.runtime import arguments
from precast.runtime.errors import ChatTemplateError, DependencyError, InputError, closest, listing

if TYPE_CHECKING:
    from precast.runtime.processors.text import Tokenizer

__all__ = ["apply_chat_template", "check_messages", "choose_template", "render"]

_INSTALL = 'pip install "precast[chat]"'
_OLDEST = (3, 1, 6)  # older ones have known ways out of the sandbox
_LONGEST = 2**20
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
# Names a message's reasoning goes by; templates read the first, and gpt-oss's the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def apply_chat_template(
    tokenizer: Tokenizer,
    conversation: Any,
    tools: Sequence[Any] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    tokenize: bool = True,
    padding: bool | str = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    return_tensors: str | None = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **variables: Any,
) -> Any:
    """The prompt of a conversation, or of each of a list of them: encoded, its ids alone, or as a text.

    Args:
        conversation: messages ``{"role": ..., "content": ...}``; other keys are the template's business.
        tools: functions the model may call: their JSON schemas, or Python functions with types and docstrings
            (`precast.runtime.processors.tool_schema`).
        documents: ``{"title": ..., "text": ...}`` for templates that take them.
        chat_template: a template, or the name of one of the checkpoint's; None: its default one.
        add_generation_prompt: end with what opens an answer of the assistant.
        continue_final_message: leave the last message open; a text names the field to continue.
        tokenize: False for a text.
        return_dict: False for ids without their masks.
        return_assistant_tokens_mask: also ``assistant_masks``, 1 where a ``{% generation %}`` block wrote.
        variables: whatever else the template reads, such as ``enable_thinking``.

    Raises:
        InputError: messages, tools or documents are not of the form above.
        ChatTemplateError: there is no template, it is malformed, it refuses the conversation, or it asks for what no
            template may do.
        DependencyError: jinja2 is missing.
    """
    flags = {
        "add_generation_prompt": add_generation_prompt,
        "tokenize": tokenize,
        "return_dict": return_dict,
        "return_assistant_tokens_mask": return_assistant_tokens_mask,
        "continue_final_message": isinstance(continue_final_message, str) or continue_final_message,
    }
    for name, value in flags.items():
        arguments.flag(name, value)
    options = _tokenizer_options(tokenizer, tokenizer_kwargs)
    if variables.pop("sanitize_control_tokens", False):
        raise InputError("sanitize_control_tokens is not supported: remove control tokens from the messages yourself.")
    if add_generation_prompt and continue_final_message:
        raise InputError(
            "add_generation_prompt opens a new answer and continue_final_message goes on with the last message: "
            "pass one of them."
        )
    if return_assistant_tokens_mask and not (tokenize and return_dict and not continue_final_message):
        raise InputError(
            "return_assistant_tokens_mask needs tokenize=True and return_dict=True, and no continue_final_message."
        )
    template = choose_template(tokenizer.chat_template, chat_template, with_tools=tools is not None)
    batched = isinstance(conversation, (list, tuple)) and bool(conversation) and _is_chat(conversation[0])
    chats = [check_messages(chat) for chat in (conversation if batched else [conversation])]
    shared = {"tools": _tables("tools", tools), "documents": _tables("documents", documents)}
    named = {
        **tokenizer.special_tokens_map,
        **plain(variables),
        **shared,
        "add_generation_prompt": add_generation_prompt,
    }
    mark = secrets.token_hex(8) if return_assistant_tokens_mask else None
    texts = [_render_chat(template, chat, named, continue_final_message, mark) for chat in chats]
    spans = [_spans(text, mark) for text in texts] if mark is not None else []
    if mark is not None:
        texts = [_without_marks(text, mark) for text in texts]
    if not tokenize:
        return texts if batched else texts[0]
    encoding = tokenizer(
        texts if batched else texts[0],
        add_special_tokens=False,
        padding=padding,
        truncation=truncation,
        max_length=max_length,
        return_tensors=return_tensors,
        **options,
    )
    if mark is not None:
        many = batched or return_tensors is not None
        rows = encoding["input_ids"] if many else [encoding["input_ids"]]
        masks = [_assistant_mask(encoding, index, len(row), spans[index]) for index, row in enumerate(rows)]
        encoding["assistant_masks"] = np.array(masks, np.int64) if return_tensors else masks if many else masks[0]
    return encoding if return_dict else encoding["input_ids"]


def _tokenizer_options(tokenizer: Tokenizer, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    known = inspect.signature(type(tokenizer).__call__).parameters
    for name in arguments.mapping("tokenizer_kwargs", given):
        if name not in known:
            raise InputError(f"a tokenizer has no argument {name!r}. {closest(name, known)}".rstrip())
    return dict(given)


def choose_template(own: str | Mapping[str, str] | None, wanted: str | None, *, with_tools: bool = False) -> str:
    """The text of the template: ``wanted`` itself or by its name, or the tokenizer's ``own``."""
    if wanted is not None and not isinstance(wanted, str):
        raise InputError(f"chat_template is a template or the name of one; received {type(wanted).__name__}.")
    if isinstance(own, Mapping):
        if wanted is None:
            wanted = "tool_use" if with_tools and "tool_use" in own else "default"
            if wanted not in own:
                raise ChatTemplateError(
                    f"this model has several chat templates and no default one: {listing(sorted(own))}. Pass "
                    "chat_template with one of these names."
                )
        if wanted in own:
            return own[wanted]
        if wanted.isidentifier():
            raise ChatTemplateError(
                f"this model has no chat template named {wanted!r}; it has {listing(sorted(own))}. "
                f"{closest(wanted, own)}".rstrip()
            )
        return wanted
    if wanted is not None:
        return wanted
    if own is None:
        raise ChatTemplateError(
            "this model has no chat template: it was not trained to chat, or its checkpoint came without one. Give it "
            "a plain text, or pass chat_template."
        )
    return own


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as fresh plain data, without the keys whose value is None, as upstream drops them."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, (list, tuple)):
        raise InputError(
            'a conversation is a list of messages such as {"role": "user", "content": "Hello"}; received '
            f"{type(messages).__name__}."
        )
    if not messages:
        raise InputError("a conversation has at least one message; received none.")
    checked = []
    for number, message in enumerate(messages, 1):
        entry = plain(message)
        if not isinstance(entry, dict):
            raise InputError(
                f'a message is a dictionary such as {{"role": "user", "content": "Hello"}}; message {number} is '
                f"{type(message).__name__}."
            )
        entry = {key: value for key, value in entry.items() if value is not None}
        if not isinstance(entry.get("role"), str):
            raise InputError(
                f"a message has a role, such as system, user or assistant; message {number} has {listing(entry)}."
            )
        if not isinstance(entry.get("content", ""), (str, list, tuple)):
            raise InputError(
                "the content of a message is a text, or a list of parts such as "
                f'{{"type": "text", "text": "Hello"}}; that of message {number} is {entry["content"]!r:.80}.'
            )
        checked.append(entry)
    return checked


def plain(value: Any) -> Any:
    """``value`` rebuilt of plain data. Whatever else it is, such as an image, becomes its type's name: templates ask
    whether it is there and never look inside, and its methods must not be theirs to call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, np.generic):
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        made = [plain(item) for item in value]
        return tuple(made) if isinstance(value, tuple) else made
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic's
        return plain(dump())
    return f"<{type(value).__name__}>"


def render(template: str, variables: Mapping[str, Any], marks: tuple[str, str] | None = None) -> str:
    """The text a template makes of ``variables``, which must be plain data.

    :raises ChatTemplateError: whatever goes wrong in it, with the line where it did."""
    compiled = _compiled(template)
    from jinja2.exceptions import SecurityError

    from precast.runtime.processors import chat_sandbox

    try:
        with chat_sandbox.bounded():
            if marks is None:
                return str(compiled.render(**variables))
            with chat_sandbox.generation_marks(*marks):
                return str(compiled.render(**variables))
    except chat_sandbox.Refusal as error:
        raise ChatTemplateError(f"the chat template refuses this conversation: {error}") from error
    except (SecurityError, OverflowError) as error:
        raise ChatTemplateError(
            f"the chat template asks for what no template may do{_line(error)}: {error}. Do not trust this checkpoint "
            "until you know why."
        ) from error
    except RecursionError as error:
        raise ChatTemplateError("the chat template calls itself without end. It is malformed.") from error
    except Exception as error:
        raise ChatTemplateError(
            f"the chat template fails on this conversation{_line(error)}: {type(error).__name__}: {error}. Does it "
            "take these roles and contents?"
        ) from error


@lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    if importlib.util.find_spec("jinja2") is None:
        raise DependencyError(f"chat templates need jinja2, not installed here. Install the extra: {_INSTALL}.")
    from importlib.metadata import version

    installed = version("jinja2")
    if tuple(int(part) for part in installed.split(".")[:3] if part.isdigit()) < _OLDEST:
        raise DependencyError(
            f"chat templates need jinja2 3.1.6 or newer, since older ones let templates out of their sandbox; "
            f"installed is {installed}. Upgrade it: {_INSTALL}."
        )
    from jinja2 import TemplateSyntaxError

    from precast.runtime.processors.chat_sandbox import Sandbox, bounded

    if len(template) > _LONGEST:
        raise ChatTemplateError(f"a chat template has at most {_LONGEST:,} characters; this one has {len(template):,}.")
    try:
        with bounded():
            return Sandbox(len(template)).from_string(template)
    except TemplateSyntaxError as error:
        raise ChatTemplateError(
            f"the chat template is malformed, line {error.lineno}: {error.message}. Correct it, or pass another one "
            "as chat_template."
        ) from error
    except RecursionError as error:
        raise ChatTemplateError("the chat template is nested too deeply to be read.") from error
    except Exception as error:  # Python's own compiler refuses what Jinja made of it
        raise ChatTemplateError(f"the chat template cannot be compiled: {type(error).__name__}: {error}.") from error


def _line(error: BaseException) -> str:
    """Where in the template: Jinja makes tracebacks point into it."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            found = trace.tb_lineno
        trace = trace.tb_next
    return "" if found is None else f", line {found}"


def _render_chat(
    template: str,
    chat: list[dict[str, Any]],
    variables: Mapping[str, Any],
    continued: bool | str,
    mark: str | None,
) -> str:
    chat = [_with_reasoning(message) for message in chat]
    final = _open_final(template, chat, continued if isinstance(continued, str) else "content") if continued else ""
    marks = None if mark is None else (f"\ue000{mark}", f"\ue001{mark}")
    text = render(template, {**variables, "messages": chat}, marks)
    if not continued:
        return text
    tag = _TAG.strip()
    if final.strip() not in text or tag not in text:
        raise ChatTemplateError(
            "the chat template leaves out parts of the last message, so it cannot be continued. Open a new answer "
            "instead: add_generation_prompt=True."
        )
    place = text.rindex(tag)
    # Where the template trims the message, so does this.
    return text[:place] if text[place:].startswith(_TAG) else text[:place].rstrip()


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _open_final(template: str, chat: list[dict[str, Any]], field: str) -> str:
    """Put a tag behind the last message's text, so that the text can be cut there; the text without it."""
    message = chat[-1]
    if field not in message:
        raise InputError(f"the last message has no {field!r} to continue; it has {listing(message)}.")
    names = [field]
    if field in _REASONING:
        names = [name for name in _REASONING if message.get(name) == message[field]]
    if not any(name in template for name in names):
        raise InputError(f"the chat template does not read {field!r}, so it cannot be continued.")
    content = message[field]
    if isinstance(content, str):
        for name in names:
            message[name] = content + _TAG
        return content
    for part in reversed(content if isinstance(content, (list, tuple)) else ()):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + _TAG
            return text
    raise InputError("the last message has no text to continue.")


def _spans(text: str, mark: str) -> list[tuple[int, int]]:
    """Where generation blocks lie, in the text without marks."""
    spans, started, removed, place = [], 0, 0, 0
    while (place := text.find(mark, place)) != -1:
        at = place - 1 - removed
        if text[place - 1] == "\ue000":
            started = at
        else:
            spans.append((started, at))
        removed += len(mark) + 1
        place += len(mark)
    return spans


def _without_marks(text: str, mark: str) -> str:
    return text.replace(f"\ue000{mark}", "").replace(f"\ue001{mark}", "")


def _assistant_mask(encoding: Any, row: int, length: int, spans: Sequence[tuple[int, int]]) -> list[int]:
    mask = [0] * length
    for first, end in spans:
        begin = encoding.char_to_token(row, first)
        if begin is None:  # cut off
            break
        last = encoding.char_to_token(row, end - 1)
        stop = length if last is None else last + 1
        mask[begin:stop] = [1] * (stop - begin)
    return mask


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _tables(name: str, values: Any) -> Any:
    if values is None:
        return None
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, (Sequence, Iterator)):
        raise InputError(f"{name} is a list of dictionaries; received {type(values).__name__}.")
    values = list(values)
    entries = [_table(name, value) for value in values]
    for value, entry in zip(values, entries, strict=True):
        if not isinstance(entry, dict):
            hint = " Write the JSON schema of the function." if callable(value) else ""
            raise InputError(f"{name} is a list of dictionaries; one entry is {type(value).__name__}.{hint}")
    return entries


def _table(name: str, value: Any) -> Any:
    if name == "tools" and (inspect.isfunction(value) or inspect.ismethod(value)):
        from precast.runtime.processors.tool_schema import function_schema

        value = function_schema(value)
    return value if isinstance(value, type) else plain(value)
