"""The law of sources: every sentence of ``strongroom.migration.sources.base``, as something that can be run.

A law takes an estate of the tests and raises AssertionError where its source breaks it. It puts items of its own in,
by numbers that no other law uses, and leaves them there, so that one running system does for all laws, in any order;
what an earlier law left is part of the estate. ``LAWS`` hold for every source; ``SCRUB_LAWS`` for those that are
`Scrubbable`, ``FIND_LAWS`` for those that are `Findable`, ``STOP_LAWS`` for estates that can be stopped, and
``TEXT_LAWS`` for those that take any text. ``identity_is_of_one_estate`` takes two estates of a kind.

The laws do not run in an event loop, because estates do not: `Reader` drives a source from outside.
"""

import asyncio
import base64
import itertools
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item, Record
from strongroom.migration.sources.base import Findable, Original, Place, Scrubbable, Source
from strongroom.models import names
from strongroom.models.secret import REDACTED
from strongroom.storage_service.wire import MAX_SECRET
from tests.migration.sources.base import Estate, Filled, Located, Spoken, Stoppable, source_of

Law: TypeAlias = Callable[[Estate], None]

LAWS: Final[list[Law]] = []
SCRUB_LAWS: Final[list[Law]] = []
FIND_LAWS: Final[list[Law]] = []
STOP_LAWS: Final[list[Law]] = []
TEXT_LAWS: Final[list[Law]] = []

PATIENCE: Final = 60.0  # seconds; only what hangs takes as long
AT_REST: Final = 0.25  # seconds without a change after which a system's files are taken to be at rest
AT_ONCE: Final = 1000  # ids and names in one question
MANY: Final = 3000  # items, some pages of any source
HELD: Final = 300  # bytes that may be remembered of an item once it is read: less than an item takes
SLACK: Final = 256 * 1024  # bytes that two readings of the same may differ by

