"""Files of an artifact: real ones only, opened without following a link, compared with what their manifest says."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from precast.runtime.artifact.manifest import FileRecord
from precast.runtime.errors import IntegrityError

__all__ = ["AGAIN", "Mark", "check_files", "compare", "drain", "mark", "open_real"]

AGAIN = "Export or download it again."
Mark = tuple[int, int, int, int]  # device, inode, last change, size

_CHUNK = 1 << 20
_PARALLEL_FROM = 8 << 20


def mark(status: os.stat_result) -> Mark:
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


@contextmanager
def open_real(folder: Path, name: str) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor of the file ``name`` and its status; no link below ``folder`` is followed.

    Raises ``IntegrityError`` for what is missing, a link, or no regular file.
    """
    *parents, last = name.split("/")
    handles: list[int] = []
    # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            handles.append(os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
            for parent in parents:
                handles.append(os.open(parent, flags | os.O_DIRECTORY, dir_fd=handles[-1]))
            handles.append(os.open(last, flags, dir_fd=handles[-1]))
        except OSError as error:
            step = "/".join([*parents, last][: len(handles)]) if handles else str(folder)
            raise IntegrityError(_why_unopened(folder, step, name, error)) from error
        status = os.fstat(handles[-1])
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{name} is not a regular file")
        if status.st_nlink > 1:
            raise IntegrityError(
                f"{name} has {status.st_nlink} hard links; an artifact holds files of its own only (copy it with cp -r)"
            )
        yield handles[-1], status
    finally:
        for handle in reversed(handles):
            os.close(handle)


def _why_unopened(folder: Path, step: str, name: str, error: OSError) -> str:
    with suppress(OSError):
        if stat.S_ISLNK(os.lstat(folder / step).st_mode):
            through = "is" if step == name else f"lies behind {step}, which is"
            return f"{name} {through} a symbolic link; an artifact holds real files only (copy it with cp -rL)"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{name} is missing"
    return f"{name} cannot be read ({error.strerror})"


def drain(handle: int, expected: int) -> bytes:
    """All bytes of a small file; one byte more than expected is enough to know that it grew."""
    parts: list[bytes] = []
    done = 0
    # By position: a handle that is kept has one offset for all threads, and for a forked child too.
    while done <= expected and (part := os.pread(handle, expected + 1 - done, done)):
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def check_files(folder: Path, files: Mapping[str, FileRecord], *, digests: bool) -> dict[str, Mark]:
    """Every file of the manifest is there, real, of its size and (``digests``) of its content; what marks each."""
    problems: dict[str, str] = {}
    marks: dict[str, Mark] = {}

    def check(name: str) -> None:
        record = files[name]
        try:
            with open_real(folder, name) as (handle, status):
                size, sha256, marks[name] = status.st_size, "", mark(status)
                if digests and size == record.size:
                    size, sha256 = _hash(handle)
            problem = compare(name, record, size, sha256, digests=digests)
        except IntegrityError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{name} cannot be read ({error.strerror})"
        if problem is not None:
            problems[name] = problem

    # The largest first, so that the last thread to finish does not start on the largest.
    _in_parallel(check, sorted(files, key=lambda name: -files[name].size), sum(r.size for r in files.values()), digests)
    if problems:
        found = [problems[name] for name in sorted(problems)]
        rest = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise IntegrityError(f"{folder} is not the artifact that was exported: {'; '.join(found[:3])}{rest}. {AGAIN}")
    return marks


def _hash(handle: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(handle, [buffer]):
        digest.update(view[:count])
        size += count
    return size, digest.hexdigest()


def compare(name: str, record: FileRecord, size: int, sha256: str, *, digests: bool) -> str | None:
    if size != record.size:
        return f"{name} has {size} bytes instead of {record.size}"
    if digests and sha256 != record.sha256:
        return f"{name} differs from its recorded SHA-256"
    return None


def _in_parallel(work: Callable[[str], None], names: list[str], total: int, digests: bool) -> None:
    """Hashing lets other threads run, so a second core halves the time. Small artifacts are not worth a thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(len(names), cores, 8)
    if not digests or total < _PARALLEL_FROM or threads < 2:
        for name in names:
            work(name)
        return
    from threading import Thread

    queue = iter(names)  # a list iterator is advanced by one thread at a time

    def drain() -> None:
        for name in queue:
            work(name)

    pool = [Thread(target=drain, name="precast-digest", daemon=True) for _ in range(threads - 1)]
    for thread in pool:
        thread.start()
    drain()
    for thread in pool:
        thread.join()
