"""Users, services and groups in the store: what holds of them whoever asks, also of two who act at once."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import pytest

from strongroom.models import access, names
from strongroom.models.access import ADMINISTRATORS, Credential, Group, Kind, PrincipalRecord, Role
from strongroom.models.names import ACCESS
from strongroom.models.secret import Secret
from strongroom.storage_service.access import principals
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.directory import Damaged, Snapshot, principal_name, spent
from strongroom.storage_service.access.principals import FIRST_WINDOW, WINDOW, Principals
from strongroom.storage_service.backends.base import MAX_PAGE, Backend, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    Denied,
    Exists,
    Internal,
    InUse,
    Invalid,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
)
from strongroom.storage_service.keyring.document import ACCESS_KEYSET
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from tests.directories import directory_of
from tests.keyring.fixed import Fixed
from tests.keyring.interleaving import Order

RING: Final = Ring(
    [DataKey("default.1", bytes(64)), DataKey("access.1", bytes(range(64)))], places={ACCESS: Place(ACCESS_KEYSET)}
)
OWN: Final = ("storage_service", Secret("own-key"))
BEGUN: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
BY: Final = "apikey:own"
USER, SERVICE = Kind.USER, Kind.SERVICE
_numbers = itertools.count(1)


def credential(
    name: str = "laptop", *, kind: str = "process", data: str = "", expires: str | None = None
) -> Credential:
    """Return a credential that nobody else has."""
    number = next(_numbers)
    return Credential(
        id=f"{number:032x}",
        kind=kind,
        name=name,
        data=data or str(number),
        created="2026-11-30T12:00:00Z",
        expires=expires,
    )


@dataclass
class Worker:
    """One worker: its view of a store, and a clock that stands until it is moved."""

    store: Backend
    now: datetime = BEGUN
    codes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directory = directory_of(self.store, EncryptedBackend(self.store, Fixed(RING)))
        self.directory.learn = lambda: None  # type: ignore[method-assign]  # a worker of a test reads when it is asked
        self.principals = Principals(
            self.directory, reserved=["storage_service"], now=lambda: self.now, random=lambda: f"code-{len(self.codes)}"
        )
        self.keys = ApiKeys(self.directory, OWN, now=lambda: self.now)

    async def add(self, name: str, *, kind: Kind = USER, admin: bool = False) -> Credential:
        """Add somebody with a credential."""
        made = credential()
        await self.principals.add(kind, name, BY, credentials=[made], admin=admin)
        return made

    async def snapshot(self) -> Snapshot:
        return await self.directory.current()

    async def groups_of(self, user: str) -> frozenset[str]:
        return (await self.snapshot()).groups.get(f"user:{user}", frozenset())


@pytest.fixture
async def store() -> MemoryBackend:
    """An empty store."""
    store = MemoryBackend()
    await store.open()
    return store


@pytest.fixture
def worker(store: MemoryBackend) -> Worker:
    """One worker on it."""
    return Worker(store)


async def rows(store: Backend) -> dict[str, bytes]:
    """Return all that a store holds."""
    page = await store.list("", None, MAX_PAGE)
    return {name: entry.value for name, entry in (await store.get_many(page.names)).items()}


# Names


_CREATORS: Final[dict[str, Callable[[Worker, str], Awaitable[object]]]] = {
    "user": lambda worker, name: worker.add(name),
    "service": lambda worker, name: worker.add(name, kind=SERVICE),
    "apikey": lambda worker, name: worker.keys.create(name, ["/secrets"], ["get"]),
}
_ENDERS: Final[dict[str, Callable[[Worker, str], Awaitable[object]]]] = {
    "user": lambda worker, name: worker.principals.remove(USER, name),
    "service": lambda worker, name: worker.principals.remove(SERVICE, name),
    "apikey": lambda worker, name: worker.keys.revoke(name),
}


@pytest.mark.parametrize("first", _CREATORS)
@pytest.mark.parametrize("second", _CREATORS)
@pytest.mark.parametrize("spelled", ["ann", "Ann", "ANN"])
async def test_a_name_is_one_in_whatever_case(worker: Worker, first: str, second: str, spelled: str) -> None:
    """Users, services and API keys share their names, in which case plays no part; an ended one's is nobody's."""
    await _CREATORS[first](worker, "ann")
    with pytest.raises(Exists, match="exists"):
        await _CREATORS[second](worker, spelled)

    await _ENDERS[first](worker, "ann")

    with pytest.raises(Exists, match="never given again"):
        await _CREATORS[second](worker, spelled)
    elsewhere = Worker(worker.store)
    with pytest.raises(Exists, match="never given again"):
        await _CREATORS[second](elsewhere, spelled)


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "../ann", "-ann", ".ann", "user:ann", "a*", "a,b", "**", "{principal}", "a" * 65, "ñ"]
)
async def test_what_is_no_name(worker: Worker, name: str) -> None:
    """No spelling of a pattern, a path or a kind, and nothing too long, is a name; nothing is written."""
    for kind in Kind:
        with pytest.raises(Invalid) as caught:
            await worker.principals.add(kind, name, BY)
        assert name == "" or name not in str(caught.value)
    with pytest.raises(Invalid):
        await worker.principals.add_group(name, BY)

    assert await rows(worker.store) == {}


async def test_nobody_is_called_as_a_process_or_as_the_service(worker: Worker) -> None:
    """A number, by which processes are known, and the service's own API id in any case, make nobody."""
    for kind in Kind:
        with pytest.raises(Invalid, match="processes"):
            await worker.principals.add(kind, "1000", BY)
        with pytest.raises(Exists):
            await worker.principals.add(kind, "Storage_Service", BY)


