"""Convection's generic stores, read from its storage directory with one of its unlock keys.

Each secret of a store is an item, ``<store>:<secret>``, and becomes a secret of the store's container. Users, access
rules and stores of other types stay behind.

A directory can be read while its server runs, and is scrubbed only while it is stopped: a server that has read a store
would write the secrets back. That is told by its socket, and by ``auth.db``, which every unlocked server writes anew
every 5 seconds, wherever it runs; a server that is locked and listens elsewhere is not seen. There is no
compare-and-set: a store is read again right before it is replaced, and left alone if it was changed.

What a store holds does not show in its file, and shows otherwise in every copy. So the pattern of a secret is its mark,
and every store that is found in a file, wherever in it, is followed by the marks of the secrets that it opens to.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote, unquote

from cryptography.fernet import Fernet

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import files, making
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.convection import toml
from strongroom.migration.sources.convection.directory import GENERIC, MAX_FILE, Directory, Opened
from strongroom.migration.sources.files import Unfit
from strongroom.migration.sources.private_file import read_private
from strongroom.models import names
from strongroom.models.errors import InvalidName
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import sync_directory

ENVIRONMENT: Final = "STRONGROOM_CONVECTION_UNLOCK_KEY"
SOCKET: Final = "/run/convection.secrets.sock"
QUIET: Final = 15.0  # seconds without a write to auth.db after which no unlocked server can be running

OPTIONS: Final[Mapping[str, Option]] = {
    "unlock_key_file": Option(f"the file that holds an unlock key; without it, {ENVIRONMENT} holds one"),
    "store": Option("a store to move; without it, every generic one", many=True),
    "map": Option("STORE=CONTAINER: where a store's secrets go; without it, to a container of its name", many=True),
    "socket": Option(f"the server's socket, by which it is seen to be stopped before a scrub ({SOCKET})"),
}

_AUTHDB: Final = "authdb"
_TOKEN_HEAD: Final = b"gAAAAA"  # of every Fernet token of this century: its version, and a time in seconds
_TOKEN: Final = re.compile(_TOKEN_HEAD + rb"[A-Za-z0-9_-]*={0,2}")
_SHORTEST_TOKEN: Final = 100  # bytes

_Secrets = dict[str, object]


def make(place: str, options: Options) -> "ConvectionSource":
    """Return the source, unopened.

    Raises:
        ConfigurationError: an option is not understood.
    """
    containers: dict[str, str] = {}
    for said in options.get("map", ()):
        store, given, container = said.rpartition("=")
        if not (store and given):
            raise ConfigurationError("convection's option 'map' is STORE=CONTAINER")
        containers[store] = _container(container)
    key_file = next(iter(options.get("unlock_key_file", ())), None)
    return ConvectionSource(
        Path(place),
        unlock_key=partial(_unlock_key, None if key_file is None else Path(key_file)),
        stores=options.get("store", ()),
        containers=containers,
        server=next(iter(options.get("socket", ())), SOCKET),
    )


class ConvectionSource:
    """The generic stores of one storage directory."""

    scrub_batch: ClassVar[int] = 1000  # of one store they cost one rewriting of it

    def __init__(
        self,
        path: Path,
        unlock_key: Callable[[], Fernet],
        stores: Sequence[str],
        containers: Mapping[str, str],
        server: str,
    ) -> None:
        """Take the storage directory, and what else the options say: *stores* empty means every one."""
        self._path = Path(os.path.realpath(path))
        self._unlock_key = unlock_key
        self._stores = frozenset(stores)
        self._containers = containers
        self._server = server
        self._turns = asyncio.Lock()  # one store at a time is in memory
        self._last: tuple[str, Opened] | None = None

    @property
    def identity(self) -> str:
        """The directory."""
        return f"convection:{self._path}"

    async def open(self, digest: Digest) -> None:
        """Unlock the directory.

        Raises:
            ConfigurationError: this is no storage directory, there is no unlock key, or no such store.
            SourceRefused: the unlock key is wrong.
            SourceUnavailable: a file cannot be read, or is damaged.
        """
        self._digest = digest
        self._directory = await asyncio.to_thread(lambda: Directory(self._path, self._unlock_key()))
        keymap = self._directory.keymap
        for store in sorted(self._stores | set(self._containers)):
            if store not in keymap or keymap[store].type != GENERIC:
                known = ", ".join(ascii(each) for each, entry in sorted(keymap.items()) if entry.type == GENERIC)
                raise ConfigurationError(f"there is no generic store {store!r}; there are: {known or 'none'}")

    async def close(self) -> None:
        """Forget the store that was read last."""
        self._last = None

    async def count(self) -> int | None:
        """Return None: to count the secrets is to read them."""
        return None

    async def items(self) -> AsyncIterator[Item]:
        """Yield the secrets of one store after the other, each in the order of their names."""
        for store in sorted(self._directory.keymap):
            if self._stores and store not in self._stores:
                continue
            if self._directory.keymap[store].type != GENERIC:
                yield self._left_behind(store)
                continue
            try:
                opened = await self._read(store)
            except Unfit as error:
                yield Item(_id(store), self._mark_of_store(store), fault=f"{error}")
                continue
            for name in sorted(opened.secrets):
                yield self._item(store, name, opened.secrets[name])

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the marks of those that exist."""
        found: dict[str, str] = {}
        async for store, opened, wanted in self._stores_of(ids):
            secrets = {} if opened is None else opened.secrets
            for each, name in wanted:
                if name is None and opened is None:
                    found[each] = self._mark_of_store(store)
                elif name is not None and name in secrets:
                    found[each] = self._mark(name, secrets[name])
        return found

    # Scrubbing

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return secrets as they are, in TOML."""
        found: dict[str, Original] = {}
        async for store, opened, wanted in self._stores_of(ids):
            for each, name in wanted:
                if opened is not None and name is not None and name in opened.secrets:
                    value = opened.secrets[name]
                    content = toml.dumps({"store": store, "secret": name, "value": [value]})
                    found[each] = Original(each, self._mark(name, value), Secret(content))
        return found

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Take secrets out of their stores, each store written anew once."""
        return await self._change(originals, _take, gone=True)

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put secrets back into their stores, each store written anew once."""
        return await self._change(originals, _put_back, gone=False)

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the mark, which `places` says where the secret is found."""
        return [original.mark.encode()]

    async def purge(self) -> Sequence[str]:
        """Remove what a scrub that was killed left unfinished, and nothing else: other copies are not ours."""
        removed = await asyncio.to_thread(self._remove_unfinished)
        return [f"removed unfinished files: {removed}"] if removed else []

    async def places(self) -> Sequence[Place]:
        """Return every file below the directory, and what cannot be seen from here."""
        logs = Place(
            "the log files of the Convection server",
            None,
            "if it ever ran with --sensitive_debug, they hold secrets in the clear: remove them",
        )
        return [*await asyncio.to_thread(self._files), logs, *files.out_of_reach(self._path)]

    def __repr__(self) -> str:
        return f"<ConvectionSource {self._path}>"

    # One store

    async def _read(self, store: str) -> Opened:
        async with self._turns:
            known = self._last[1] if self._last is not None and self._last[0] == store else None
            self._last = None
            opened = await asyncio.to_thread(self._directory.read, store, known)
            self._last = store, opened
        return opened

    async def _stores_of(
        self, ids: Sequence[str]
    ) -> AsyncIterator[tuple[str, Opened | None, Sequence[tuple[str, str | None]]]]:
        """Yield every store of *ids* that exists, opened if it can be, and which of them lie in it by what name."""
        wanted: dict[str, list[tuple[str, str | None]]] = {}
        for each in ids:
            store, inside, name = each.partition(":")
            wanted.setdefault(unquote(store), []).append((each, unquote(name) if inside else None))
        for store, pairs in wanted.items():
            entry = self._directory.keymap.get(store)
            if entry is None:
                continue
            opened = None
            if entry.type == GENERIC:
                with contextlib.suppress(Unfit):  # then it has no secrets that anybody can name
                    opened = await self._read(store)
            yield store, opened, pairs

    async def _change(
        self, originals: Sequence[Original], change: Callable[[_Secrets, str, object], bool], *, gone: bool
    ) -> Sequence[bool]:
        """Change the secrets of stores, and return for each of *originals* what *change* said.

        Args:
            originals: the secrets.
            change: of one store's secrets, the one of that name and value.
            gone: what to say of those whose store is not there any more.
        """
        await asyncio.to_thread(_see_stopped, self._path, self._server)
        by_store: dict[str, list[tuple[int, str, object]]] = {}
        for index, original in enumerate(originals):
            store, name, value = _parts(original)
            by_store.setdefault(store, []).append((index, name, value))
        done = [gone] * len(originals)
        for store, parts in by_store.items():
            if store not in self._directory.keymap:
                continue
            try:
                opened = await self._read(store)
                secrets = dict(opened.secrets)
                for index, name, value in parts:
                    done[index] = change(secrets, name, value)
                if secrets.keys() != opened.secrets.keys():
                    async with self._turns:
                        written = await asyncio.to_thread(self._directory.write, store, opened, secrets)
                        self._last = store, written
            except Unfit as error:
                raise SourceUnavailable(f"the store {store!r} cannot be changed: {error}") from None
        return done

    # Items

    def _item(self, store: str, name: str, value: object) -> Item:
        container = self._containers.get(store) or store.strip("/")
        key, mark = _id(store, name), self._mark(name, value)
        try:
            record = making.secret(
                f"{names.SECRETS}{container}/{name}", value if isinstance(value, str) else _json(value)
            )
        except Unfit as error:
            return Item(key, mark, fault=str(error))
        notes = () if isinstance(value, str) else ("its value is not text, and moves as JSON",)
        return Item(key, mark, (record,), notes=notes)

    def _left_behind(self, store: str) -> Item:
        kind = self._directory.keymap[store].type
        mark = self._mark_of_store(store)
        if kind == _AUTHDB:
            note = "users, groups, access rules and access keys stay behind: make them anew in Strongroom"
            return Item(_id(store), mark, notes=(note,))
        return Item(_id(store), mark, fault=f"it is a store of type {kind!r}; name those to move with -o store=…")

    def _mark(self, name: str, value: object) -> str:
        return self._digest.of(name, type(value).__name__, _compared(value))

    def _mark_of_store(self, store: str) -> str:
        return self._digest.of(store)

    # Places

    def _live(self) -> Sequence[Path]:
        """Return the files of all generic stores."""
        live = []
        for store, entry in sorted(self._directory.keymap.items()):
            if entry.type == GENERIC:
                with contextlib.suppress(Unfit):
                    live.append(self._directory.path_of(store))
        return live

    def _files(self) -> Sequence[Place]:
        live = set(self._live())
        return [Place(str(each), partial(self._chunks, each), _advice(each, live)) for each in files.below(self._path)]

    def _remove_unfinished(self) -> int:
        removed = 0
        for path in self._live():
            unfinished = files.unfinished_of(path)
            try:
                removed += unfinished.exists()
                unfinished.unlink(missing_ok=True)
                sync_directory(path.parent)
            except FileNotFoundError:
                pass  # its directory is gone
            except OSError as error:
                raise files.unavailable(unfinished, error) from None
        return removed

    async def _chunks(self, path: Path) -> AsyncIterator[bytes]:
        """Yield the bytes of a file, and after each token in it the marks of the secrets that it opens to."""
        kept = b""
        async for chunk in files.chunks(path):
            yield chunk
            tokens, kept = _tokens(kept + chunk)
            for token in tokens:
                async for part in self._marks_in(token):
                    yield part
        async for part in self._marks_in(kept):
            yield part

    async def _marks_in(self, token: bytes) -> AsyncIterator[bytes]:
        """Yield the marks of the secrets in a store, or in a copy of one."""
        if len(token) < _SHORTEST_TOKEN:
            return
        secrets = await asyncio.to_thread(self._directory.opened_secrets, token)
        for name, value in secrets.items():
            yield b"\n" + self._mark(name, value).encode()


