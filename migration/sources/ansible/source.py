"""An Ansible inventory: its hosts, the keys and users that open them, and the passwords that it holds.

    web01 ansible_host=10.0.0.7 ansible_user=admin ansible_ssh_private_key_file=keys/web.pem ansible_become_pass=…

becomes the host ``hosts/10.0.0.7`` with its credentials, and ``secrets/ansible/web01/ansible_become_pass``; each is an
item. Variables come from the inventory, its groups and its files as Ansible resolves them (`ansible_inventory`). Where
two names mean one thing, Ansible's connection plugin takes the last of them, and so does this:

    address     ansible_host, ansible_ssh_host, or else the host's name
    user        ansible_user, ansible_ssh_user, or else what -o remote_user=… says
    key file    ansible_private_key_file, ansible_ssh_private_key_file: from ~, beside the playbooks, or the inventory
    key         ansible_private_key, ansible_ssh_private_key

Nothing is decrypted, rendered or executed: a value under ``ansible-vault``, or with ``{{`` in it, is a fault of its
item that names the variable. What ``ansible-inventory --list`` prints is read as well: so move dynamic ones.

It cannot be scrubbed: key files are shared, and values stand in groups, templates and files that people wrote. Once the
migration is verified, remove the key files and the variables by hand, and look through version control as well.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item, Record
from strongroom.migration.sources import files, making
from strongroom.migration.sources.ansible.inventory import Inventory, Variables
from strongroom.migration.sources.ansible.inventory_files import ENCRYPTED, VAULT, Files
from strongroom.migration.sources.ansible.yaml_file import Unsafe, Vaulted
from strongroom.migration.sources.base import Option, Options
from strongroom.migration.sources.files import Unfit
from strongroom.models.names import SECRETS
from strongroom.models.rules import holds_no_secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_SECRET

OPTIONS: Final[Mapping[str, Option]] = {
    "playbook_dir": Option("directory of the playbooks: their group_vars and host_vars, and relative key files"),
    "remote_user": Option("user of hosts that name none; root if not given"),
    "container": Option(f"container of passwords: {SECRETS}ansible/HOST/VARIABLE if not given"),
    "secret": Option("another variable that holds a secret", many=True),
}

_ADDRESS: Final = ("ansible_host", "ansible_ssh_host")
_USER: Final = ("ansible_user", "ansible_ssh_user")
_KEY_FILE: Final = ("ansible_private_key_file", "ansible_ssh_private_key_file")
_KEY: Final = ("ansible_private_key", "ansible_ssh_private_key")
_PASSWORDS: Final = (
    *("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"),
    *("ansible_private_key_passphrase", "ansible_ssh_private_key_passphrase"),
    *("ansible_become_pass", "ansible_become_password", "ansible_sudo_pass", "ansible_su_pass"),
)
_SSH: Final = ("ssh", "paramiko", "paramiko_ssh", "smart", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh")
_TEMPLATE: Final = re.compile(r"\{\{|\{%|\{#")
_PART: Final = 200  # hosts that are looked at in one go
_SHOWN: Final = 10  # names of variables in one note


def make(place: str, options: Options) -> "Ansible":
    """Return the source of the inventory *place*, a file or a directory."""

    def said(name: str) -> str:
        return "".join(options.get(name, ()))

    playbooks = Path(said("playbook_dir")) if said("playbook_dir") else None
    return Ansible(
        Path(place), playbooks, said("remote_user"), said("container") or "ansible", tuple(options.get("secret", ()))
    )


class Ansible:
    """The source. The inventory is held in memory, what files say of single hosts and key files are not."""

    def __init__(
        self, place: Path, playbooks: Path | None, user: str, container: str, secrets: Sequence[str] = ()
    ) -> None:
        self._place = Path(os.path.realpath(place))
        self._playbooks = playbooks
        self._user = user
        self._container = container
        self._passwords = (*_PASSWORDS, *(each for each in secrets if each not in _PASSWORDS))
        self._used = frozenset((*_ADDRESS, *_USER, *_KEY_FILE, *_KEY, *self._passwords))
        self._digest = Digest()
        self._files: Files | None = None
        self._inventory = Inventory()

    def __repr__(self) -> str:
        return f"<Ansible {self.identity}>"

    @property
    def identity(self) -> str:
        """The path of the inventory."""
        return f"ansible:{files.printable(str(self._place))}"

    async def open(self, digest: Digest) -> None:
        """Read the inventory.

        Raises:
            ConfigurationError: there is none, or a file of it cannot be read at all.
            SourceUnavailable: a directory of it cannot be read.
        """
        self._digest = digest
        if not self._place.exists():
            raise ConfigurationError(f"{self._place} is not an inventory that can be found")
        if self._playbooks is not None and not self._playbooks.is_dir():
            raise ConfigurationError("-o playbook_dir=… does not name an existing directory")
        await asyncio.to_thread(self._present)

    async def close(self) -> None:
        """Forget the inventory."""
        self._files = None
        self._inventory = Inventory()

    async def count(self) -> int | None:
        """Return None: only looking at every host tells how many passwords there are."""
        return None

    async def items(self) -> AsyncIterator[Item]:
        """Yield every host and every password, and before them what of the inventory cannot be read."""
        present, inventory = await asyncio.to_thread(self._present)
        notes = tuple(inventory.notes)
        hosts, start, part = inventory.hosts, 0, self._problems(inventory)
        while True:
            for item in part:
                yield self._marked(item, notes)
                notes = ()
            if start >= len(hosts):
                return
            part = await asyncio.to_thread(self._of_hosts, present, inventory, hosts[start : start + _PART])
            start += _PART

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the marks of items: keyed hashes of what they are."""

        def look() -> dict[str, str]:
            present, inventory = self._present()
            wanted, found = set(ids), {item.id: item for item in self._problems(inventory)}
            for each in wanted - found.keys():
                said = _HOST.match(each)
                host = _unprinted(said[1]) if said else ""
                if host in inventory:
                    found |= {item.id: item for item in self._of_host(present, inventory, host)}
                elif each.startswith(_FILE):
                    found |= {item.id: item for item in self._encrypted(present, _unprinted(each.removeprefix(_FILE)))}
            return {id_: self._marked(item).mark for id_, item in found.items() if id_ in wanted}

        return await asyncio.to_thread(look)

    def _present(self) -> tuple[Files, Inventory]:
        """Return the inventory as it is now."""
        try:
            if self._files is None or self._files.changed():
                present = Files(self._place, self._playbooks)
                self._inventory = present.read()
                self._files = present
        except OSError as error:
            raise files.unavailable(self._place, error) from error
        return self._files, self._inventory

    def _marked(self, item: Item, notes: Sequence[str] = ()) -> Item:
        told = [part for record in item.records for part in (record.name, record.value.reveal())]
        mark = self._digest.of(item.id, item.mark, *told, item.fault, *map(str, item.notes))
        return Item(item.id, mark, item.records, item.fault, (*item.notes, *notes))

    # -- items, whose mark is yet to be made

    def _problems(self, inventory: Inventory) -> list[Item]:
        reasons: dict[str, list[str]] = {}
        for problem in inventory.problems:
            reasons.setdefault(problem.where, []).append(problem.reason)
        return [Item(where, "", fault="; ".join(said)) for where, said in reasons.items()]

    def _of_hosts(self, present: Files, inventory: Inventory, hosts: Sequence[str]) -> list[Item]:
        return [item for host in hosts for item in self._of_host(present, inventory, host)]

    def _of_host(self, present: Files, inventory: Inventory, host: str) -> Iterator[Item]:
        id_ = f"host {_printed(host)}"
        try:
            said, encrypted = present.host(host)
        except Unfit as error:
            yield Item(id_, "", fault=str(error))
            return
        except OSError as error:
            raise files.unavailable(present.directory, error) from error
        variables = inventory.variables(host, said)
        for shown in encrypted:
            yield from self._encrypted(present, shown)
        try:
            records, notes = self._host(present, host, variables)
            yield Item(id_, "", records, notes=notes)
        except Unfit as error:
            yield Item(id_, "", fault=str(error))
        for name in self._passwords:
            if variables.get(name) not in (None, ""):
                yield self._password(f"{id_}, {_printed(name)}", host, name, variables)

    def _encrypted(self, present: Files, shown: str) -> Iterator[Item]:
        try:
            content = files.read(present.path_of(shown), MAX_SECRET * 8).content
        except (Unfit, ValueError):
            return
        if content.startswith(VAULT):
            yield Item(f"{_FILE}{files.printable(shown)}", self._digest.of(content), fault=ENCRYPTED)

    def _host(self, present: Files, host: str, variables: Variables) -> tuple[tuple[Record, ...], tuple[str, ...]]:
        said_user, key, key_file = (_text(variables, names) for names in (_USER, _KEY, _KEY_FILE))
        # Given to ssh as it stands, and there a user that is said by an option comes before the one in the address.
        address, user = making.address(_text(variables, _ADDRESS) or host, "")
        user = said_user or user
        notes = list(self._left(variables))
        fields = {"address": address, "remote_user": user}
        if key:
            fields["ssh_priv_key"] = making.key_text(key)
        elif key_file:
            fields["ssh_priv_key"], told = self._key(present, key_file)
            notes += told
        if "ssh_priv_key" in fields and not user:
            fields["remote_user"] = self._user or "root"
            if not self._user:
                notes.append("it names no user: root is taken; say another with -o remote_user=…")
        connection = variables.get("ansible_connection", "ssh")
        if connection not in _SSH:
            notes.append("ansible_connection says that it is not reached by SSH")
        return making.host(fields), tuple(notes)

    def _key(self, present: Files, said: str) -> tuple[str, list[str]]:
        bases = [*([str(self._playbooks)] if self._playbooks else []), str(present.directory)]
        # Paths are strs here: a Path leaves a trace of each name in the interpreter.
        paths = [os.path.join(base, os.path.expanduser(said)) for base in bases]  # noqa: PTH111, PTH118
        path = next((each for each in paths if os.path.exists(each)), paths[-1])  # noqa: PTH110
        try:
            file = files.read(path, MAX_SECRET)
        except (Unfit, ValueError) as error:
            reason = str(error) if isinstance(error, Unfit) else "has an invalid path"
            raise Unfit(f"its key file {reason}") from None
        shared = "others than its owner can read its key file: they may know the key, so replace it"
        return making.key_of_file(file.content), [shared] if file.shared else []

    def _password(self, id_: str, host: str, name: str, variables: Variables) -> Item:
        mark = _vaulted(variables[name])
        try:
            record = making.secret(f"{SECRETS}{self._container}/{host}/{name}", _text(variables, [name]))
        except Unfit as error:
            return Item(id_, mark, fault=str(error))
        return Item(id_, mark, (record,))

    def _left(self, variables: Variables) -> Iterator[str]:
        """Yield what is to be said of the variables that stay behind."""
        left = sorted(files.printable(name) for name in variables if name not in self._used)
        suspicious = [name for name in left if holds_no_secret({name: variables.get(name)})]
        if suspicious:
            yield f"variables that look like secrets stay behind: {_some(suspicious)}; move them with -o secret=NAME"
        if others := [name for name in left if name not in suspicious]:
            yield f"variables that stay behind: {_some(others)}"


