"""Version 2 of the KV engine: a path has versions, of which the server keeps the last ten unless told otherwise."""

import http
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from strongroom.migration.sources.openbao.http import PathFailed, PathRefused, Server
from strongroom.migration.sources.openbao.kv import PAGE, Fields, Held, Page, fields_of, page_of, raw_of

_CURRENT: Final = 0  # as the number of a version
_DELETED: Final = " deleted"  # at the end of a mark, and in words
_DESTROYED: Final = " destroyed"


class Kv2:
    """A mount of version 2."""

    def __init__(self, server: Server, mount: str, page: int = PAGE) -> None:
        """Take the *mount* at its *server*."""
        self._server = server
        self._mount = mount
        self._page = page

    async def page(self, folder: str, after: str | None) -> Page:
        """Return the names in a folder, those of deleted ones among them."""
        return await page_of(self._server, f"{self._mount}/metadata/{folder}", after, self._page)

    async def read(self, path: str) -> Held | None:
        """Return the current version of a path."""
        return await self._read(path, _CURRENT)

    async def _read(self, path: str, version: int) -> Held | None:
        answer = await self._server.get(f"{self._mount}/data/{path}", version=str(version))
        found = answer.read(_Answer2).data
        if found is None or found.metadata is None:
            return None
        about = found.metadata
        fate = "" if found.data is not None else _DESTROYED if about.destroyed else _DELETED
        return Held(
            f"{about.version} {about.created_time}{fate}",
            None if found.data is None else fields_of(found.data),
            about.version,
            about.destroyed,
            tuple(_notes(about, fate)),
        )

    async def notes(self, path: str, held: Held) -> tuple[str, ...]:
        """Return how many older versions there are."""
        if held.version == 1:
            return ()
        try:
            older = sum(number != held.version for number in (await self._versions(path)).kept)
        except PathRefused:
            return ("whether older versions stay behind is not known: the token may not read its metadata",)
        return (f"{older} older version{'s stay' if older > 1 else ' stays'} behind",) if older else ()

    async def remains(self, path: str) -> int:
        """Return how many versions that are not current, or are deleted, still hold something."""
        versions = await self._versions(path)
        return sum(
            number != versions.current_version or _is_past(version.deletion_time)
            for number, version in versions.kept.items()
        )

    async def scrub(self, path: str, was: Held, rest: Fields) -> bool:
        """Destroy what was moved in the version that it was read in, and in the current one if it was written again.

        What is kept is written as a new version first, by check-and-set. Where nothing is kept there is no
        check-and-set: what somebody writes while its predecessor is destroyed stays, and this says False.
        """
        now = await self.read(path)
        if now is not None and rest and now.fields == was.fields:
            await self._put(path, rest, now.version)
            now = await self.read(path)
        if now is None or now.mark == was.mark + _DESTROYED:
            return True
        if not (now.destroyed or now.fields == (rest or was.fields)):
            return False
        for version in {int(was.mark.partition(" ")[0]), now.version - 1 if rest else now.version}:
            held = await self._read(path, version) if version else None
            if held is not None and held.fields == was.fields:  # else it is somebody else's
                await self._server.write("PUT", f"{self._mount}/destroy/{path}", {"versions": [version]})
        now = await self.read(path)
        return now is None or now.destroyed or (bool(rest) and now.fields == rest)

    async def restore(self, path: str, was: Held, rest: Fields) -> bool:
        """Write it as a new version, by check-and-set; which makes the server forget the oldest one that it keeps."""
        now = await self.read(path)
        if now is not None and not now.destroyed and not (rest and now.fields == rest):
            return now.fields == was.fields
        await self._put(path, was.fields or {}, 0 if now is None else now.version)
        now = await self.read(path)
        return now is not None and now.fields == was.fields

    async def _put(self, path: str, fields: Fields, cas: int) -> None:
        """Write a version after version *cas*, unless somebody else was first."""
        try:
            await self._server.write(
                "POST", f"{self._mount}/data/{path}", {"options": {"cas": cas}, "data": raw_of(fields)}
            )
        except PathFailed as error:
            if error.status != http.HTTPStatus.BAD_REQUEST:
                raise

    async def _versions(self, path: str) -> "_Versions":
        answer = await self._server.get(f"{self._mount}/metadata/{path}")
        return answer.read(_AnswerVersions).data if answer.found else _Versions()


def _notes(about: "_About", fate: str) -> list[str]:
    notes = []
    if fate:
        notes.append(f"its current version was{fate}, so nothing of it moves")
    elif about.deletion_time:
        notes.append(f"the server deletes it at {about.deletion_time}; its copy will stay")
    if about.custom_metadata:
        notes.append("its custom metadata stays behind")
    return notes


def _is_past(time: str) -> bool:
    """Whether a time of RFC 3339 in UTC is over; "" never is."""
    seconds = len("2026-01-01T00:00:00")
    return bool(time) and time[:seconds] <= datetime.now(UTC).isoformat()[:seconds]


# What the server answers, as far as it is read. A repr of what holds data would show it, so these live no longer than
# one function.


class _About(msgspec.Struct):
    version: int
    created_time: str
    deletion_time: str = ""
    destroyed: bool = False
    custom_metadata: dict[str, str] | None = None


class _Data2(msgspec.Struct):
    data: dict[str, msgspec.Raw] | None = None
    metadata: _About | None = None


class _Answer2(msgspec.Struct):
    data: _Data2 | None = None


class _Version(msgspec.Struct):
    deletion_time: str = ""
    destroyed: bool = False


class _Versions(msgspec.Struct):
    current_version: int = 0
    versions: dict[int, _Version] = msgspec.field(default_factory=dict)

    @property
    def kept(self) -> Mapping[int, _Version]:
        """Those that hold something."""
        return {number: version for number, version in self.versions.items() if not version.destroyed}


class _AnswerVersions(msgspec.Struct):
    data: _Versions
