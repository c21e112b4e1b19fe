"""Passwords with each request: whose they are, how often they are hashed, and a flood that keeps nobody else out."""

import asyncio
import base64
import hashlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import pytest

from strongroom.models import names
from strongroom.models.access import Credential, Kind, PrincipalRecord
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.access.credentials.password import hashed
from strongroom.storage_service.access.directory import Damaged, Snapshot
from strongroom.storage_service.access.sign_ins import (
    COME_BACK,
    MAX_REMEMBERED,
    MAX_WAITING,
    REMEMBERED,
    THREADS,
    PasswordRefused,
    SignIns,
)
from strongroom.storage_service.errors import Internal, Unavailable
from strongroom.storage_service.line import Line

FLOOD = MAX_WAITING + THREADS + 20  # sign-ins: more than have a thread or a place
ATTACKER = "192.0.2.1"
NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def stored_of(password: str) -> str:
    """Return what `Hashing` takes for the hash of *password*, in the form of one that is as new as any."""
    digest = base64.b64encode(hashlib.sha256(password.encode()).digest()).decode().rstrip("=")
    return f"$argon2id$v=19$m=65536,t=3,p=4${'x' * 22}${digest}"


class Hashing:
    """Stands in for the hashing: it can be held up, and knows who had a turn, and how many at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.passwords: list[str] = []  # in the order of their turns
        self.stored: list[str] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, stored: str, password: bytes) -> bool:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.passwords.append(password.decode())
            self.stored.append(stored)
        self.go.wait(20)
        with self._lock:
            self._now -= 1
        return stored == stored_of(password.decode())


def credential(number: int, password: str, expires: str | None = None, data: str = "") -> Credential:
    """Return a password as it is kept."""
    return Credential(
        id=f"{number:032x}",
        kind="password",
        name=f"password-{number}",
        data=data or stored_of(password),
        created="2026-11-30T12:00:00Z",
        expires=expires,
    )


def record(*credentials: Credential, disabled: bool = False) -> PrincipalRecord:
    """Return a principal with these credentials."""
    return PrincipalRecord(
        created="2026-11-30T12:00:00Z", created_by="user:root", disabled=disabled, credentials=credentials
    )


@dataclass
class Records:
    """The records of access, as a test makes them."""

    users: dict[str, PrincipalRecord | Damaged] = field(default_factory=dict)
    services: dict[str, PrincipalRecord] = field(default_factory=dict)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    snapshot: Snapshot = field(default_factory=Snapshot)
    kept: list[tuple[Kind, str, Credential]] = field(default_factory=list)

    def change(self) -> None:
        """Let what was changed be known from now on."""
        found: dict[str, object] = {names.USERS + name: each for name, each in self.users.items()}
        found |= {names.SERVICES + name: each for name, each in self.services.items()}
        self.snapshot = Snapshot(records=found, groups=self.groups)

    async def current(self) -> Snapshot:
        await asyncio.sleep(0)
        return self.snapshot

    async def keep(self, kind: Kind, name: str, kept: Credential) -> None:
        self.kept.append((kind, name, kept))


@dataclass
class SigningIn:
    """Sign-ins at one worker, whose clocks move when told."""

    records: Records = field(default_factory=Records)
    hashing: Hashing = field(default_factory=Hashing)
    clock: float = 1000.0
    now: float = NOW
    begun: "list[asyncio.Task[Principal]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records.users = {name: record(credential(n, name)) for n, name in enumerate(("alice", "bob", "carol"))}
        self.records.change()
        self.sign_ins = self.worker()

    def worker(self, verify: Callable[[str, bytes], bool] | None = None) -> SignIns:
        """Return another worker's."""
        return SignIns(
            self.records,  # type: ignore[arg-type]
            self.records.keep,
            clock=lambda: self.clock,
            verify=verify or self.hashing,
            now=lambda: self.now,
        )

    async def who(self, name: str, password: str, address: str = ATTACKER) -> str:
        """Return whom a sign-in is taken for; "" where it is refused."""
        try:
            return (await self.sign_ins.authenticate(name, password.encode(), address)).id
        except PasswordRefused:
            return ""

    async def begin(self, name: str, password: str, address: str) -> "asyncio.Task[Principal]":
        """Begin one, and let it come as far as it does by itself."""
        task = asyncio.create_task(self.sign_ins.authenticate(name, password.encode(), address))
        self.begun.append(task)
        for _ in range(8):
            await asyncio.sleep(0)
        return task


