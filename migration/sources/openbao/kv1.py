"""Version 1 of the KV engine: one value at a path, no revision, and no check-and-set."""

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.sources.openbao.http import Server
from strongroom.migration.sources.openbao.kv import PAGE, Fields, Held, Page, fields_of, page_of, raw_of


class Kv1:
    """A mount of version 1."""

    def __init__(self, server: Server, mount: str, digest: Digest, page: int = PAGE) -> None:
        """Take the *mount* at its *server*; *digest* makes the marks."""
        self._server = server
        self._mount = mount
        self._digest = digest
        self._page = page

    async def page(self, folder: str, after: str | None) -> Page:
        """Return the names in a folder."""
        return await page_of(self._server, f"{self._mount}/{folder}", after, self._page)

    async def read(self, path: str) -> Held | None:
        """Return what lies at a path."""
        answer = await self._server.get(f"{self._mount}/{path}")
        if not answer.found:
            return None
        fields = fields_of(answer.read(_Answer1).data)
        return Held(self._digest.of(*(part for pair in fields.items() for part in pair)), fields)

    async def notes(self, path: str, held: Held) -> tuple[str, ...]:
        """Return nothing: `read` has said it all."""
        del path, held
        return ()

    async def remains(self, path: str) -> int:
        """Return 0: there are no versions."""
        del path
        return 0

    async def scrub(self, path: str, was: Held, rest: Fields) -> bool:
        """Remove it if it was read as it was a moment ago: what is written in that moment is lost."""
        now = await self.read(path)
        if now is None or (rest and now.fields == rest):
            return True
        if now.fields != was.fields:
            return False
        if rest:
            await self._put(path, rest)
        else:
            await self._server.write("DELETE", f"{self._mount}/{path}")
        return True

    async def restore(self, path: str, was: Held, rest: Fields) -> bool:
        """Write it if a moment ago nothing was there, or *rest*."""
        now = await self.read(path)
        if now is not None and now.fields != rest:
            return now.fields == was.fields
        await self._put(path, was.fields or {})
        return True

    async def _put(self, path: str, fields: Fields) -> None:
        await self._server.write("POST", f"{self._mount}/{path}", raw_of(fields))


class _Answer1(msgspec.Struct):
    """What the server answers. Its repr would show the data, so it lives no longer than one function."""

    data: dict[str, msgspec.Raw]
