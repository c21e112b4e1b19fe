"""Both faces of the client behind one blocking interface, so that each story is written once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeAlias

from strongroom.storage_service.client import AsyncStorageClient, StorageClient


class Driven:
    """An `AsyncStorageClient` on an event loop of its own, driven from outside."""

    def __init__(self, *, parent: "Driven | None" = None, **arguments: Any) -> None:
        self._runner: asyncio.Runner = parent._runner if parent else asyncio.Runner()
        self._owns_runner = parent is None
        self.client = arguments["client"] if parent else AsyncStorageClient(**arguments)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            result = attribute(*args, **kwargs)
            if isinstance(result, AsyncStorageClient):
                return Driven(parent=self, client=result)
            if asyncio.iscoroutine(result):
                return self._runner.run(result)
            if isinstance(result, AsyncIterator):
                return self._iterate(result)
            if isinstance(result, AbstractAsyncContextManager):
                return self._enter(result)
            return result

        return call

    def close(self) -> None:
        self._runner.run(self.client.close())
        if self._owns_runner:
            self._runner.close()

    def __repr__(self) -> str:
        return repr(self.client)

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, self)

        while (item := self._runner.run(following())) is not self:
            yield item

    @contextmanager
    def _enter(self, manager: AbstractAsyncContextManager[Any]) -> Iterator[Any]:
        entered = self._runner.run(manager.__aenter__())
        try:
            yield entered
        except BaseException as error:
            if not self._runner.run(manager.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._runner.run(manager.__aexit__(None, None, None))


Face: TypeAlias = Callable[..., Any]

FACES: dict[str, Face] = {"blocking": StorageClient, "awaiting": Driven}
