r"""The file: JSON lines, so that it can be read without us, in one form only, so that it can be compared.

    {"what":"strongroom backup","format":1,"version":"0.1.0","label":"20261130T073312Z-5f2c",
     "taken":"2026-11-30T07:33:12Z","store":"sqlite","revision":1204,"keyring":{…}}
    {"name":"hosts/10.0.0.7","value":"{\"address\":…}"}
    {"name":"secrets/db/"}
    {"name":"secrets/db/password","value":"eyJhbGciOiJkaXIi…"}
    {"rows":3,"head":"<SHA-256 of the first line>","body":"<SHA-256 of the rows' lines>"}

*keyring* is the keyring's export, as ``strongroom key export`` makes it, of the same moment as the rows. Rows are in
byte order of their names, each once, whatever store they come from. An empty value is left out; one that is not UTF-8
is ``"octets"`` in base64 instead.

The checksums find damage. They prove nothing of who wrote the file: like a store, a backup is not trusted, and what is
secret in it protects itself.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, Literal

import msgspec

from strongroom.models import strict_json
from strongroom.storage_service.backends.base import MAX_KEY
from strongroom.storage_service.errors import ConfigurationError, Invalid
from strongroom.storage_service.wire import MAX_STORED

WHAT: Final[Literal["strongroom backup"]] = "strongroom backup"
FORMAT: Final = 1  # a later one is refused, not guessed at
MAX_HEAD: Final = 33 * 1024 * 1024  # bytes: the export of a keyring, and the rest
MAX_LINE: Final = 6 * MAX_STORED + MAX_KEY + 64  # bytes: a value all of whose characters are escaped
_ROW: Final = b'{"name":'
_LAST: Final = 512  # bytes that the last line is shorter than


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"format_": "format"}):
    """The first line: what this is, and of when."""

    what: Literal["strongroom backup"] = WHAT
    format_: int = FORMAT
    version: str  # of the program that wrote it
    label: str  # under which the key index knows it
    taken: str  # RFC 3339, UTC
    store: str  # what kind of store it was
    revision: int  # that store's
    keyring: dict[str, Any]


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The last line: how much there was, and the checksums."""

    rows: int
    head: str
    body: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    value: str = ""
    octets: str = ""


class Writer:
    """Writes a file from its first line to its last."""

    def __init__(self, file: IO[bytes], head: Head) -> None:
        """Take where to write, and write the head."""
        self._file = file
        line = msgspec.json.encode(head) + b"\n"
        self._head = hashlib.sha256(line)
        self._body = hashlib.sha256()
        self._rows = 0
        file.write(line)

    def add(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Write *rows*, which follow in order on those before."""
        lines = [_line_of(name, value) for name, value in rows]
        text = b"".join(lines)
        self._body.update(text)
        self._rows += len(lines)
        self._file.write(text)

    def end(self) -> End:
        """Write the last line, and return what it says."""
        end = End(rows=self._rows, head=self._head.hexdigest(), body=self._body.hexdigest())
        self._file.write(msgspec.json.encode(end) + b"\n")
        return end


class Reader:
    """Reads a file from its first line to its last, and measures everything in it before it gives it out.

    What `rows` gave out is known to be undamaged only when it has come to its end.

    Raises:
        Invalid: the head is invalid.
        ConfigurationError: a later version of this program wrote it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Take what to read, and read the head."""
        self._file = file
        line = file.readline(MAX_HEAD)
        self._head = hashlib.sha256(line)
        self.head = _head_in(line)
        self.end: End | None = None  # known when all rows have been read

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Give out the rows, in order.

        Raises:
            Invalid: the file is damaged, or was cut short; says at which row, and repeats nothing of it.
        """
        body = hashlib.sha256()
        count, last = 0, ""
        while (line := self._file.readline(MAX_LINE)).startswith(_ROW):
            name, value = _row_in(line, count + 1)
            if name <= last:
                raise _damaged(f"row {count + 1} is not in its place")
            body.update(line)
            count, last = count + 1, name
            yield name, value
        found = End(rows=count, head=self._head.hexdigest(), body=body.hexdigest())
        if not line:
            raise Invalid(f"the backup was cut short after {count} rows")
        said = _end_in(line, count)
        if said.head != found.head:
            raise _damaged("its first line is not as it was written")
        if said != found:
            raise _damaged("its rows are not as they were written")
        if self._file.read(1):
            raise _damaged("something follows its end")
        self.end = said


def rows_said(file: IO[bytes]) -> int | None:
    """Return how many rows *file* says in its end that it has, for who wants to see how far reading it is."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _LAST))
    last = file.read().splitlines()[-1:]
    file.seek(0)
    try:
        return msgspec.json.decode(last[0], type=End).rows
    except (IndexError, *strict_json.UNREADABLE):
        return None


def _head_in(line: bytes) -> Head:
    try:
        said = strict_json.decode(line, most=len(line))
    except strict_json.MalformedJSON:
        raise Invalid("that is not a backup, or was cut short in its first line") from None
    if not isinstance(said, dict) or said.get("what") != WHAT:
        raise Invalid("that is not a backup")
    if isinstance(written := said.get("format"), int) and written > FORMAT:
        raise ConfigurationError(
            "the backup is of a format that this version does not know: a later version wrote it; run that one"
        )
    try:
        head = msgspec.convert(said, Head)
    except msgspec.ValidationError:  # it may quote from it
        raise _damaged("its first line is not of the accepted form") from None
    if head.format_ != FORMAT or not line.endswith(b"\n"):
        raise _damaged("its first line is not of the accepted form")
    return head


def _line_of(name: str, value: bytes) -> bytes:
    try:
        row = _Row(name, value.decode())
    except UnicodeDecodeError:
        row = _Row(name, octets=base64.b64encode(value).decode())
    return msgspec.json.encode(row) + b"\n"


def _row_in(line: bytes, number: int) -> tuple[str, bytes]:
    try:
        row = msgspec.json.decode(line, type=_Row)
        value = base64.b64decode(row.octets, validate=True) if row.octets else row.value.encode()
    except strict_json.UNREADABLE:  # they may quote from it
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise Invalid(f"the backup was cut short in row {number}") from None
        raise _damaged(f"row {number} is invalid") from None
    fits = row.name and len(row.name) <= MAX_KEY and len(value) <= MAX_STORED
    if not fits or not row.name.isascii() or _line_of(row.name, value) != line:
        raise _damaged(f"row {number} is not of the accepted form")
    return row.name, value


def _end_in(line: bytes, count: int) -> End:
    try:
        end = msgspec.json.decode(line, type=End)
    except strict_json.UNREADABLE:
        if not line.endswith(b"\n") and len(line) < MAX_LINE:
            raise Invalid(f"the backup was cut short after {count} rows") from None
        raise _damaged(f"what follows row {count} is neither a row nor the end") from None
    if msgspec.json.encode(end) + b"\n" != line:
        raise _damaged("its last line is not of the accepted form")
    return end


def _damaged(why: str) -> Invalid:
    return Invalid(f"the backup is damaged: {why}")