async def test_names_of_groups_are_their_own(worker: Worker) -> None:
    """A group may be called as somebody is or was; two groups may not differ by case alone, nor come again."""
    await worker.add("ops")
    await worker.principals.add_group("ops", BY)
    for again in ("ops", "OPS"):
        with pytest.raises(Exists):
            await worker.principals.add_group(again, BY)

    await worker.principals.remove_group("ops")

    for again in ("ops", "Ops"):
        with pytest.raises(Exists, match="never given again"):
            await worker.principals.add_group(again, BY)
    await worker.principals.add_group("web", BY)
    await worker.principals.remove_group("web")
    await worker.add("web")  # that a group had the name takes it from nobody


async def test_one_of_two_gets_a_name(store: MemoryBackend) -> None:
    """Of a user, a service and an API key that are made at once with one name, exactly one is there afterwards."""
    for seed in range(60):
        order, name = Order(seed), f"x{seed}"
        ends: list[str] = []

        async def make(kind: str, order: Order = order, name: str = name, ends: list[str] = ends) -> None:
            try:
                await _CREATORS[kind](Worker(order.store(kind, store)), name.upper() if kind == "user" else name)
            except Exists:
                return
            ends.append(kind)

        await order.run(*map(make, _CREATORS))

        assert len(ends) == 1
        assert (await Worker(store).snapshot()).taken[name].partition(":")[0] == ends[0]


# Setting up


async def test_a_window_by_the_clock(worker: Worker) -> None:
    """A code is good until its window ends and not at that moment; a name that waits is told so, and then set anew."""
    made = await worker.principals.add(USER, "ann", BY)
    assert made.code is not None
    assert made.expires == "2026-11-30T12:05:00Z"
    worker.now = BEGUN + timedelta(seconds=WINDOW - 1)
    with pytest.raises(Exists, match="is waiting for setup"):
        await worker.principals.add(USER, "ann", BY)
    await worker.principals.check_code(USER, "ann", made.code.reveal())

    worker.now = BEGUN + timedelta(seconds=WINDOW)
    with pytest.raises(Denied):
        await worker.principals.set_up(USER, "ann", made.code.reveal(), credential())
    worker.codes.append("")
    again = await worker.principals.add(USER, "ann", BY)
    with pytest.raises(Denied):
        await worker.principals.set_up(USER, "ann", made.code.reveal(), credential())
    assert again.code is not None
    await worker.principals.set_up(USER, "ann", again.code.reveal(), credential())
    with pytest.raises(Exists, match="exists already"):
        await worker.principals.add(USER, "ann", BY)
    with pytest.raises(Denied):  # a code is used once
        await worker.principals.set_up(USER, "ann", again.code.reveal(), credential("second"))


async def test_the_first_administrator_has_longer(worker: Worker) -> None:
    """The first one's window is 900 seconds, another's 300; first is who comes where nobody can administer."""
    first = await worker.principals.add(USER, "ann", BY, admin=True)
    assert first.first
    assert first.expires == "2026-11-30T12:15:00Z"
    assert first.code is not None
    await worker.principals.set_up(USER, "ann", first.code.reveal(), credential())

    second = await worker.principals.add(USER, "bob", BY, admin=True)

    assert (second.first, second.expires) == (False, "2026-11-30T12:05:00Z")
    assert FIRST_WINDOW > WINDOW


