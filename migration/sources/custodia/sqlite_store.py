"""Custodia's SQLite store, by file and key: what EncryptedOverlay, EncryptedStore or nobody at all has encrypted.

    keys/hosts                  ''              a container
    keys/hosts/10.0.0.7         eyJhbGci…       a secret: a JWE, or the text itself where nothing encrypts
    custodiaSAK/commissaire     lNIvxGc…        an API key of SimpleAuthKeys, in the clear
    kemkeys/sig/server          {"kty":…        a key of KEM messages

An item is a row, and its mark the keyed hash of what is stored there. Custodia may be running, and goes on undisturbed.
Scrubbing removes rows whose stored value is still the one that moved: compared and deleted in one transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar, Final, ParamSpec, TypeVar

import msgspec

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item, Record
from strongroom.migration.sources import files
from strongroom.migration.sources.base import Option, Options, Original, Place
from strongroom.migration.sources.custodia import conf
from strongroom.migration.sources.custodia.conf import Store
from strongroom.migration.sources.custodia.records import EMPTY_CONTAINER, Outcome, id_of, key_of, secret
from strongroom.migration.sources.custodia.table import TEXTS, Cell, Row, Table
from strongroom.migration.sources.custodia.tokens import MasterKey, Unopenable, is_token
from strongroom.models.names import SECRETS
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.jose.jwe import PINNED, bound_name

P = ParamSpec("P")
T = TypeVar("T")

OPTIONS: Final[Mapping[str, Option]] = {
    "key": Option("the file of the master key, a JWK in JSON; without it, nothing in the store may be encrypted"),
    "table": Option(f"the table, if it is not {conf.TABLE}"),
    "store": Option(
        "where FILE is Custodia's configuration, *.conf: the store to read, if it is not the one it serves"
    ),
    "instance": Option("where FILE is Custodia's configuration, *.conf: what custodia --instance says"),
}

_KEM_KEYS: Final = "kemkeys/"
_CHUNK: Final = 1024 * 1024  # bytes
_PATTERN: Final = 256  # bytes
_SOME: Final = 100  # values that tell whether a store is encrypted

_UNPINNED: Final = "it is not pinned: nothing proves that it was written under this key"
_KEM_KEY: Final = "a key of Custodia's KEM messages: it stays behind, Strongroom has none"
_API_KEY: Final = "an API key of Custodia's: it stays behind; make a new one"


def make(place: str, options: Options) -> "CustodiaSqlite":
    """Return the source of the store, or of the configuration, at *place*.

    Raises:
        ConfigurationError: an option does not fit the place, or the place is no path.
    """
    if "://" in place:
        raise ConfigurationError("custodia-sqlite reads a FILE; a running Custodia is read by the source 'custodia'")
    said = {name: values[0] for name, values in options.items() if values}
    path = Path(place).absolute()
    is_conf = path.suffix == ".conf"
    for name in ("key", "table") if is_conf else ("store", "instance"):
        if name in said:
            raise ConfigurationError(
                f"custodia-sqlite: {name} goes with {'the file of a store' if is_conf else 'a configuration, *.conf'}"
            )
    if is_conf:
        store = said.get("store")
        look = partial(conf.read, path, store, said.get("instance", ""))
        return CustodiaSqlite(f"custodia-sqlite:{path}{f' store {store}' if store else ''}", look)
    table, key = said.get("table", conf.TABLE), said.get("key")
    look = partial(Store, path, table, None if key is None else Path(key))
    return CustodiaSqlite(f"custodia-sqlite:{path} table {table}", look)


class CustodiaSqlite:
    """The source."""

    scrub_batch: ClassVar[int] = 64  # of the largest values, some 100 MiB

    def __init__(self, identity: str, look: Callable[[], Store]) -> None:
        """Take what says where the store is; it is asked when the source is opened."""
        self._identity = identity
        self._look = look
        self._turn = asyncio.Lock()
        self._digest = Digest()
        self._table = Table(Path(), "")
        self._key: MasterKey | None = None
        self._refusal = ""  # why nothing can be read

    @property
    def identity(self) -> str:
        """The file, and the table or the store."""
        return self._identity

    async def open(self, digest: Digest) -> None:
        """Look for the table, and see whether the master key opens what lies there.

        Where it opens nothing, reading is refused; what was scrubbed can still be put back among what is damaged.

        Raises:
            ConfigurationError: there is no such table, the key is missing, or the configuration does not say enough.
        """
        self._digest = digest
        await self._do(self._open)

    async def close(self) -> None:
        """Do nothing: every act has a connection of its own."""

    async def count(self) -> int | None:
        """Return the number of rows, without containers that are not empty."""
        return await self._do(self._table.count)

    async def items(self) -> AsyncIterator[Item]:
        """Yield the rows in the order of their keys, a page at a time.

        Raises:
            SourceRefused: the master key opens nothing.
        """
        self._check_key()
        after: bytes | None = None
        while True:
            items, after = await self._do(self._items, after)
            for item in items:
                yield item
            if after is None:
                return

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the keyed hashes of what is stored now."""
        return await self._do(self._marks, ids)

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the records of those names.

        Raises:
            SourceRefused: the master key opens nothing.
        """
        self._check_key()
        keys = {id_of(key): name for name in names if (key := _key_of_name(name)) is not None}
        items = await self._do(self._items_of, [key_of(item_id) for item_id in keys])
        return {keys[item.id]: next(iter(item.records), None) for item in items if item.records or item.fault}

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return the stored values."""
        return {original.id: original for original in await self._do(self._originals, ids)}

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Delete rows, all of a batch at once."""
        return await self._do(self._table.delete, [_cell(original) for original in originals])

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Insert rows, all of a batch at once."""
        return await self._do(self._table.insert, [_cell(original) for original in originals])

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return the stored value, of a JWE without its header, which is no secret and like that of others.

        A row that does not fit into a page of the file is cut where pages end, so two neighbouring parts of its value
        are looked for: no end of a page lies in both.
        """
        cell = _cell(original)
        sought = cell.value.partition(b"..")[2] if is_token(cell.value) else cell.value
        if len(cell.key) + len(cell.value) < self._table.page_size - 100:  # what pages and rows begin with
            return [sought]
        middle, size = len(sought) // 2, min(_PATTERN, len(sought) // 2, self._table.page_size // 2 - 8)
        return [sought[middle - size : middle], sought[middle : middle + size]]

    async def purge(self) -> Sequence[str]:
        """Overwrite what was deleted, by anybody and at any time, and write the file anew."""
        await self._do(self._table.vacuum)
        return [f"wrote {self._table.path} anew without what was deleted (VACUUM, with secure_delete)"]

    async def places(self) -> Sequence[Place]:
        """Return the file, what SQLite keeps beside it, and where copies of it may be."""
        path = self._table.path
        there = await self._do(lambda: [file for file in (path, *_beside(path)) if file.exists()])
        return [
            *(Place(str(file), partial(self._chunks, file), "stop Custodia, and purge again") for file in there),
            *await self._do(files.copies, path),
            Place(f"backups and snapshots of {path}", None, "delete those that were made before the scrub"),
            Place(
                f"freed blocks of the file system that holds {path}",
                None,
                "SQLite removed its journals without overwriting them: blocks are given back by fstrim",
            ),
        ]

    def __repr__(self) -> str:
        return f"<CustodiaSqlite {self._identity}>"

    # In a thread

    async def _do(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *act*, which blocks, returns. One act at a time, for the sake of `_chunks`."""
        async with self._turn:
            return await asyncio.to_thread(act, *args, **kwargs)

    async def _chunks(self, file: Path) -> AsyncIterator[bytes]:
        # Closing any descriptor of a file lets go of all locks that this process has on it (fcntl(2)), so that no act
        # of SQLite's may be under way then.
        position = 0
        while chunk := await self._do(_read, file, position):
            yield chunk
            position += len(chunk)

    def _open(self) -> None:
        store = self._look()
        self._key = None if store.master_key is None else MasterKey.read(store.master_key)
        self._table = Table(store.database, store.table)
        self._table.check()
        values = self._values()
        some = list(islice(values, _SOME))
        if self._key is None and some and all(map(is_token, some)):
            raise ConfigurationError(f"what lies in {store.database} is encrypted: say -o key=FILE of the master key")
        if self._key is not None and some and not any(map(self._key.fits, chain(some, values))):
            self._refusal = (
                f"{store.master_key} opens nothing in {store.database}: it is another store's, or nothing is encrypted"
            )

    def _check_key(self) -> None:
        if self._refusal:
            raise SourceRefused(self._refusal)

    def _values(self) -> Iterator[bytes]:
        """Yield the stored values of secrets."""
        after: bytes | None = None
        while page := self._table.page(after):
            yield from (row.value for row in page if row.value and row.key.startswith(PINNED.encode()))
            after = page[-1].key

    def _items(self, after: bytes | None) -> tuple[Sequence[Item], bytes | None]:
        """Return the items of one page, and after which key the next one begins; None: there is none."""
        page = self._table.page(after)
        return [item for row in page if (item := self._item(row)) is not None], page[-1].key if page else None

    def _marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        rows = self._table.rows([key_of(item_id) for item_id in ids])
        return {id_of(row.key): self._mark(row) for row in rows if _is_item(row)}

    def _items_of(self, keys: Sequence[bytes]) -> Sequence[Item]:
        return [item for row in self._table.rows(keys) if (item := self._item(row)) is not None]

    def _originals(self, ids: Sequence[str]) -> Sequence[Original]:
        return [
            Original(
                id_of(row.key), self._mark(row), Secret(msgspec.json.encode(_Content(row.kind, row.value)).decode())
            )
            for row in self._table.rows([key_of(item_id) for item_id in ids])
            if row.value and row.kind in TEXTS
        ]

    def _mark(self, row: Row) -> str:
        return self._digest.of(row.kind, str(row.size), row.value or b"")

    def _item(self, row: Row) -> Item | None:
        """Return *row* as an item, if it is one."""
        if not _is_item(row):
            return None
        return self._outcome(row).item(id_of(row.key), self._mark(row))

    def _outcome(self, row: Row) -> Outcome:
        key = row.key.decode(errors="surrogateescape")  # which no name allows
        if row.size == 0:
            return Outcome(notes=(EMPTY_CONTAINER,))
        if key.startswith(_KEM_KEYS):
            return Outcome(notes=(_KEM_KEY,))
        if not key.startswith(PINNED):
            if key.count("/") == 1:  # below SimpleAuthKeys' store_namespace, custodiaSAK by default
                whose = id_of(row.key).partition("/")[2]
                return Outcome(notes=(Step(_API_KEY, "apikey create", {"id": whose}),))
            return Outcome(fault=f"it lies outside {PINNED}, where secrets are")
        if row.value is None or row.kind not in TEXTS:
            return Outcome(fault="its value is not one that Custodia writes")
        path = key.removeprefix(PINNED)
        if self._key is None:
            if is_token(row.value):
                return Outcome(fault="its value is encrypted, and no master key was given")
            return secret(path, row.value)
        try:
            opened = self._key.open(row.value, key)
        except Unopenable as reason:
            return Outcome(fault=str(reason))
        outcome = secret(path, opened.value)
        return outcome if opened.pinned or outcome.fault else outcome._replace(notes=(*outcome.notes, _UNPINNED))


class _Content(msgspec.Struct):
    """The content of an original: the value, in base64, and SQLite's name of its type."""

    kind: str
    value: bytes


def _is_item(row: Row) -> bool:
    """Whether *row* is more than a container that holds something."""
    return row.size > 0 or not row.has_children


def _key_of_name(name: str) -> bytes | None:
    return bound_name(name).encode() if name.startswith(SECRETS) else None


def _cell(original: Original) -> Cell:
    content = msgspec.json.decode(original.content.reveal(), type=_Content)
    return Cell(key_of(original.id), content.kind, content.value)


def _beside(path: Path) -> Sequence[Path]:
    """Return where SQLite keeps what is not in the file yet, or may have to come back to it."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]


def _read(file: Path, position: int) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(position)
            return opened.read(_CHUNK)
    except FileNotFoundError:
        return b""  # SQLite has removed it meanwhile
    except OSError as error:
        raise SourceUnavailable(f"{file} cannot be read: {error.strerror}") from None
