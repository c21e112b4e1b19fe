"""Estates that are Ansible inventories: hosts with key files, and hosts with passwords in files of their own."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.migration.sources.base import Estate
from tests.ssh_keys import private_key

PASSWORD = "ansible_become_pass"


class _Inventory:
    """The file ``hosts`` in a directory, ``keys`` and ``host_vars`` beside it."""

    kind = "ansible"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.place = str(directory / "hosts")
        self.options: Mapping[str, Sequence[str]] = {}
        self._lines: dict[str, str] = {}
        self._secrets: dict[int, str] = {}
        self._serial = count()
        for name in ("keys", "host_vars", "group_vars"):
            (directory / name).mkdir()
        (directory / "group_vars" / "all.yml").write_text("ansible_user: admin\nntp: ntp.example.com\n")
        self._write()

    def put(self, number: int) -> str:
        return self.put_many([number])[0]

    def put_many(self, numbers: Sequence[int]) -> list[str]:
        ids = [self._with_key(number) if number % 2 else self._with_password(number, None) for number in numbers]
        self._write()
        return ids

    def put_secret(self, number: int, text: str) -> str | None:
        id_ = self._with_password(number, text)
        self._write()
        return id_

    def break_one(self) -> str:
        host = f"broken{next(self._serial)}"
        self._lines[host] = "ansible_ssh_private_key_file=keys/there_is_none.pem"
        self._write()
        return f"host {host}"

    def change(self, id: str) -> None:  # noqa: A002  # as estates call it
        host, _, password = id.removeprefix("host ").partition(", ")
        text = private_key()
        if password:
            self._say(host, text)
        else:
            (self.directory / "keys" / f"{host}.pem").write_text(text)

    def secret_of(self, number: int) -> str:
        return self._secrets[number]

    def raw(self) -> Iterator[bytes]:
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                yield str(path).encode() + path.read_bytes()

    def _with_key(self, number: int) -> str:
        host, key = f"h{number:06}", private_key()
        path = self.directory / "keys" / f"{host}.pem"
        path.write_text(key)
        path.chmod(0o600)
        self._lines[host] = f"ansible_host={host}.example.com ansible_ssh_private_key_file=keys/{path.name}"
        self._secrets[number] = base64.b64encode(key.encode()).decode()
        return f"host {host}"

    def _with_password(self, number: int, text: str | None) -> str:
        host = f"h{number:06}"
        said = f"the password of {number}, {next(self._serial)}, in {self.place}" if text is None else text
        self._lines[host] = f"ansible_host={host}.example.com"
        self._say(host, said)
        self._secrets[number] = said
        return f"host {host}, {PASSWORD}"

    def _say(self, host: str, password: str) -> None:
        (self.directory / "host_vars" / f"{host}.json").write_text(json.dumps({PASSWORD: password}))

    def _write(self) -> None:
        """Put another inventory in the place of this one, as editors do."""
        new = self.directory / "hosts.bak"
        lines = "".join(f"{host} {said}\n" for host, said in self._lines.items())
        new.write_text(f"[estate]\n{lines}")
        new.replace(self.place)


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Make an inventory in INI."""
    yield _Inventory(directory)
