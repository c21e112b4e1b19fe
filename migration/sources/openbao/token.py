"""The token that opens an OpenBao: from a file, the environment, or where its own command keeps it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from strongroom.migration.sources.private_file import read_private
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError

VARIABLES: Final = ("BAO_TOKEN", "VAULT_TOKEN")
KEPT: Final = ".vault-token"  # in the home directory: what `bao login` writes

_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)  # what a header field carries unchanged (RFC 9110 sec. 5.5)


def read_token(file: Path | None, environ: Mapping[str, str], home: Path) -> Secret:
    """Return the token of *file*, else of *environ*, else of the user whose *home* it is. It blocks.

    Raises:
        ConfigurationError: there is none, it is invalid, or others than its owner can read its file.
    """
    if file is not None:
        return _checked(read_private(file).decode(errors="replace"), str(file))
    for name in VARIABLES:
        if environ.get(name):
            return _checked(environ[name], name)
    kept = home / KEPT
    if kept.exists():
        return _checked(read_private(kept).decode(errors="replace"), str(kept))
    raise ConfigurationError(
        f"no token: say -o token_file=PATH, or set {' or '.join(VARIABLES)}, or log in with: bao login"
    )


def _checked(text: str, where: str) -> Secret:
    token = text.strip()
    if _FIELD_VALUE.fullmatch(token) is None:
        raise ConfigurationError(f"{where} holds no token: one word of printable ASCII is expected")
    return Secret(token)