_HOST: Final = re.compile(r"host ([^ ,]+)")
_FILE: Final = "file "


def _text(variables: Variables, names: Sequence[str]) -> str:
    """Return what the last of *names* that is there says, as text.

    Raises:
        Unfit: it is encrypted, a template, or no text.
    """
    name = next((name for name in reversed(names) if variables.get(name) is not None), None)
    value: Any = "" if name is None else variables[name]
    if _vaulted(value):
        raise Unfit(f"{name} is encrypted by ansible-vault: read it with ansible-vault view, and save it by hand")
    if isinstance(value, str) and not isinstance(value, Unsafe) and _TEMPLATE.search(value):
        raise Unfit(f"{name} is a template, which only Ansible can fill in: write out what it stands for")
    if not isinstance(value, str | int | float):
        raise Unfit(f"{name} must be text")
    return str(value)


def _vaulted(value: object) -> str:
    """Return the encrypted text that a value is, or nothing."""
    if isinstance(value, Vaulted):
        return value.text or VAULT.decode()
    return value if isinstance(value, str) and value.lstrip().startswith(VAULT.decode()) else ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _printed(name: str) -> str:
    """Return a host's name in printable ASCII, without blanks and commas."""
    return files.printable(name).replace(" ", "\\x20").replace(",", "\\x2c")


def _unprinted(name: str) -> str:
    """Return the name that was printed so; nothing if none was."""
    try:
        return name.encode("ascii").decode("unicode_escape")
    except ValueError:
        return ""
