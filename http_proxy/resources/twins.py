"""Records that have credentials beside them, made and removed so that no credentials stay without their record.

Two writes are no one write, so of each pair the plain record is the lock, and its revision what it is locked with:

- Who makes a pair stores the record where there is none, then the credentials where there are none, and then the
  record once more over the revision that he knows. Only when that worked is he told that it is made.
- Who removes a pair reads the revision of the record, removes the credentials, and then the record at that revision.
  If it is another by now, somebody made the pair meanwhile, and all is done again.

- Who removes what is at one revision (If-Match) stores the record once more over it first. Who changes or removes it
  at that revision as well is told 412 then, and the other, if he is too late, before anything was removed. If somebody
  who names no revision changes the record between that and its removal, it stays, without what was removed before.

So of a maker and a remover who meet, one finds the record changed or gone, and takes back what he did. Who loses to
another maker takes back only what is still as he stored it.
"""

from contextlib import suppress
from typing import Final, TypeVar

from strongroom.http_proxy.resources.base import CHANGED, check_at
from strongroom.models import Host, Model
from strongroom.storage_service import wire
from strongroom.storage_service.client import AsyncStorageClient, Record
from strongroom.storage_service.errors import Changed, Denied, Exists, NotFound

M = TypeVar("M", bound=Model)

ATTEMPTS: Final = 16  # at one pair, while others change its record


async def check_may_each(client: AsyncStorageClient, action: str, *wanted: tuple[type[Model], str]) -> None:
    """Return if the caller may do *action* to each of *wanted*: asked of a whole act, before any of it is done.

    Raises:
        Denied: one of them it may not, which the service has recorded.
    """
    for model, key in wanted:
        await client.check_may(action, model, key)


async def save_where_none(client: AsyncStorageClient, model: M) -> Record[M] | None:
    """Store *model* where there is no such record and return it, or None; what is there is not looked at."""
    try:
        return await client.save(model, etag=wire.NEW)
    except Exists:
        return None


async def lock(client: AsyncStorageClient, record: Record[M]) -> Record[M] | None:
    """Store *record* once more over its own revision and return it, or None: it was changed, or is gone."""
    try:
        return await client.save(record.model, etag=record.etag)
    except Changed:
        return None


async def claim(client: AsyncStorageClient, record: Record[M], told: str) -> Record[M]:
    """Store *record* once more over the revision that it is *told* to be at, before what belongs to it is removed.

    Raises:
        Changed: it is at another, or changed meanwhile; nothing was done.
    """
    check_at(told, record.etag)
    claimed = await lock(client, record)
    if claimed is None:
        raise Changed(CHANGED)
    return claimed


async def take_back(client: AsyncStorageClient, record: Record[M]) -> None:
    """Remove *record* if it is still as the caller stored it; one who may store and not remove leaves it."""
    model = record.model
    with suppress(NotFound, Changed, Denied):
        source = model.source if isinstance(model, Host) else ""
        await client.delete(type(model), model.key, etag=record.etag, source=source)
