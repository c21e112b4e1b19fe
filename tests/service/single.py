"""A handler asked for one record."""

from typing import TypeVar

from strongroom.models.base import Model
from strongroom.storage_service.handlers import Handler, Stored

M = TypeVar("M", bound=Model)


async def save(handler: Handler, record: M, expected: int | None = None) -> Stored[M]:
    """Write *record*, and return it with its revision."""
    return (await handler.save_many([record], [expected]))[0]


async def get(handler: Handler, model: type[M], key: str) -> Stored[M]:
    """Return the record of *key*, which must be there."""
    (stored,) = await handler.get_many(model, [key])
    assert stored is not None
    return stored


async def delete(handler: Handler, model: type[Model], key: str) -> None:
    """Remove the record of *key*, which must be there."""
    assert await handler.delete_many(model, [key]) == [True]
