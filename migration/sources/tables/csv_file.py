"""A table of hosts or of secrets, as spreadsheets and databases export them (RFC 4180).

    address,remote_user,ssh_priv_key_file,os        a host a row; its key lies in a file beside the table, or in it:
    10.0.0.7,root,keys/web.pem,fedora               the column ssh_priv_key has PEM or base64

    container,key,value                             a secret a row; instead of container and key there may be a name,
    mail/relay,password,"correct horse"             in full: secrets/mail/relay/password

``-o column=address=Hostname`` says that the table calls its addresses ``Hostname``; what is said so comes before what
columns are called. A key may be called ``ssh key`` or ``private-key``, too. What a row does not say, or leaves empty,
is the model's default; a row without a key and a user makes no credentials. A cell may span lines if it is quoted. A
row that breaks the rules is a fault, and ends with its line, so that a forgotten quote hides no other row.

Scrubbing empties the cells of the key, its file and the user, or the value; see ``rows`` for the rest.
"""

import codecs
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, NamedTuple

import msgspec

from strongroom.migration.records import Record
from strongroom.migration.sources import files, making
from strongroom.migration.sources.base import Option, Options
from strongroom.migration.sources.files import Unfit
from strongroom.migration.sources.tables.rows import MAX_ROW, Layout, Row, RowSource, TakenOut
from strongroom.models import Host, names
from strongroom.models.rules import means_secret
from strongroom.storage_service.errors import ConfigurationError

OPTIONS: Final[Mapping[str, Option]] = {
    "column": Option("FIELD=HEADER: what the table calls a field", many=True),
    "delimiter": Option("what stands between cells: one character, or tab; a comma if not given"),
    "encoding": Option("how its text is encoded; UTF-8 if not given"),
}

_KEY: Final = "ssh_priv_key"
_KEY_FILE: Final = "ssh_priv_key_file"
_USER: Final = "remote_user"
_HOST: Final = {field.name: field.type for field in msgspec.structs.fields(Host)}
_OF_HOSTS: Final = (*_HOST, _KEY, _KEY_FILE, _USER)
_OF_SECRETS: Final = ("name", "container", "key", "value")
_SCRUBBED: Final = (_KEY, _KEY_FILE, _USER, "value")  # what becomes a part of an encrypted record
_PATTERNS: Final = (_KEY, "value")

_RIVALS: Final[Mapping[str, frozenset[str]]] = {  # what says the same as a field, in another way
    "name": frozenset({"container", "key"}),
    "container": frozenset({"name"}),
    "key": frozenset({"name"}),
    _KEY: frozenset({_KEY_FILE}),
    _KEY_FILE: frozenset({_KEY}),
}

_ALSO: Final[Mapping[str, frozenset[str]]] = {  # what a key is called besides, as `_bare` has it
    _KEY: frozenset({"ssh_priv_key", "ssh_key", "ssh_private_key", "private_key"}),
    _KEY_FILE: frozenset({"ssh_priv_key_file", "ssh_key_file", "ssh_private_key_file", "private_key_file"}),
}

_TABS: Final = ("tab", "\\t")
# Those in which a byte of ASCII is that character wherever it stands, so that rows end where they seem to.
_ENCODINGS: Final = re.compile(r"utf-8|ascii|iso8859-\d+|cp(?:125\d|437|85\d|866)|koi8-[ru]|mac-roman")
_QUOTED: Final = re.compile(rb'"((?>[^"]*(?:""[^"]*)*))"')
_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,19}")


def make(place: str, options: Options) -> RowSource:
    """Return the source of the table *place*.

    Raises:
        ConfigurationError: an option is not understood.
    """
    columns: dict[str, str] = {}
    for said in options.get("column", ()):
        field, _, heading = said.partition("=")
        if field not in (*_OF_HOSTS, *_OF_SECRETS) or not heading or field in columns:
            raise ConfigurationError(
                f"-o column=FIELD=HEADER says once of a field what the table calls it; the fields are:"
                f" {', '.join((*_OF_HOSTS, *_OF_SECRETS))}"
            )
        columns[field] = heading
    delimiter = "".join(options.get("delimiter", (",",)))
    delimiter = "\t" if delimiter in _TABS else delimiter
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise ConfigurationError("-o delimiter=… is one character of ASCII and no quote, or tab")
    try:
        encoding = codecs.lookup("".join(options.get("encoding", ("utf-8",)))).name
    except LookupError:
        encoding = ""
    if _ENCODINGS.fullmatch(encoding) is None:
        raise ConfigurationError("a table in that encoding cannot be read: convert it to UTF-8 (iconv -t UTF-8)")
    return RowSource(Path(place), Csv(columns, delimiter.encode(), encoding))


class Cell(NamedTuple):
    """Where a cell lies in its row: all of it, and what is in its quotes, if it has some."""

    start: int
    end: int
    inner: slice
    quoted: bool


