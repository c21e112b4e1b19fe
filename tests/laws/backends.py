"""The law of backends: every sentence of ``strongroom.storage_service.backends.base``, as something that can be run.

A law takes an opened, empty backend and raises AssertionError where the backend breaks it. ``LAWS`` hold for every
backend and every wrapper round one, as long as it takes `LEAST_BATCH` changes; ``STORE_LAWS`` for those too that keep
names as they are given, and add none. A new backend is held to them by

    @pytest.mark.parametrize("law", LAWS, ids=name_of)
    async def test_law(law: Law) -> None:
        async with opened_and_empty() as backend:
            await law(backend)

and by ``follows_the_model`` with operations of hypothesis' choosing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import pytest
from hypothesis import strategies as st

from strongroom.models.names import MAX_NAME, is_container
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_BATCH,
    MAX_KEY,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Check,
    Conflict,
    Delete,
    Entry,
    Page,
    Put,
    Vacant,
)
from strongroom.storage_service.errors import TooLarge, Unavailable
from strongroom.storage_service.wire import MAX_STORED

Law: TypeAlias = Callable[[Backend], Awaitable[None]]
Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Backend]]
"""Gives an opened, empty backend, and closes it."""


LAWS: Final[list[Law]] = []
STORE_LAWS: Final[list[Law]] = []

LEAST_BATCH: Final = 8  # changes in the largest batch that a law commits whatever `max_batch` is
RACERS: Final = 16
ROUNDS: Final = 5  # increments by each of the racers

_Any = TypeVar("_Any", bound=Callable[..., Awaitable[None]])


def _law(law: Law) -> Law:
    LAWS.append(law)
    return law


def _store_law(law: Law) -> Law:
    STORE_LAWS.append(law)
    return law


def name_of(law: object) -> str:
    """Return a law's name, for the ids of parametrized tests."""
    return str(getattr(law, "__name__", law))


