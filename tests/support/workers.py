"""How one run's workers (pytest-xdist) divide the tests, and what is costly and made once for all of them.

xdist's own groups are marks that it writes into a test's id, which newer versions of pytest do not read there: every
file's tests went to every worker, and each made all fixtures of its own. Here a group follows from the id alone.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["group", "once", "scheduler", "share"]

_FOLDER = "PRECAST_TESTS_SHARED"
# Their tests share nothing, and fill the others' time.
_ALONE = ("tests/export/families/test_encoders.py", "tests/export/families/test_language_models.py")


def group(test: str) -> str:
    """What stays in one worker with the test of this id: the tests of its file."""
    file = test.partition("::")[0]
    return test if file in _ALONE else file


def scheduler(config: Any, log: Any) -> Any:
    """Of xdist: the largest groups first, each given whole to the worker that is free."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)


def share() -> Path:
    """The folder of `once`: this process's, and that of those it starts from now on."""
    if _FOLDER not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="precast-tests-", ignore_cleanup_errors=True)
        atexit.register(folder.cleanup)
        os.environ[_FOLDER] = folder.name
    return Path(os.environ[_FOLDER])


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` writes at the path it is given: by one worker, while others wait for it."""
    path = share() / name
    with (share() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            draft = share() / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a test that failed in the middle of it
            make(draft)
            draft.rename(path)
    return path
