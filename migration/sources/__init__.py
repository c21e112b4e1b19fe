"""The table of sources: a new one is a file beside this one, and a line here.

A source's module has ``OPTIONS``, what it takes besides its place, and ``make(place, options)``, which opens nothing.
"""

import importlib
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, cast

from strongroom.migration.sources.base import Option, Options, Source
from strongroom.storage_service.backends.url import masked
from strongroom.storage_service.errors import ConfigurationError


class Kind(NamedTuple):
    """One row: the module, what it reads, and what its place looks like."""

    module: str
    help: str
    place: str


SOURCES: Final[Mapping[str, Kind]] = {
    "commissaire": Kind(
        "commissaire.source", "Commissaire's records in etcd", "etcd://HOST:PORT[/commissaire], etcd2://…"
    ),
    "custodia-sqlite": Kind("custodia.sqlite_store", "Custodia's SQLite store, by file and key", "FILE"),
    "custodia": Kind("custodia.server", "a running Custodia", "SOCKET or URL"),
    "openbao": Kind("openbao.source", "OpenBao or Vault, KV version 1 and 2", "URL"),
    "convection": Kind("convection.source", "Convection's generic stores, by directory and unlock key", "DIRECTORY"),
    "csv": Kind("tables.csv_file", "a table of hosts or of secrets", "FILE"),
    "jsonl": Kind("tables.json_lines", "records, a JSON object a line", "FILE"),
    "ansible": Kind("ansible.source", "an Ansible inventory", "FILE or DIRECTORY"),
    "keys": Kind("keys.directory", "a directory of SSH keys, each named for its host", "DIRECTORY"),
    "strongroom": Kind("strongroom.source", "another Strongroom", "HOME or SOCKET"),
}


class Module(Protocol):
    """What a source's module has."""

    OPTIONS: Mapping[str, Option]

    def make(self, place: str, options: Options) -> Source:
        """Return the source, unopened.

        Raises:
            ConfigurationError: the place or an option is not understood.
        """


def options_of(kind: str) -> Mapping[str, Option]:
    """Return the options of a source.

    Raises:
        ConfigurationError: there is no such source.
    """
    return _module(kind).OPTIONS


def open_source(kind: str, place: str, options: Options) -> Source:
    """Return the source that *kind*, *place* and *options* name, unopened.

    Raises:
        ConfigurationError: there is none of that kind, there is a password in the place, or an option is unknown,
            missing or not understood.
    """
    module = _module(kind)
    known = module.OPTIONS
    if masked(place) != place:  # errors name the place
        raise ConfigurationError(
            f"a password does not belong in the place; with -o {kind} takes {', '.join(known) or 'nothing'}"
        )
    for name, said in options.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ConfigurationError(f"{kind} has no option {name!r}; its options are: {allowed}")
        if len(said) > 1 and not known[name].many:
            raise ConfigurationError(f"{kind}'s option {name!r} can be given only once")
    if missing := [name for name, option in known.items() if option.required and not options.get(name)]:
        raise ConfigurationError(f"{kind} needs -o {missing[0]}=…: {known[missing[0]].help}")
    return module.make(place, options)


def _module(kind: str) -> Module:
    if kind not in SOURCES:
        raise ConfigurationError(f"there is no source {kind!r}; the sources are: {', '.join(SOURCES)}")
    return cast("Module", importlib.import_module(f"strongroom.migration.sources.{SOURCES[kind].module}"))