async def _conflict(backend: Backend, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Commit what must conflict, and return the guards that failed."""
    with pytest.raises(Conflict) as caught:
        await backend.commit(changes)
    return caught.value.failed


def _value_for(name: str) -> bytes:
    """Return a value that no other record has; that of a container is empty."""
    return b"" if is_container(name) else name.encode()


async def _fill(backend: Backend, names: Sequence[str]) -> None:
    """Put every one of *names* in as few commits as the backend allows."""
    left = [Put(name, _value_for(name)) for name in names]
    while left:
        size = backend.max_batch
        await backend.commit(left[:size])
        left = left[size:]


async def _value(backend: Backend, name: str) -> bytes | None:
    entry = await backend.get(name)
    return None if entry is None else entry.value


async def _all_names(backend: Backend, prefix: str = "", limit: int = MAX_PAGE) -> list[str]:
    """Return every name under *prefix*, by pages of *limit*."""
    names: list[str] = []
    after: str | None = None
    while True:
        page = await backend.list(prefix, after, limit)
        assert len(page.names) <= limit
        names += page.names
        if not page.more:
            return names
        assert page.names, "a page that promises more holds something to go on from"
        after = page.names[-1]


# What is there, and what is not.


@_law
async def missing_is_none(backend: Backend) -> None:
    """What was never written is None to get, absent from get_many, and not listed."""
    assert await backend.get("hosts/a") is None
    assert dict(await backend.get_many(["hosts/a", "hosts/b"])) == {}
    assert await backend.list("") == Page((), more=False)
    assert await backend.list("hosts/") == Page((), more=False)


@_law
async def what_is_put_is_got(backend: Backend) -> None:
    """A put is read back with its value and the revision the commit returned."""
    revision = await backend.commit([Put("hosts/a", b"one")])

    assert revision > 0
    assert await backend.get("hosts/a") == Entry(b"one", revision)
    assert dict(await backend.get_many(["hosts/a", "hosts/b"])) == {"hosts/a": Entry(b"one", revision)}


@_law
async def a_put_replaces(backend: Backend) -> None:
    """A second put under a name replaces the value and the revision."""
    first = await backend.commit([Put("hosts/a", b"one")])
    second = await backend.commit([Put("hosts/a", b"two")])

    assert second > first
    assert await backend.get("hosts/a") == Entry(b"two", second)


@_law
async def any_bytes_are_a_value(backend: Backend) -> None:
    """Values are bytes of any kind, from none at all to the limit."""
    values = {
        "v/empty": b"",
        "v/zero": b"\x00",
        "v/all": bytes(range(256)),
        "v/not-utf8": b"\xff\xfe\xc3\x28",
        "v/text": "Grüße\n".encode(),
    }
    await backend.commit([Put(name, value) for name, value in values.items()])
    limit = bytes(range(256)) * (MAX_STORED // 256)
    await backend.commit([Put("v/limit", limit)])

    got = await backend.get_many([*values, "v/limit"])
    assert {name: entry.value for name, entry in got.items()} == values | {"v/limit": limit}
    assert await _value(backend, "v/empty") == b""
    assert await _value(backend, "v/limit") == limit


@_law
async def a_value_over_the_limit_is_refused(backend: Backend) -> None:
    """A value over the limit is a ValueError and writes nothing."""
    with pytest.raises(ValueError, match="at most"):
        await backend.commit([Put("v/over", bytes(MAX_STORED + 1)), Put("v/beside", b"")])

    assert await _all_names(backend) == []


@_law
async def every_legal_character_is_a_name(backend: Backend) -> None:
    """Every character of the grammar and the longest record's name are kept apart, and come back in byte order."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"c/{c}" for c in letters + letters.upper() + "0123456789._@:+-" if c != "."]
    names += ["c/...", "c/a.", "c/.a", "c/a/", "c/a/b", "top", "top/", "x" * MAX_NAME, "10.0.0.7", "fe80::1"]
    await _fill(backend, names)

    assert await _all_names(backend) == sorted(names)
    got = await backend.get_many(names)
    assert {name: entry.value for name, entry in got.items()} == {name: _value_for(name) for name in names}


@_store_law
async def the_longest_name_is_kept(backend: Backend) -> None:
    """Names up to `MAX_KEY` bytes are put, read, listed, guarded and deleted as any other; a longer is a ValueError."""
    stem = "system/usage/default.1/".ljust(MAX_KEY - 1, "x")
    names = [stem + "a", stem + "b", stem]
    await _fill(backend, names)
    revision = await backend.commit([Put(stem + "c", b"", ABSENT), Check(stem + "a", PRESENT), Delete(stem + "b")])

    assert await _all_names(backend, "system/", limit=1) == [stem, stem + "a", stem + "c"]
    assert await backend.list("system/", after=stem + "a") == Page((stem + "c",), more=False)
    assert await backend.get(stem + "c") == Entry(b"", revision)
    assert set(await backend.get_many(names)) == {stem, stem + "a"}
    assert await _conflict(backend, [Vacant(stem), Check(stem + "a", ABSENT)]) == (
        Vacant(stem),
        Check(stem + "a", ABSENT),
    )
    longer = stem + "aa"
    for change in (Put(longer, b""), Delete(longer), Check(longer, ABSENT)):
        with pytest.raises(ValueError, match="at most"):
            await backend.commit([Put("beside", b""), change])
    assert await _all_names(backend) == [stem, stem + "a", stem + "c"]


# Deleting.


@_law
async def what_is_deleted_is_gone(backend: Backend) -> None:
    """A deleted name is missing everywhere, and can be put anew with a new revision."""
    first = await backend.commit([Put("hosts/a", b"one"), Put("hosts/b", b"b")])
    second = await backend.commit([Delete("hosts/a")])

    assert second > first
    assert await backend.get("hosts/a") is None
    assert set(await backend.get_many(["hosts/a", "hosts/b"])) == {"hosts/b"}
    assert await _all_names(backend) == ["hosts/b"]

    third = await backend.commit([Put("hosts/a", b"again", ABSENT)])
    assert third > second
    assert await backend.get("hosts/a") == Entry(b"again", third)


@_law
async def deleting_what_is_not_there_is_no_error(backend: Backend) -> None:
    """An unguarded delete of a missing name succeeds, as often as it is asked."""
    before = await backend.commit([Put("hosts/a", b"one")])
    await backend.commit([Delete("hosts/a")])
    again = await backend.commit([Delete("hosts/a")])
    never = await backend.commit([Delete("hosts/never")])

    assert before < again <= never
    assert await _all_names(backend) == []


# Guards.


@dataclass(frozen=True)
class _Guard:
    """One row: an expectation, as a function of the name's true revision, and where it holds."""

    story: str
    expected: Callable[[int], int | None]
    holds_when_there: bool
    holds_when_missing: bool


_GUARDS: Final = (
    _Guard("none", lambda _: None, holds_when_there=True, holds_when_missing=True),
    _Guard("absent", lambda _: ABSENT, holds_when_there=False, holds_when_missing=True),
    _Guard("present", lambda _: PRESENT, holds_when_there=True, holds_when_missing=False),
    _Guard("its revision", lambda revision: revision, holds_when_there=True, holds_when_missing=False),
    _Guard("an older revision", lambda revision: revision - 1, holds_when_there=False, holds_when_missing=False),
    _Guard("a later revision", lambda revision: revision + 1000, holds_when_there=False, holds_when_missing=False),
)


@_law
async def guards_hold_or_conflict(backend: Backend) -> None:
    """Put, Delete and Check go through exactly where their guard holds, and leave all as it was where it does not."""
    for guard in _GUARDS:
        for there, holds in ((True, guard.holds_when_there), (False, guard.holds_when_missing)):
            for kind in ("put", "delete", "check"):
                story = f"{kind} expecting {guard.story} where the name is {'there' if there else 'missing'}"
                await backend.commit([Delete("g/pad"), Delete("g/name")])
                await backend.commit([Put("g/pad", b"so that an older revision is never ABSENT")])
                revision = await backend.commit([Put("g/name" if there else "g/other", b"old")])
                expected = guard.expected(revision)
                if kind == "put":
                    change: Change = Put("g/name", b"new", expected)
                elif kind == "delete":
                    change = Delete("g/name", expected)
                elif expected is None:
                    continue
                else:
                    change = Check("g/name", expected)

                old = b"old" if there else None
                if holds:
                    await backend.commit([change])
                    then = {"put": b"new", "delete": None, "check": old}[kind]
                    assert await _value(backend, "g/name") == then, story
                else:
                    assert await _conflict(backend, [change]) == (change,), story
                    assert await _value(backend, "g/name") == old, story


@_law
async def a_recreated_name_is_another(backend: Backend) -> None:
    """The revision of a deleted record does not match the record put under its name afterwards."""
    first = await backend.commit([Put("hosts/a", b"one")])
    await backend.commit([Delete("hosts/a", first)])
    await backend.commit([Put("hosts/a", b"two", ABSENT)])

    stale = Put("hosts/a", b"three", first)
    assert await _conflict(backend, [stale]) == (stale,)
    assert await _value(backend, "hosts/a") == b"two"


@_law
async def a_check_changes_nothing(backend: Backend) -> None:
    """Checks that hold leave the value and the revision of what they check; checks alone get the store's revision."""
    first = await backend.commit([Put("hosts/a", b"one")])
    checked = await backend.commit([Check("hosts/a", first), Check("hosts/b", ABSENT)])
    beside = await backend.commit([Check("hosts/a", PRESENT), Put("hosts/b", b"two")])

    assert first <= checked < beside
    assert await backend.get("hosts/a") == Entry(b"one", first)
    assert await backend.get("hosts/b") == Entry(b"two", beside)


@_law
async def vacant_looks_below_its_prefix(backend: Backend) -> None:
    """Vacant holds while nothing but the prefix itself begins with it, siblings of like spelling notwithstanding."""
    siblings = ["s/box/", "s/boxes/k", "s/box.k", "s/bo", "s/box-", "s/bow/z"]
    await backend.commit([Put(name, b"") for name in siblings])
    await backend.commit([Vacant("s/box/")])
    await backend.commit([Vacant("nothing/here/"), Vacant("s/box/")])

    for inside in ("s/box/k", "s/box/0", "s/box/z", "s/box/sub/", "s/box/sub/k"):
        await backend.commit([Put(inside, b"")])
        assert await _conflict(backend, [Vacant("s/box/")]) == (Vacant("s/box/"),), inside
        assert await _conflict(backend, [Delete("s/box/", PRESENT), Vacant("s/box/")]) == (Vacant("s/box/"),), inside
        await backend.commit([Delete(inside)])

    await backend.commit([Delete("s/box/", PRESENT), Vacant("s/box/")])
    assert await _all_names(backend) == sorted(set(siblings) - {"s/box/"})


@_law
async def guards_speak_of_before_the_batch(backend: Backend) -> None:
    """What the batch itself writes neither satisfies nor breaks its own guards."""
    await backend.commit([Vacant("s/"), Put("s/k", b"one")])
    assert await _value(backend, "s/k") == b"one"

    assert await _conflict(backend, [Delete("s/k"), Vacant("s/")]) == (Vacant("s/"),)
    assert await _value(backend, "s/k") == b"one"


# The batch.


@_law
async def a_batch_is_all_or_nothing(backend: Backend) -> None:
    """One failed guard anywhere in the batch, and none of it is applied."""
    revision = await backend.commit([Put("b/kept", b"old"), Put("b/replaced", b"old")])
    writes: list[Change] = [Put("b/new", b"new"), Put("b/replaced", b"new"), Delete("b/kept")]
    guard = Check("b/guard", PRESENT)
    for position in range(len(writes) + 1):
        batch = [*writes[:position], guard, *writes[position:]]
        assert await _conflict(backend, batch) == (guard,)
        assert dict(await backend.get_many(["b/new", "b/kept", "b/replaced"])) == {
            "b/kept": Entry(b"old", revision),
            "b/replaced": Entry(b"old", revision),
        }

    await backend.commit(writes)
    got = await backend.get_many(["b/new", "b/kept", "b/replaced"])
    assert {name: entry.value for name, entry in got.items()} == {"b/new": b"new", "b/replaced": b"new"}


@_law
async def a_conflict_names_exactly_the_failed(backend: Backend) -> None:
    """Conflict.failed holds the guards that did not hold, all of them, in the order of the batch, and no other."""
    revision = await backend.commit([Put("n/a", b"a"), Put("n/b", b"b"), Put("n/box/k", b"")])
    batch: list[Change] = [
        Put("n/a", b"x", revision),  # holds
        Put("n/b", b"x", ABSENT),
        Vacant("n/free/"),  # holds
        Delete("n/c", PRESENT),
        Put("n/d", b"x"),  # has no guard
        Check("n/e", revision),
        Vacant("n/box/"),
        Check("n/f", ABSENT),  # holds
    ]
    assert await _conflict(backend, batch) == tuple(batch[i] for i in (1, 3, 5, 6))
    assert await _all_names(backend) == ["n/a", "n/b", "n/box/k"]


@_law
async def a_revision_is_a_commits(backend: Backend) -> None:
    """All names of one commit carry one revision; the next commit, whatever it writes, a greater one."""
    first = await backend.commit([Put("r/a", b""), Put("r/b", b""), Put("other/c", b"")])
    got = await backend.get_many(["r/a", "r/b", "other/c"])
    assert {entry.revision for entry in got.values()} == {first}

    batches: list[list[Change]] = [
        [Put("r/a", b"")],
        [Put("zzz", b"")],
        [Delete("r/b")],
        [Put("r/b", b""), Delete("zzz")],
    ]
    revisions = [first, *[await backend.commit(changes) for changes in batches]]
    assert revisions == sorted(set(revisions))
    got = await backend.get_many(["r/a", "r/b", "other/c"])
    assert {name: entry.revision for name, entry in got.items()} == {
        "r/a": revisions[1],
        "r/b": revisions[4],
        "other/c": first,
    }


@_law
async def a_failed_commit_uses_no_name(backend: Backend) -> None:
    """After a conflict the store goes on as if it had not been asked."""
    first = await backend.commit([Put("a", b"one")])
    await _conflict(backend, [Put("a", b"two", ABSENT), Put("b", b"two")])

    assert await backend.get("a") == Entry(b"one", first)
    assert await backend.get("b") is None
    assert await backend.commit([Put("a", b"three", first)]) > first


@_law
async def the_largest_batch_is_taken(backend: Backend) -> None:
    """A batch of the largest size is one commit, whatever is in it; guards count like writes."""
    size = backend.max_batch
    half = size // 2
    checks = [Check(f"m/{i:04}", ABSENT) for i in range(half, size)]
    revision = await backend.commit([*(Put(f"m/{i:04}", b"%d" % i) for i in range(half)), *checks])
    await backend.commit([Delete(f"m/{i:04}", revision) for i in range(half)])
    revision = await backend.commit([Put(f"m/{i:04}", b"%d" % i) for i in range(size)])
    revision = await backend.commit([Put(f"m/{i:04}", b"%d" % i, revision) for i in range(size)])

    assert await _all_names(backend) == [f"m/{i:04}" for i in range(size)]
    await backend.commit([Delete(f"m/{i:04}", revision) for i in range(size)])
    assert await _all_names(backend) == []


@_law
async def unlawful_batches_are_refused(backend: Backend) -> None:
    """A batch that is empty, too long, or names a record twice is a ValueError and writes nothing."""
    unlawful: tuple[list[Change], ...] = (
        [],
        [Put(f"m/{i}", b"") for i in range(MAX_BATCH + 1)],
        [Put("a", b"1"), Put("a", b"2")],
        [Put("a", b"1"), Delete("a")],
        [Put("b", b"1"), Delete("a"), Delete("a")],
        [Check("a", ABSENT), Put("a", b"1")],
    )
    for batch in unlawful:
        with pytest.raises(ValueError, match="batch"):
            await backend.commit(batch)

    assert await _all_names(backend) == []


# Listing and reading many.


@_law
async def a_listing_is_in_byte_order(backend: Backend) -> None:
    """Names come in byte order, whatever the order they were written in."""
    names = ["b", "a/z", "a/a", "a.b", "a-b", "a/B", "a:c", "a@c", "a+c", "a_c", "A", "Z", "0", "a/10", "a/9", "a"]
    for name in names:
        await backend.commit([Put(name, b"")])

    assert await _all_names(backend) == sorted(names)


@_law
async def a_prefix_is_exact(backend: Backend) -> None:
    """A listing holds the names that begin with its prefix, the prefix itself among them, and no sibling."""
    names = ["a", "a/", "a/b", "a/b/", "a/b/c", "a/b/d", "a/b.x", "a/bc", "a/bc/d", "a/c", "ab", "b"]
    await _fill(backend, names)

    for prefix in ["", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a/bc", "b", "c", "z/"]:
        expected = sorted(name for name in names if name.startswith(prefix))
        assert await _all_names(backend, prefix) == expected, prefix
        assert await _all_names(backend, prefix, limit=1) == expected, prefix


@_law
async def pages_join_without_seam(backend: Backend) -> None:
    """Pages of any size give each name once; a page is full unless it is the last, and says whether it is."""
    names = [f"p/{i:03}" for i in range(25)]
    await _fill(backend, [*names, "o/before", "q/after"])

    for limit in (1, 2, 5, 24, 25, 26):
        assert await _all_names(backend, "p/", limit) == names
    assert await backend.list("p/", limit=25) == Page(tuple(names), more=False)
    assert await backend.list("p/", limit=24) == Page(tuple(names[:24]), more=True)
    assert await backend.list("p/", after="p/022") == Page(("p/023", "p/024"), more=False)
    assert await backend.list("p/", after="p/0225", limit=1) == Page(("p/023",), more=True)
    assert await backend.list("p/", after="p/024") == Page((), more=False)
    assert await backend.list("p/", after="a") == Page(tuple(names), more=False)
    assert await backend.list("p/", after="z") == Page((), more=False)


@_law
async def a_full_page_holds_a_thousand(backend: Backend) -> None:
    """The largest page and the largest reading hold `MAX_PAGE` names; asking for more, or for none, is a ValueError."""
    names = [f"k/{i:05}" for i in range(MAX_PAGE + 1)]
    await _fill(backend, names)

    assert await backend.list("k/") == Page(tuple(names[:MAX_PAGE]), more=True)
    assert await backend.list("k/", names[MAX_PAGE - 1]) == Page(tuple(names[MAX_PAGE:]), more=False)
    got = await backend.get_many(names[:MAX_PAGE])
    assert {name: entry.value for name, entry in got.items()} == {name: name.encode() for name in names[:MAX_PAGE]}
    for limit in (0, -1, MAX_PAGE + 1):
        with pytest.raises(ValueError, match="page"):
            await backend.list("k/", limit=limit)
    with pytest.raises(ValueError, match="names"):
        await backend.get_many(names)


@_law
async def getting_none_or_one_twice(backend: Backend) -> None:
    """An empty reading is empty, and a name asked for twice is given once."""
    await backend.commit([Put("a", b"one")])

    assert dict(await backend.get_many([])) == {}
    assert {name: entry.value for name, entry in (await backend.get_many(["a", "a"])).items()} == {"a": b"one"}


@_law
async def reading_many_has_a_limit(backend: Backend) -> None:
    """What is more than the limit together is not read, be it several or one; what is within it is read whole."""
    values = {f"m/{number}": bytes([65 + number]) * 1000 for number in range(4)}
    await backend.commit([Put(name, value) for name, value in values.items()])

    for names, limit in ((list(values), 3999), (["m/0"], 999), (["m/0", "m/none", "m/0"], 999), (["m/1"], 0)):
        with pytest.raises(TooLarge):
            await backend.get_many(names, limit=limit)
    got = await backend.get_many(list(values), limit=4 * 4000)
    assert {name: entry.value for name, entry in got.items()} == values
    assert set(await backend.get_many(["m/0", "m/0", "m/none"], limit=4000)) == {"m/0"}
    assert dict(await backend.get_many(["m/none"], limit=0)) == dict(await backend.get_many([], limit=0)) == {}


@_law
async def reading_many_is_of_one_moment(backend: Backend) -> None:
    """While some names are always written together, reading them never sees one without the others."""
    names = [f"t/{i}" for i in range(min(20, backend.max_batch))]
    done = False

    async def write() -> None:
        nonlocal done
        for number in range(20):
            await backend.commit([Put(name, b"%d" % number) for name in names])
        done = True

    async def read() -> None:
        while not done:
            got = await backend.get_many(names)
            assert len({entry.value for entry in got.values()}) <= 1
            assert len({entry.revision for entry in got.values()}) <= 1
            await asyncio.sleep(0)

    await asyncio.gather(write(), read(), read())


# Many at once.


@_law
async def of_racers_one_wins(backend: Backend) -> None:
    """Of many that create one name, or replace one revision, exactly one succeeds and all others get Conflict."""

    async def race(expected: int) -> bytes:
        changes = [Put("race", b"%d" % racer, expected) for racer in range(RACERS)]
        answers = await asyncio.gather(*(backend.commit([c]) for c in changes), return_exceptions=True)
        won = [change for change, answer in zip(changes, answers, strict=True) if isinstance(answer, int)]
        lost = [answer for answer in answers if isinstance(answer, Conflict)]
        assert (len(won), len(lost)) == (1, RACERS - 1)
        return won[0].value

    winner = await race(ABSENT)
    entry = await backend.get("race")
    assert entry is not None
    assert entry.value == winner
    assert await race(entry.revision) == await _value(backend, "race")


@_law
async def counters_lose_nothing(backend: Backend) -> None:
    """Many that read, add one and write back under the revision read, trying again on Conflict, count all."""

    async def add_one() -> None:
        while True:
            entry = await backend.get("counter")
            count, expected = (int(entry.value), entry.revision) if entry else (0, ABSENT)
            try:
                await backend.commit([Put("counter", b"%d" % (count + 1), expected)])
            except Conflict:
                continue
            return

    async def racer() -> None:
        for _ in range(ROUNDS):
            await add_one()

    await asyncio.gather(*(racer() for _ in range(RACERS // 2)))
    assert await _value(backend, "counter") == b"%d" % (RACERS // 2 * ROUNDS)


@_law
async def neighbours_do_not_disturb(backend: Backend) -> None:
    """Commits that run at once, some of them conflicting, each get their own answer and their own revision."""
    await backend.commit([Put("there", b"")])
    batches: list[list[Change]] = [
        [Put(f"own/{i}", b"%d" % i, ABSENT), *([Check("there", ABSENT)] if i % 3 == 0 else [])]
        for i in range(RACERS * 2)
    ]
    answers = await asyncio.gather(*(backend.commit(batch) for batch in batches), return_exceptions=True)

    for i, answer in enumerate(answers):
        entry = await backend.get(f"own/{i}")
        if i % 3 == 0:
            assert isinstance(answer, Conflict)
            assert answer.failed == (Check("there", ABSENT),)
            assert entry is None
        else:
            assert isinstance(answer, int)
            assert entry == Entry(b"%d" % i, answer)
    revisions = [answer for answer in answers if isinstance(answer, int)]
    assert len(revisions) == len(set(revisions))


@_law
async def what_was_answered_is_read(backend: Backend) -> None:
    """A read that begins after a commit returned sees that commit."""

    async def write_and_read(i: int) -> None:
        for number in range(ROUNDS):
            revision = await backend.commit([Put(f"own/{i}", b"%d" % number)])
            assert await backend.get(f"own/{i}") == Entry(b"%d" % number, revision)
            assert f"own/{i}" in (await backend.list("own/")).names

    await asyncio.gather(*(write_and_read(i) for i in range(RACERS)))


@_law
async def a_cancelled_commit_is_whole(backend: Backend) -> None:
    """Cancelling a commit leaves all or nothing of it, and disturbs no other."""
    tasks = [
        asyncio.create_task(backend.commit([Put(f"left/{i}", b""), Put(f"right/{i}", b"")])) for i in range(RACERS)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    last = await backend.commit([Put("last", b"")])

    assert all(isinstance(answer, int) for answer in answers[1::2])
    left = {name.removeprefix("left/") for name in await _all_names(backend, "left/")}
    right = {name.removeprefix("right/") for name in await _all_names(backend, "right/")}
    assert left == right
    assert left >= {str(i) for i in range(1, RACERS, 2)}
    assert await backend.get("last") == Entry(b"", last)


@_law
async def closing_is_final(backend: Backend) -> None:
    """Closing waits for commits under way; closing again does nothing; a closed backend is Unavailable."""
    under_way = asyncio.create_task(backend.commit([Put("a", b"one")]))
    await asyncio.sleep(0)
    await backend.close()
    await backend.close()

    assert await under_way > 0
    for call in (
        lambda: backend.get("a"),
        lambda: backend.get_many(["a"]),
        lambda: backend.list(""),
        lambda: backend.commit([Put("a", b"two")]),
    ):
        with pytest.raises(Unavailable):
            await call()


# Against a model: whatever is done in whatever order, the store says what a dict would.

_NAMES: Final = st.sampled_from(["a", "a/", "a/b", "a/bc", "a/b/c", "b"])
_PREFIXES: Final = st.sampled_from(["", "a", "a/", "a/b", "a/b/", "c"])
_VALUES: Final = st.sampled_from([b"", b"x", b"\x00\xff", b"y" * 5000])
_EXPECTED: Final = st.sampled_from(["none", "absent", "present", "current", "stale"])


@dataclass(frozen=True)
class Step:
    """One change as hypothesis chose it; which revision "current" is only the run can tell."""

    kind: str  # "put" | "delete" | "check" | "vacant"
    name: str
    value: bytes
    expected: str

    def change(self, model: dict[str, Entry]) -> Change:
        """Return the change this step means where the store holds what *model* says."""
        current = model[self.name].revision if self.name in model else ABSENT
        expected = {
            "none": None,
            "absent": ABSENT,
            "present": PRESENT,
            "current": current,
            "stale": max(current - 1, ABSENT),
        }[self.expected]
        match self.kind:
            case "put":
                return Put(self.name, b"" if is_container(self.name) else self.value, expected)
            case "delete":
                return Delete(self.name, expected)
            case "check":
                return Check(self.name, PRESENT if expected is None else expected)
            case _:
                return Vacant(self.name)


BATCHES: Final = st.lists(
    st.lists(
        st.builds(Step, st.sampled_from(["put", "put", "delete", "check", "vacant"]), _NAMES, _VALUES, _EXPECTED),
        min_size=1,
        max_size=4,
        unique_by=lambda step: step.name,
    ),
    min_size=1,
    max_size=12,
)
"""What ``follows_the_model`` is given: batches of steps, each naming a record once."""


async def follows_the_model(backend: Backend, batches: Sequence[Sequence[Step]]) -> None:
    """After every batch, the store holds, lists and refuses what a dict under the same rules does."""
    model: dict[str, Entry] = {}
    for steps in batches:
        changes = [step.change(model) for step in steps]
        failed = tuple(change for change in changes if not _model_holds(change, model))
        if failed:
            assert await _conflict(backend, changes) == failed
        else:
            revision = await backend.commit(changes)
            for change in changes:
                if isinstance(change, Put):
                    model[change.name] = Entry(change.value, revision)
                elif isinstance(change, Delete):
                    model.pop(change.name, None)
        assert await _all_names(backend, limit=2) == sorted(model)
        assert dict(await backend.get_many(["a", "a/", "a/b", "a/bc", "a/b/c", "b"])) == model
        for prefix in ("a", "a/", "a/b", "a/b/"):
            assert await _all_names(backend, prefix) == sorted(name for name in model if name.startswith(prefix))


def _model_holds(change: Change, model: dict[str, Entry]) -> bool:
    """The rule of guards once more, in other words than the store's, so that one can find the other wrong."""
    if isinstance(change, Vacant):
        return all(name == change.prefix or not name.startswith(change.prefix) for name in model)
    match change.expected:
        case None:
            return True
        case 0:
            return change.name not in model
        case -1:
            return change.name in model
        case revision:
            return change.name in model and model[change.name].revision == revision
