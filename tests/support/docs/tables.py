"""Tables of what the code has: architectures, tasks, commands."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo

from support.record_upstream_models import FILE

__all__ = ["architectures", "cli", "commands", "groups", "markdown", "owed", "task_facts", "task_nav", "task_pages"]

# Which tasks make a group of architectures, the first that fits; what fits none is named by its first task.
_PARTS = ("object-detection", "semantic-segmentation", "universal-segmentation", "mask-generation", "depth-estimation")
_GROUPS = (
    ("Speech and codecs made", ("text-to-waveform", "text-to-spectrogram", "vocoder", "audio-tokenization")),
    ("Sound that is heard", ("speech-seq2seq", "ctc", "audio-classification")),
    (
        "Pictures with text",
        (
            *("zero-shot-image-classification", "zero-shot-object-detection", "visual-question-answering"),
            *("zero-shot-video-classification", "prompted-segmentation"),
        ),
    ),
    ("Pictures written about", ("image-text-to-text",)),
    ("Sound with text", ("zero-shot-audio-classification",)),
    ("Vision", ("image-classification",)),
    ("Objects, segments, depths, keypoints", (*_PARTS, "keypoint-detection", "keypoint-matching")),
    ("Videos, and pictures drawn", ("video-classification", "image-to-image", "pretraining")),
    ("Encoder-decoders of text", ("text2text-generation",)),
    ("Text encoders", ("fill-mask",)),
    ("Language models", ("text-generation",)),
    ("Text encoders", ("text-classification", "token-classification", "question-answering")),
)
# As a reader looks for them.
_SHOWN = (
    *("Text encoders", "Language models", "Encoder-decoders of text", "Vision", "Objects, segments, depths, keypoints"),
    *("Videos, and pictures drawn", "Pictures with text", "Pictures written about", "Sound that is heard"),
    *("Speech and codecs made", "Sound with text"),
)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; texts of cells hold no bars of their own."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


@cache
def _served() -> dict[str, frozenset[str]]:
    from precast.export.families import find_family, model_types

    return {name: frozenset(head.task for head in find_family(name).heads) for name in model_types()}


@cache
def _upstream() -> dict[str, Any]:
    from precast.runtime.catalogue import CATALOGUE

    document = json.loads(FILE.read_text("utf-8"))
    models = {facts.name: frozenset(document[facts.auto]) for facts in CATALOGUE.values() if facts.auto in document}
    return {"version": document["transformers"], "models": models}


@cache
def _groups() -> dict[str, list[str]]:
    from precast.runtime.catalogue import head_tasks

    found: dict[str, list[str]] = {}
    for name, tasks in _served().items():
        title = next((title for title, wanted in _GROUPS if tasks & set(wanted)), None)
        if title is None:
            first = next(task for task in head_tasks()[::-1] if task in tasks)
            title = first.replace("-", " ").capitalize()
        found.setdefault(title, []).append(name)
    return dict(sorted(found.items(), key=lambda item: _SHOWN.index(item[0]) if item[0] in _SHOWN else len(_SHOWN)))


def groups() -> str:
    """A line a group: its architectures and what they are exported for."""
    from precast.runtime.catalogue import head_tasks

    rows = []
    for title, names in _groups().items():
        tasks = [task for task in head_tasks() if any(task in _served()[name] for name in names)]
        shown = ", ".join(f"[{task}](docs/tasks/{task}.md)" for task in tasks)
        rows.append((f"{title} ({len(names)})", ", ".join(names), shown))
    return markdown(("", "architectures (`model_type`)", "tasks"), rows)


def architectures() -> str:
    """A table a group: what is exported, and what upstream has and is not yet."""
    from precast.runtime.catalogue import head_tasks

    models = _upstream()["models"]
    parts = []
    for title, names in _groups().items():
        known = {name: {task for task in models if name in models[task]} | _served()[name] for name in names}
        tasks = [task for task in head_tasks() if any(task in known[name] for name in names)]
        rows = [
            [name, *("yes" if task in _served()[name] else "owed" if task in known[name] else "" for task in tasks)]
            for name in names
        ]
        heads = [f"[{task}](tasks/{task}.md)" for task in tasks]
        parts += [f"## {title}", markdown(("`model_type`", *heads), rows)]
    return "\n\n".join(parts)


def owed() -> str:
    """The architectures that no table has: by task, folded."""
    from precast.runtime.catalogue import head_tasks

    models = _upstream()["models"]
    parts = [f"Counted against transformers {_upstream()['version']}."]
    for task in head_tasks():
        if task not in models:
            continue
        have = {name for name in models[task] if task in _served().get(name, ())}
        missing = sorted(models[task] - have)
        summary = f"{task}: {len(have)} of {len(models[task])}"
        listed = ", ".join(missing) or "none"
        parts.append(f"<details><summary>{summary}</summary>\n<p>{listed}</p>\n</details>")
    return "\n\n".join(parts)


def task_pages() -> str:
    """A line a task, with its page."""
    from precast.runtime.catalogue import CATALOGUE
    from precast.runtime.tasks import TASKS

    rows = [
        (
            f"[{facts.name}]({facts.name}.md)",
            ", ".join(f"`{alias}`" for alias in facts.aliases),
            "yes" if facts.name in TASKS else "the model itself",
            f"`{facts.auto}`" if facts.auto else "",
            ", ".join(_makers(facts)),
        )
        for facts in CATALOGUE.values()
    ]
    return markdown(("task", "other names", "`precast.pipeline`", "class", "made of artifacts for"), rows)


def task_nav() -> str:
    """The tasks' pages in the site's menu."""
    from precast.runtime.catalogue import CATALOGUE

    return "\n".join(f"      - tasks/{name}.md" for name in CATALOGUE)


def _makers(facts: Any) -> list[str]:
    """Tasks whose artifacts do this one: its own where a head is made for it, and those that serve it."""
    return [*([facts.name] if facts.endings else []), *facts.served_by]


def task_facts(name: str) -> str:
    """What the code knows of a task."""
    from precast.runtime.catalogue import CATALOGUE
    from precast.runtime.tasks import TASKS

    facts = CATALOGUE[name]
    rows = []
    if name in TASKS:
        rows.append(("pipeline", f'`precast.pipeline("{name}", ...)`'))
        if parameters := _parameters(TASKS[name]):
            rows.append(("its parameters", ", ".join(f"`{one}`" for one in parameters)))
    if facts.aliases:
        rows.append(("other names", ", ".join(f"`{alias}`" for alias in facts.aliases)))
    if facts.auto:
        rows.append(("class", f"`precast.{facts.auto}`"))
    if facts.endings:
        rows.append(("upstream's classes", ", ".join(f"`*{ending}`" for ending in facts.endings)))
    if facts.outs:
        outs = ", ".join(f"`{out.name}` [{', '.join(map(str, out.shape))}]" for out in facts.outs)
        rows.append(("outputs", outs))
    makers = _makers(facts)
    if makers != [name]:
        rows.append(("artifacts for", ", ".join(f"[{maker}]({maker}.md)" for maker in makers)))
    served = [model for model, tasks in _served().items() if tasks & set(makers)]
    rows.append(("architectures", ", ".join(served) or "none yet"))
    return markdown(("task", f"**{name}**"), rows)


def _parameters(task: Any) -> list[str]:
    found = inspect.signature(task.check).parameters.values()
    return [one.name for one in found if one.kind is one.KEYWORD_ONLY]


@cache
def commands() -> dict[str, Any]:
    """The command line's commands, those of a group by both names."""
    import typer

    from precast.runtime.cli.app import app

    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found[name] = command
        found |= {f"{name} {inner}": one for inner, one in getattr(command, "commands", {}).items()}
    return found


