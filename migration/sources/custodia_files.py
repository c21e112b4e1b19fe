"""Files that hold a credential: the master key of a store, the API key of a client."""

import os
import stat
from pathlib import Path
from typing import Final

from storage_service.errors import ConfigurationError

MAX_FILE: Final = 64 * 1024  # bytes


def read_private(path: Path) -> bytes:
    """Return what the file at *path* holds, if it is its owner's alone. It blocks on the disk.

    Raises:
        ConfigurationError: it cannot be read, is no plain file, is too large, or is open to others.
    """
    try:
        # O_NONBLOCK: a FIFO must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(MAX_FILE + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is no plain file")
    if mode & 0o077:
        raise ConfigurationError(
            f"{path}: others than its owner can read this key; run: chmod 600 {path}"
            " - and replace the key if they may have read it"
        )
    if len(content) > MAX_FILE:
        raise ConfigurationError(f"{path} is too large for a key")
    return content
