"""The rules in the store: one by one, and a whole document that is in force at once or not at all."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.models import names
from strongroom.models.access import ADMINISTRATORS, Credential, Kind, Right, Rule
from strongroom.models.names import ACCESS
from strongroom.storage_service.access.principals import Principals
from strongroom.storage_service.access.rule_document import canonical
from strongroom.storage_service.access.rulebook import ANY, RuleBook, names_of, tag_of, tag_of_all
from strongroom.storage_service.backends.base import MAX_PAGE, Backend, Delete, Put, pages
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Changed, Exists, Fate, InUse, Invalid, NotFound, ServiceError, Unavailable
from strongroom.storage_service.keyring.document import ACCESS_KEYSET
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from tests.access.brute import RULE
from tests.directories import directory_of
from tests.keyring.fixed import Fixed
from tests.keyring.interleaving import Order

RING: Final = Ring(
    [DataKey("default.1", bytes(64)), DataKey("access.1", bytes(range(64)))], places={ACCESS: Place(ACCESS_KEYSET)}
)
NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
BY: Final = "apikey:own"
EVERYTHING: Final = Rule(effect="allow", subjects=("group:administrators",), actions=tuple(Right), names=("**",))
Rules = Mapping[str, Rule]


def rule(effect: str = "allow", *, subject: str = "user:bob", right: Right = Right.READ, name: str = "a/**") -> Rule:
    return Rule(effect="allow" if effect == "allow" else "deny", subjects=(subject,), actions=(right,), names=(name,))


OLD: Final = {f"old{number}": rule(name=f"old/{number}") for number in range(5)}
NEW: Final = {f"new{number}": rule(name=f"new/{number}") for number in range(5)} | {"old0": OLD["old0"]}


@dataclass
class Worker:
    """One worker: its view of a store."""

    store: Backend
    batch: int = 128

    def __post_init__(self) -> None:
        sealed = EncryptedBackend(self.store, Fixed(RING))
        self.directory = directory_of(self.store, sealed)
        self.directory.learn = lambda: None  # type: ignore[method-assign]  # a worker of a test reads when it is asked
        self.principals = Principals(self.directory, now=lambda: NOW)
        self.book = RuleBook(self.directory, self.store, sealed, self.principals, now=lambda: NOW)

    async def import_(self, rules: Rules) -> None:
        await self.book.replace_all(rules, BY, await self.directory.current())

    async def rules(self) -> dict[str, Rule]:
        """The rules in force, as a document has them."""
        return {name: canonical(each) for name, each in (await self.directory.current()).rules.items()}

    async def administrator(self, name: str = "ann") -> None:
        key = Credential(id=f"{len(name):032x}", kind="process", name="k", data=name, created="2026-11-30T12:00:00Z")
        await self.principals.add(Kind.USER, name, BY, credentials=[key], admin=True)


@pytest.fixture
async def store() -> MemoryBackend:
    """An empty store, whose commits are short."""
    return await opened()


async def opened() -> MemoryBackend:
    store = MemoryBackend()
    store.max_batch = 16  # so that an import takes several
    await store.open()
    return store


async def rows(store: Backend) -> list[str]:
    """Return the names of all rows of rules."""
    return list((await store.list(names.RULES, None, MAX_PAGE)).names)


def documented(rules: Rules) -> dict[str, Rule]:
    return {name: canonical(each) for name, each in rules.items()}


# One by one


async def test_a_rule_is_put_told_and_removed(store: MemoryBackend) -> None:
    """What is put is there for every worker, with who made it and when; what is removed is not."""
    one, other = Worker(store), Worker(store)
    written = await one.book.put("r", rule(), BY)

    (kept,) = (await other.directory.current()).rules.values()

    assert written.created
    assert written.tag == tag_of(kept)
    assert (kept.created_by, kept.created) == (BY, "2026-11-30T12:00:00Z")
    assert canonical(kept) == canonical(rule())
    assert not (await one.book.put("r", rule("deny"), BY)).created
    assert (await other.rules())["r"].effect == "deny"
    await other.book.remove("r")
    assert await one.rules() == {}
    with pytest.raises(NotFound):
        await one.book.remove("r")
    assert await rows(store) == []


async def test_what_is_expected_of_a_rule(store: MemoryBackend) -> None:
    """A rule is replaced or removed by its tag, or made where there is none; else nothing is done."""
    book = Worker(store).book
    with pytest.raises(Changed):
        await book.put("r", rule(), BY, ANY)
    first = (await book.put("r", rule(), BY, "")).tag
    with pytest.raises(Exists):
        await book.put("r", rule("deny"), BY, "")
    second = (await book.put("r", rule("deny"), BY, first)).tag
    for expected in (first, "0" * 32):
        with pytest.raises(Changed):
            await book.put("r", rule(), BY, expected)
        with pytest.raises(Changed):
            await book.remove("r", expected)
    await book.put("r", rule("deny"), BY, ANY)
    await book.remove("r", second)


@pytest.mark.parametrize("name", ["", "a/b", "-", "a b", "../x", "*", "a" * 65])
async def test_what_no_rule_is_called(store: MemoryBackend, name: str) -> None:
    """No pattern, path or anything too long names a rule, and nothing is written; nor is a rule that is none."""
    book = Worker(store).book
    with pytest.raises(Invalid):
        await book.put(name, rule(), BY)
    with pytest.raises(Invalid) as caught:
        await book.put("r", rule(name="a//b"), BY)
    assert [field for field, _ in caught.value.faults] == ["names"]
    assert await rows(store) == []


async def test_a_damaged_rule_can_be_mended(store: MemoryBackend) -> None:
    """A record that does not open is told by its name; it can be removed, replaced, or left behind by an import."""
    worker = Worker(store)
    mendings = (
        lambda book: book.remove("r"),
        lambda book: book.put("r", rule(), BY),
    )
    for mend in mendings:
        await worker.book.put("r", rule(), BY)
        known = await worker.directory.current()
        await store.commit([Put(known.rule_name("r"), b"nonsense")])
        fresh = Worker(store)
        damaged = await fresh.directory.current()
        assert (names_of(damaged), damaged.rules) == (["r"], {})
        assert damaged.damaged is not None
        await mend(fresh.book)
        assert (await Worker(store).directory.current()).damaged is None
    await store.commit([Put((await worker.directory.current()).rule_name("x"), b"nonsense")])
    fresh = Worker(store)
    await fresh.import_(NEW)
    again = await Worker(store).directory.current()
    assert (again.damaged, names_of(again)) == (None, sorted(NEW))


async def test_a_rule_that_is_put_back_or_removed_in_the_store(store: MemoryBackend) -> None:
    """Who writes the store puts a removed rule back where it lay, or removes one; under another name it is damaged."""
    worker = Worker(store)
    await worker.book.put("r", rule("deny"), BY)
    place = (await worker.directory.current()).rule_name("r")
    row = await store.get(place)
    assert row is not None
    await store.commit([Delete(place)])
    assert await Worker(store).rules() == {}
    await store.commit([Put(place, row.value)])
    assert await Worker(store).rules() == {"r": canonical(rule("deny"))}
    await store.commit([Put(f"{place}2", row.value)])
    assert (await Worker(store).directory.current()).damaged is not None


# A whole document


@given(st.dictionaries(st.sampled_from("abcdef"), RULE), st.dictionaries(st.sampled_from("abcdef"), RULE))
@settings(max_examples=40, deadline=None)
def test_an_import_puts_a_document_in_the_place_of_all(before: dict[str, Rule], after: dict[str, Rule]) -> None:
    """Whatever rules there are, an import leaves those of the document alone, and no other row."""

    async def imports() -> None:
        store = await opened()
        worker = Worker(store)
        await worker.import_(before)
        kept = (await worker.directory.current()).rules

        await worker.import_(after)

        known = await Worker(store).directory.current()
        assert documented(known.rules) == documented(after)
        assert await rows(store) == sorted(known.rule_name(name) for name in after)
        for name in after.keys() & kept.keys():
            if canonical(kept[name]) == canonical(after[name]):
                assert known.rules[name] == kept[name]  # who made it, and when, stays

    asyncio.run(imports())


async def test_an_import_of_ten_thousand() -> None:
    """An import of 10,000 rules is in force as one, and leaves one row for each."""
    store = MemoryBackend()
    await store.open()
    many = {f"r{number}": rule(name=f"a/{number}") for number in range(10_000)}

    await Worker(store).import_(many)

    assert documented((await Worker(store).directory.current()).rules) == documented(many)
    assert sum([len(page) async for page in pages(store.list, names.RULES)]) == 10_000


async def test_what_was_imported_is_what_its_tag_says(store: MemoryBackend) -> None:
    """The tag of all rules is another whenever a rule is, and not when a user is added."""
    worker = Worker(store)
    await worker.import_(OLD)
    first = tag_of_all(await worker.directory.current())
    await worker.principals.add(Kind.USER, "bob", BY)
    assert tag_of_all(await worker.directory.current()) == first
    await worker.book.put("old1", rule("deny"), BY)
    assert tag_of_all(await worker.directory.current()) != first


FAULTS: Final = [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER, Fault.LOST]


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_import_is_whole_or_not_at_all(fault: Fault) -> None:
    """Killed, or without an answer, at each operation of an import: the old rules hold, or the new, and no mixture.

    What is told of it is true, and the next import leaves no row of the one that was broken off.
    """
    reached = 0
    ends = set()
    for number in itertools.count():
        store = await opened()
        await Worker(store).import_(OLD)
        faulty = FaultyBackend(store, {number: fault})
        told: object = None
        try:
            await Worker(faulty).import_(NEW)
        except Killed:
            told = Killed
        except ServiceError as error:
            told = error.fate if isinstance(error, Unavailable) else error
        if not faulty.faults.keys() & set(range(len(faulty.operations))):
            break
        reached += 1
        now = await Worker(store).rules()
        assert now in (documented(OLD), documented(NEW))
        if told is None:
            assert now == documented(NEW)
        elif told is Fate.NOT_APPLIED:
            assert now == documented(OLD)
        ends.add(now == documented(NEW))
        await Worker(store).book.put("more", rule(), BY)  # and others go on
        await Worker(store).import_({"last": rule()})
        known = await Worker(store).directory.current()
        assert await rows(store) == [known.rule_name("last")]
    assert reached > 8
    assert ends == {True, False}


async def test_two_imports_at_once() -> None:
    """Of two imports at once, and a rule that is put meanwhile, each is there whole or told that it is not."""
    outcomes = set()
    for seed in range(60):
        store = await opened()
        await Worker(store).import_(OLD)
        order = Order(seed)
        documents = {"one": {f"one{n}": rule() for n in range(4)}, "two": {f"two{n}": rule() for n in range(7)}}
        told: dict[str, str] = {}

        async def imports(who: str, order: Order = order, store: Backend = store, told: dict[str, str] = told) -> None:
            try:
                await Worker(order.store(who, store)).import_(documents[who])  # noqa: B023  # run within the round
            except Changed:
                told[who] = "changed"
            else:
                told[who] = "done"

        async def puts(order: Order = order, store: Backend = store) -> None:
            await Worker(order.store("put", store)).book.put("put", rule(), BY)

        await order.run(imports("one"), imports("two"), puts())

        now = set(await Worker(store).rules())
        done = [who for who, what in told.items() if what == "done"]
        possible = [{*documents[who], *more} for who in done for more in ((), ("put",))] or [{*OLD, "put"}]
        assert now in possible, (seed, now, told)
        outcomes.add(tuple(sorted(told.items())))
        await Worker(store).import_({"last": rule()})
        assert len(await rows(store)) == 1
    assert len(outcomes) > 2


async def test_an_import_that_comes_too_late(store: MemoryBackend) -> None:
    """Where a rule was changed since the rules were looked at, nothing is done, and nothing of it is left."""
    worker = Worker(store)
    await worker.import_(OLD)
    seen = await worker.directory.current()
    await worker.book.put("old1", rule("deny"), BY)
    before = await rows(store)

    with pytest.raises(Changed):
        await worker.book.replace_all(NEW, BY, seen)

    assert await rows(store) == before
    await worker.principals.add(Kind.USER, "bob", BY)
    seen = await worker.directory.current()
    await worker.principals.add(Kind.USER, "eve", BY)
    await worker.book.replace_all(NEW, BY, seen)  # that somebody was added is nothing to the rules


# The last way in

SHUT_OUT: Final[dict[str, Rules]] = {
    "no rule": {},
    "for somebody else": {"r": rule(right=Right.ACCESS, name="**", subject="user:bob")},
    "without access": {"r": rule(subject="group:administrators", name="**")},
    "of another place": {"r": rule(subject="group:administrators", right=Right.ACCESS, name="secrets/**")},
    "denied to the group": {
        "a": EVERYTHING,
        "r": rule("deny", subject="group:administrators", right=Right.ACCESS, name="**"),
    },
    "denied to everybody": {
        "a": EVERYTHING,
        "r": rule("deny", subject="*", right=Right.ACCESS, name="system/access/**"),
    },
    "denied the rule that denies": {
        "a": EVERYTHING,
        "r": rule("deny", subject="*", right=Right.ACCESS, name="system/access/rules/r"),
    },
    "until it expires": {
        "a": Rule(
            effect="allow",
            subjects=("group:administrators",),
            actions=(Right.ACCESS,),
            names=("**",),
            expires="2027-01-01T00:00:00Z",
        )
    },
}


@pytest.mark.parametrize("case", SHUT_OUT)
async def test_nobody_shuts_out_all_administrators(store: MemoryBackend, case: str) -> None:
    """Rules under which no administrator could mend them are refused, imported or put, and what was there holds."""
    worker = Worker(store)
    await worker.administrator()
    before = await worker.rules()
    kept = await rows(store)

    with pytest.raises(InUse):
        await worker.import_(SHUT_OUT[case])

    assert await worker.rules() == before
    assert await rows(store) == kept
    for name, each in SHUT_OUT[case].items():
        if each.effect == "deny":
            with pytest.raises(InUse):
                await worker.book.put(name, each, BY)
    with pytest.raises(InUse):
        await worker.book.remove(ADMINISTRATORS)
    with pytest.raises(InUse):
        await worker.book.put(ADMINISTRATORS, rule(), BY)


NOT_SHUT_OUT: Final[dict[str, Rules]] = {
    "another rule": {"r": rule(subject="user:ann", right=Right.ACCESS, name="system/access/**")},
    "from a network": {
        "r": Rule(
            effect="allow",
            subjects=("*",),
            actions=(Right.ACCESS,),
            names=("**",),
            networks=("192.0.2.0/24",),
        )
    },
    "denied from a network": {
        "a": EVERYTHING,
        "r": Rule(
            effect="deny", subjects=("*",), actions=(Right.ACCESS,), names=("**",), networks=("0.0.0.0/0", "::/0")
        ),
    },
    "denied a secret": {"a": EVERYTHING, "r": rule("deny", subject="*", name="secrets/**")},
    "denied to one of two": {
        "a": EVERYTHING,
        "r": rule("deny", subject="user:ann", right=Right.ACCESS, name="**"),
    },
}


@pytest.mark.parametrize("case", NOT_SHUT_OUT)
async def test_what_leaves_a_way_in(store: MemoryBackend, case: str) -> None:
    """Rules under which an administrator can mend them from somewhere are taken."""
    worker = Worker(store)
    await worker.administrator()
    await worker.administrator("carla")

    await worker.import_(NOT_SHUT_OUT[case])

    assert await worker.rules() == documented(NOT_SHUT_OUT[case])


async def test_where_nobody_could_anyway(store: MemoryBackend) -> None:
    """Without an administrator who can come in, rules are made and removed freely."""
    worker = Worker(store)
    await worker.principals.add(Kind.USER, "ann", BY, admin=True)  # who waits to be set up
    await worker.import_({})
    await worker.import_(SHUT_OUT["denied to everybody"])
    await worker.book.remove("a")


async def test_two_do_not_shut_out_all_together() -> None:
    """Of two who each take one of two ways in at once, one is refused, in every order of what they do."""
    for seed in range(30):
        store = await opened()
        worker = Worker(store)
        await worker.administrator()
        await worker.book.put("second", EVERYTHING, BY)
        order = Order(seed)
        refused: list[str] = []

        async def take(name: str, order: Order = order, refused: list[str] = refused, store: Backend = store) -> None:
            try:
                await Worker(order.store(name, store)).book.remove(name)
            except InUse:
                refused.append(name)

        await order.run(take("second"), take(ADMINISTRATORS))

        assert len(refused) == 1
        assert list(await Worker(store).rules()) == refused