def cli() -> str:
    """Every command with what its ``--help`` says, independent of how a version of typer lays that out."""
    anchors = {name: f"precast-{name.replace(' ', '-')}" for name in commands()}
    listed = [(f"[`precast {name}`](#{anchors[name]})", _help(one)[0]) for name, one in commands().items()]
    lines = [markdown(("command", "what it does"), listed)]
    for name, command in commands().items():
        lines += [f"## precast {name}", " ".join(_help(command))]
        if command.callback and (rows := list(_parameters_of(command.callback))):
            lines.append(markdown(("", "what it is", "default"), rows))
        example = [line.strip() for line in (command.epilog or "").splitlines() if "precast" in line]
        if example:
            lines.append("```sh\n" + "\n".join(example) + "\n```")
    return "\n\n".join(lines)


def _help(command: Any) -> list[str]:
    return [_cell(line) for line in inspect.cleandoc(command.help or "").splitlines() if line.strip()]


def _parameters_of(function: Any) -> Iterator[tuple[str, str, str]]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2] if get_origin(hints[name]) is Annotated else (None, None)
        if info is None or getattr(info, "hidden", False):
            continue
        kinds = [one for one in (get_args(kind) or (kind,)) if one is not type(None)]
        told = _cell(info.help or "")
        if isinstance(info, ArgumentInfo):
            yield f"`{info.metavar or name.upper()}`", told, ""
            continue
        # Behind Annotated typer takes the first name for a default until it makes the command.
        names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str) and one[:1] == "-"]
        value = "" if kinds == [bool] else f" {info.metavar or _value(kinds[0])}"
        shown = "" if parameter.default in (None, False, parameter.empty) else f"`{parameter.default}`"
        yield f"`{', '.join(names) or '--' + name.replace('_', '-')}{value}`", told, shown


def _value(kind: Any) -> str:
    kind = (get_args(kind) or (kind,))[0]
    return {int: "INTEGER", float: "NUMBER"}.get(kind, "TEXT")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
