"""The directory of access: what it knows is of one moment, and what changes it is known to everybody who asks next."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from strongroom.models import names
from strongroom.models.access import Group, Kind, PrincipalRecord, Right, Role, Rule
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.directory import ATTEMPTS, KEPT, MOST, NAMED, Directory, Epoch, Snapshot
from strongroom.storage_service.access.ruling import Ruling
from strongroom.storage_service.backends.base import Backend, Change, Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Busy, Internal, Invalid, Undecipherable
from strongroom.storage_service.keyring.document import ACCESS_KEYSET
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from tests.directories import directory_of
from tests.keyring.fixed import Fixed
from tests.keyring.interleaving import Order

RING: Final = Ring(
    [DataKey("default.1", bytes(64)), DataKey("access.1", bytes(range(64)))],
    places={names.ACCESS: Place(ACCESS_KEYSET)},
)
ANN: Final = Principal("user:ann", ruled=True)
KEY: Final = Principal("apikey:ci")
OWN: Final = Principal("apikey:own", exempt=True)


def over(store: Backend) -> Directory:
    """Return a worker's directory over *store*, which reads nothing before it is asked."""
    directory = directory_of(store, EncryptedBackend(store, Fixed(RING)))
    directory.learn = lambda: None  # type: ignore[method-assign]
    return directory


def user(note: str = "") -> bytes:
    """Return the record of a user."""
    return msgspec.json.encode(PrincipalRecord(created="2026-11-30T12:00:00Z", created_by="x", note=note))


def rule(effect: str, *patterns: str) -> bytes:
    """Return the record of a rule for everybody."""
    return msgspec.json.encode(
        Rule(effect=effect, subjects=("*",), actions=(Right.READ,), names=patterns)  # type: ignore[arg-type]
    )


@pytest.fixture
async def store() -> MemoryBackend:
    """A store, opened."""
    store = MemoryBackend()
    await store.open()
    return store


async def write(directory: Directory, *changes: Change, edition: str | None = None) -> None:
    """Make *changes*."""
    await directory.change(lambda _: list(changes), edition=edition)


async def test_nothing_changed_costs_one_read(store: MemoryBackend) -> None:
    """Who knows all that is there asks for one revision."""
    directory = over(store)
    await write(directory, Put(names.USERS + "ann", user()))
    await directory.current()
    store.calls.clear()
    assert await directory.current() is await directory.current()
    assert dict(store.calls) == {"get": 2}


async def test_what_changed_elsewhere_is_read_and_no_more(store: MemoryBackend) -> None:
    """Another worker reads the record that changed, whatever else there is, and nobody else's."""
    here, there = over(store), over(store)
    for number in range(40):
        await write(here, Put(f"{names.USERS}u{number}", user()))
    await there.current()
    await write(here, Put(names.USERS + "u7", user("changed")))
    store.calls.clear()
    known = await there.current()
    assert known.principal(Kind.USER, "u7").note == "changed"  # type: ignore[union-attr]
    assert store.calls["list"] == 0
    assert store.calls["get_many"] <= 2  # no record is read that did not change


async def test_who_missed_more_than_is_told_reads_everything(store: MemoryBackend) -> None:
    """After more changes than the epoch names, or one of more records than it names, nothing is missing."""
    here, there = over(store), over(store)
    await there.current()
    for number in range(KEPT + 3):
        await write(here, Put(f"{names.USERS}u{number}", user()))
    assert len((await there.current()).records) == KEPT + 3
    assert (await there.current()).records.keys() == (await here.current()).records.keys()


def test_the_epoch_stays_small() -> None:
    """However many records change at once and however often, it names a bounded number of them."""
    epoch = Epoch()
    for number in range(200):
        epoch = epoch.after([f"{names.USERS}{number}-{each}" for each in range(1 + number % (MOST + 2))])
        assert len(epoch.recent) <= KEPT
        assert sum(len(each.names) for each in epoch.recent) <= NAMED
        assert epoch.number == number + 1
    assert epoch.since(epoch.number, epoch.edition) == set()
    assert epoch.since(0, epoch.edition) is None
    assert epoch.since(epoch.number - 1, "another") is None


@pytest.mark.parametrize("seed", range(60))
async def test_a_snapshot_is_of_one_moment(seed: int) -> None:
    """Two records that always change together are never seen apart, in whichever order all operations come."""
    store = MemoryBackend()
    await store.open()
    order = Order(seed)
    writer, reader = over(order.store("writer", store)), over(order.store("reader", store))
    seen: list[tuple[str, str]] = []

    async def writes() -> None:
        for number in range(4):
            note = user(str(number))
            await write(writer, Put(names.USERS + "a", note), Put(names.USERS + "b", note))

    async def reads() -> None:
        for _ in range(6):
            known = await reader.current()
            notes = [getattr(known.principal(Kind.USER, name), "note", "-") for name in ("a", "b")]
            seen.append((notes[0], notes[1]))

    await order.run(writes(), reads())
    assert all(first == second for first, second in seen)
    assert [each for each, _ in seen] == sorted((each for each, _ in seen), key=lambda text: (text != "-", text))


async def test_what_is_looked_at_holds_when_it_is_committed(store: MemoryBackend) -> None:
    """Twenty workers that each add one to a count at once make it twenty: none overwrites what it had not seen."""

    async def add(directory: Directory) -> None:
        def make(known: Snapshot) -> Sequence[Change]:
            record = known.principal(Kind.USER, "count")
            return [Put(names.USERS + "count", user(str(int(record.note if record else "0") + 1)))]

        await directory.change(make)

    await asyncio.gather(*(add(over(store)) for _ in range(ATTEMPTS)))
    known = await over(store).current()
    assert known.principal(Kind.USER, "count").note == str(ATTEMPTS)  # type: ignore[union-attr]
    assert known.epoch.number == ATTEMPTS


