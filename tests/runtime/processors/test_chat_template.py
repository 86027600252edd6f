"""Chat templates: equal to upstream's on well-known ones, and held in their cage where they want out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from support import doubles
from support.chat_templates import CHATML, MISTRAL

from precast.export.tokenizers.files import runtime_files
from precast.runtime.errors import ChatTemplateError, CheckpointError, DependencyError, InputError
from precast.runtime.processors import chat, chat_sandbox
from precast.runtime.processors.text import Tokenizer

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
# Tools, reasoning, namespaces, macros, a backwards search, block captures, filters and generation blocks at once.
RICH = """
{%- macro show(value, depth=0) -%}
  {%- if value is mapping -%}
    {%- for key, item in value | dictsort -%}{{ key }}={{ show(item, depth + 1) }};{%- endfor -%}
  {%- elif value is sequence and value is not string -%}[{%- for item in value -%}{{ show(item) }}
    {%- if not loop.last %}, {% endif -%}{%- endfor -%}]
  {%- else -%}{{ value }}{%- endif -%}
{%- endmacro -%}
{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson(indent=2) }}{{ show(tool) }}{% endfor %}</tools>
{%- endif -%}
{%- for document in documents or [] %}{{ loop.index ~ '/' ~ loop.length ~ ': ' ~ document.title }}
{% endfor -%}
{%- set ns = namespace(last=messages|length - 1, text='', roles=[]) -%}
{%- for message in messages[::-1] -%}
  {%- set ns.roles = ns.roles + [message.role] -%}
  {%- if message.role == 'user' -%}{%- set ns.last = messages|length - 1 - loop.index0 -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{{- ns.roles | join(',') }} {{ ns.last }} {{ '%s-%05.1f' % ('x', 2) }} {{ '{:>6}|{}'.format('ab', 3) }}
{% for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- set body %}{{ message.content | default('', true) }}{% endset %}
    {%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>{% endif %}
    {%- if message.role == 'assistant' %}
<a>{% generation %}{{ body }}{% endgeneration %}</a>
    {%- else %}
<{{ message.role }}>{{ body | replace('a', 'AA') | upper }}{{ '!' * 3 }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}
{%- endfor %}
{{- strftime_now('%Y')[:2] }}{% if enable_thinking is defined and enable_thinking is false %}<no>{% endif %}
{{- dict(a=1, b=[2]) | tojson }} {{ range(3) | map('string') | list | tojson }}
{%- if add_generation_prompt %}<a>{% endif %}"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "rich": RICH}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return doubles.train_bpe(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)


def conversations(count: int, seed: int = 0, system: bool = True) -> list[list[dict[str, Any]]]:
    random = np.random.default_rng(seed)
    texts = [*doubles.texts(60, seed=3), "  padded \n", "{{ 7 * 7 }} {% raw %}", "<|im_end|></s>[INST]"]
    made = []
    for _ in range(count):
        chat = [{"role": "system", "content": str(random.choice(texts))}] if system and random.random() < 0.4 else []
        for turn in range(random.integers(1, 7)):
            chat.append({"role": ("user", "assistant")[turn % 2], "content": str(random.choice(texts))})
        made.append(chat)
    return made


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True])
def test_prompts_are_upstreams(pair: tuple[Tokenizer, Any], name: str, prompt: bool) -> None:
    ours, theirs = pair
    for chat_ in conversations(25, seed=len(name), system=name != "mistral"):
        options = {"chat_template": TEMPLATES[name], "add_generation_prompt": prompt}
        assert ours.apply_chat_template(chat_, tokenize=False, **options) == theirs.apply_chat_template(
            chat_, tokenize=False, **options
        )
        assert dict(ours.apply_chat_template(chat_, **options)) == dict(theirs.apply_chat_template(chat_, **options))


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'It\'s "sunny" <b>or</b> not: é',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
LONG = [
    {"role": "system", "content": "Be kind.", "name": None},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "thinking": "hm", "tool_calls": [{"function": {"arguments": {"é": [1]}}}]},
    {"role": "tool", "content": "warm"},
    {"role": "assistant", "content": "a warm day", "reasoning": "because"},
]


