"""``client.json``: where a service is, and a key to ask it with.

    {"url": "http://127.0.0.1:8000", "socket": "/srv/strongroom/run/storage.sock", "api_id": "…", "api_key": "…"}

The file holds a key, so one that others than its owner may read is refused. Files that systemd hands over as
credentials are taken as they are: the unit's user alone can read them, whatever their mode says (systemd.exec(5)). So
is a file of root's with mode 0440, as Kubernetes hands a secret over to a container's group. Links are followed.

``ca`` may be in it, too: a file with the authorities that an https url's certificate is to be signed by.
"""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from strongroom.models.secret import Secret
from strongroom.models.steps import Option, Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import why_denied

NAME: Final = "client.json"
MAX_FILE: Final = 64 * 1024  # bytes
_HANDED_OVER: Final = 0o440  # of root's: one group may read it, that of whom it was handed to


@dataclass(frozen=True, slots=True)
class ClientFile:
    """What ``client.json`` holds; *url* or *socket* may be missing, and *ca* mostly is."""

    url: str
    socket: Path | None
    api_id: str
    api_key: Secret
    ca: Path | None = None

    @classmethod
    def read(cls, path: Path) -> "ClientFile":
        """Return what *path* holds; a relative socket or ca counts from the file's directory.

        Raises:
            ConfigurationError: it is missing, open to others, or no such file. The text holds no value.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                text = file.read(MAX_FILE)
        except FileNotFoundError as error:
            home: dict[str, Option] = {"home": str(path.parent)} if path.name == NAME else {}
            raise ConfigurationError(f"there is no {path}, which a service makes in its home").advising(
                Step("to start one", "up", home)
            ) from error
        except OSError as error:
            why = why_denied(path) if isinstance(error, PermissionError) else error.strerror
            raise ConfigurationError(f"{path} cannot be read: {why}") from error
        mode = stat.S_IMODE(status.st_mode)
        handed_over = (status.st_uid == 0 and mode == _HANDED_OVER) or is_credential(path)
        if mode & 0o077 and not handed_over:
            raise ConfigurationError(
                f"{path}: others than its owner can read this API key; run: chmod 600 {path}"
                " - and replace the key if they may have read it"
            )
        said: _Fields | None = None
        with contextlib.suppress(*UNREADABLE):  # they would quote from the file
            said = msgspec.json.decode(text, type=_Fields)
        if said is None:
            raise ConfigurationError(
                f"{path}: a JSON object with api_id, api_key, and socket or url is expected;"
                " delete the file for a new one"
            )
        socket, ca = (path.parent / each if each else None for each in (said.socket, said.ca))
        return cls(said.url, socket, said.api_id, Secret(said.api_key), ca)

    def text(self) -> bytes:
        """Return the file's content: the key stands in it, in the clear."""
        fields = _Fields(
            url=self.url,
            socket=str(self.socket or ""),
            api_id=self.api_id,
            api_key=self.api_key.reveal(),
            ca=str(self.ca or ""),
        )
        return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


class _Fields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The file's JSON. Its repr would show the key, so it lives no longer than one function."""

    url: str = ""
    socket: str = ""
    api_id: str
    api_key: str
    ca: str = ""


def is_credential(path: Path) -> bool:
    """Whether systemd handed *path* over as a credential of this process' unit."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and path.is_relative_to(directory)
