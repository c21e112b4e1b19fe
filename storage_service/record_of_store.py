"""Which store the records of a home are in: written down once there are keys in it, and held against it at each start.

    store.json   {"store":"etcd://etcd-1:2379,etcd-2:2379/strongroom"}

Whoever moved the records to another store has the old one still, with all that it had; without this a start that does
not say the new one would serve the old one as if nothing had happened. So another store is refused, whatever it holds.
There is no password in the file, and a path in it that begins at no root begins at the file's own directory, so that
a home can be moved with the store in it.
"""

import json
import logging
import os
from pathlib import Path
from typing import Final

from strongroom.models.steps import Step
from strongroom.models.strict_json import UNREADABLE
from strongroom.storage_service.backends.url import (
    as_said,
    file_of,
    masked,
    of_file,
    same_place,
    split,
    without_password,
)
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import replace_private
from strongroom.storage_service.reach import changed_by_others

_MAX: Final = 64 * 1024  # bytes

log: Final = logging.getLogger(__name__)


def moving_to(store: str) -> tuple[Step, Step]:
    """Return how the records of a home are moved to *store*: by a backup, while no service runs."""
    return (
        Step("to move them, copy them while no service runs", "backup take", {"offline": True}),
        Step("and fill the other store", "restore", {"store": as_said(without_password(store))}),
    )


class RecordOfStore:
    """The file *path* that says it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """Return the URL of the store that the records are in, without a password; None where nobody wrote it down.

        Raises:
            ConfigurationError: the file cannot be read, others may change it, or it does not say that.
        """
        text = self._text()
        if text is None:
            return None
        try:
            url = str(json.loads(text)["store"])
            parts = split(url)
        except (*UNREADABLE, TypeError, KeyError):
            raise ConfigurationError(
                f"{self._path} does not say which store this home's records are in; remove it if you know"
            ) from None
        if parts.scheme != "sqlite":
            return url
        whole = of_file("sqlite", self._path.parent / file_of(parts.path))
        return whole + (f"?{parts.query}" if parts.query else "")

    def refuse_another(self, store: str) -> None:
        """Refuse a store that is not the one which the records are in, whatever it holds.

        Raises:
            ConfigurationError: it is another, or the file cannot be read; the text says what to do.
        """
        said = self.read()
        if said is not None and not same_place(said, store):
            said = masked(as_said(said))
            raise ConfigurationError(
                f"this home's records are in {said}, but the settings, or their default, name another store: say "
                f'store = "{said}" in strongroom.toml, or --store; or move the records, or choose another --home. If it'
                f" is the same store by another name, remove {self._path}"
            ).advising(*moving_to(store))

    def keep(self, store: str) -> None:
        """Write down that the records are in *store*, unless that stands there.

        Raises:
            OSError: it cannot be written.
            ConfigurationError: what is there cannot be read, or others may change it.
        """
        content = json.dumps({"store": self._from_here(without_password(store))}).encode() + b"\n"
        if self._text() != content:
            replace_private(self._path, content, for_service=True)

    def try_to_keep(self, store: str) -> None:
        """Do the same for a service, which does not end where it cannot be written; the log says so."""
        try:
            self.keep(store)
        except (OSError, ConfigurationError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            log.warning("%s is not written, and the next start cannot tell another store: %s", self._path, why)

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _text(self) -> bytes | None:
        try:
            descriptor = os.open(
                self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )  # a FIFO must not hang the start
            with os.fdopen(descriptor, "rb") as file:
                if (fault := changed_by_others(self._path, os.fstat(descriptor))) is not None:
                    raise ConfigurationError(fault)
                return file.read(_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error.strerror}") from None

    def _from_here(self, store: str) -> str:
        parts = split(store)
        if parts.scheme != "sqlite":
            return store
        file, here = file_of(parts.path), self._path.parent
        if not file.is_relative_to(here):  # as it is written; it may be by links that lead there, or come from there
            file, here = Path(os.path.realpath(file)), Path(os.path.realpath(here))
        if not file.is_relative_to(here):
            return store
        return of_file("sqlite", file.relative_to(here)) + (f"?{parts.query}" if parts.query else "")