TEXTS: Final[Mapping[str, str]] = {
    "words": "two words",
    "marks": """'"`\\$&<>{}[]%#;:,=|~^!?*""",
    "unicode": "Grüße, 東京, \U0001f511, e\u0301",
    "lines": "-----BEGIN-----\none\n\ntwo\n-----END-----\n",
    "windows": "one\r\ntwo\r\n",
    "blank": " \t leading and trailing \t ",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028",
    "like JSON": '{"a": [null, "\\u0000"]}',
    "like a number": "0123",
    "like base64": "aGVsbG8gd29ybGQ=",
    "long": "0123456789abcdef" * (100 * 1024 // 16),
}
"""Texts that a secret may be."""

T = TypeVar("T")

_numbers: Final = itertools.count(1)


def _register(laws: list[Law]) -> Callable[[Law], Law]:
    def register(law: Law) -> Law:
        laws.append(law)
        return law

    return register


def name_of(law: object) -> str:
    """Return a law's name, for the ids of parametrized tests."""
    return str(getattr(law, "__name__", law))


class Reader:
    """A source, opened, on an event loop of its own and driven from outside."""

    def __init__(self, source: Source, digest: Digest | None = None) -> None:
        self.source = source
        self.digest = digest or Digest()
        self._runner = asyncio.Runner()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what *call* does, which does not hang."""

        async def bounded() -> T:
            async with asyncio.timeout(PATIENCE):
                return await call

        return self._runner.run(bounded())

    def open(self) -> None:
        self.run(self.source.open(self.digest))

    def close(self) -> None:
        self.run(self.source.close())
        self._runner.close()

    def items(self) -> list[Item]:
        """Return every item."""

        async def read() -> list[Item]:
            return [item async for item in self.source.items()]

        return self.run(read())

    def by_id(self) -> dict[str, Item]:
        """Return every item by its id."""
        return {item.id: item for item in self.items()}

    def marks(self, ids: Sequence[str]) -> dict[str, str]:
        """Return marks, of any number of items."""
        found: dict[str, str] = {}
        for part in _parts(ids, AT_ONCE):
            found |= self.run(self.source.marks(part))
        return found

    @property
    def scrubbable(self) -> Scrubbable:
        assert isinstance(self.source, Scrubbable)
        return self.source

    def originals(self, ids: Sequence[str]) -> list[Original]:
        """Return the originals of what is there, in the order asked."""
        found: dict[str, Original] = {}
        for part in _parts(ids, self.scrubbable.scrub_batch):
            found |= self.run(_awaiting(self.scrubbable.originals(part)))
        return [found[each] for each in ids]

    def scrub(self, originals: Sequence[Original]) -> list[bool]:
        """Scrub any number."""
        batches = _parts(originals, self.scrubbable.scrub_batch)
        return [each for part in batches for each in self.run(_awaiting(self.scrubbable.scrub(part)))]

    def restore(self, originals: Sequence[Original]) -> list[bool]:
        """Restore any number."""
        batches = _parts(originals, self.scrubbable.scrub_batch)
        return [each for part in batches for each in self.run(_awaiting(self.scrubbable.restore(part)))]

    def purge(self) -> Sequence[str]:
        return self.run(_awaiting(self.scrubbable.purge()))

    def places(self) -> Sequence[Place]:
        return self.run(_awaiting(self.scrubbable.places()))

    def holds(self, place: Place, patterns: Sequence[bytes]) -> list[bool]:
        """Return for each of *patterns* whether a place holds it, wherever its parts break."""

        async def search() -> list[bool]:
            found = [False] * len(patterns)
            overlap, tail = max(map(len, patterns)) - 1, b""
            assert place.chunks is not None
            async for chunk in place.chunks():
                assert len(chunk) <= 1024 * 1024, "a part is at most 1 MiB"
                text = tail + chunk
                found = [one or pattern in text for one, pattern in zip(found, patterns, strict=True)]
                tail = text[-overlap:] if overlap else b""
            return found

        return self.run(search())


@contextmanager
def reading(estate: Located, digest: Digest | None = None) -> Iterator[Reader]:
    """Give the source of an estate, opened, and close it."""
    reader = Reader(source_of(estate), digest)
    try:
        reader.open()
        yield reader
    finally:
        reader.close()


async def _awaiting(answer: Any) -> Any:
    return await answer


def _parts(all_: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(all_), size):
        yield all_[start : start + size]


def _put(estate: Estate, how_many: int = 1) -> dict[str, int]:
    """Put items of new numbers in; return the numbers by ids."""
    numbers = list(itertools.islice(_numbers, how_many))
    ids = estate.put_many(numbers) if isinstance(estate, Filled) else [estate.put(number) for number in numbers]
    assert len(set(ids)) == how_many, "one id an item"
    return dict(zip(ids, numbers, strict=True))


def _told(record: Record) -> list[str]:
    """Return what a record says: its value, and what that is base64 of, if it is."""
    value = record.value.reveal()
    try:
        return [value, base64.b64decode(value, validate=True).decode()]
    except ValueError:
        return [value]


def _holds_secret(item: Item, secret: str) -> bool:
    return any(secret in text for record in item.records for text in _told(record))


def _plain(item: Item) -> set[str]:
    return {record.name for record in item.records if not record.sealed}


def _at_rest(estate: Estate) -> bytes:
    """Return all bytes of the estate's files, once nothing of what was put in is still on its way to them."""
    until = time.monotonic() + PATIENCE
    before, now = b"", _bytes(estate)
    while before != now and time.monotonic() < until:
        time.sleep(AT_REST)
        before, now = now, _bytes(estate)
    return now


def _bytes(estate: Estate) -> bytes:
    return b"\0".join(estate.raw())


# What reading is.


@_register(LAWS)
def reading_changes_nothing(estate: Estate) -> None:
    """Neither a byte of the estate's files nor a mark is another after everything was read and asked for."""
    _put(estate, 3)
    estate.break_one()
    before = _at_rest(estate)
    digest = Digest()
    with reading(estate, digest) as reader:
        marks = {item.id: item.mark for item in reader.items()}
        reader.run(reader.source.count())
        reader.marks(list(marks))

    with reading(estate, digest) as reader:
        assert reader.marks(list(marks)) == marks
    assert _bytes(estate) == before


@_register(LAWS)
def every_item_is_read_once(estate: Estate) -> None:
    """What was put in comes, each once; how many there are is true where it is told."""
    put = _put(estate, 5)
    with reading(estate) as reader:
        items = reader.items()
        told = reader.run(reader.source.count())

    ids = [item.id for item in items]
    assert set(put) <= set(ids)
    assert len(ids) == len(set(ids))
    assert told in (None, len(ids))


@_register(LAWS)
def the_order_stays(estate: Estate) -> None:
    """Two readings of one estate yield the same items in the same order."""
    _put(estate, 5)
    digest = Digest()
    with reading(estate, digest) as reader:
        first = reader.items()
    with reading(estate, digest) as reader:
        second = reader.items()

    assert [(item.id, item.mark, item.fault) for item in first] == [(item.id, item.mark, item.fault) for item in second]


@_register(LAWS)
def an_id_is_printable_and_stays(estate: Estate) -> None:
    """Ids are printable ASCII, and an item that is changed keeps its own."""
    ((key, number),) = _put(estate).items()
    broken = estate.break_one()

    assert estate.put(number) == key
    with reading(estate) as reader:
        ids = {item.id for item in reader.items()}
    assert {key, broken} <= ids
    assert all(each and each.isascii() and each.isprintable() for each in ids)


@_register(LAWS)
def the_secret_arrives(estate: Estate) -> None:
    """A valid item becomes records with legal names and valid models, one of which holds the secret, and no fault."""
    put = _put(estate, 5)
    with reading(estate) as reader:
        found = reader.by_id()

    for key, number in put.items():
        item = found[key]
        assert item.fault == ""
        assert _holds_secret(item, estate.secret_of(number))
        for record in item.records:
            assert names.check(record.name) == record.name
            assert len(record.value.reveal().encode()) <= MAX_SECRET
            if not record.sealed:
                assert record.model().record_name == record.name
        assert [record for record in item.records if record.sealed]


@_register(LAWS)
def the_last_secret_is_read(estate: Estate) -> None:
    """An item that was put twice holds the second secret, and the first no more."""
    ((key, number),) = _put(estate).items()
    first = estate.secret_of(number)
    estate.put(number)
    with reading(estate) as reader:
        item = reader.by_id()[key]

    assert _holds_secret(item, estate.secret_of(number))
    assert not _holds_secret(item, first)


@_register(LAWS)
def a_malformed_item_hides_no_other(estate: Estate) -> None:
    """A malformed item is a fault and no record, and everything else is read."""
    before = _put(estate, 2)
    broken = estate.break_one()
    after = _put(estate, 2)
    with reading(estate) as reader:
        found = reader.by_id()

    assert found[broken].fault != ""
    assert found[broken].records == ()
    for key, number in (before | after).items():
        assert _holds_secret(found[key], estate.secret_of(number))


@_register(TEXT_LAWS)
def any_text_arrives(estate: Estate) -> None:
    """A secret arrives as it is, whatever text it is, if the system can hold it."""
    assert isinstance(estate, Spoken)
    put: dict[str, str] = {}
    for what, text in TEXTS.items():
        key = estate.put_secret(next(_numbers), text)
        if key is not None:
            put[key] = what
    with reading(estate) as reader:
        found = reader.by_id()

    assert put, "a system holds some of these"
    for key, what in put.items():
        text = TEXTS[what]
        encoded = base64.b64encode(text.encode()).decode()
        assert found[key].fault == "", what
        assert _holds_secret(found[key], text) or _holds_secret(found[key], encoded), what


# Marks.


@_register(LAWS)
def marks_agree_with_items(estate: Estate) -> None:
    """What is asked for marks says the same as the items, also at a later opening; unknown ids are left out."""
    _put(estate, 3)
    estate.break_one()
    digest = Digest()
    with reading(estate, digest) as reader:
        told = {item.id: item.mark for item in reader.items()}

        assert reader.marks(list(told)) == told
        assert reader.run(reader.source.marks([])) == {}
        known = next(iter(told))
        assert dict(reader.run(reader.source.marks(["there is no such item", known]))) == {known: told[known]}
    with reading(estate, digest) as reader:
        assert reader.marks(list(told)) == told


@_register(LAWS)
def a_mark_changes_with_its_item_alone(estate: Estate) -> None:
    """When one item changes, its mark does, and no other."""
    (changed, _), (put, number), (left, _) = _put(estate, 3).items()
    with reading(estate) as reader:
        before = reader.marks([changed, put, left])
        estate.change(changed)
        estate.put(number)
        after = reader.marks([changed, put, left])
        read = reader.by_id()

    assert after[changed] != before[changed]
    assert after[put] != before[put]
    assert after[left] == before[left]
    assert {key: read[key].mark for key in after} == after


# What is told of an estate.


@_register(LAWS)
def nothing_told_is_secret(estate: Estate) -> None:
    """No id, mark, fault, note, identity or repr holds a secret."""
    put = _put(estate, 3)
    estate.break_one()
    secrets = [estate.secret_of(number) for number in put.values()]
    with reading(estate) as reader:
        told = [reader.source.identity, repr(reader.source), repr(reader.digest)]
        for item in reader.items():
            told += [item.id, item.mark, item.fault, *map(str, item.notes), repr(item), str(item)]
            assert not item.records or REDACTED in repr(item)
        if isinstance(reader.source, Scrubbable):
            originals = reader.originals(list(put))
            told += [repr(originals), *(f"{each.id} {each.mark}" for each in originals)]
            told += [f"{place.name} {place.advice}" for place in reader.places()]

    everything = "\n".join(told)
    for secret in secrets:
        for text in (secret, base64.b64encode(secret.encode()).decode(), *_lines_of(secret)):
            assert text not in everything


def _lines_of(secret: str) -> list[str]:
    """Return the lines of what a secret is base64 of, if it is: those that tell something."""
    try:
        decoded = base64.b64decode(secret, validate=True).decode()
    except ValueError:
        return []
    return [line for line in decoded.splitlines() if len(line) > 20 and "-----" not in line]


@_register(LAWS)
def identity_stays(estate: Estate) -> None:
    """The identity is the same before and after opening, at every opening, and whatever was put in."""
    told = {source_of(estate).identity}
    with reading(estate) as reader:
        told.add(reader.source.identity)
    _put(estate)
    with reading(estate) as reader:
        told.add(reader.source.identity)

    assert len(told) == 1
    assert told != {""}


def identity_is_of_one_estate(one: Estate, other: Estate) -> None:
    """Two estates have two identities."""
    with reading(one) as here, reading(other) as there:
        assert here.source.identity != there.source.identity


@_register(LAWS)
def closing_twice_is_nothing(estate: Estate) -> None:
    """A source may be closed twice, and unopened."""
    with reading(estate) as reader:
        reader.run(reader.source.close())
    unopened = Reader(source_of(estate))
    unopened.close()


@_register(STOP_LAWS)
def a_stopped_system_is_unavailable(estate: Estate) -> None:
    """While nobody answers, opening and reading end in `SourceUnavailable`, which tells no secret; then it goes on."""
    assert isinstance(estate, Stoppable)
    put = _put(estate, 2)
    secrets = [estate.secret_of(number) for number in put.values()]
    with reading(estate) as opened:
        estate.stop()
        try:
            with pytest.raises(SourceUnavailable) as caught:
                opened.items()
            with pytest.raises(SourceUnavailable) as refused, reading(estate) as late:
                late.items()
            with pytest.raises(SourceUnavailable):
                opened.marks(list(put))
        finally:
            estate.start()
    said = f"{caught.value!r} {caught.value} {refused.value!r} {refused.value}"
    assert str(caught.value)
    assert all(secret not in said for secret in secrets)
    with reading(estate) as reader:
        assert set(put) <= {item.id for item in reader.items()}


@_register(LAWS)
def an_item_that_changes_meanwhile_ends_nothing(estate: Estate) -> None:
    """While an estate is read, items change and come; what was there all along is read, each once."""
    put = _put(estate, 4)
    with reading(estate) as reader:
        items = reader.source.items()
        first = reader.run(_awaiting(anext(items)))
        estate.change(next(key for key in put if key != first.id))
        _put(estate, 2)

        async def rest() -> list[Item]:
            return [item async for item in items]

        ids = [first.id, *(item.id for item in reader.run(rest()))]

    assert set(put) <= set(ids)
    assert len(ids) == len(set(ids))


def memory_stays_flat(estate: Estate, many: int = MANY) -> None:
    """Of what was read, next to nothing is remembered: *many* items more take no more memory at the peak."""
    _put(estate, many)  # at least a page, which is held whole
    before = _peak(estate)
    _put(estate, many)
    after = _peak(estate)

    assert after - before < many * HELD + SLACK, (before, after, many)


def _peak(estate: Estate) -> int:
    """Return the largest memory that a reading takes, in bytes."""

    async def read(source: Source) -> int:
        return sum([1 async for _ in source.items()])

    with reading(estate) as reader:
        tracemalloc.start()
        try:
            reader.run(read(reader.source))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


# Scrubbing.


@_register(SCRUB_LAWS)
def originals_agree_with_items(estate: Estate) -> None:
    """Originals have the ids and marks of their items; unknown ids are left out."""
    put = list(_put(estate, 3))
    with reading(estate) as reader:
        marks = reader.marks(put)
        found = reader.run(_awaiting(reader.scrubbable.originals(["there is no such item", *put])))

    assert {key: each.id for key, each in found.items()} == {key: key for key in put}
    assert {key: each.mark for key, each in found.items()} == marks


@_register(SCRUB_LAWS)
def scrubbing_removes_the_secrets_alone(estate: Estate) -> None:
    """Of a scrubbed item the secret is gone and the rest is there; other items are as they were."""
    scrubbed, left = _put(estate, 3), _put(estate, 3)
    with reading(estate) as reader:
        before = reader.by_id()
        assert all(reader.scrub(reader.originals(list(scrubbed))))
        after = reader.by_id()

    for key, number in scrubbed.items():
        secret = estate.secret_of(number)
        assert not any(_holds_secret(item, secret) for item in after.values())
        if key in after:
            assert _plain(after[key]) == _plain(before[key])
        else:
            assert _plain(before[key]) == set()
    for key in left:
        assert after[key] == before[key]


@_register(SCRUB_LAWS)
def what_changed_is_not_scrubbed(estate: Estate) -> None:
    """An item that changed since its original was taken is left alone, and said to be; the others are scrubbed."""
    (changed, _), (same, number) = _put(estate, 2).items()
    with reading(estate) as reader:
        originals = reader.originals([changed, same])
        estate.change(changed)
        before = reader.by_id()[changed]

        assert reader.scrub(originals) == [False, True]
        after = reader.by_id()
    assert after[changed] == before
    assert same not in after or not _holds_secret(after[same], estate.secret_of(number))


@_register(SCRUB_LAWS)
def scrubbing_twice_is_scrubbing(estate: Estate) -> None:
    """What is scrubbed already is so, also to a source that was opened later."""
    put = list(_put(estate, 2))
    with reading(estate) as reader:
        originals = reader.originals(put)
        assert reader.scrub(originals) == [True, True]
        once = reader.by_id()
        assert reader.scrub(originals) == [True, True]

    with reading(estate, reader.digest) as later:
        assert later.scrub(originals) == [True, True]
        assert later.by_id() == once


@_register(SCRUB_LAWS)
def restoring_brings_back(estate: Estate) -> None:
    """A restored item is as it was, and its original is the same text; to restore it again changes nothing."""
    put = list(_put(estate, 3))
    with reading(estate) as reader:
        before = reader.by_id()
        originals = reader.originals(put)
        reader.scrub(originals)
        assert all(reader.restore(originals))
        after = reader.by_id()
        assert all(reader.restore(originals))
        again = reader.by_id()

        for key in put:
            assert after[key].records == before[key].records
            assert after[key].notes == before[key].notes
            assert after[key].fault == ""
            assert again[key] == after[key]
        assert [each.content for each in reader.originals(put)] == [each.content for each in originals]


@_register(SCRUB_LAWS)
def a_later_source_restores(estate: Estate) -> None:
    """An original is all that it takes: a source that never saw the item puts it back."""
    ((key, number),) = _put(estate).items()
    with reading(estate) as reader:
        originals = reader.originals([key])
        reader.scrub(originals)
        reader.purge()

    with reading(estate, reader.digest) as later:
        assert later.restore(originals) == [True]
        assert _holds_secret(later.by_id()[key], estate.secret_of(number))


@_register(SCRUB_LAWS)
def what_was_never_scrubbed_is_restored_already(estate: Estate) -> None:
    """To restore what is as it was changes nothing, and says that it is so."""
    put = list(_put(estate, 2))
    with reading(estate) as reader:
        before = reader.by_id()
        assert reader.restore(reader.originals(put)) == [True, True]
        after = reader.by_id()

    assert [after[key] for key in put] == [before[key] for key in put]


@_register(SCRUB_LAWS)
def what_changed_is_not_restored(estate: Estate) -> None:
    """An item that somebody wrote since it was scrubbed is left as it is; the others come back."""
    (written, number), (same, other) = _put(estate, 2).items()
    with reading(estate) as reader:
        originals = reader.originals([written, same])
        reader.scrub(originals)
        estate.put(number)
        before = reader.by_id()[written]

        assert reader.restore(originals) == [False, True]
        after = reader.by_id()
    assert after[written] == before
    assert _holds_secret(after[same], estate.secret_of(other))


@_register(SCRUB_LAWS)
def purging_leaves_no_pattern(estate: Estate) -> None:
    """Before scrubbing every pattern is found where one can look; when it is scrubbed and purged, none is.

    Where nothing can be looked into, that is said, with what to do.
    """
    put = list(_put(estate, 4))
    _at_rest(estate)
    with reading(estate) as reader:
        originals = reader.originals(put)
        patterns = [pattern for original in originals for pattern in reader.scrubbable.search_patterns(original)]
        assert all(patterns), "nothing is found in everything"
        before = _found(reader, patterns)
        assert all(reader.scrub(originals))
        reader.purge()
        after = _found(reader, patterns)

        places = reader.places()
        assert places
        assert all(place.name and place.advice for place in places)
    if any(place.chunks is not None for place in places):
        assert len(patterns) >= len(put)
        assert all(before)
        assert not any(after)


def _found(reader: Reader, patterns: Sequence[bytes]) -> list[bool]:
    """Return for each of *patterns* whether any place that can be reached holds it."""
    found = [False] * len(patterns)
    for place in reader.places() if patterns else ():
        if place.chunks is not None:
            found = [one or here for one, here in zip(found, reader.holds(place, patterns), strict=True)]
    return found


# Finding.


@_register(FIND_LAWS)
def finding_agrees_with_items(estate: Estate) -> None:
    """A record is found by the name it will have, and is the one that its item becomes; what is unknown is left out."""
    put = _put(estate, 4)
    estate.break_one()
    with reading(estate) as reader:
        assert isinstance(reader.source, Findable)
        found_items = reader.by_id()
        expected = {record.name: record for key in put for record in found_items[key].records}
        found = reader.run(_awaiting(reader.source.find([*expected, "secrets/there/is-none", "hosts/there-is-none"])))
        none = reader.run(_awaiting(reader.source.find([])))

    assert dict(found) == expected
    assert dict(none) == {}


@_register(FIND_LAWS)
def what_is_found_is_of_now(estate: Estate) -> None:
    """What changed since the source was opened is found as it is now."""
    ((key, number),) = _put(estate).items()
    with reading(estate) as reader:
        assert isinstance(reader.source, Findable)
        wanted = [record.name for record in reader.by_id()[key].records if record.sealed]
        estate.put(number)
        found = reader.run(_awaiting(reader.source.find(wanted)))

    texts = [text for record in found.values() if record is not None for text in _told(record)]
    assert any(estate.secret_of(number) in text for text in texts)
