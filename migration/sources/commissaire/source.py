"""Commissaire's records in etcd: ``etcd://HOST:PORT,…[/commissaire]`` by the v3 interface, ``etcd2://`` by v2.

    -o password_file=…           of the user in the place (etcd://USER@HOST:PORT); else STRONGROOM_ETCD_PASSWORD
    -o cacert=… cert=… key=…     PEM, for TLS; in v2 that is etcd2s://
    -o data_dir=…                a member's files, as many as can be read here: they are searched after a scrub

The mark of an item is its revision. Scrubbing compares value and revision with those of the original, in one step of
etcd's: an edit in between wins, unless it wrote the same. It takes out the members that moved into a secret record, and
leaves every other byte of the value as it was; restoring writes the whole value back where exactly what scrubbing left
is still there.
"""

import asyncio
import base64
import string
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from strongroom.migration.digest import Digest
from strongroom.migration.records import Item, Record
from strongroom.migration.sources.at_once import at_once
from strongroom.migration.sources.base import Option, Options, Original, Place, Source
from strongroom.migration.sources.commissaire import records
from strongroom.migration.sources.commissaire.keys import Held, Keys
from strongroom.migration.sources.commissaire.places import check_directories
from strongroom.migration.sources.commissaire.v2 import Etcd2Keys
from strongroom.migration.sources.commissaire.v3 import EtcdKeys
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.etcd.target import parse
from strongroom.storage_service.errors import ConfigurationError

DEFAULT_PREFIX: Final = "/commissaire"

OPTIONS: Final[Mapping[str, Option]] = {
    "password_file": Option("a file with the password of the user in the place, on one line, readable by you alone"),
    "cacert": Option("PEM of the CA of etcd's certificate; switches TLS on (v2: etcd2s://)"),
    "cert": Option("PEM of our client certificate"),
    "key": Option("PEM of its private key"),
    "timeout": Option("seconds for one operation of etcd's"),
    "data_dir": Option("the files of a member, to search them after a scrub", many=True),
}

_SHOWN: Final = "".join(set(string.punctuation) - {"%"})  # stand for themselves in an id, as letters and digits do
_TEXT, _MORTAL, _BYTES = (
    "=",
    "+",
    "~",
)  # what the content of an original begins with: text, the same with a life, base64


def make(place: str, options: Options) -> Source:
    """Return the source of *place*; nothing is opened.

    Raises:
        ConfigurationError: the place or an option is not understood.
    """
    said = {name: values[0] for name, values in options.items() if values and name != "data_dir"}
    directories = [Path(directory) for directory in options.get("data_dir", ())]
    try:
        url = urlsplit(place)
        has_password = bool(url.password)
    except ValueError:
        url, has_password = SplitResult("", "", "", "", ""), False
    if url.scheme not in _SCHEMES or url.query:
        raise ConfigurationError(f"Commissaire's place is {', '.join(_SCHEMES)}, each with ://HOST:PORT,…[/PREFIX]")
    if has_password:
        raise ConfigurationError("a password does not belong in the place: say -o password_file=PATH")
    if url.scheme == "etcd2" and said.keys() & {"cacert", "cert", "key"}:
        raise ConfigurationError("with certificates the place is etcd2s://…")
    target = parse(url._replace(path=url.path.rstrip("/") or DEFAULT_PREFIX), said)
    endpoints = ",".join(sorted(target.endpoints))
    keys: Keys
    if url.scheme == "etcd":
        keys = EtcdKeys(target, directories)
    else:
        keys = Etcd2Keys(target, directories, tls=url.scheme == "etcd2s")
    return CommissaireSource(f"{url.scheme.rstrip('s')}://{endpoints}{target.prefix.rstrip('/')}", keys, directories)


_SCHEMES: Final = ("etcd", "etcd2", "etcd2s")


