"""A source's items as they may move: what is to be the key of a host is one, spelled so that ssh reads it.

Every verb reads a source through this, and so does the service where it reads what has not moved: what is no private
key moves as none from any source, and one and the same key is one and the same record whoever reads it.
"""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import msgspec

from strongroom.migration.records import Item, Record
from strongroom.migration.sources import ssh_keys
from strongroom.migration.sources.base import Source
from strongroom.migration.sources.files import Unfit
from strongroom.models import HostCreds, names
from strongroom.models.secret import Secret
from strongroom.models.strict_json import UNREADABLE

_PREFIX: Final = HostCreds.prefix()


class _Credentials(msgspec.Struct):
    """As much of a host's credentials as is looked at. Its repr shows nothing."""

    ssh_priv_key: str = ""

    def __repr__(self) -> str:
        return "<_Credentials>"


async def items_of(source: Source) -> AsyncIterator[Item]:
    """Yield every item of *source*, as it may move.

    Raises:
        SourceUnavailable, SourceRefused: as the source does.
    """
    async for item in source.items():
        yield _fit(item)


def fit_record(record: Record) -> Record | None:
    """Return *record* as it may move; None: it may not."""
    try:
        return _examined(record)[0]
    except Unfit:
        return None


def _fit(item: Item) -> Item:
    if not any(_is_credentials(record.name) for record in item.records):
        return item
    records, notes = [], [*item.notes]
    for record in item.records:
        try:
            fit, told = _examined(record)
        except Unfit as error:
            return replace(item, records=(), fault=str(error))
        records.append(fit)
        notes += told
    return replace(item, records=tuple(records), notes=tuple(notes))


def _is_credentials(name: str) -> bool:
    return name.startswith(_PREFIX) and not names.is_container(name)


def _examined(record: Record) -> tuple[Record, list[str]]:
    """Return *record* with its key, if it is to hold one, as ssh reads it, and what is to be told of that.

    Raises:
        Unfit: it holds something else than a private key.
    """
    if not _is_credentials(record.name):
        return record, []
    content = _key_in(record)
    if not content:
        return record, []  # a remote user alone
    try:
        examined = ssh_keys.examine(content)
    except Unfit as error:
        raise Unfit(f"its SSH key {error}") from None
    if examined.content != content:
        key = Secret(base64.b64encode(examined.content).decode())
        before = HostCreds.from_json(base64.b64decode(record.value.reveal()))
        record = Record.of(HostCreds(address=before.address, ssh_priv_key=key, remote_user=before.remote_user))
    return record, [f"its SSH key {note}" for note in examined.notes]


def _key_in(record: Record) -> bytes:
    try:
        said = msgspec.json.decode(base64.b64decode(record.value.reveal(), validate=True), type=_Credentials)
        return base64.b64decode(said.ssh_priv_key, validate=True)
    except (ValueError, *UNREADABLE):
        pass
    raise Unfit(f"it lies where the records of {HostCreds.__name__} lie, and is invalid")  # out here: that error quotes