class Csv:
    """Rows of cells."""

    kind: ClassVar[str] = "csv"
    row: ClassVar[str] = "row"
    headed: ClassVar[bool] = True

    def __init__(self, columns: Mapping[str, str], delimiter: bytes = b",", encoding: str = "utf-8") -> None:
        """Take what the table calls some fields, and how it is written."""
        self.columns = columns
        self.encoding = encoding
        self._delimiter = delimiter
        self._plain = re.compile(rb"[^%s\r\n]*" % re.escape(delimiter))
        cell = rb'(?:"(?>[^"]*(?:""[^"]*)*)"|[^"%(d)s\r\n][^%(d)s\r\n]*)?' % {b"d": re.escape(delimiter)}
        self._row = re.compile(rb"(?>%(c)s(?:%(d)s%(c)s)*)(?:\r?\n|\r?\Z)" % {b"c": cell, b"d": re.escape(delimiter)})
        self._blanks = b' \t\r\n"' + delimiter

    def is_blank(self, raw: bytes) -> bool:
        """Whether all cells of a row are empty."""
        return not raw.strip(self._blanks)

    def layout(self, header: bytes | None) -> Layout:
        """Return what the columns of the table are."""
        if header is None:
            raise ConfigurationError("the table is empty: its first row says what its columns are")
        return _Table(self, header.removeprefix(codecs.BOM_UTF8))

    def lengths(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield the rows, each with all the lines that its quoted cells span."""
        buffer, at, ended = b"", 0, False
        while True:
            row = self._row.match(buffer, at)
            if not ended and (row is None or row.end() == len(buffer)) and len(buffer) - at <= MAX_ROW:
                more = file.read(files.CHUNK)
                buffer, at, ended = buffer[at:] + more, 0, not more
            elif at == len(buffer):
                return
            else:
                # What is malformed, or too long to tell, is a row of one line.
                is_whole = row is not None and (ended or row.end() < len(buffer))
                end = row.end() if row is not None and is_whole else buffer.find(b"\n", at) + 1 or len(buffer)
                raw, beyond = buffer[at:end], 0
                if end == len(buffer) and not raw.endswith(b"\n"):
                    buffer, end, beyond = _rest_of_line(file)
                yield len(raw) + beyond, raw
                at = end

    def cells(self, raw: bytes) -> list[Cell] | None:
        """Return the cells of a row; None: a quote is not closed, or there is text beside what is quoted."""
        found: list[Cell] = []
        at = 0
        while True:
            quoted = _QUOTED.match(raw, at)
            if quoted is not None:
                found.append(Cell(at, quoted.end(), slice(*quoted.span(1)), quoted=True))
            elif raw[at : at + 1] == b'"':
                return None
            else:
                end = self._end_of_plain(raw, at)
                found.append(Cell(at, end, slice(at, end), quoted=False))
            at = found[-1].end
            if raw[at : at + 1] != self._delimiter:
                return found if raw[at:] in (b"", b"\n", b"\r\n", b"\r") else None
            at += 1

    def text(self, raw: bytes, cell: Cell) -> str:
        """Return what a cell says.

        Raises:
            UnicodeDecodeError: it is not in the encoding of the table.
        """
        text = raw[cell.inner].decode(self.encoding)
        return text.replace('""', '"') if cell.quoted else text

    def _end_of_plain(self, raw: bytes, at: int) -> int:
        plain = self._plain.match(raw, at)
        return plain.end() if plain else at


class _Table:
    """What the columns of a table are, and what its rows become."""

    def __init__(self, form: Csv, header: bytes) -> None:
        self._form = form
        try:
            headings = [form.text(header, cell).strip() for cell in form.cells(header) or ()]
        except UnicodeDecodeError:
            raise ConfigurationError(f"the table is not encoded in {form.encoding}: say -o encoding=…") from None
        self._width = len(headings)
        said = form.columns.keys()
        for_hosts, for_secrets = not said.isdisjoint(_OF_HOSTS), not said.isdisjoint(_OF_SECRETS)
        of_hosts = self._columns(headings, _OF_HOSTS if for_hosts or not for_secrets else ())
        of_secrets = self._columns(headings, _OF_SECRETS if for_secrets or not for_hosts else ())
        self._is_of_hosts = "address" in of_hosts
        is_of_secrets = "value" in of_secrets and ("name" in of_secrets or {"container", "key"} <= of_secrets.keys())
        if self._is_of_hosts == is_of_secrets:
            # No heading is repeated: where there is no header, it is the first row of what is secret.
            raise ConfigurationError(
                "the first row must name the columns of hosts (address, …), or of secrets (container, key and value, or"
                " name and value), and not of both; say what the table calls them with -o column=FIELD=HEADER,"
                " and what stands between cells with -o delimiter=…"
            )
        self._at = of_hosts if self._is_of_hosts else of_secrets
        left = [heading for at, heading in enumerate(headings) if heading and at not in self._at.values()]
        self.names_key_files = _KEY_FILE in self._at
        self.notes = (*making.left_behind("columns", left), *self._perhaps_the_key(left))

    def _perhaps_the_key(self, left: Sequence[str]) -> Iterator[str]:
        """Yield how to say which column has the keys, where none was found and one of those *left* may."""
        secret = next((heading for heading in sorted(left) if means_secret(heading)), None)
        if self._is_of_hosts and secret is not None and self._at.keys().isdisjoint((_KEY, _KEY_FILE)):
            said = shlex.quote(f"column={_KEY}={files.printable(secret)}")
            yield f"if that is the key of its host, say so: -o {said}"

    def _columns(self, headings: Sequence[str], fields: Sequence[str]) -> dict[str, int]:
        """Return where the column of each field is: first what was said, then what goes by a field's own name.

        A column that was said to be one field is no other, and none that was not said says what another was said to.
        """
        said = self._form.columns
        taken = frozenset(said.values())
        found: dict[str, int] = {}
        for field in fields:
            if field not in said and (field in taken or said.keys() & _RIVALS.get(field, frozenset())):
                continue
            heading = said.get(field) or self._called(field, headings)
            if headings.count(heading) > 1:
                raise ConfigurationError(f"two columns of the table have the name of {field}")
            if heading in headings:
                found[field] = headings.index(heading)
            elif field in self._form.columns:
                raise ConfigurationError(f"no column of the table has the name that -o column={field}=… gives")
        return found

    def _called(self, field: str, headings: Sequence[str]) -> str:
        """Return what the table calls *field*: a key goes by other words, too, with blanks or dashes between them."""
        also, said = _ALSO.get(field, frozenset()), self._form.columns.values()
        found = [each for each in headings if _bare(each) in also and each not in said]
        if field in found or not found:
            return field
        if len(found) > 1:
            raise ConfigurationError(
                f"several columns of the table may be {field}: say which with -o column={field}=HEADER"
            )
        return found[0]

    def parse(self, raw: bytes) -> Row:
        """Return what a row says, by its columns."""
        cells = self._form.cells(raw)
        if cells is None:
            raise Unfit("a quote is not closed, or there is text beside what is quoted")
        if len(cells) != self._width:
            raise Unfit(f"it has {len(cells)} cells where the header has {self._width}")
        said = {field: self._text(raw, cells[at]) for field, at in self._at.items()}

        def take_out() -> TakenOut:
            return TakenOut(
                _without(raw, [cells[at] for field, at in self._at.items() if field in _SCRUBBED]),
                tuple(raw[cells[self._at[field]].inner] for field in _PATTERNS if said.get(field)),
            )

        return (_host if self._is_of_hosts else _secret)(said, take_out)

    def _text(self, raw: bytes, cell: Cell) -> str:
        try:
            return self._form.text(raw, cell)
        except UnicodeDecodeError:
            pass
        raise Unfit(f"it is not encoded in {self._form.encoding}")  # out here: the error holds the cell


def _bare(heading: str) -> str:
    return "_".join(re.split(r"[\s_-]+", heading.strip().lower()))


def _host(said: Mapping[str, str], take_out: Callable[[], TakenOut]) -> Row:
    fields: dict[str, object] = {
        name: _value(name, text.strip()) for name, text in said.items() if name in _HOST and text.strip()
    }
    fields[_USER] = said.get(_USER, "").strip()
    key, key_file = said.get(_KEY, "").strip(), said.get(_KEY_FILE, "").strip()
    if key and key_file:
        raise Unfit("it has both a key and a key file")

    def records(content: bytes) -> tuple[Record, ...]:
        return making.host(fields | {_KEY: making.key_of_file(content) if key_file else said.get(_KEY, "")})

    return Row(records, take_out, key_file)


def _secret(said: Mapping[str, str], take_out: Callable[[], TakenOut]) -> Row:
    name, value = said.get("name", "").strip(), said["value"]
    if not value:
        return Row(lambda _: (), take_out, notes=("its value is empty: there is nothing to move",))
    if not name:
        parts = {field: said.get(field, "").strip() for field in ("container", "key") if field in said}
        if empty := [field for field, text in (parts or {"name": ""}).items() if not text]:
            raise Unfit(f"its {' and its '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty")
        name = "/".join((names.SECRETS.rstrip("/"), *parts.values()))
    return Row(lambda _: (making.secret(name, value),), take_out)


def _value(field: str, text: str) -> object:
    if _HOST[field] is not int:
        return text
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise Unfit(f"{field} must be a whole number")
    return int(text)


def _rest_of_line(file: BinaryIO) -> tuple[bytes, int, int]:
    """Skip what a line has left in *file*; return what was read after it, where that begins, and the bytes skipped."""
    skipped = 0
    while chunk := file.read(files.CHUNK):
        end = chunk.find(b"\n") + 1
        if end:
            return chunk, end, skipped + end
        skipped += len(chunk)
    return b"", 0, skipped


def _without(raw: bytes, cells: Sequence[Cell]) -> bytes:
    for cell in sorted(cells, reverse=True, key=lambda cell: cell.start):
        raw = raw[: cell.start] + raw[cell.end :]
    return raw
