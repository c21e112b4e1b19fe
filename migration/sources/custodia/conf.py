"""Custodia's configuration file: which table its secrets lie in, and the file of its master key.

The rules are those of Custodia 0.6.0's server: INI, names case-sensitive, ``${name}`` and ``${section:name}``
(configparser's ExtendedInterpolation), ``${ENV:NAME}`` for the environment, and further files by ``confdpattern``.
"""

import configparser
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from strongroom.storage_service.errors import ConfigurationError

TABLE: Final = "CustodiaSecrets"  # Custodia's default
_DIRECTORIES: Final = {"libdir": "/var/lib", "logdir": "/var/log", "rundir": "/var/run"}


class Store(NamedTuple):
    """Where secrets lie; without a master key they lie there in the clear."""

    database: Path
    table: str = TABLE
    master_key: Path | None = None


def read(path: Path, name: str | None = None, instance: str = "") -> Store:
    """Return the store that the configuration at *path* names. It blocks on the disk.

    Args:
        path: the file.
        name: of its store; None: the one that it serves secrets from.
        instance: as ``custodia --instance`` would say.

    Raises:
        ConfigurationError: it cannot be read, or does not name one SQLite store. No text holds a value of it.
    """
    parser = _parse(path, instance)
    store = _Section(parser, path, f"store:{name or _served(parser, path)}")
    master_key = None
    if store.handler == "EncryptedOverlay":
        master_key = store.path("master_key")
        store = _Section(parser, path, f"store:{store.text('backing_store')}")
    if store.handler == "EncryptedStore" and master_key is None:
        master_key = store.path("master_key")
    elif store.handler != "SqliteStore":
        raise ConfigurationError(
            f"{path.name}: [{store.name}] is not a SqliteStore: read what it keeps from the running Custodia"
            " (the source 'custodia')"
        )
    return Store(store.path("dburi"), store.text("table", TABLE), master_key)


class _Section:
    """One section, and its options."""

    def __init__(self, parser: configparser.ConfigParser, where: Path, name: str) -> None:
        self.name = name
        self._parser = parser
        self._where = where
        if not parser.has_section(name):
            raise ConfigurationError(f"{where.name} has no section [{name}]")

    @property
    def handler(self) -> str:
        """The class that Custodia would use, by its bare name."""
        return self.text("handler").rpartition(".")[2]

    def text(self, option: str, default: str | None = None) -> str:
        try:
            value = self._parser.get(self.name, option, fallback=default)
        except configparser.InterpolationError:
            raise self._error(option, "a ${…} in it names nothing, or a '$' stands alone") from None
        if not value:
            raise self._error(option, "is missing")
        return value

    def path(self, option: str) -> Path:
        path = Path(self.text(option))
        if not path.is_absolute():
            raise self._error(
                option, "is relative to where Custodia runs: give the file itself, with -o key=… -o table=…"
            )
        return path

    def _error(self, option: str, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._where.name}: [{self.name}] {option}: {reason}")


def _served(parser: configparser.ConfigParser, where: Path) -> str:
    """Return the name of the store from which secrets are served."""
    sections = [_Section(parser, where, name) for name in parser.sections() if name.startswith("/")]
    served = sorted({section.text("store") for section in sections if section.handler == "Secrets"})
    if len(served) == 1:
        return served[0]
    known = [name.removeprefix("store:") for name in parser.sections() if name.startswith("store:")]
    raise ConfigurationError(
        f"{where.name}: say which store to read, with -o store=NAME; there are: {', '.join(known)}"
    )


def _parse(path: Path, instance: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=configparser.ExtendedInterpolation())
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are case-sensitive, as in Custodia
    defaults = {
        "hostname": socket.gethostname(),
        "configdir": str(path.parent.absolute()),
        "confdpattern": f"{path.absolute()}.d/*.conf",
        "instance": instance,
        "socketdir": "/var/run/custodia",
    } | {option: os.path.normpath(f"{base}/custodia/{instance}") for option, base in _DIRECTORIES.items()}
    parser.read_dict({"DEFAULT": _literal(defaults), "ENV": _literal(dict(os.environ)), "global": {}})
    _read_file(parser, path)
    pattern = Path(_Section(parser, path, "global").text("confdpattern"))
    for more in sorted(pattern.parent.glob(pattern.name)):
        _read_file(parser, more)
    return parser


def _literal(values: dict[str, str]) -> dict[str, str]:
    """Return *values* written so that interpolation gives them back as they are."""
    return {name: value.replace("$", "$$") for name, value in values.items()}


def _read_file(parser: configparser.ConfigParser, path: Path) -> None:
    # What configparser and the decoder would say repeats the line at fault, which may hold a secret.
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=path.name)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError):
        raise ConfigurationError(f"{path} is not a configuration of Custodia's: it is not INI in UTF-8") from None
