"""OpenBao and Vault: the KV engine, version 1 and 2, over HTTP with a token.

    strongroom migrate plan openbao https://bao.example:8200 -o mount=secret -o map=ssh=hosts

Each path is an item, ``MOUNT/PATH``; which records it becomes is told in
`strongroom.migration.sources.openbao.records`. Of version 2 the current version moves. The token's policy must allow:

    to read          list and read on MOUNT/*, or with version 2 on MOUNT/metadata/* and MOUNT/data/*
    to scrub         besides delete on MOUNT/*, or with version 2 update on MOUNT/destroy/*
    to roll back     besides create and update on MOUNT/*, or with version 2 on MOUNT/data/*

Scrubbing destroys, with version 2, the version that moved and no older one: those were not moved, so it is told where
they hold something, and their removal is left to the operator. A path with fields that did not move keeps those, as a
new version that is written first. Rolling back writes a new version. Both writes are by check-and-set; and with each
new version the server forgets the oldest one of a path that has as many as it keeps. With version 1 there is no
check-and-set: a path is read and compared right before it is deleted or written, and what is written there in between
is lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.sources.at_once import at_once
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.openbao.http import IN_FLIGHT, PAUSES, PathFailed, PathRefused, Url, shown
from strongroom.migration.sources.openbao.kv import Fields, Held
from strongroom.migration.sources.openbao.kv2 import Kv2
from strongroom.migration.sources.openbao.reading import Folder, Node, Reader
from strongroom.migration.sources.openbao.records import Layout
from strongroom.migration.sources.openbao.walk import Branch, Leaf, in_order
from strongroom.storage_service.errors import ConfigurationError

OPTIONS: Final[Mapping[str, Option]] = {
    "mount": Option("where the KV engine is mounted (secret)"),
    "version": Option("of the KV engine, 1 or 2, where the token may not ask the server for it"),
    "under": Option("read only what lies below this folder of the mount"),
    "map": Option(
        "FOLDER=CONTAINER: where what lies below a folder goes; ssh=hosts makes credentials of hosts", many=True
    ),
    "token_file": Option("the file that holds the token (else BAO_TOKEN, VAULT_TOKEN, or what bao login left)"),
    "namespace": Option("the namespace that the mount is in"),
    "cacert": Option("PEM file of who signed the server's certificate"),
    "timeout": Option("seconds for one question to the server (30)"),
}

TIMEOUT: Final = (0.1, 30.0, 3600.0)  # seconds: least, unless said, most


def make(place: str, options: Options) -> "OpenBao":
    """Return the source of a server, unopened.

    Raises:
        ConfigurationError: the place or an option is not understood.
    """

    def said(name: str, default: str = "") -> str:
        return options[name][0] if options.get(name) else default

    version = said("version")
    if version not in ("", "1", "2"):
        raise ConfigurationError("version is 1 or 2")
    least, usual, most = TIMEOUT
    try:
        timeout = float(said("timeout", str(usual)))
    except ValueError:
        timeout = 0
    if not least <= timeout <= most:
        raise ConfigurationError(f"timeout is a number of seconds from {least:g} to {most:g}")
    mount = said("mount", "secret").strip("/")
    namespace = said("namespace").strip("/")
    if not mount or not namespace.isascii() or not namespace.isprintable():
        raise ConfigurationError("a mount is not empty, and a namespace is printable ASCII")
    under = said("under").strip("/")
    return OpenBao(
        Url.of(place),
        mount,
        f"{under}/" if under else "",
        Layout(options.get("map", ())),
        version=int(version or "0"),
        namespace=namespace,
        token_file=Path(said("token_file")) if said("token_file") else None,
        cacert=Path(said("cacert")) if said("cacert") else None,
        timeout=timeout,
    )


class OpenBao(Reader):
    """A mount of the KV engine, or one folder of it, that can be scrubbed."""

    scrub_batch: ClassVar[int] = 64

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return what lies at those paths."""

        async def original(name: str) -> Original | None:
            held = None if name.endswith("/") else await self._kv.read(self._path(name))
            return None if held is None else Original(name, held.mark, held.content())

        return await self._each(ids, original)

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Take out of each path what was moved of it."""

        async def scrub(original: Original) -> bool:
            path, was, rest = self._parts(original)
            if rest is None:  # nothing of it was moved
                held = await self._kv.read(path)
                return held is None or held.destroyed
            return await self._settled(lambda: self._kv.scrub(path, was, rest))

        return await at_once(scrub, originals, IN_FLIGHT)

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put each path back."""

        async def restore(original: Original) -> bool:
            path, was, rest = self._parts(original)
            if rest is None:
                held = await self._kv.read(path)
                return held is not None and held.mark == original.mark
            return await self._settled(lambda: self._kv.restore(path, was, rest))

        return await at_once(restore, originals, IN_FLIGHT)

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return each value that was moved, as its text and as the JSON that the server encrypts."""
        path, was, _ = self._parts(original)
        fields = was.fields or {}
        moved = self._layout.records(path, fields).fields
        found: dict[bytes, None] = {}
        for name, value in fields.items():
            if name in moved:
                text = msgspec.json.decode(value, type=str).encode() if value.startswith(b'"') else value
                found |= dict.fromkeys((text, value.strip(b'"')))
        return tuple(found)

    async def purge(self) -> Sequence[str]:
        """Do nothing: what was destroyed or deleted is gone from what the server stores as soon as it says so."""
        return ("nothing had to be asked of the server: what is destroyed or deleted it removes at once",)

    async def places(self) -> Sequence[Place]:
        """Return where the server's storage goes, and how many paths keep versions that were not moved."""
        places = [
            Place(
                f"the storage of {self._url}, its snapshots and backups",
                None,
                "all of it is encrypted, and an old copy opens for who has the server's unseal keys: let old raft"
                " snapshots and backups go",
            ),
            Place(
                f"the audit logs of {self._url}",
                None,
                "they hold hashes of values, unless a device was enabled with log_raw (bao audit list -detailed):"
                " then remove its old files",
            ),
        ]
        remaining, unknown, first = await self._remaining()
        if remaining:
            places.append(
                Place(
                    f"older or deleted versions of {remaining} path{'s' if remaining > 1 else ''}, the first {first}",
                    None,
                    "they were not moved, so they were not destroyed; look at them (bao kv metadata get) and remove"
                    f" a path with all that it holds by: bao kv metadata delete -mount={shown(self._mount)} PATH",
                )
            )
        if unknown:
            places.append(
                Place(
                    f"older versions of {unknown} path{'s' if unknown > 1 else ''} that the token may not ask about",
                    None,
                    f"allow it to read {shown(self._mount)}/metadata/*, and run this again",
                )
            )
        return places

    async def _remaining(self) -> tuple[int, int, str]:
        """Return how many paths have other versions left, of how many that is not known, and the first that has."""

        async def visit(node: Node) -> Leaf[tuple[str, int | None]] | Branch[Node]:
            path = node.path if isinstance(node, Folder) else node
            try:
                if isinstance(node, Folder):
                    return await self._listed(node)
                return Leaf((path, await self._kv.remains(path)))
            except (PathRefused, PathFailed):
                return Leaf((path, None))

        remaining, unknown, first = 0, 0, ""
        root: Node = Folder(self._under)
        if isinstance(self._kv, Kv2):
            async for path, count in in_order([root], visit, IN_FLIGHT):
                unknown += count is None
                if count:
                    remaining += 1
                    first = first or self._id(path)
        return remaining, unknown, first

    def _parts(self, original: Original) -> tuple[str, Held, Fields | None]:
        """Return the path of an original, what lay there, and what of it stays; None: nothing of it moved."""
        path = self._path(original.id)
        was = Held.of_content(original.mark, original.content)
        fields = was.fields or {}
        moved = self._layout.records(path, fields)
        rest = {name: value for name, value in fields.items() if name not in moved.fields}
        return path, was, rest if moved.records else None

    async def _settled(self, act: Callable[[], Awaitable[bool]]) -> bool:
        """Do *act* until it is known what became of it; it looks before it acts, so it can be done again."""
        for pause in PAUSES:
            try:
                return await act()
            except SourceUnavailable:
                await asyncio.sleep(pause)
        return await act()