async def test_who_is_added_anew_is_what_is_said_then(worker: Worker) -> None:
    """Whose window passed as an administrator is none when added again without saying so."""
    await worker.principals.add(USER, "ann", BY, admin=True)
    worker.now += timedelta(seconds=FIRST_WINDOW)

    await worker.principals.add(USER, "ann", BY)

    assert await worker.groups_of("ann") == frozenset()


@pytest.mark.parametrize("code", ["", "code-1", " code-0", "code-0 ", "CODE-0", "code-0\n", "\ud800", "0" * 64])
async def test_a_code_that_is_not_the_one(worker: Worker, store: MemoryBackend, code: str) -> None:
    """Anything but the code to the letter is refused as a name is that nobody has, and nothing is written."""
    await worker.principals.add(USER, "ann", BY)
    await worker.add("bob")
    before = await rows(store)
    told = set()
    for name in ("ann", "bob", "nobody"):
        with pytest.raises(Denied) as caught:
            await worker.principals.set_up(USER, name, code, credential())
        told.add(str(caught.value))
    with pytest.raises(Denied) as caught:
        await worker.principals.set_up(SERVICE, "ann", "code-0", credential())

    assert told == {str(caught.value)}
    assert await rows(store) == before


async def test_a_code_is_used_once_by_two(store: MemoryBackend) -> None:
    """Two who set themselves up at once with one code: one does, and the other is refused."""
    for seed in range(40):
        beginning = Worker(store)
        made = await beginning.principals.add(USER, f"u{seed}", BY)
        assert made.code is not None
        won: list[str] = []
        order, code = Order(seed), made.code.reveal()

        async def set_up(
            who: str, order: Order = order, seed: int = seed, won: list[str] = won, code: str = code
        ) -> None:
            worker = Worker(order.store(who, store))
            try:
                await worker.principals.set_up(USER, f"u{seed}", code, credential(who))
            except Denied:
                return
            won.append(who)

        await order.run(set_up("one"), set_up("two"))

        assert len(won) == 1
        (kept,) = (await Worker(store).principals.get(USER, f"u{seed}")).credentials
        assert kept.name == won[0]


# The last way in


async def test_the_last_administrator_stays(worker: Worker) -> None:
    """None of the ways to lose the last administrator goes; with a second one, all do."""
    only = await worker.add("ann", admin=True)
    await worker.principals.add_credential(USER, "ann", credential("old", expires="2026-11-30T11:00:00Z"))
    ways: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: worker.principals.remove_credential(USER, "ann", only.id),
        lambda: worker.principals.remove_member(ADMINISTRATORS, "user:ann"),
        lambda: worker.principals.disable(USER, "ann"),
        lambda: worker.principals.remove(USER, "ann"),
        lambda: worker.principals.remove_group(ADMINISTRATORS),
    )
    await worker.add("waiting")
    await worker.principals.add(USER, "late", BY, admin=True)  # who waits for setup cannot come in
    for way in ways:
        with pytest.raises(InUse):
            await way()
    await worker.add("bob", admin=True)

    await worker.principals.disable(USER, "ann")
    with pytest.raises(InUse):  # bob is the last one now
        await worker.principals.disable(USER, "bob")
    await worker.principals.disable(USER, "ann", disabled=False)
    await worker.principals.remove_member(ADMINISTRATORS, "user:ann")
    await worker.principals.remove(USER, "ann")


_TAKERS: Final[dict[str, Callable[[Worker, str], Awaitable[object]]]] = {
    "remove": lambda worker, name: worker.principals.remove(USER, name),
    "disable": lambda worker, name: worker.principals.disable(USER, name),
    "leave": lambda worker, name: worker.principals.remove_member(ADMINISTRATORS, f"user:{name}"),
}


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations_with_replacement(_TAKERS, 2)))
async def test_two_do_not_take_the_last_way_in_together(one: str, two: str) -> None:
    """Of two who each take one of two administrators at once, one is refused, in every order of what they do."""
    for seed in range(25):
        store = MemoryBackend()
        await store.open()
        for name in ("ann", "bob"):
            await Worker(store).add(name, admin=True)
        refused: list[str] = []
        order = Order(seed)

        async def take(way: str, name: str, order: Order = order, refused: list[str] = refused) -> None:
            try:
                await _TAKERS[way](Worker(order.store(name, store)), name)  # noqa: B023  # run within the round
            except InUse:
                refused.append(name)

        await order.run(take(one, "ann"), take(two, "bob"))

        known = await Worker(store).snapshot()
        assert len(refused) == 1
        assert Worker(store).principals._administrators(known) == {f"user:{refused[0]}"}


