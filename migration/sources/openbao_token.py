"""The token that opens an OpenBao: from a file, the environment, or where its own command keeps it."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models.secret import Secret
from storage_service.errors import ConfigurationError

VARIABLES: Final = ("BAO_TOKEN", "VAULT_TOKEN")
KEPT: Final = ".vault-token"  # in the home directory: what `bao login` writes
MAX_TOKEN: Final = 8 * 1024  # bytes

_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)  # what a header field carries unchanged (RFC 9110 sec. 5.5)


def read_token(file: Path | None, environ: Mapping[str, str], home: Path) -> Secret:
    """Return the token of *file*, else of *environ*, else of the user whose *home* it is. It blocks.

    Raises:
        ConfigurationError: there is none, it is none, or others than its owner can read its file.
    """
    if file is not None:
        return _checked(_content(file), str(file))
    for name in VARIABLES:
        if environ.get(name):
            return _checked(environ[name], name)
    kept = home / KEPT
    if kept.exists():
        return _checked(_content(kept), str(kept))
    raise ConfigurationError(
        f"no token: say -o token_file=PATH, or set {' or '.join(VARIABLES)}, or log in with: bao login"
    )


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(MAX_TOKEN)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    directory = os.environ.get("CREDENTIALS_DIRECTORY")  # its files are the unit's alone (systemd.exec(5))
    if mode & 0o077 and not (directory and path.is_relative_to(directory)):
        raise ConfigurationError(
            f"{path}: others than its owner can read this token; run: chmod 600 {path}"
            " - and revoke the token if they may have read it"
        )
    return text.decode(errors="replace")


def _checked(text: str, where: str) -> Secret:
    token = text.strip()
    if _FIELD_VALUE.fullmatch(token) is None:
        raise ConfigurationError(f"{where} holds no token: one word of printable ASCII is expected")
    return Secret(token)