def measure(place: str, days: int = 1) -> float:
    """Measure how warm it is.

    Args:
        place: Where.
        days: For how long.

    Returns:
        Degrees.
    """
    return 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"tools": TOOLS},
        {"tools": [*TOOLS, measure]},
        {"documents": [{"title": "A", "text": "b"}, {"title": "C", "text": "d"}]},
        {"enable_thinking": False},
        {"bos_token": "<other>"},
        {"continue_final_message": True},
        {"continue_final_message": "reasoning"},
        {"return_assistant_tokens_mask": True, "tokenize": True},
        {"return_dict": False, "tokenize": True},
        {"tokenize": True, "return_tensors": "np", "padding": "max_length", "max_length": 300, "truncation": True},
        {"tokenize": True, "tokenizer_kwargs": {"return_offsets_mapping": True}},
    ],
)
def test_options_are_upstreams(pair: tuple[Tokenizer, Any], options: dict[str, Any]) -> None:
    ours, theirs = pair
    options = {"tokenize": False, "chat_template": RICH, **options}
    found, expected = ours.apply_chat_template(LONG, **options), theirs.apply_chat_template(LONG, **options)
    if hasattr(expected, "keys"):
        assert set(found) == set(expected)
        for key in expected:
            assert np.array_equal(np.asarray(found[key]), np.asarray(expected[key])), key
    else:
        assert found == expected
    assert LONG[-1] == {"role": "assistant", "content": "a warm day", "reasoning": "because"}


def test_batches_and_parts_are_upstreams(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    chats = conversations(4, seed=9)
    options = {"chat_template": RICH, "padding": True, "return_assistant_tokens_mask": True, "return_tensors": "np"}
    found, expected = ours.apply_chat_template(chats, **options), theirs.apply_chat_template(chats, **options)
    assert set(found) == set(expected)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert found["assistant_masks"].any()
    parts = [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image", "image": object()}]}]
    for continued in (False, True):
        options = {"chat_template": GEMMA, "tokenize": False, "continue_final_message": continued}
        assert ours.apply_chat_template(parts, **options) == theirs.apply_chat_template(parts, **options)


def test_messages_may_be_objects(pair: tuple[Tokenizer, Any]) -> None:
    @dataclass
    class Message:
        role: str
        content: str

    found = pair[0].apply_chat_template([Message("user", "Hi")], chat_template=CHATML, tokenize=False)
    assert found == "<|im_start|>user\nHi<|im_end|>\n"


def test_templates_are_chosen_as_upstream_does(folder: Path) -> None:
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for own in (CHATML, {"default": CHATML, "tool_use": RICH, "short": "x"}):
        ours.chat_template = theirs.chat_template = own
        names = [None, "{{ 1 }}"] + (["short", "tool_use"] if isinstance(own, dict) else [])
        for name in names:
            for tools in (None, TOOLS):
                assert ours.get_chat_template(name, tools) == theirs.get_chat_template(name, tools)
    with pytest.raises(
        ChatTemplateError, match=r"no chat template named 'shrt'; it has default, short, tool_use\. Clo"
    ):
        ours.get_chat_template("shrt")
    ours.chat_template = {"one": "1", "two": "2"}
    with pytest.raises(ChatTemplateError, match=r"several chat templates and no default one: one, two\. Pass"):
        ours.get_chat_template()
    ours.chat_template = None
    with pytest.raises(ChatTemplateError, match="has no chat template: it was not trained to chat"):
        ours.apply_chat_template([{"role": "user", "content": "x"}])


# -- where templates are kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "stated"),
    [
        ({}, CHATML),
        ({}, [{"name": "default", "template": CHATML}, {"name": "rag", "template": "rag"}]),
        ({"chat_template.jinja": CHATML}, "old"),
        ({"chat_template.jinja": CHATML, "additional_chat_templates/tool_use.jinja": "tools é"}, None),
        ({"additional_chat_templates/rag.jinja": "rag"}, None),
    ],
)
def test_templates_travel(folder: Path, tmp_path: Path, files: dict[str, str], stated: Any) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | ({"chat_template": stated} if stated else {})))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert expected
    assert Tokenizer.from_folder(tmp_path).chat_template == expected
    exported = Tokenizer.from_files(runtime_files(tmp_path, "gpt2", {}))
    assert exported.chat_template == expected
    assert Tokenizer.from_files(exported.files()).chat_template == expected


