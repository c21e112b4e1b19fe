"""Records as JSON, an object a line: written by hand, by another program, or as an export of anything.

    {"model": "Host", "address": "10.0.0.7", "os": "fedora"}
    {"model": "HostCreds", "address": "10.0.0.7", "ssh_priv_key": "LS0t…", "remote_user": "root"}
    {"model": "Host", "address": "10.0.0.8", "ssh_priv_key": "LS0t…", "remote_user": "root"}     both in one, as of old
    {"name": "secrets/mail/relay/password", "value": "correct horse"}
    {"name": "secrets/mail/relay/keytab", "value_base64": "AAECAw=="}

A key is PEM or base64; a model is any whose records are stored. Lines are UTF-8, and JSON as
``strongroom.models.strict_json`` reads it. A line that is no such object is a fault.

Scrubbing takes out of a line the members that became an encrypted record, and leaves the others as they are written;
see ``rows`` for the rest.
"""

import base64
import codecs
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple

import msgspec

from strongroom.migration.records import Record
from strongroom.migration.sources import making
from strongroom.migration.sources.base import Option, Options
from strongroom.migration.sources.files import Unfit
from strongroom.migration.sources.tables.rows import Layout, Row, RowSource, TakenOut, lines
from strongroom.models import MODELS, Host, HostCreds, Model, SecretModel, strict_json
from strongroom.models.secret import Secret

OPTIONS: Final[Mapping[str, Option]] = {}

_KEY: Final = "ssh_priv_key"
_VALUES: Final = ("value", "value_base64")
_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


def make(place: str, options: Options) -> RowSource:  # noqa: ARG001  # it takes none
    """Return the source of the file *place*."""
    return RowSource(Path(place), JsonLines())


class JsonLines:
    """Lines that are objects."""

    kind: ClassVar[str] = "jsonl"
    row: ClassVar[str] = "line"
    headed: ClassVar[bool] = False
    notes: ClassVar[tuple[str, ...]] = ()
    names_key_files: ClassVar[bool] = False

    def lengths(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield the lines."""
        return ((length, line) for line, length in lines(file))

    def is_blank(self, raw: bytes) -> bool:
        """Whether there is nothing in a line."""
        return not raw.removeprefix(codecs.BOM_UTF8).strip()

    def layout(self, header: bytes | None) -> Layout:  # noqa: ARG002  # there is none
        """Return how lines are read: all files of them alike."""
        return self

    def parse(self, raw: bytes) -> Row:
        """Return what a line says."""
        try:
            said = strict_json.decode(raw.removeprefix(codecs.BOM_UTF8), most=len(raw))
        except strict_json.MalformedJSON as error:
            reason = str(error)
        else:
            if not isinstance(said, dict):
                raise Unfit("the line must be an object")
            if "model" in said:
                return _record(raw, said)
            if "name" in said:
                return _secret(raw, said)
            reason = "the object has neither a model nor a name"
        raise Unfit(reason)  # out here: the parser's error holds the line


def _record(raw: bytes, said: Mapping[str, Any]) -> Row:
    model = MODELS.get(said["model"]) if isinstance(said["model"], str) else None
    if model is None:
        raise Unfit(f"its model is not one of those that are stored: {', '.join(MODELS)}")
    known = _fields(model)
    is_secret = issubclass(model, SecretModel)
    secret: Collection[str] = [name for name in known if name != model.primary_key] if is_secret else ()
    if model is Host:
        secret = making.CREDENTIALS
    fields = {name: value for name, value in said.items() if name in known or name in secret}
    notes = _notes(said.keys() - fields.keys() - {"model"})
    take_out = partial(_taken_out, raw, secret, _secret_fields(HostCreds if model is Host else model))
    if is_secret and not fields.keys() & set(secret):
        return Row(lambda _: (), take_out, notes=(*notes, "it holds no secret: there is nothing to move"))
    return Row(lambda _: _records(model, fields), take_out, notes=notes)


def _records(model: type[Model], fields: Mapping[str, Any]) -> tuple[Record, ...]:
    if model is Host:
        return making.host(fields)
    if model is HostCreds and isinstance(fields.get(_KEY), str):
        fields = {**fields, _KEY: making.key_text(fields[_KEY])}
    user = fields.get("remote_user", "")
    if model is HostCreds and isinstance(fields.get("address"), str) and isinstance(user, str):
        host, user = making.address(fields["address"], user)
        fields = {**fields, "address": host, **({"remote_user": user} if user else {})}
    return (making.of(model, fields),)


def _secret(raw: bytes, said: Mapping[str, Any]) -> Row:
    values = [said[each] for each in _VALUES if each in said]
    notes = _notes(said.keys() - {"name", *_VALUES})
    take_out = partial(_taken_out, raw, _VALUES, _VALUES)
    if not values or values == [""]:
        return Row(lambda _: (), take_out, notes=(*notes, "it holds no value: there is nothing to move"))
    if len(values) > 1:
        raise Unfit("it has both value and value_base64")
    name, value = said["name"], values[0]
    if not isinstance(name, str) or not isinstance(value, str):
        raise Unfit("its name and its value must be text")
    if "value_base64" in said:
        try:
            value = base64.b64decode(value, validate=True)
        except ValueError:
            value = None
        if value is None:
            raise Unfit("its value_base64 is not base64")
    return Row(lambda _: (making.secret(name, value),), take_out, notes=notes)


class _Member(NamedTuple):
    """A member of an object, as it is written: where it begins, where its value does, where it ends."""

    name: str
    start: int
    value: int
    end: int


def _taken_out(raw: bytes, names: Collection[str], patterns: Collection[str]) -> TakenOut:
    """Return an object's text without some members, and the texts of those that are searched for, as they stand."""
    text = raw.decode()
    members = list(_members(text))
    if not any(member.name in names for member in members):
        return TakenOut(raw, ())
    kept = ", ".join(text[member.start : member.end] for member in members if member.name not in names)
    found = (text[each.value : each.end] for each in members if each.name in patterns)
    return TakenOut(
        f"{text[: text.index('{')]}{{{kept}}}{text[text.rindex('}') + 1 :]}".encode(),
        tuple(value[1:-1].encode() for value in found if value.startswith('"') and value != '""'),
    )


def _members(text: str) -> Iterator[_Member]:
    """Yield the members of the object that *text* is known to hold."""
    at = _after_blanks(text, text.index("{") + 1)
    while text[at] != "}":
        start = at
        name, at = _DECODER.raw_decode(text, start)
        value = _after_blanks(text, _after_blanks(text, at) + 1)
        _, end = _DECODER.raw_decode(text, value)
        yield _Member(name, start, value, end)
        at = _after_blanks(text, end)
        if text[at] == ",":
            at = _after_blanks(text, at + 1)


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


@cache
def _fields(model: type[Model]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(model))


@cache
def _secret_fields(model: type[Model]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(model) if isinstance(field.default, Secret))


def _notes(left: Collection[str]) -> tuple[str, ...]:
    return tuple(making.left_behind("fields", left))