@pytest.fixture
async def at() -> AsyncIterator[SigningIn]:
    """Sign-ins of three users whose passwords are their names; none outlives the test."""
    signing_in = SigningIn()
    yield signing_in
    signing_in.hashing.go.set()
    await asyncio.gather(*signing_in.begun, return_exceptions=True)
    await signing_in.sign_ins.close()


# Who it is


async def test_a_right_password_makes_the_principal_of_the_record(at: SigningIn) -> None:
    """The principal has the groups of the directory, the credential that was shown, and nothing but rules."""
    at.records.services["runner"] = record(credential(7, "s3cret"), credential(8, "other"))
    at.records.groups = {"service:runner": frozenset(("ci",))}
    at.records.change()
    principal = await at.sign_ins.authenticate("runner", b"other", ATTACKER)

    assert principal == Principal("service:runner", groups=frozenset(("ci",)), ruled=True, credential=f"{8:032x}")
    assert (await at.sign_ins.authenticate("alice", b"alice", ATTACKER)).id == "user:alice"


@pytest.mark.parametrize("name", ["mallory", "Alice", "user:alice", "", "al/ice", "π", "m" * 4000])
async def test_another_name_is_nobody_whatever_the_password(at: SigningIn, name: str) -> None:
    """The hash that stands in for a name that is nobody's lets nobody in, even where it matches; nor is it told."""
    for password in ("alice", "bob", "carol"):
        with pytest.raises(PasswordRefused) as refused:
            await at.sign_ins.authenticate(name, password.encode(), ATTACKER)
        assert refused.value.claimed == ""
    assert len(at.hashing.stored) == 3


async def test_a_wrong_password_says_whose_it_was_to_be(at: SigningIn) -> None:
    """For the log: whom somebody guesses at, who exists."""
    with pytest.raises(PasswordRefused) as refused:
        await at.sign_ins.authenticate("alice", b"wrong", ATTACKER)
    assert refused.value.claimed == "user:alice"


async def test_what_is_no_more_lets_nobody_in_however_lately_it_did(at: SigningIn) -> None:
    """A principal that was disabled, removed or damaged, and a password that was taken away or changed, end at once."""
    alice = at.records.users["alice"]
    endings: list[PrincipalRecord | Damaged | None] = [
        record(credential(0, "alice"), disabled=True),
        record(),
        record(credential(0, "new")),
        record(credential(9, "new")),
        Damaged(Internal("damaged")),
        None,
    ]
    for ending in endings:
        assert await at.who("alice", "alice") == "user:alice"
        if ending is None:
            del at.records.users["alice"]
        else:
            at.records.users["alice"] = ending
        at.records.change()
        assert await at.who("alice", "alice") == ""
        at.records.users["alice"] = alice
        at.records.change()


async def test_a_password_ends_when_it_expires(at: SigningIn) -> None:
    """From its moment on it is wrong, also where it is remembered; another of the same principal goes on."""
    at.records.users["alice"] = record(credential(0, "old", "2027-01-15T08:01:00Z"), credential(1, "new"))
    at.records.change()
    assert await at.who("alice", "old") == "user:alice"
    at.now += 60
    assert await at.who("alice", "old") == ""
    assert await at.who("alice", "new") == "user:alice"


async def test_other_kinds_of_credentials_are_no_passwords(at: SigningIn) -> None:
    """Whoever has none cannot sign in with anything that another kind is kept as."""
    other = msgspec.structs.replace(credential(0, ""), kind="process", data=stored_of("x"))
    at.records.users = {"alice": record(other)}
    at.records.change()
    assert await at.who("alice", "x") == ""
    assert at.hashing.stored == []


# How often it is hashed


async def test_a_right_password_is_hashed_once_a_minute(at: SigningIn) -> None:
    """For a minute, and not longer; a wrong one is hashed every time."""
    for _ in range(5):
        await at.who("alice", "alice")
    assert len(at.hashing.stored) == 1
    await at.who("alice", "wrong")
    await at.who("alice", "wrong")
    assert len(at.hashing.stored) == 3
    at.clock += REMEMBERED + 1
    await at.who("alice", "alice")
    assert len(at.hashing.stored) == 4


