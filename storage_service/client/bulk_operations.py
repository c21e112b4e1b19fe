"""What is encrypted, as it is stored: several values and journals in one commit, for moving and repairing records."""

from collections.abc import Iterable, Sequence
from os.path import commonpath
from typing import NamedTuple

import msgspec

from strongroom.models import names
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.client.operations import ANY_REVISION, decode, each_of
from strongroom.storage_service.client.retries import Call, Effect, Operation
from strongroom.storage_service.errors import Internal


class BulkValue(NamedTuple):
    """A stored value and the tag of its revision."""

    value: Secret
    etag: str


class Write(NamedTuple):
    """Store *value* under *name*; of a container the value is empty."""

    name: str
    value: Secret
    etag: str | None = None  # the revision that it replaces; "*": any; wire.NEW: there is none; None: whatever is


class Remove(NamedTuple):
    """Remove what is under *name*."""

    name: str
    etag: str | None = None


class Require(NamedTuple):
    """Change nothing, but let the commit fail unless *name* is at that revision."""

    name: str
    etag: str


def bulk_limit() -> Operation[int]:
    """Return how many changes one commit takes, one for each container that its writes lie in among them."""
    return decode((yield Call("GET", wire.BULK_PATH, Effect.READ)), wire.BulkLimits).max_changes


def read_bulk(wanted: Sequence[str]) -> Operation[list[BulkValue | None]]:
    """Return what is stored under each of *wanted*, None where there is nothing.

    Up to 1,000 are read as of one moment, if one answer holds them (8 MiB as stored): else they are read in parts.

    Raises:
        Denied: the credentials do not reach everything.
    """

    def ask(some: Sequence[str]) -> Operation[list[BulkValue | None]]:
        answer = yield _call("read", wire.BulkNames(names=list(some)), Effect.READ, _name(some))
        entries = decode(answer, wire.BulkEntries).entries
        if len(entries) != len(some):
            raise Internal("the service's answer does not fit the request")
        return [None if each is None else BulkValue(Secret(each.value), each.etag) for each in entries]

    found = yield from each_of(wanted, wire.MAX_BULK_READ, ask)
    return [found[name] for name in wanted]


def list_bulk(prefix: str, after: str | None = None, limit: int = 1000) -> Operation[wire.BulkPage]:
    """Return a page of the names that begin with *prefix* and come after *after*, in order, containers among them.

    Raises:
        Denied: the credentials do not reach everything.
    """
    body = wire.BulkListing(prefix=prefix, after=after, limit=limit)
    return decode((yield _call("list", body, Effect.READ, prefix)), wire.BulkPage)


def commit_bulk(changes: Iterable[Write | Remove | Require]) -> Operation[str]:
    """Apply *changes* together or not at all, and return the tag that all that was written has now.

    Raises:
        Changed: something is not at the expected revision; nothing was applied.
        NoContainer: the container of a write does not exist, and is not among the changes.
        Invalid: too many changes, or two of one name.
        Denied: the credentials do not reach everything.
    """
    said = list(changes)
    guarded = all(change.etag not in (None, ANY_REVISION) for change in said)
    body = wire.BulkCommit(changes=[_change(each) for each in said])
    effect = Effect.GUARDED if guarded else Effect.WRITE
    answer = yield _call("commit", body, effect, _name([change.name for change in said]))
    return decode(answer, wire.BulkCommitted).etag


def _call(verb: str, body: msgspec.Struct, effect: Effect, name: str) -> Call:
    path = f"{wire.BULK_PATH}/{verb}"
    return Call("POST", path, effect, msgspec.json.encode(body), {"Content-Type": wire.JSON}, name)


def _name(wanted: Sequence[str]) -> str:
    """Return the one name that is *wanted*, or the folder that all lie in.

    Raises:
        InvalidName: one is not a name.
    """
    checked = [names.check(name) for name in wanted]
    return checked[0] if len(checked) == 1 else commonpath(checked) if checked else ""


def _change(said: Write | Remove | Require) -> wire.BulkChange:
    match said:
        case Write(name, value, etag):
            return wire.BulkChange(name=name, value=value.reveal(), etag=etag)
        case Remove(name, etag):
            return wire.BulkChange(name=name, etag=etag)
        case Require(name, etag):
            return wire.BulkChange(name=name, etag=etag, check=True)
