"""``precast push`` and ``precast pull``: artifacts to and from the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from precast.runtime.cli.console import Stages, guarded, write, write_json

__all__ = ["pull", "push", "register"]

_TOKEN = typer.Option(help="For the Hub. Default: HF_TOKEN, or `hf auth login`.")
_JSON = typer.Option("--json", help="Print one JSON document.")


@guarded
def push(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The artifact's folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="A Hub id such as org/name; made where there is none.")],
    revision: Annotated[str | None, typer.Option(help="A branch; made where there is none. Default: main.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is not public.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a Precast artifact",
    token: Annotated[str | None, _TOKEN] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Upload an artifact to the Hub in one commit."""
    from precast.runtime.hub import push as upload

    with Stages() as stage:
        stage(f"uploading to {repo}")
        address = upload(artifact, repo, revision=revision, token=token, private=private or None, message=message)
    if as_json:
        write_json({"artifact": artifact, "repository": repo, "revision": revision or "main", "commit": address})
    else:
        write(f"{artifact} is at {address}")


@guarded
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="A Hub id such as org/name.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The artifact's folder, which does not exist yet.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit. Default: main.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the artifact at OUT.")] = False,
    token: Annotated[str | None, _TOKEN] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Download an artifact from the Hub, whole and checked, or not at all."""
    from precast.runtime.artifact import Artifact
    from precast.runtime.hub import pull as download

    with Stages() as stage:
        stage(f"downloading {repo}")
        path = download(repo, out, revision=revision, token=token, overwrite=overwrite)
    artifact = Artifact.open(path, check="size")
    if as_json:
        document = {"artifact": str(path), "repository": repo, "digest": artifact.digest, "tasks": list(artifact.tasks)}
        write_json(document)
    else:
        write(
            f"{path}: {artifact.manifest.model_type} for {', '.join(artifact.tasks)}. Check it: precast verify {path}"
        )


def register(app: typer.Typer) -> None:
    app.command(epilog="\b\nExample:\n  precast push minilm my-name/minilm-precast --private")(push)
    app.command(
        short_help="Download an artifact from the Hub.",
        epilog="\b\nExample:\n  precast pull my-name/minilm-precast minilm",
    )(pull)
