"""A regular file in memory, without torch: what weight files and GGUF files are read from."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from precast.runtime.errors import CheckpointError, UnsafeFileError

__all__ = ["MappedFile"]


class MappedFile:
    """A regular file, mapped privately. Its pages enter memory as tensors are read, and leave with ``release``."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            raise CheckpointError(
                f"{path.name} cannot be opened: {error.strerror}. Check the file's permissions."
            ) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnsafeFileError(f"{path.name} is not a regular file. A checkpoint holds regular files only.")
            self.name = path.name
            self.size = status.st_size
            if self.size == 0:
                raise CheckpointError(f"{path.name} is empty. Download it again.")
            # Copy-on-write: torch wants a writable buffer, and nothing may ever reach the file.
            self.map = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Gives the resident pages back to the system; tensors stay valid and are read again when touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