def _id(store: str, name: str | None = None) -> str:
    return quote(store) if name is None else f"{quote(store)}:{quote(name, safe='/:@+=,~')}"


def _parts(original: Original) -> tuple[str, str, object]:
    """Return store, name and value."""
    content = tomllib.loads(original.content.reveal())
    return content["store"], content["secret"], content["value"][0]


def _tokens(content: bytes) -> tuple[Sequence[bytes], bytes]:
    """Return what looks like the token of a store, and the rest, which may be the beginning of another."""
    tokens = []
    rest = len(content) - min(len(content), len(_TOKEN_HEAD) - 1)
    for found in _TOKEN.finditer(content):
        if found.end() == len(content):
            rest = found.start() if len(found[0]) <= MAX_FILE else rest
        else:
            tokens.append(found[0])
    return tokens, content[rest:]


def _take(secrets: _Secrets, name: str, value: object) -> bool:
    if name in secrets and _same(secrets[name], value):
        del secrets[name]
    return name not in secrets


def _put_back(secrets: _Secrets, name: str, value: object) -> bool:
    return _same(secrets.setdefault(name, value), value)


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and _compared(one) == _compared(other)


def _compared(value: object) -> str:
    return value if isinstance(value, str) else _dumped(value, strict=False)


def _json(value: object) -> str:
    """Return a value that is no text as JSON.

    Raises:
        Unfit: it has none.
    """
    try:
        return _dumped(value, strict=True)
    except ValueError:
        pass
    raise Unfit("its value has a number that JSON does not have")  # out here: the error knows the value