@pytest.mark.parametrize("name", ["root", "recovery", "Root", "RECOVERY"])
async def test_root_and_recovery_stay(worker: Worker, name: str) -> None:
    """They are not removed, whoever else there is; nor is their last credential. A service may be called so."""
    made = await worker.add(name)
    await worker.add("ann", admin=True)

    with pytest.raises(InUse, match="protected"):
        await worker.principals.remove(USER, name)
    with pytest.raises(InUse):
        await worker.principals.remove_credential(USER, name, made.id)
    await worker.principals.disable(USER, name)


async def test_what_rules_begin_with(worker: Worker) -> None:
    """The first administrator brings the group and its one rule, which allows all; the second brings none."""
    await worker.add("ann", admin=True)
    await worker.add("bob", admin=True)

    known = await worker.snapshot()

    assert set(known.rules) == {ADMINISTRATORS}
    rule = known.rules[ADMINISTRATORS]
    assert (rule.effect, rule.subjects, rule.names) == ("allow", ("group:administrators",), ("**",))
    assert set(rule.actions) == set(access.Right)
    group = known.group(ADMINISTRATORS)
    assert group is not None
    assert group.members == {"user:ann": Role.MANAGER, "user:bob": Role.MANAGER}


# Credentials


async def test_a_credential_is_ones_own(worker: Worker) -> None:
    """What one proves himself with nobody else has, of any kind of principal; passwords may be alike, untold."""
    await worker.principals.add(
        USER, "ann", BY, credentials=[credential(data="7"), credential("pw", kind="password", data="h")]
    )
    code = (await worker.principals.add(SERVICE, "runner", BY)).code
    assert code is not None
    await worker.add("bob")
    ways = (
        lambda: worker.principals.add(USER, "eve", BY, credentials=[credential(data="7")]),
        lambda: worker.principals.set_up(SERVICE, "runner", code.reveal(), credential(data="7")),
        lambda: worker.principals.add_credential(USER, "bob", credential("same", data="7")),
        lambda: worker.principals.add_credential(USER, "ann", credential("same", data="7")),
        lambda: worker.principals.add(
            USER, "eve", BY, credentials=[credential("a", data="8"), credential("b", data="8")]
        ),
        lambda: worker.principals.add(USER, "eve", BY, credentials=[credential("a"), credential("a")]),
    )
    for way in ways:
        with pytest.raises(Exists):
            await way()
    await worker.principals.add_credential(USER, "bob", credential("pw", kind="password", data="h"))
    await worker.principals.set_up(SERVICE, "runner", code.reveal(), credential(data="9"))


async def test_of_one_name_and_at_most_thirty_two(worker: Worker) -> None:
    """Two credentials of one principal have different names, and there are 32 at most; the only one stays."""
    first = await worker.add("ann")
    with pytest.raises(Exists):
        await worker.principals.add_credential(USER, "ann", credential(first.name))
    for number in range(31):
        await worker.principals.add_credential(USER, "ann", credential(f"k{number}"))
    with pytest.raises(Invalid, match="at most 32"):
        await worker.principals.add_credential(USER, "ann", credential("more"))
    for number in range(31):
        await worker.principals.remove_credential(USER, "ann", f"k{number}")

    with pytest.raises(InUse, match="the only credential"):
        await worker.principals.remove_credential(USER, "ann", first.id)
    with pytest.raises(NotFound):
        await worker.principals.remove_credential(USER, "ann", "none")


async def test_an_id_comes_before_a_name(worker: Worker) -> None:
    """A credential that is called as another's id takes nothing with it, and an expired one is no way in."""
    first = await worker.add("ann")
    await worker.principals.add_credential(USER, "ann", credential(first.id))
    await worker.principals.add_credential(USER, "ann", credential("old", expires="2026-11-30T11:59:59Z"))

    await worker.principals.remove_credential(USER, "ann", first.id)

    kept = (await worker.principals.get(USER, "ann")).credentials
    assert [each.name for each in kept] == [first.id, "old"]
    with pytest.raises(InUse):
        await worker.principals.remove_credential(USER, "ann", first.id)
    await worker.principals.remove_credential(USER, "ann", "old")


