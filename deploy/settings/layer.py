"""One source of settings as a layer: what it says and leaves out, by the names of ``strongroom.deploy.settings``."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from strongroom.deploy.places import PREFIX
from strongroom.storage_service.backends.url import is_secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.reach import changed_by_others


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says: a value for each setting it speaks of, and notes on what it says in vain."""

    source: str  # as `strongroom config show` names it: "strongroom.toml", "STRONGROOM_STORE", "--store"
    values: Mapping[str, object] = field(repr=False)
    notes: tuple[str, ...] = ()


def unknown(where: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """Return the error for a key that nobody knows, naming the nearest one that somebody does."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are {', '.join(names)}"
    return ConfigurationError(f"{where}: there is no '{name}' here; {hint}")


def read_text(path: Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigurationError: it cannot be read, is not UTF-8, or others may change it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if (fault := changed_by_others(path, os.fstat(file.fileno()))) is not None:
                raise ConfigurationError(fault)
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: byte {error.start} is not UTF-8 text") from error


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Placeholders:
    """What stands in for the names that a template leaves open.

    A name is looked for in ``--set`` first, then in the environment as ``STRONGROOM_<NAME>`` and ``<NAME>``, then
    among the defaults. Secrets have no ``--set``: a command line is everybody's to read.
    """

    DEFAULTS: Final[Mapping[str, str]] = {"etcd_server": "127.0.0.1", "etcd_port": "2379"}

    def __init__(self, given: Mapping[str, str], environ: Mapping[str, str]) -> None:
        """Take what ``--set`` said.

        Raises:
            ConfigurationError: it names a secret, or a value holds a control character.
        """
        self._given = {name.lower(): value for name, value in given.items()}
        self._environ = environ
        self._used: set[str] = set()
        for name, value in self._given.items():
            if is_secret(name):
                raise ConfigurationError(
                    f"--set {name}: a secret does not belong on a command line; use the variable {PREFIX}{name.upper()}"
                )
            if _CONTROL.search(value):
                raise ConfigurationError(f"--set {name}: the value holds a control character")

    @property
    def used(self) -> frozenset[str]:
        """The names that files asked for, in lower case."""
        return frozenset(self._used)

    def lookup(self, name: str) -> str | None:
        """Return the value for *name*, in whatever case it is written; None where nobody gave one."""
        low = name.lower()
        self._used.add(low)
        for value in (
            self._given.get(low),
            self._environ.get(PREFIX + name.upper()),
            self._environ.get(name.upper()),
            self.DEFAULTS.get(low),
        ):
            if value is not None:
                return value
        return None

    def given(self, name: str) -> str | None:
        """Return what ``--set`` says of *name*, and nothing else."""
        self._used.add(name)
        return self._given.get(name)

    def require(self, name: str, where: str) -> str:
        """Return the value for *name*.

        Raises:
            ConfigurationError: nobody gave one, or it holds a control character.
        """
        value = self.lookup(name)
        if value is None:
            raise ConfigurationError(f"{where}: nothing fills the placeholder '{name}'; give --set {name}=VALUE")
        if _CONTROL.search(value):
            raise ConfigurationError(f"{where}: the value for the placeholder '{name}' holds a control character")
        return value

    def check_used(self, settings: Iterable[str] = ()) -> None:
        """Refuse a ``--set`` that no file asked for: it is a slip of the pen, or meant for one of *settings*.

        Raises:
            ConfigurationError: naming the first such.
        """
        for name in sorted(self._given.keys() - self._used):
            if name in settings:
                raise ConfigurationError(
                    f"--set {name}: that is a setting, and --set fills what storage.conf and custodia.conf leave open; "
                    f"say {PREFIX}{name.upper()}, or write it into strongroom.toml"
                )
            raise unknown("--set", name, self._used or self.DEFAULTS)


def etcd_url(hosts: str, prefix: str, **files: str) -> str:
    """Return the URL of an etcd cluster as ``strongroom.storage_service.backends`` reads it.

    Args:
        hosts: HOST:PORT, several joined by commas.
        prefix: what all names are kept under.
        files: paths of PEM files for TLS: cacert, cert and key; empty ones are left out.
    """
    query = urlencode({name: path for name, path in files.items() if path}, safe="/")
    return f"etcd://{hosts}/{prefix.strip('/').replace('@', '%40')}" + (f"?{query}" if query else "")
