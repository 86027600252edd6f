"""The folder an artifact is made in, beside its target, and the one rename that publishes it.

``.<name>.precast-staging-<pid>-<random>/`` holds ``lock`` (flocked while its process lives), ``artifact/`` (what will
be renamed) and ``incoming/`` (files being written). Whoever finds one whose lock is free may remove it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from precast.runtime.artifact.manifest import MANIFEST_NAME

__all__ = ["Staging", "clean_up", "is_set_aside", "rename_new", "sync", "target_lock"]

_LOCK, _ARTIFACT, _INCOMING, _ASIDE = "lock", "artifact", "incoming", "aside"
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2
# What renameat2 answers where the kernel or the file system has no such flag.
_NO_SUCH_FLAG = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_NO_LOCKS = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)


class Staging:
    """A staging folder of this process. ``artifact`` is the folder to fill, ``incoming`` is for unfinished files;
    ``lock`` is a descriptor, -1 once the folder is removed."""

    def __init__(self, target: Path) -> None:
        self.target = target
        while True:
            root = target.parent / f".{_tag(target.name)}.precast-staging-{os.getpid()}-{secrets.token_hex(4)}"
            # Nobody else has business here before the rename; `artifact` inside has the user's own mode.
            os.mkdir(root, 0o700)
            lock = _lock(root, create=True)
            if lock is not None:
                break  # else a cleaner met the folder before its lock was taken, and is removing it
        self.root = root
        self.artifact = root / _ARTIFACT
        self.incoming = root / _INCOMING
        self.lock = lock
        self._owner = os.getpid()
        try:
            os.mkdir(self.artifact)
            os.mkdir(self.incoming)
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove what is left. A failure is no error: the next export to this target tries again."""
        if os.getpid() != self._owner or self.lock < 0:
            return  # a forked child does not own its parent's folder
        _remove(self.root)
        os.close(self.lock)
        self.lock = -1

    def publish_new(self) -> bool:
        """Rename to the target if nothing is there. False if something is."""
        try:
            rename_new(self.artifact, self.target)
        except FileExistsError:
            return False
        sync(self.root)
        sync(self.target.parent)
        return True

    def publish_over_empty(self) -> bool:
        """Rename over an empty folder; rename(2) refuses any other. False if it is not empty any more."""
        try:
            os.rename(self.artifact, self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        sync(self.root)
        sync(self.target.parent)
        return True

    def publish_instead(self) -> None:
        """Exchange with what is at the target, in one step; the old folder is then part of the staging."""
        try:
            _renameat2(self.artifact, self.target, _EXCHANGE)
        except OSError as error:
            if error.errno not in _NO_SUCH_FLAG:
                raise
            # Two steps. Killed between them, the old one waits in `aside` until `clean_up` puts it back.
            os.rename(self.target, self.root / _ASIDE)
            try:
                os.rename(self.artifact, self.target)
            except BaseException:
                os.rename(self.root / _ASIDE, self.target)
                raise
        sync(self.root)
        sync(self.target.parent)


def clean_up(target: Path) -> None:
    """Remove what killed exports to ``target`` left beside it. Folders of living ones are left alone."""
    for root in _beside(target):
        with suppress(OSError):
            lock = _lock(root, create=False)
            if lock is None:
                continue
            try:
                if os.path.lexists(root / _ASIDE / MANIFEST_NAME):
                    with suppress(FileExistsError):
                        rename_new(root / _ASIDE, target)
                _remove(root)
            finally:
                os.close(lock)


def is_set_aside(target: Path) -> bool:
    """Whether the artifact of ``target`` waits beside it: its publisher is between two renames, or was killed there."""
    return any(os.path.lexists(root / _ASIDE / MANIFEST_NAME) for root in _beside(target))


def _beside(target: Path) -> list[Path]:
    """The staging folders of ``target``, whoever made them."""
    pattern = re.compile(rf"\.{re.escape(_tag(target.name))}\.precast-staging-[0-9]+-[0-9a-f]{{8}}")
    with suppress(OSError):
        found = [target.parent / name for name in sorted(filter(pattern.fullmatch, os.listdir(target.parent)))]
        return [root for root in found if not root.is_symlink() and root.is_dir()]
    return []


@contextmanager
def target_lock(target: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold the artifact at ``target`` against other writers. False if it was replaced while waiting for the lock.

    ``shared``: for readers, who do not wait for each other.
    """
    try:
        handle = os.open(target / MANIFEST_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield False
        return
    try:
        with suppress(OSError):  # a file system without locks: then one export at a time is the user's care
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield _is_same(handle, target / MANIFEST_NAME)
    finally:
        os.close(handle)


def rename_new(source: Path, target: Path) -> None:
    """Rename, never replacing anything. Raises ``FileExistsError``."""
    try:
        _renameat2(source, target, _NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_SUCH_FLAG:
            raise
        # rename(2) of a folder replaces nothing but an empty folder, so a lost race costs nobody anything.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def _tag(name: str) -> str:
    """The target's name, or a digest of it where the staging's name would become too long for a file system."""
    return name if len(os.fsencode(name)) <= 160 else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _lock(root: Path, *, create: bool) -> int | None:
    """A held lock on the staging folder ``root``, or None if another process holds it or removed the folder.

    Without locks in the file system a staging can be made (``create``), but nobody can know that it is a dead one's.
    """
    path = root / _LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who held it before may have unlinked the file while we opened it.
        held = _is_same(handle, path)
    except BlockingIOError:
        held = False
    except OSError as error:
        held = create and error.errno in _NO_LOCKS
    if not held:
        os.close(handle)
        return None
    return handle


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(root: Path) -> None:
    """Contents first, the lock last: a half-removed staging is still one that the next export recognises."""
    with suppress(OSError):
        for name in os.listdir(root):
            if name != _LOCK:
                shutil.rmtree(root / name, ignore_errors=True)
        if os.listdir(root) == [_LOCK]:
            os.unlink(root / _LOCK)
            os.rmdir(root)