@pytest.mark.parametrize("stated", [7, [1], [{"name": "x"}], {"default": None}])
def test_a_template_that_is_no_text_is_refused(folder: Path, tmp_path: Path, stated: Any) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": stated}))
    with pytest.raises(CheckpointError, match="chat_template is a text, or a list of entries with 'name'"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja must be UTF-8"):
        Tokenizer.from_folder(tmp_path)


# -- bad input --------------------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hello", "a conversation is a list of messages such as .*; received str"),
        ({"role": "user", "content": "x"}, "a conversation is a list of messages .*; received dict"),
        (None, "received NoneType"),
        ([], "at least one message; received none"),
        ([HELLO[0], "x"], "a message is a dictionary .*; message 2 is str"),
        ([{"content": "x"}], "a message has a role, such as system, user or assistant; message 1 has content"),
        ([{"role": 3, "content": "x"}], "a message has a role"),
        ([{"role": "user", "content": 5}], "the content of a message is a text, or a list .*; that of message 1 is 5"),
        ([HELLO, []], "at least one message"),
        ([HELLO, "x"], "a conversation is a list"),
    ],
)
def test_what_is_no_conversation(pair: tuple[Tokenizer, Any], messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair[0].apply_chat_template(messages, chat_template=CHATML)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_generation_prompt": True, "continue_final_message": True}, "pass one of them"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, "needs tokenize=True"),
        (
            {"continue_final_message": "thoughts"},
            "the last message has no 'thoughts' to continue; it has role, content",
        ),
        ({"chat_template": 3}, "chat_template is a template or the name of one; received int"),
        ({"tools": TOOLS[0]}, "tools is a list of dictionaries; received dict"),
        ({"tools": [Path]}, r"one entry is type\. Write the JSON schema"),
        ({"tools": [lambda: 0]}, "has a docstring"),
        ({"tools": [print]}, r"one entry is builtin_function_or_method\. Write the JSON schema"),
        ({"documents": ["x"]}, "documents is a list of dictionaries; one entry is str"),
        ({"sanitize_control_tokens": True}, "is not supported"),
        ({"return_tensors": "pt"}, "return_tensors is 'np' or None"),
        ({"chat_template": "{{ messages }}", "continue_final_message": True}, "does not read 'content'"),
    ],
)
def test_options_that_contradict(pair: tuple[Tokenizer, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair[0].apply_chat_template(HELLO, **({"chat_template": CHATML} | options))


def test_a_final_message_that_the_template_drops(pair: tuple[Tokenizer, Any]) -> None:
    with pytest.raises(ChatTemplateError, match="leaves out parts of the last message"):
        pair[0].apply_chat_template(
            HELLO, chat_template="{{ messages[0].content[:3] }}", continue_final_message=True, tokenize=False
        )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("line one\n{% for m in messages %}\n{{ m.content }}", r"malformed, line 3: Unexpected end of template"),
        ("{{ 'unclosed }}", "malformed, line 1"),
        ("{% nonsense %}", "malformed, line 1: Encountered unknown tag 'nonsense'"),
        ("x\n\n{{ 1 | nofilter }}", "malformed, line 3: No filter named 'nofilter'"),
        ("{{ raise_exception('Only three roles, please') }}", "refuses this conversation: Only three roles, please"),
        ("\n{{ messages[0].content.nothing.more }}", "fails on this conversation, line 2: UndefinedError"),
        ("{{ messages[0].content + 1 }}", "fails on this conversation, line 1: TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include '/etc/passwd' %}", "fails on this conversation.*no loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself without end"),
        ("{{ 'x' }}" * 2**18, "at most 1,048,576 characters"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply|malformed|cannot be compiled"),
    ],
)
def test_templates_that_are_wrong(template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        chat.render(template, {"messages": HELLO})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ messages | attr('__init__') }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (dict | attr('__call__')).__globals__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{% set f = '{0.__class__}'.format %}{{ [''] | map('format') | list }}{{ f('') }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    ],
)
def test_templates_that_reach_for_the_system(template: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"asks for what no template may do|SecurityError|UndefinedError"):
        chat.render(template, {"messages": HELLO})


