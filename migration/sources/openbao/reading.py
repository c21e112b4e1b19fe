"""Reading a mount of OpenBao's KV engine: every path an item, in the order of the server's listings."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused
from strongroom.migration.records import Item, Record
from strongroom.migration.sources.at_once import at_once
from strongroom.migration.sources.openbao.http import IN_FLIGHT, PathFailed, PathRefused, Server, Url, shown
from strongroom.migration.sources.openbao.kv import UNREADABLE, Engine
from strongroom.migration.sources.openbao.kv1 import Kv1
from strongroom.migration.sources.openbao.kv2 import Kv2
from strongroom.migration.sources.openbao.mount import version_of
from strongroom.migration.sources.openbao.records import Layout, Moved
from strongroom.migration.sources.openbao.token import read_token
from strongroom.migration.sources.openbao.walk import Branch, Leaf, in_order

COUNTED: Final = 64  # pages of listings read to count items; what takes more is not cheap

R = TypeVar("R")


class Folder(NamedTuple):
    """A folder whose names are yet to be listed, from *after* on; "" is the mount, others have their slash."""

    path: str
    after: str | None = None


Node: TypeAlias = str | Folder
"""A path, or a folder of paths."""


class Reader:
    """A mount of the KV engine, or one folder of it. Records can be found by name."""

    def __init__(
        self,
        url: Url,
        mount: str,
        under: str,
        layout: Layout,
        *,
        version: int,
        namespace: str,
        token_file: Path | None,
        cacert: Path | None,
        timeout: float,
    ) -> None:
        """Take where and how, and open nothing.

        Args:
            url: of the server.
            mount: the path of the mount, without slashes round it.
            under: the folder that is read, with its slash; "" for all.
            layout: which records paths become.
            version: of the KV engine; 0: the server says.
            namespace: "" for the root.
            token_file: None: the environment has the token, or the user's home.
            cacert: PEM file; None: the system knows who signs.
            timeout: seconds for one question.
        """
        self._url = url
        self._mount = mount
        self._under = under
        self._layout = layout
        self._version = version
        self._namespace = namespace
        self._token_file = token_file
        self._cacert = cacert
        self._timeout = timeout
        self._server: Server | None = None
        self._engine: Engine | None = None

    @property
    def identity(self) -> str:
        """The server, the namespace, the mount, and the folder that is read."""
        inner = "/".join(part for part in (self._namespace, self._mount, self._under) if part)
        return f"{self._url}/{shown(inner)}"

    async def open(self, digest: Digest) -> None:
        """Ask whether the server serves, which version the mount is of, and whether it may be listed.

        Raises:
            ConfigurationError: it is no KV engine, or there is no token.
        """
        self._server = server = await asyncio.to_thread(self._connected)
        await server.check()
        version = await version_of(server, self._mount, self._version)
        self._engine = Kv1(server, self._mount, digest) if version == 1 else Kv2(server, self._mount)
        try:
            await self._engine.page(self._under, None)
        except PathRefused as error:
            raise SourceRefused(f"{error}; or the token is no longer valid") from error

    def _connected(self) -> Server:
        home = os.path.expanduser("~")  # noqa: PTH111  # which does not mind that a user has none
        token = read_token(self._token_file, os.environ, Path(home))
        return Server(self._url, token, self._namespace, self._cacert, self._timeout)

    async def close(self) -> None:
        """Close the connections."""
        server, self._server, self._engine = self._server, None, None
        if server is not None:
            await server.close()

    # Reading

    async def count(self) -> int | None:
        """Return how many paths there are, if a few listings tell."""
        folders = [Folder(self._under)]
        count = 0
        for _ in range(COUNTED):
            if not folders:
                return count
            try:
                found = await self._listed(folders.pop())
            except PathRefused:
                count += 1  # the item that says so
                continue
            folders += [node for node in found.nodes if isinstance(node, Folder)]
            count += sum(isinstance(node, str) for node in found.nodes)
        return None

    async def items(self) -> AsyncIterator[Item]:
        """Yield every path, in the order of the server's listings."""
        root: Node = Folder(self._under)
        async with aclosing(in_order([root], self._visit, IN_FLIGHT)) as walk:  # who stops here stops what runs ahead
            async for item in walk:
                yield item

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the present marks of those paths that there are."""

        async def mark(name: str) -> str | None:
            try:
                if name.endswith("/"):  # a folder is an item as long as it cannot be listed
                    await self._kv.page(self._path(name), None)
                    return None
                held = await self._kv.read(self._path(name))
            except (PathRefused, PathFailed) as error:
                await self._check_token(error)
                return UNREADABLE
            return None if held is None else held.mark

        return await self._each(ids, mark)

    async def find(self, names: Sequence[str]) -> Mapping[str, Record]:
        """Return the records of those names: of each, every path is read that it may come from."""
        wanted = set(names)
        paths = {path for name in names for path in self._layout.paths(name) if path.startswith(self._under)}

        async def records(path: str) -> Moved | None:
            try:
                held = await self._kv.read(path)
            except PathRefused as error:
                await self._check_token(error)
                return None
            return None if held is None or held.fields is None else self._layout.records(path, held.fields)

        found: dict[str, Record] = {}
        for moved in (await self._each(sorted(paths), records)).values():
            for record in moved.records:
                if record.name in wanted:
                    found.setdefault(record.name, record)
        return found

    async def _visit(self, node: Node) -> Leaf[Item] | Branch[Node]:
        """Return what a path is, or what lies in a folder."""
        try:
            return await self._listed(node) if isinstance(node, Folder) else await self._item(node)
        except (PathRefused, PathFailed) as error:
            await self._check_token(error)
            path = node.path if isinstance(node, Folder) else node
            return Leaf(Item(self._id(path), UNREADABLE, fault=str(error)))

    async def _item(self, path: str) -> Leaf[Item] | Branch[Node]:
        held = await self._kv.read(path)
        if held is None:  # it went meanwhile, or was never more than metadata
            return Branch(())
        notes = held.notes + await self._kv.notes(path, held)
        if held.fields is None:
            return Leaf(Item(self._id(path), held.mark, notes=notes))
        moved = self._layout.records(path, held.fields)
        return Leaf(Item(self._id(path), held.mark, moved.records, moved.fault, notes + moved.notes))

    async def _listed(self, folder: Folder) -> Branch[Node]:
        page = await self._kv.page(folder.path, folder.after)
        nodes: list[Node] = [
            Folder(folder.path + name) if name.endswith("/") else folder.path + name for name in page.names
        ]
        if page.after is not None:
            nodes.append(Folder(folder.path, page.after))
        return Branch(tuple(nodes))

    async def _check_token(self, error: PathRefused | PathFailed) -> None:
        """See whether it is that one path that was refused.

        Raises:
            SourceRefused: it is the token itself.
        """
        if isinstance(error, PathRefused) and not await self._ready.accepts_token():
            try:
                await self._kv.page(self._under, None)
            except PathRefused as refused:
                raise SourceRefused("the token is no longer accepted: get another, then run this again") from refused

    # Within

    @property
    def _ready(self) -> Server:
        if self._server is None:
            raise RuntimeError("the source is not open")
        return self._server

    @property
    def _kv(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the source is not open")
        return self._engine

    def _id(self, path: str) -> str:
        return shown(f"{self._mount}/{path}")

    def _path(self, name: str) -> str:
        return unquote(name).removeprefix(f"{self._mount}/")

    async def _each(self, keys: Sequence[str], act: Callable[[str], Awaitable[R | None]]) -> dict[str, R]:
        """Return what *act* returns for each key, where that is something."""
        found = await at_once(act, keys, IN_FLIGHT)
        return {key: result for key, result in zip(keys, found, strict=True) if result is not None}