def _dumped(value: object, *, strict: bool) -> str:
    # Dates and times are all that TOML has and JSON has not.
    return json.dumps(
        value,
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=not strict,
        default=lambda moment: moment.isoformat(),
    )


def _container(said: str) -> str:
    container = said.strip("/")
    try:
        names.check(f"{names.SECRETS}{container}/")
    except InvalidName as error:
        raise ConfigurationError(f"convection's option 'map' names no container: {error}") from None
    return container


def _unlock_key(path: Path | None) -> Fernet:
    """Return the unlock key that a file holds, or without one the environment.

    Raises:
        ConfigurationError: there is none, it is invalid, or others can read the file.
    """
    if path is None:
        if not (text := os.environ.get(ENVIRONMENT, "")):
            raise ConfigurationError(f"convection needs an unlock key: -o unlock_key_file=FILE, or {ENVIRONMENT}")
        said = ENVIRONMENT
    else:
        said = str(path)
        text = read_private(path).decode(errors="replace")
    key = None
    with contextlib.suppress(ValueError):  # it would be raised with the key at hand
        key = Fernet(text.strip())
    if key is None:
        raise ConfigurationError(f"{said} does not hold an unlock key, which is 44 characters of base64url")
    return key


def _see_stopped(path: Path, server: str) -> None:
    """Return if no server is seen at work on the directory.

    Raises:
        SourceUnavailable: one is, or was until just now.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(2)
        try:
            asking.connect(server)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except OSError as error:
            raise SourceUnavailable(
                f"whether the Convection server runs cannot be asked at {server}: {error.strerror or error};"
                " give its socket with -o socket=…"
            ) from None
        else:
            raise SourceUnavailable(f"the Convection server answers at {server}: stop it first; nothing was changed")
    try:
        age = time.time() - (path / "auth.db").stat().st_mtime
    except FileNotFoundError:
        return  # without it, no server can be unlocked
    except OSError as error:
        raise files.unavailable(path / "auth.db", error) from error
    if abs(age) < QUIET:
        raise SourceUnavailable(
            f"{path}/auth.db was written {age:.0f} seconds ago, as a Convection server does that is unlocked: stop it,"
            f" wait {QUIET:.0f} seconds, and run this again; nothing was changed"
        )


def _advice(file: Path, live: set[Path]) -> str:
    if file in live:
        return "run scrub again: somebody put it back, or another store has the same secret under the same name"
    return "a copy that Convection or somebody made: see that nobody needs it, and remove it"
