"""What a machine needs before it has a store: a key pair of its own, and settings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.deploy.home import TEMPLATE, Home
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.keyring.ceremonies.machines import Kind, make_pair
from strongroom.storage_service.reach import changed_by_others

KEY: Final = "machine.key"  # the default of the setting of that name
NAME: Final = "machine.name"  # what people were told to call it, for `machine init`
PUBLIC: Final = "machine.pub"  # the public key's JWK, to be carried to an authorizer


@dataclass(frozen=True, slots=True)
class Made:
    """A key pair that was made, and where things are."""

    fingerprint: str
    key: Path
    public: Path
    config: Path
    add: tuple[str, ...]  # lines that people have to add to the settings, for there were some already


def initialize(home: Path, kind: Kind, documents: Path | None, name: str | None = None) -> Made:
    """Make this machine's key pair, and settings where there are none. Blocks on the disk.

    Args:
        home: where; made if it is not there.
        kind: which sort of key pair.
        documents: where the documents of machines are to lie; None: in the store.
        name: what people are to call the machine; None: nobody has said so.

    Raises:
        Exists: there is a machine's key already; it is never replaced. Its public key is written again if it is gone.
        ConfigurationError, KeyFileUnusable: something cannot be written here.
    """
    place = Home(home)
    path, public = home / KEY, home / PUBLIC
    try:
        _prepare(place)
        fingerprint = make_pair(path, public, kind)
        if name is not None:
            replace_private(home / NAME, f"{name}\n".encode())
        lines = () if documents is None else (f"machine_documents = {json.dumps(str(documents), ensure_ascii=False)}",)
        if place.config.exists():
            return Made(fingerprint, path, public, place.config, lines)
        replace_private(place.config, _settings(lines).encode())
    except OSError as error:
        raise ConfigurationError(f"{error.filename or home}: {error.strerror}") from None
    return Made(fingerprint, path, public, place.config, ())


def _prepare(place: Home) -> None:
    """Make the home, unless it is a directory of settings, as units have one: others read that, and none write it.

    Raises:
        ConfigurationError: others may write it, or it cannot be made.
        OSError: it cannot be looked at.
    """
    if not (place.config.exists() and place.path.stat().st_mode & 0o077):
        place.prepare()
    elif (fault := changed_by_others(place.path, place.path.stat())) is not None:
        raise ConfigurationError(fault)


def name_beside(key: Path) -> str | None:
    """Return what the machine whose private key is the file *key* was called when that was made; None: nothing."""
    try:
        return key.with_name(NAME).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _settings(lines: tuple[str, ...]) -> str:
    documents = "\n".join(lines) or '# machine_documents = "machines.json"'
    return (
        f"{TEMPLATE}\n# This machine's own key pair, and where the documents of machines are if not in the store.\n"
        f'machine_key = "{KEY}"\n{documents}\n'
    )
