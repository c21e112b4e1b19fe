"""The two versions of the KV engine: what lies at a path, how it is taken out, and how it is put back.

    KV 1    GET    MOUNT/PATH               {"data": {field: value, …}}
    KV 2    GET    MOUNT/data/PATH          {"data": {"data": {field: value, …}, "metadata": {"version": 3, …}}}
            POST   MOUNT/data/PATH          {"options": {"cas": 3}, "data": {…}}      makes version 4
            PUT    MOUNT/destroy/PATH       {"versions": [3]}
            GET    MOUNT/metadata/PATH      every version that is kept, without its data
    both    GET    MOUNT[/metadata]/FOLDER/?list=true     {"data": {"keys": ["a", "a/", …]}}

Values stay in the JSON that the server writes them in, which is the same every time: its objects come sorted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from strongroom.migration.sources.openbao.http import Server
from strongroom.models.secret import Secret

PAGE: Final = 1000  # names in one answer, where the server can be told: OpenBao with version 2
UNREADABLE: Final = "unreadable"  # the mark of what the server does not give

Fields: TypeAlias = Mapping[str, bytes]
"""The JSON of each field's value, by the field's name."""


@dataclass(frozen=True, slots=True)
class Held:
    """What lies at a path.

    *fields* is None where the current version was deleted, which can be undone, or *destroyed*, which cannot.
    *version* is its number, of KV 2.
    """

    mark: str
    fields: Fields | None = field(repr=False)
    version: int = 0
    destroyed: bool = False
    notes: tuple[str, ...] = ()

    def content(self) -> Secret:
        """Return what was said, which is all that is needed to put it back."""
        return Secret(msgspec.json.encode(None if self.fields is None else raw_of(self.fields)).decode())

    @classmethod
    def of_content(cls, mark: str, content: Secret) -> "Held":
        """Return what `content` was made of, as far as it tells."""
        said = _CONTENT.decode(content.reveal())
        return cls(mark, None if said is None else fields_of(said))


class Page(NamedTuple):
    """Names in a folder, those of folders with a slash; *after* is where the listing goes on, if it does."""

    names: tuple[str, ...]
    after: str | None


class Engine(Protocol):
    """A mount of the KV engine, as a source needs it. Paths count from the mount; errors are those of `Server`."""

    async def page(self, folder: str, after: str | None) -> Page:
        """Return names in a *folder* ("", or with its slash); an empty one is no different from none."""

    async def read(self, path: str) -> Held | None:
        """Return what lies at *path*, or None."""

    async def notes(self, path: str, held: Held) -> tuple[str, ...]:
        """Return what is to be said of *held* that takes another question."""

    async def remains(self, path: str) -> int:
        """Return how many versions of *path* hold something, and are neither current nor moved."""

    async def scrub(self, path: str, was: Held, rest: Fields) -> bool:
        """Remove *was*, which lies at *path*, but for *rest* of it; return whether that is so now."""

    async def restore(self, path: str, was: Held, rest: Fields) -> bool:
        """Put *was* back where `scrub` left *rest*; return whether it is so now."""


async def page_of(server: Server, path: str, after: str | None, limit: int) -> Page:
    """Return a page of a listing; a server that knows no pages gives everything, whatever it is asked."""
    answer = await server.get(path, list="true", limit=str(limit), **({} if after is None else {"after": after}))
    keys = answer.read(_AnswerKeys).data.keys if answer.found else ()
    if after is not None and keys and keys[0] <= after:
        return Page((), None)  # it was all there the first time
    return Page(keys, keys[-1] if len(keys) == limit else None)


def fields_of(raw: Mapping[str, msgspec.Raw]) -> dict[str, bytes]:
    """Return the fields of an answer."""
    return {name: bytes(value) for name, value in raw.items()}


def raw_of(fields: Fields) -> dict[str, msgspec.Raw]:
    """Return fields as they are written into JSON, each as it is."""
    return {name: msgspec.Raw(value) for name, value in fields.items()}


class _Keys(msgspec.Struct):
    keys: tuple[str, ...] = ()


class _AnswerKeys(msgspec.Struct):
    data: _Keys


_CONTENT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
