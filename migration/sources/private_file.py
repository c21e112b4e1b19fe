"""Files that hold a credential: the master key of a store, the API key of a client."""

from pathlib import Path
from typing import Final

from strongroom.migration.sources import files
from strongroom.storage_service.errors import ConfigurationError

MAX_FILE: Final = 64 * 1024  # bytes


def read_private(path: Path) -> bytes:
    """Return what the file at *path* holds, if it is its owner's alone. It blocks on the disk.

    Raises:
        ConfigurationError: it cannot be read, is no plain file, is too large, or is open to others.
    """
    try:
        file = files.read(path, MAX_FILE)
    except files.Unfit as error:
        raise ConfigurationError(f"{path} {error}") from None
    if file.shared:
        raise ConfigurationError(
            f"{path}: others than its owner can read this key; run: chmod 600 {path}"
            " - and replace the key if they may have read it"
        )
    return file.content
