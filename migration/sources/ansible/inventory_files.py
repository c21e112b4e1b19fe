"""The files of an Ansible inventory: which are read, in which order, and what is refused.

An inventory is a file, or a directory of such, read in the order of their names, directories in it included. Beside it,
and beside the playbooks, ``group_vars`` and ``host_vars`` may say more: ``group_vars/web``, ``group_vars/web.yml`` (or
``.yaml``, ``.json``), or all files of a directory ``group_vars/web/``.

Nothing is executed: a script that prints an inventory is refused, with what to do instead.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from strongroom.migration.sources import files
from strongroom.migration.sources.ansible import ini_file, yaml_file
from strongroom.migration.sources.ansible.inventory import Inventory, Problem, Variables
from strongroom.migration.sources.files import File, Identity, Unfit
from strongroom.storage_service.errors import ConfigurationError

MAX_FILE: Final = 32 * 1024 * 1024  # bytes
VAULT: Final = b"$ANSIBLE_VAULT;"
ADVICE: Final = "print it with ansible-inventory --list --export > inventory.json, and migrate that file"

_YAML: Final = (".yml", ".yaml", ".json")
_IGNORED: Final = re.compile(
    r"\.|(?:host_vars|group_vars|vars_plugins)\Z|.*(?:\.(?:pyc|pyo|swp|bak|rpm|md|txt|rst|orig|cfg|retry)|~)\Z",
    re.DOTALL,
)
_PROGRAMS: Final = (b"#!", b"\x7fELF")
_KEY: Final = b"-----BEGIN "


class Files:
    """The files of one inventory, and of each how it was when it was read."""

    def __init__(self, place: Path, playbooks: Path | None = None) -> None:
        """Take the inventory's file or directory, and the directory of the playbooks."""
        self.place = place
        self.directory = Path(os.path.realpath(place if place.is_dir() else place.parent))
        self._bases = [self.directory, *([Path(os.path.realpath(playbooks))] if playbooks else [])]
        self._seen: dict[Path, Identity | None] = {}
        self._of_hosts = self._directories_of_hosts()
        self._inventory = Inventory()

    def read(self) -> Inventory:
        """Return the inventory, with what is said of groups in files of theirs.

        Raises:
            ConfigurationError: a file cannot be read as an inventory at all; the text says which, and what to do.
        """
        self._source(self.place)
        self._inventory.settle()
        for group in self._inventory.groups:
            said = [self._group(base, group) for base in self._bases]
            if any(said):
                self._inventory.group_files[group] = said
        return self._inventory

    def changed(self) -> bool:
        """Whether a file that was read is another now, or one has come or gone."""
        if self._of_hosts != self._directories_of_hosts():
            return True
        return any(_identity(path) != before for path, before in self._seen.items())

    def host(self, name: str) -> tuple[list[Variables], list[str]]:
        """Return what a host's own files say, and which of them are encrypted as a whole.

        Raises:
            Unfit: one of them cannot be read.
        """
        found: list[Variables] = []
        encrypted: list[str] = []
        for directory in self._of_hosts:
            for path in _variable_files(directory, name):
                try:
                    content = files.read(path, MAX_FILE).content
                    if content.startswith(VAULT):
                        encrypted.append(self.shown(path))
                    else:
                        found.append(_variables(content))
                except Unfit as error:
                    raise Unfit(f"{self.shown(path)} {error}") from None
        return found, encrypted

    def shown(self, path: str | Path) -> str:
        """Return a file's path as it is told: from the inventory's directory, if it lies in there."""
        return os.path.relpath(path, self.directory) if str(path).startswith(f"{self.directory}/") else str(path)

    def path_of(self, shown: str) -> str:
        """Return the path of a file that is told so."""
        return os.path.join(self.directory, shown)  # noqa: PTH118  # absolute ones stay so

    def _directories_of_hosts(self) -> list[str]:
        return [f"{base}/host_vars" for base in self._bases if (base / "host_vars").is_dir()]

    def _source(self, path: Path) -> None:
        if path.is_dir():
            self._seen[path] = _identity(path)
            for each in sorted(path.iterdir()):
                if _IGNORED.match(each.name) is None:
                    self._source(each)
            return
        try:
            self._file(path)
        except Unfit as error:
            raise ConfigurationError(f"{path} {error}") from None

    def _file(self, path: Path) -> None:
        file = self._read(path)
        content = file.content
        if content.startswith(_PROGRAMS) or path.suffix == ".toml":
            raise Unfit(f"is a program or TOML, not an inventory that can be read: {ADVICE}")
        if content.startswith(VAULT):
            raise Unfit(f"is encrypted as a whole: {ADVICE}")
        if content.startswith(_KEY):
            self._inventory.notes.append(f"{files.printable(self.shown(path))} is a key and no inventory")
            return
        data: Any = None
        if not path.suffix or path.suffix in _YAML:
            try:
                data = yaml_file.load(content)
            except Unfit:
                if path.suffix:
                    raise
        if yaml_file.is_inventory(data):
            try:
                yaml_file.parse(data, self._inventory, self.shown(path))
            except Unfit as error:
                raise Unfit(f"{error}: {ADVICE}") from None
        elif path.suffix in _YAML:
            raise Unfit("holds no groups")
        else:
            ini_file.parse(content.decode(errors="surrogateescape"), self._inventory, self.shown(path))

    def _group(self, base: Path, group: str) -> Variables:
        directory = base / "group_vars"
        self._seen.setdefault(directory, _identity(directory))
        merged: Variables = {}
        for found in _variable_files(str(directory), group):
            path = Path(found)
            self._seen.setdefault(path.parent, _identity(path.parent))
            try:
                content = self._read(path).content
                if content.startswith(VAULT):
                    self._inventory.problems.append(Problem(f"file {files.printable(self.shown(path))}", ENCRYPTED))
                else:
                    merged.update(_variables(content))
            except Unfit as error:
                raise ConfigurationError(f"{path} {error}") from None
        return merged

    def _read(self, path: Path) -> File:
        file = files.read(path, MAX_FILE)
        self._seen[path] = file.identity
        return file


ENCRYPTED: Final = (
    "is encrypted as a whole by ansible-vault: what it says of hosts is not known; decrypt it for the time"
)


def _variables(content: bytes) -> Variables:
    data = yaml_file.load(content)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise Unfit("holds no variables by their names")
    return {str(name): value for name, value in data.items()}


def _variable_files(directory: str, name: str) -> Sequence[str]:
    """Return the files that say something of a group or a host, in order."""
    if "/" in name or "\0" in name or name in (".", ".."):
        return ()
    for suffix in ("", *_YAML):
        path = f"{directory}/{name}{suffix}"
        if os.path.isdir(path):  # noqa: PTH112  # a Path leaves a trace of each name in the interpreter
            return tuple(_below(path))
        if os.path.exists(path):  # noqa: PTH110  # likewise
            return (path,)
    return ()


def _below(directory: str) -> Iterator[str]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122  # likewise
        if entry.name.startswith(".") or entry.name.endswith("~"):
            continue
        if entry.is_dir() and not suffix:
            yield from _below(entry.path)
        elif entry.is_file() and (not suffix or suffix in _YAML):
            yield entry.path


def _identity(path: Path) -> Identity | None:
    try:
        return Identity.of(path.stat())
    except OSError:
        return None