async def test_tokens_end_no_later_than_was_said(worker: Worker) -> None:
    """What is to end is not put off, what has ended does not live again, and to be shut out ends all there were."""
    await worker.add("ann")

    async def ended() -> tuple[int, str | None]:
        record = await worker.principals.get(USER, "ann")
        return record.epoch, record.ends

    await worker.principals.end_tokens(USER, "ann", timedelta(minutes=10))
    await worker.principals.end_tokens(USER, "ann", timedelta(hours=1))
    assert await ended() == (0, "2026-11-30T12:10:00Z")
    await worker.principals.end_tokens(USER, "ann", timedelta(minutes=5))
    assert await ended() == (0, "2026-11-30T12:05:00Z")
    worker.now += timedelta(minutes=5)
    await worker.principals.end_tokens(USER, "ann", timedelta(minutes=10))
    assert await ended() == (1, "2026-11-30T12:15:00Z")  # else those of before 12:05 lived until 12:15
    await worker.principals.end_tokens(USER, "ann")
    assert await ended() == (2, None)
    await worker.principals.disable(USER, "ann")
    await worker.principals.disable(USER, "ann", disabled=False)
    assert await ended() == (4, None)


# Groups


async def test_members_are_somebody(worker: Worker) -> None:
    """Who has a record may be in a group: no other group, no process, nobody, and nothing that leads elsewhere."""
    await worker.add("ann")
    await worker.add("runner", kind=SERVICE)
    await worker.keys.create("ci", ["/"], ["get"])
    await worker.principals.add_group("ops", BY)
    for member in ("user:ann", "service:runner", "apikey:ci"):
        await worker.principals.add_member("ops", member, Role.MEMBER)
    odd = ("user:bob", "user:Ann", "service:1000", "group:ops", "ann", "*", "", "x:system/access/users/ann", "user:")
    for member in odd:
        with pytest.raises(NotFound):
            await worker.principals.add_member("ops", member, Role.MEMBER)
    with pytest.raises(NotFound):
        await worker.principals.add_member("none", "user:ann", Role.MEMBER)
    with pytest.raises(NotFound):
        await worker.principals.remove_member("ops", "user:bob")

    await worker.principals.add_member("ops", "user:ann", Role.MANAGER)

    assert (await worker.principals.group("ops")).members["user:ann"] is Role.MANAGER
    assert await worker.groups_of("ann") == {"ops"}


async def test_who_was_ended_is_in_no_group(worker: Worker, store: MemoryBackend) -> None:
    """A user, a service or an API key that is ended is in none of a hundred groups, after one commit of two rows."""
    await worker.add("ann")
    await worker.keys.create("ci", ["/"], ["get"])
    for number in range(100):
        await worker.principals.add_group(f"g{number}", BY)
        for member in ("user:ann", "apikey:ci"):
            await worker.principals.add_member(f"g{number}", member, Role.MANAGER)

    await worker.principals.remove(USER, "ann")
    await worker.keys.revoke("ci")

    for known in (await worker.snapshot(), await Worker(store).snapshot()):
        assert not known.groups
    assert not any(group.members for group in (await worker.principals.groups()).values())
    await worker.add("bob")
    await worker.principals.add_member("g0", "user:bob", Role.MEMBER)
    assert (await worker.principals.group("g0")).members == {"user:bob": Role.MEMBER}
    record: Group = (await worker.snapshot()).record(names.GROUPS + "g0")
    assert record.members == {"user:bob": Role.MEMBER}  # and the next change drops it from the record, too