async def test_a_change_that_is_not_its_own_costs_no_hash(at: SigningIn) -> None:
    """What others change of access leaves what is remembered as it is, and groups are those of now."""
    await at.who("alice", "alice")
    at.records.users["dave"] = record(credential(5, "dave"))
    at.records.groups = {"user:alice": frozenset(("ops",))}
    at.records.change()

    assert (await at.sign_ins.authenticate("alice", b"alice", ATTACKER)).groups == {"ops"}
    assert len(at.hashing.stored) == 1


async def test_an_unknown_name_is_the_same_on_every_worker(at: SigningIn) -> None:
    """Each guess is one verification, and of a name that is nobody's always of the same hash, on all workers."""

    async def tried(worker: SignIns, name: str) -> list[str]:
        at.hashing.stored.clear()
        for password in ("wrong", "other"):
            with pytest.raises(PasswordRefused):
                await worker.authenticate(name, password.encode(), ATTACKER)
        return list(at.hashing.stored)

    there = at.worker()
    seen = set()
    for name in (f"m{number}" for number in range(40)):
        here = await tried(at.sign_ins, name)
        assert len(here) == 2
        assert len(set(here)) == 1
        assert await tried(there, name) == here
        seen.add(here[0])
    await there.close()
    assert seen == {stored_of(name) for name in ("alice", "bob", "carol")}


async def test_callers_with_one_password_wait_for_one_check(at: SigningIn) -> None:
    """A burst of requests of one user is one verification, and one that leaves does not take it along."""
    at.hashing.go.clear()
    callers = [await at.begin("alice", "alice", ATTACKER) for _ in range(20)]
    callers[0].cancel()
    await asyncio.sleep(0)
    at.hashing.go.set()

    assert [each.id for each in await asyncio.gather(*callers[1:])] == ["user:alice"] * 19
    assert len(at.hashing.stored) == 1


async def test_what_is_remembered_has_an_end(at: SigningIn) -> None:
    """However many passwords are found right, so many are remembered."""
    at.sign_ins = at.worker(lambda stored, password: True)
    for number in range(MAX_REMEMBERED + 10):
        await at.who("alice", str(number))
    assert 0 < len(at.sign_ins._remembered) <= MAX_REMEMBERED


@pytest.mark.parametrize(("password", "anew"), [("an older password", True), ("short", False)])
async def test_an_older_hash_is_made_anew_after_a_right_password(at: SigningIn, password: str, anew: bool) -> None:
    """It is kept under its own id, once; what is too short for a new one stays as it is, and still lets in."""
    old = credential(3, password, data="$2b$10$" + "x" * 53)
    at.records.users["dave"] = record(old)
    at.records.change()
    at.sign_ins = at.worker(lambda stored, given: given == password.encode())
    assert await at.who("dave", "wrong") == ""
    assert at.records.kept == []
    assert await at.who("dave", password) == "user:dave"
    await at.sign_ins.close()

    assert [(kind, name, each.id) for kind, name, each in at.records.kept] == [(Kind.USER, "dave", old.id)] * anew
    assert all(each.data.startswith("$argon2id$") for _, _, each in at.records.kept)


async def test_what_cannot_be_kept_anew_keeps_nobody_out(at: SigningIn, caplog: pytest.LogCaptureFixture) -> None:
    """The older hash goes on; the log says why, and nothing of password or hash."""

    async def keep(*_: object) -> None:
        raise Unavailable("the store is away")

    at.records.users["dave"] = record(credential(3, "", data="$2b$10$" + "x" * 53))
    at.records.change()
    signs = SignIns(at.records, keep, verify=lambda *_: True)  # type: ignore[arg-type]
    with caplog.at_level(logging.DEBUG):
        assert (await signs.authenticate("dave", b"pass of dave", ATTACKER)).id == "user:dave"
        await signs.close()
    assert "the store is away" in caplog.text
    assert not any(secret in caplog.text + repr(signs) for secret in ("pass of dave", "$2b$", "$argon2"))