class CommissaireSource:
    """The records of one Commissaire; see `Source`, `Findable` and `Scrubbable`."""

    scrub_batch: ClassVar[int] = 100

    def __init__(self, identity: str, keys: Keys, directories: Sequence[Path]) -> None:
        """Take the keys, unopened, and the members' files that are at hand."""
        self._identity = identity
        self._keys = keys
        self._directories = directories

    @property
    def identity(self) -> str:
        """Where it is: interface, members and prefix."""
        return self._identity

    async def open(self, digest: Digest) -> None:  # noqa: ARG002  # etcd has revisions
        """Connect, and see that keys, and files that were named, can be read."""
        await asyncio.to_thread(check_directories, self._directories)
        await self._keys.open()

    async def close(self) -> None:
        """Disconnect."""
        await self._keys.close()

    async def count(self) -> int | None:
        """Return how many keys there are."""
        return await self._keys.count()

    async def items(self) -> AsyncIterator[Item]:
        """Yield an item for every key."""
        async with aclosing(self._keys.pages()) as pages:
            async for page in pages:
                for held in page:
                    yield self._item(held)

    async def marks(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the revisions of those that exist."""
        keys = _keys_of(ids)
        revisions = await self._keys.revisions(list(keys.values()))
        return {id_: str(revisions[key]) for id_, key in keys.items() if key in revisions}

    async def find(self, names: Sequence[str]) -> Mapping[str, Record | None]:
        """Return the records of those names that keys here become; None for one whose key holds what cannot move."""
        paths = {name: path for name in names if (path := records.path_of(name)) is not None}
        held = await self._keys.get_many([self._keys.prefix + path for path in paths.values()])
        items = {self._path(key): self._item(each) for key, each in held.items()}
        found: dict[str, Record | None] = {}
        for name, path in paths.items():
            if (item := items.get(path)) is None:
                continue
            if item.fault:
                found[name] = None
            found |= {record.name: record for record in item.records if record.name == name}
        return found

    # Scrubbing

    async def originals(self, ids: Sequence[str]) -> Mapping[str, Original]:
        """Return the values of those that exist, as they lie there."""
        keys = _keys_of(ids)
        found = await self._keys.get_many(list(keys.values()))
        return {
            id_: Original(id_, str(held.revision), _content(held))
            for id_, key in keys.items()
            if (held := found.get(key)) is not None
        }

    async def scrub(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Take the secrets out of each that is as its original."""
        return await at_once(self._scrub_one, originals, self._keys.at_once)

    async def restore(self, originals: Sequence[Original]) -> Sequence[bool]:
        """Put each back that is as scrubbing left it."""
        found = await self._keys.get_many([_key_of(original.id) for original in originals], agreed=True)

        async def one(original: Original) -> bool:
            return await self._restore_one(original, found.get(_key_of(original.id)))

        return await at_once(one, originals, self._keys.at_once)

    def search_patterns(self, original: Original) -> Sequence[bytes]:
        """Return its secrets as they are spelt in its JSON, which is as etcd's files have them."""
        path, value = self._path(_key_of(original.id)), _value(original.content)
        return records.search_patterns(path, value, nested=self._keys.nested)

    async def purge(self) -> Sequence[str]:
        """Compact and defragment; in v2, push earlier values out of the history of events."""
        return await self._keys.purge()

    async def places(self) -> Sequence[Place]:
        """Return databases, logs and snapshots of every member, and backups."""
        return await self._keys.places()

    def __repr__(self) -> str:
        return f"<CommissaireSource {self._identity}>"

    async def _scrub_one(self, original: Original) -> bool:
        key, value = _key_of(original.id), _value(original.content)
        bare = records.scrubbed(self._path(key), value)
        held: Held | None
        if _stays(original) and bare not in (value, None):
            held = Held(key, value, int(original.mark))  # that it still is, the change itself finds out
        else:
            held = (await self._keys.get_many([key], agreed=True)).get(key)
        # Each round but the last writes, or finds that somebody else did; then it is not as its original.
        while held is not None and held.value != bare:
            if held.value != value or bare is None:
                return not records.holds_secrets(self._path(key), held.value)
            held = await self._keys.swap(held, bare)
        return True

    async def _restore_one(self, original: Original, held: Held | None) -> bool:
        value = _value(original.content)
        bare = records.scrubbed(self._path(_key_of(original.id)), value)
        while held is not None and held.value != value:
            if held.value != bare:
                return False
            held = await self._keys.swap(held, value)
        return held is not None

    def _item(self, held: Held) -> Item:
        reading = records.read(self._path(held.key), held.value)
        notes = [*reading.notes, *(["it expires at the source, and will not here"] if held.life else [])]
        return Item(_id(held.key), str(held.revision), reading.records, reading.fault, tuple(notes))

    def _path(self, key: str) -> str:
        return key.removeprefix(self._keys.prefix)


def _id(key: str) -> str:
    return quote(key, safe=_SHOWN, errors="surrogateescape")


def _key_of(id_: str) -> str:
    return unquote(id_, errors="surrogateescape")


def _keys_of(ids: Sequence[str]) -> Mapping[str, str]:
    """Return the keys of those *ids* that are spelt as ours are."""
    keys = {id_: _key_of(id_) for id_ in ids}
    return {id_: key for id_, key in keys.items() if _id(key) == id_}


def _content(held: Held) -> Secret:
    try:
        return Secret((_MORTAL if held.life else _TEXT) + held.value.decode())
    except UnicodeDecodeError:
        return Secret(_BYTES + base64.b64encode(held.value).decode())


def _value(content: Secret) -> bytes:
    kind, text = content.reveal()[:1], content.reveal()[1:]
    return base64.b64decode(text) if kind == _BYTES else text.encode()


def _stays(original: Original) -> bool:
    """Whether *original* was a text that stays until it is changed."""
    return original.content.reveal().startswith(_TEXT)