@pytest.mark.parametrize(
    "template",
    [
        "{{ range(10**9) | list }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(64) }}",
        "{% for i in [1] recursive %}{{ loop(range(2)) if loop.depth < 40 }}{% endfor %}",
        "{{ 'a' * 10**12 }}",
        "{{ [0] * 10**12 }}",
        "{{ 10**(10**10) }}",
        "{{ (2**4000) * (2**4000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%(a)1000000000s' % {'a': 1} }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ 1 | round(1000000000, 'ceil') }}",
        "{{ [[1]] | sum(start=[]) }}",
        "{{ 'a'.translate({97: 'b' * 1000000}) * 1000 }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
        "{{ ('b' * 100000).join('a' * 100000) }}",
        "{{ range(99999) | join('b' * 100000) }}",
        "{{ range(99999) | map('string') | join('b' * 100000) }}",
        "{{ range(99999) | map('center', 9999) | join }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}"
        "{% set ns.x = x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x | tojson }}",
        "{% for i in range(9999) %}" + "x" * 100_000 + "{% endfor %}",
        "{% macro m() %}" + "x" * 900_000 + "{% endmacro %}{% for i in range(99999) %}{{ m() }}{% endfor %}",
        "{{ strftime_now('%1000000000Y') }}",
    ],
)
def test_bombs_do_not_go_off(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(chat_sandbox, "MAX_STEPS", 100_000)
    with pytest.raises(ChatTemplateError, match=r"asks for what no template may do(, line [12])?: .*Do not trust"):
        chat.render(template, {"messages": HELLO})


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_sandbox, "MAX_SECONDS", -1.0)
    with pytest.raises(ChatTemplateError, match="line 2: it takes longer than -1 s"):
        chat.render("\n{% for m in messages %}{% endfor %}", {"messages": HELLO})


def test_long_conversations_are_within_the_bounds(pair: tuple[Tokenizer, Any]) -> None:
    chat_ = [{"role": ("user", "assistant")[index % 2], "content": "a word or two " * 50} for index in range(1000)]
    for template in (CHATML, LLAMA3, GEMMA):
        text = pair[0].apply_chat_template(chat_, chat_template=template, tokenize=False)
        assert text == pair[1].apply_chat_template(chat_, chat_template=template, tokenize=False)
        assert len(text) > 500_000


def test_without_jinja_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chat._compiled.cache_clear()
    monkeypatch.setattr(chat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r'chat templates need jinja2.*pip install "precast\[chat\]"'):
        chat.render("x", {})
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.1.5")
    with pytest.raises(DependencyError, match=r"need jinja2 3\.1\.6 or newer.*installed is 3\.1\.5"):
        chat.render("x", {})


def test_a_tokenizer_does_not_import_jinja() -> None:
    code = (
        "import sys, precast.runtime.processors.text, precast.runtime.processors.chat; "
        "assert 'jinja2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_threads_get_what_one_gets(pair: tuple[Tokenizer, Any]) -> None:
    chats = conversations(24, seed=4)
    expected = [
        pair[0].apply_chat_template(one, chat_template=RICH, return_assistant_tokens_mask=True) for one in chats
    ]
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        found[index] = pair[0].apply_chat_template(chats[index], chat_template=RICH, return_assistant_tokens_mask=True)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(chats))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [dict(found[index]) for index in range(len(chats))] == [dict(one) for one in expected]
