"""What a full disk means: no bytes, no inodes, or no quota left; and how much there is."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from precast.runtime.errors import DiskSpaceError

__all__ = ["check_space", "full_disk", "is_full"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether the disk refused for want of room."""
    return isinstance(error, OSError) and error.errno in _FULL and not isinstance(error, DiskSpaceError)


def check_space(what: str, folder: Path, needed: int) -> None:
    """``DiskSpaceError`` unless ``needed`` more bytes fit beside the nearest folder above that exists."""
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    if needed > (free := shutil.disk_usage(there).free):
        raise DiskSpaceError(_no_bytes(what, needed, free))


def full_disk(error: OSError, what: str, folder: Path, *, needed: int | None = None, ours: int = 0) -> DiskSpaceError:
    """What ``error`` (``is_full``) says of ``folder``'s disk; ``ours``, bytes that are removed again, count as free."""
    if error.errno == errno.EDQUOT:
        return DiskSpaceError(
            f"The disk quota of this user cannot hold {what}. Remove some files, or choose a folder on another disk."
        )
    free = ours
    with suppress(OSError, AttributeError):
        status = os.statvfs(next(place for place in (folder, *folder.parents) if place.is_dir()))
        free += status.f_bavail * status.f_frsize
        if status.f_files and not status.f_favail:
            return DiskSpaceError(
                f"The disk cannot hold {what}: it has no inodes left for further files, though {_size(free)} are free. "
                "Remove some files (many small ones, best of all), or choose a folder on another disk."
            )
    return DiskSpaceError(_no_bytes(what, needed, free))


def _no_bytes(what: str, needed: int | None, free: int) -> str:
    needs = "" if needed is None else f" it needs at least {_size(needed)},"
    return (
        f"The disk cannot hold {what}:{needs} {_size(free)} are free. "
        "Free some space, or choose a folder on another disk."
    )


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