async def test_a_group_that_does_not_fit(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group whose record would be longer than what is stored can be takes nobody more, and stays as it is."""
    await worker.principals.add_group("ops", BY)
    for name in ("ann", "bob"):
        await worker.add(name)
    await worker.principals.add_member("ops", "user:ann", Role.MEMBER)
    size = len(msgspec.json.encode((await worker.snapshot()).record(names.GROUPS + "ops")))
    monkeypatch.setattr(principals, "MAX_JOURNAL", size + 5)

    with pytest.raises(TooLarge):
        await worker.principals.add_member("ops", "user:bob", Role.MEMBER)

    assert (await worker.principals.group("ops")).members == {"user:ann": Role.MEMBER}


# Damage, and death


async def test_what_is_damaged_can_be_ended_and_made_anew(worker: Worker, store: MemoryBackend) -> None:
    """A damaged user is an error to who asks for it alone, and can be removed; a damaged group allows nobody."""
    await worker.add("ann", admin=True)
    await worker.add("bob")
    await worker.principals.add_group("ops", BY)
    for name in (principal_name(USER, "bob"), names.GROUPS + ADMINISTRATORS):
        await store.commit([Put(name, b"garbage")])

    fresh = Worker(store)
    known = await fresh.snapshot()
    assert known.damaged is not None
    assert isinstance(known.records[principal_name(USER, "bob")], Damaged)
    with pytest.raises(Internal):
        await fresh.principals.get(USER, "bob")
    assert (await fresh.principals.get(USER, "ann")).credentials
    with pytest.raises(Internal):  # nobody can tell whether she is the last one
        await fresh.principals.remove(USER, "ann")
    added = await fresh.principals.add(USER, "eve", BY, admin=True)
    assert added.first
    await fresh.principals.remove(USER, "bob")

    assert (await fresh.snapshot()).damaged is None
    assert await fresh.groups_of("ann") == frozenset()


async def test_what_was_removed_does_not_come_back(worker: Worker, store: MemoryBackend) -> None:
    """A record that somebody puts back into the store, as it was, is nobody."""
    await worker.add("ann", admin=True)
    await worker.add("bob", admin=True)
    row = await store.get(principal_name(USER, "ann"))
    assert row is not None
    await worker.principals.remove(USER, "ann")

    await store.commit([Put(principal_name(USER, "ann"), row.value)])

    fresh = Worker(store)
    with pytest.raises(NotFound):
        await fresh.principals.get(USER, "ann")
    assert await fresh.groups_of("ann") == frozenset()


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER])
async def test_a_removal_is_whole_or_not_at_all(fault: Fault) -> None:
    """Killed, or without an answer, at each operation of a removal: all of the user is there afterwards, or nothing."""
    reached = 0
    for number in itertools.count():
        store = MemoryBackend()
        await store.open()
        begun = Worker(store)
        await begun.add("ann", admin=True)
        await begun.add("bob", admin=True)
        await begun.principals.add_group("ops", BY)
        await begun.principals.add_member("ops", "user:ann", Role.MANAGER)
        before = await rows(store)
        faulty = FaultyBackend(store, {number: fault})
        try:
            await Worker(faulty).principals.remove(USER, "ann")
        except (Killed, ServiceError):
            reached += 1
        else:
            break
        fresh = Worker(store)
        known = await fresh.snapshot()
        if principal_name(USER, "ann") in known.records:
            assert await rows(store) == before
            assert known.groups["user:ann"] == {"ops", ADMINISTRATORS}
        else:
            assert spent("users", "ann") in known.spent
            assert "user:ann" not in known.groups
            with pytest.raises(Exists):
                await fresh.add("ann")
        await fresh.add("carl")  # and others go on
    assert reached > 3


async def test_a_store_that_does_not_answer_is_no_answer(worker: Worker, store: MemoryBackend) -> None:
    """Where the store cannot be asked, nobody is told who is there, and no code is right."""
    made = await worker.principals.add(USER, "ann", BY)
    assert made.code is not None
    dead = Worker(FaultyBackend(store, dict.fromkeys(range(9), Fault.BEFORE)))
    asks: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: dead.principals.get(USER, "ann"),
        dead.principals.groups,
        lambda: dead.principals.check_code(USER, "ann", "code-0"),
    )
    for ask in asks:
        with pytest.raises(Unavailable):
            await ask()


@pytest.fixture(autouse=True)
async def nothing_is_left_to_read() -> AsyncIterator[None]:
    """No task of a test outlives it."""
    yield
    assert {task for task in asyncio.all_tasks() if task.get_name() == "access"} == set()


def test_records_show_nothing_that_opens() -> None:
    """Neither the repr of a record nor of what is in it has a hash, a key or a code."""
    made = credential(kind="password", data="canary-5f1d")
    pending = access.Pending(code="canary-5f1d", expires="2026-11-30T12:00:00Z")
    record = PrincipalRecord(created="", created_by="", credentials=(made,), pending=pending)

    assert "canary" not in repr([made, pending, record])