async def test_real_hashes_open(at: SigningIn) -> None:
    """With the hashing of the product a password is found, and another is not."""
    at.records.users["dave"] = record(credential(3, "", data=hashed("correct horse")))
    at.records.change()
    real = SignIns(at.records, at.records.keep)  # type: ignore[arg-type]
    assert (await real.authenticate("dave", b"correct horse", ATTACKER)).id == "user:dave"
    with pytest.raises(PasswordRefused):
        await real.authenticate("dave", b"correct hors", ATTACKER)
    await real.close()


# Who waits for whom

FLOODS: dict[str, Callable[[int], tuple[str, str]]] = {
    "one address, one name": lambda n: ("carol", ATTACKER),
    "one address, many names": lambda n: (f"m{n}", ATTACKER),
    "one address, names that are long": lambda n: (f"m{n}" * 300, ATTACKER),
    "three addresses": lambda n: (f"m{n}", f"192.0.2.{n % 3 + 1}"),
    "one name of many addresses": lambda n: ("carol", f"192.0.2.{n + 1}"),
    "one site with all of its IPv6 networks": lambda n: (f"m{n}", f"2001:0db8:0000:{n + 1:02x}"),
    "a user of this machine": lambda n: (f"m{n}", "uid 1000"),
}


@pytest.mark.parametrize("story", FLOODS)
async def test_a_flood_of_sign_ins_keeps_nobody_else_out(at: SigningIn, story: str) -> None:
    """While more wrong guesses wait than may, a user from elsewhere signs in, and so does the next one."""
    at.hashing.go.clear()
    told = []
    for number in range(FLOOD):
        name, address = FLOODS[story](number)
        told.append(await at.begin(name, f"guess-{number}", address))
    alice = await at.begin("alice", "alice", "198.51.100.1")
    bob = await at.begin("bob", "bob", "203.0.113.1")
    assert not alice.done()
    at.hashing.go.set()

    assert {(await alice).id, (await bob).id} == {"user:alice", "user:bob"}
    answers = await asyncio.gather(*told, return_exceptions=True)
    assert _count(answers, PasswordRefused) == MAX_WAITING + THREADS - 2
    assert _count(answers, Unavailable) == FLOOD - MAX_WAITING - THREADS + 2
    assert at.hashing.most == THREADS


async def test_a_flood_behind_one_address_keeps_other_names_in(at: SigningIn) -> None:
    """Behind one address, as behind a TLS front, those who guess at one name leave room for who claims another."""
    at.hashing.go.clear()
    for number in range(FLOOD):
        await at.begin("carol", f"guess-{number}", ATTACKER)
    alice = await at.begin("alice", "alice", ATTACKER)
    at.hashing.go.set()

    assert (await alice).id == "user:alice"
    assert at.hashing.passwords.index("alice") <= THREADS + 2


async def test_each_address_has_its_turn(at: SigningIn) -> None:
    """Who comes after a flood waits for a turn of each address before, and not for all that wait there."""
    at.hashing.go.clear()
    for number in range(FLOOD):
        await at.begin("carol", f"guess-{number}", ATTACKER)
    for number in range(1, 4):
        await at.begin("carol", f"other-{number}", f"198.51.100.{number}")
    alice = await at.begin("alice", "alice", "203.0.113.1")
    at.hashing.go.set()

    assert (await alice).id == "user:alice"
    assert at.hashing.passwords.index("alice") <= THREADS + 5


async def test_beyond_all_places_one_comes_back_later(at: SigningIn) -> None:
    """Who would have as many places as any other is told when to come back, and who is remembered waits for none."""
    assert await at.who("bob", "bob") == "user:bob"
    at.hashing.go.clear()
    waiting = [await at.begin(f"m{n}", "x", f"192.0.2.{n + 1}") for n in range(MAX_WAITING + THREADS)]
    late = await at.begin("alice", "alice", "198.51.100.1")

    error = late.exception() if late.done() else None
    assert isinstance(error, Unavailable)
    assert error.retry_after == COME_BACK
    assert not any(each.done() for each in waiting)
    assert await at.who("bob", "bob") == "user:bob"


