"""Estates that are tables, written by Python's own csv module: of hosts with keys in cells or in files, of secrets."""

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests.migration.sources.base import Estate
from tests.migration.sources.rows import RowEstate
from tests.ssh_keys import private_key


class _Table(RowEstate[list[str]]):
    kind = "csv"
    row = "row"
    header = 1
    columns: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write(self.text([]))

    def rows(self) -> list[list[str]]:
        csv.field_size_limit(1024 * 1024)  # a secret may be longer than the module thinks wise
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))[1:]

    def text(self, rows: Sequence[list[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *rows])
        return text.getvalue().encode()

    def malformed(self) -> list[str]:
        return ["a row", f"with too few cells, and secret number {self.serial()}"]


class _Hosts(_Table):
    columns = ("address", "os", "cpus", "remote_user", "ssh_priv_key")

    def make(self, number: int, secret: str | None) -> tuple[list[str], str]:
        key = private_key() if secret is None else _base64(secret)
        row = [f"h{number:06}.example.com", "fedora", "4", "admin", key]
        return row, _base64(key) if secret is None else key

    def changed(self, row: list[str]) -> list[str]:
        return [*row[:4], private_key()]


class _Secrets(_Table):
    columns = ("container", "key", "value")

    def make(self, number: int, secret: str | None) -> tuple[list[str], str]:
        value = secret or f'the "secret" of {number},\nthe {self.serial()}th of {self.place}'
        return [f"box/{number % 7}", f"s{number:06}", value], value

    def changed(self, row: list[str]) -> list[str]:
        return [*row[:2], f"changed {self.serial()} of {self.place}"]


class _KeyFiles(_Table):
    columns = ("address", "remote_user", "ssh_priv_key_file")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.keys = path.parent / "keys"
        self.keys.mkdir()

    def make(self, number: int, secret: str | None) -> tuple[list[str], str]:
        key = secret or private_key()
        file = self.keys / f"h{number:06}.pem"
        file.write_text(key)
        file.chmod(0o600)
        return [f"h{number:06}.example.com", "", f"keys/{file.name}"], _base64(key)

    def changed(self, row: list[str]) -> list[str]:
        (self.path.parent / row[2]).write_text(private_key())
        return row

    def raw(self) -> Iterator[bytes]:
        yield from super().raw()
        for file in sorted(self.keys.iterdir()):
            yield file.name.encode() + file.read_bytes()


@contextmanager
def estate(directory: Path) -> Iterator[Estate]:
    """Make a table of hosts with their keys in cells, in PEM over several lines, or in base64."""
    yield _Hosts(directory / "hosts.csv")


@contextmanager
def estate_of_secrets(directory: Path) -> Iterator[Estate]:
    """Make a table of secrets."""
    yield _Secrets(directory / "secrets.csv")


@contextmanager
def estate_of_key_files(directory: Path) -> Iterator[Estate]:
    """Make a table of hosts that names their key files."""
    yield _KeyFiles(directory / "hosts.csv")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
