"""``precast env``: versions, providers, what is missing and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer

from precast.runtime.cli.console import guarded, size_text, table, write, write_json

__all__ = ["env", "register"]


@guarded
def env(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Show versions, providers and CPU features, what is missing and how to get it."""
    from precast.runtime.machine import report

    found = report()
    if as_json:
        write_json(found)
        return
    cpu, engine, hub = found["cpu"], found["onnxruntime"], found["hub"]
    limits = hub["limits"]
    packages = {name: installed for group in found["extras"].values() for name, installed in group.items() if installed}
    memory = f", {size_text(found['memory_bytes'])} memory" if found["memory_bytes"] else ""
    facts = {
        "precast": found["precast"],
        "python": f"{found['python']} ({found['executable']})",
        "system": found["system"],
        "cpu": f"{cpu['name']}, {cpu['usable']} usable{memory}",
        "features": ", ".join(cpu["features"]) or "unknown",
        "providers": ", ".join(engine["providers"]) or "none: ONNX Runtime is not installed",
        "onnxruntime": engine["version"] or "missing",
        "kernels": found["kernels"]["why_not"] or f"{found['kernels']['isa']}, {found['kernels']['builds'][0]}",
        "packages": ", ".join(f"{name} {installed or 'missing'}" for name, installed in found["packages"].items()),
        "extras": ", ".join(f"{name} {installed}" for name, installed in sorted(packages.items())) or "none",
        "cache": found["cache"],
        "hub": hub["endpoint"] + (" (offline mode)" if hub["offline"] else ""),
        "hub limits": f"{limits['silence_seconds']:g} s of silence; {limits['allowance_seconds']:g} s a request "
        f"({limits['push_allowance_seconds']:g} s a step of a push) and 1 s more for every "
        f"{size_text(limits['least_bytes_per_second'])}; a file its listed size, a listing "
        f"{size_text(limits['listing_bytes'])}",
    }
    for name, value in facts.items():
        write(f"{name + ':':<13}{value}")
    if found["missing"]:
        write()
        rows = [(entry["for"], ", ".join(entry["packages"]), entry["get"]) for entry in found["missing"]]
        table(("to", "missing", "get it"), rows, title="Missing")
    else:
        write("missing:     nothing")


def register(app: typer.Typer) -> None:
    app.command(
        short_help="Show versions, and what is missing.", epilog="\b\nExample:\n  precast env --json > environment.json"
    )(env)