@pytest.mark.parametrize("story", ["as many addresses as places", "as many names through one terminator"])
async def test_what_a_flood_takes_from_all(at: SigningIn, story: str) -> None:
    """Who floods from enough addresses, or through a front that tells none, keeps new sign-ins out, and no others."""
    address = "198.51.100.1" if story.startswith("as many addresses") else ATTACKER
    assert await at.who("alice", "alice", address) == "user:alice"
    at.hashing.go.clear()
    for number in range(MAX_WAITING + THREADS):
        await at.begin(f"m{number}", "x", ATTACKER if address == ATTACKER else f"192.0.2.{number + 1}")

    with pytest.raises(Unavailable):
        await at.who("bob", "bob", address)
    assert await at.who("alice", "alice", address) == "user:alice"


async def test_nobody_is_hashed_for_who_left(at: SigningIn) -> None:
    """Clients that go while they wait give up their places; what a thread has begun it ends, and no others begin."""
    at.hashing.go.clear()
    left = [await at.begin("carol", f"guess-{n}", ATTACKER) for n in range(THREADS + 10)]
    for each in left:
        each.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    alice = await at.begin("alice", "alice", ATTACKER)
    assert len(at.sign_ins._line) == 1  # the threads are at work, and she waits
    at.hashing.go.set()

    assert (await alice).id == "user:alice"
    assert at.hashing.passwords[THREADS:] == ["alice"]


async def test_who_left_and_asks_again_is_served(at: SigningIn) -> None:
    """A sign-in that its client gave up is not what the client's next one gets."""
    at.hashing.go.clear()
    for number in range(THREADS):
        await at.begin("carol", f"guess-{number}", ATTACKER)
    first = await at.begin("alice", "alice", ATTACKER)
    first.cancel()
    again = await at.begin("alice", "alice", ATTACKER)
    at.hashing.go.set()
    assert (await again).id == "user:alice"


async def test_the_records_count_as_they_are_when_the_turn_comes(at: SigningIn) -> None:
    """A user who was removed while waiting does not get in, and one who was added does."""
    at.hashing.go.clear()
    for number in range(THREADS):
        await at.begin("carol", f"guess-{number}", ATTACKER)
    alice = await at.begin("alice", "alice", "198.51.100.1")
    dave = await at.begin("dave", "dave", "198.51.100.2")
    del at.records.users["alice"]
    at.records.users["dave"] = record(credential(5, "dave"))
    at.records.change()
    at.hashing.go.set()

    with pytest.raises(PasswordRefused):
        await alice
    assert (await dave).id == "user:dave"


async def test_who_was_removed_while_it_was_hashed_stays_out(at: SigningIn) -> None:
    """The records count once more when the thread is done."""
    at.hashing.go.clear()
    alice = await at.begin("alice", "alice", ATTACKER)
    assert at.hashing.passwords == ["alice"]
    del at.records.users["alice"]
    at.records.change()
    at.hashing.go.set()
    with pytest.raises(PasswordRefused):
        await alice


async def test_a_store_that_is_away_gives_no_turn_away(at: SigningIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot be told now is told so, and the threads are free for the next."""
    for _ in range(THREADS + 1):
        asked = 0

        async def current() -> Snapshot:
            nonlocal asked
            asked += 1
            if asked == 2:  # when the turn has come
                raise Unavailable("the store is away")
            return at.records.snapshot

        with monkeypatch.context() as broken:
            broken.setattr(at.records, "current", current)
            with pytest.raises(Unavailable):
                await at.sign_ins.authenticate("alice", b"alice", ATTACKER)
    assert await at.who("alice", "alice") == "user:alice"


async def test_a_place_lasts_so_long() -> None:
    """Who waited long enough is told to come back, and leaves its place and the turns to others."""
    line = Line(turns=1, places=1, patience=0.05, come_back=7.0)
    await line.enter("a", "x")
    with pytest.raises(Unavailable) as told:
        await line.enter("b", "x")
    assert told.value.retry_after == 7.0
    assert len(line) == 0
    line.leave()
    await line.enter("c", "x")


async def test_a_turn_too_late_goes_to_the_next() -> None:
    """Who was given a turn and left in the same moment takes it along from nobody."""
    line = Line(turns=1, places=4, patience=10.0, come_back=1.0)
    await line.enter("a", "x")
    leaving, staying = (asyncio.create_task(line.enter(address, "x")) for address in ("b", "c"))
    await asyncio.sleep(0)
    line.leave()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await staying


def _count(answers: Iterable[object], kind: type) -> int:
    return sum(isinstance(each, kind) for each in answers)