async def test_who_is_always_overtaken_says_so(store: MemoryBackend) -> None:
    """A change that others overtake without end is not made, and that is said."""
    here, there = over(store), over(store)

    real = here._sealed.commit

    async def commit(changes: Sequence[Change]) -> int:
        await write(there, Put(names.USERS + "faster", user()))
        return await real(changes)

    here._sealed.commit = commit  # type: ignore[method-assign]
    with pytest.raises(Busy):
        await write(here, Put(names.USERS + "slow", user()))
    assert (await there.current()).principal(Kind.USER, "slow") is None


async def test_more_than_one_commit_takes_is_refused_whole(store: MemoryBackend) -> None:
    """Of a change of more records than fit none is written."""
    directory = over(store)
    with pytest.raises(Invalid, match="one commit takes"):
        await write(directory, *(Put(f"{names.USERS}u{number}", user()) for number in range(store.max_batch)))
    assert (await store.list("")).names == ()


async def test_an_edition_is_in_force_with_one_commit(store: MemoryBackend) -> None:
    """Rules that lie in another edition are nothing, until the epoch names it: then they alone hold, everywhere."""
    here, there = over(store), over(store)
    await write(here, Put(f"{names.RULES}0/old", rule("allow", "hosts/*")))
    await write(here, Put(f"{names.RULES}next/new", rule("allow", "hosts/*")))
    assert set((await there.current()).rules) == {"old"}
    await write(here, edition="next")
    for directory in (here, there, over(store)):
        assert set((await directory.current()).rules) == {"new"}
        assert (await directory.current()).rule_name("x") == f"{names.RULES}next/x"


@pytest.mark.parametrize("planted", [b"garbage", b"", b"{}"])
async def test_a_damaged_record_is_of_nobody_else(store: MemoryBackend, planted: bytes) -> None:
    """Whoever's record does not open is told so, and nobody else is; it can be ended like any other."""
    directory = over(store)
    await write(directory, Put(names.USERS + "ann", user()), Put(names.USERS + "bob", user()))
    await store.commit([Put(names.USERS + "bob", planted)])
    known = await over(store).current()
    assert known.principal(Kind.USER, "ann") is not None
    with pytest.raises((Undecipherable, Internal)):
        known.principal(Kind.USER, "bob")
    assert known.taken["bob"] == "user:bob"
    assert known.damaged is None


@pytest.mark.parametrize("place", [f"{names.RULES}0/no", names.GROUPS + "ops"])
async def test_a_damaged_rule_or_group_may_have_denied(store: MemoryBackend, place: str) -> None:
    """Where a rule or a group does not open, rules allow nobody anything, and those who bring their reach nothing."""
    directory = over(store)
    group = msgspec.json.encode(Group(created="", created_by="", members={"user:ann": Role.MEMBER}))
    await write(directory, Put(f"{names.RULES}0/no", rule("allow", "**")), Put(names.GROUPS + "ops", group))
    ruling = Ruling()
    ruling.take(await directory.current())
    assert ruling.decide(ANN, Action.GET, "hosts/a") is True
    await store.commit([Put(place, b"garbage")])

    ruling.take(await over(store).current())

    assert ruling.decide(ANN, Action.GET, "hosts/a") is False
    assert ruling.decide(KEY, Action.GET, "hosts/a") is False
    assert ruling.decide(OWN, Action.GET, "hosts/a") is None
    assert list(ruling.visible(ANN, ["hosts/a"])) == []
    assert ruling.rules_out(ANN, Action.LIST, "hosts/")


async def test_what_was_ended_stays_ended_where_its_record_comes_back(store: MemoryBackend) -> None:
    """A record that is put back past the service is not there as long as the mark of its end is."""
    directory = over(store)
    await write(directory, Put(names.USERS + "ann", user()))
    row = await store.get(names.USERS + "ann")
    assert row is not None
    await write(directory, Delete(names.USERS + "ann"), Put(f"{names.SPENT}users/ann/", b""))
    await store.commit([Put(names.USERS + "ann", row.value)])
    for worker in (directory, over(store)):
        known = await worker.current()
        assert known.principal(Kind.USER, "ann") is None
        assert "ann" in known.gone


async def test_rules_are_compiled_for_what_changed(store: MemoryBackend) -> None:
    """A new snapshot decides by its own rules, be one of them new, changed, or gone."""
    directory, ruling = over(store), Ruling()
    for number in range(20):
        await write(directory, Put(f"{names.RULES}0/r{number}", rule("allow", f"hosts/{number}")))
    ruling.take(await directory.current())
    await write(directory, Put(f"{names.RULES}0/r3", rule("deny", "hosts/4")), Delete(f"{names.RULES}0/r5"))
    ruling.take(await directory.current())
    decided = {number: ruling.decide(ANN, Action.GET, f"hosts/{number}") for number in range(20)}
    assert {number for number, allowed in decided.items() if allowed is not True} == {3, 4, 5}
    assert decided[4] is False
    assert ruling.decide(KEY, Action.GET, "hosts/1") is None  # an allow adds nothing to a reach
    assert ruling.decide(KEY, Action.GET, "hosts/4") is False
