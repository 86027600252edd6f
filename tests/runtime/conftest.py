"""A Hub on this machine, for all that ask one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants  # the fixture sets what is loaded
import pytest
from support.hub_server import FILES, NAME, HubServer, Repo, set_constants


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    # huggingface_hub reads its environment when it is imported, so the constants are set instead.
    with HubServer() as running:
        set_constants(
            monkeypatch,
            ENDPOINT=running.url,
            HUGGINGFACE_CO_URL_TEMPLATE=running.url + "/{repo_id}/resolve/{revision}/{filename}",
            HF_HUB_CACHE=str(tmp_path / "cache"),
            HF_TOKEN_PATH=str(tmp_path / "token"),
            HF_HUB_OFFLINE=False,
            HF_HUB_DISABLE_XET=True,
        )
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        running.repos[NAME] = Repo({"main": dict(FILES)})
        yield running
        close = getattr(huggingface_hub, "close_session", None)
        if close is not None:
            close()
