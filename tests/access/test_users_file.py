"""The users of a file: what it may hold, who is let in by it, and what they reach."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import argon2
import bcrypt
import pytest

from strongroom.http_proxy import authn
from strongroom.models import names
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.credentials.password import verify
from strongroom.storage_service.access.directory import Damaged, Snapshot, snapshot_of, spent
from strongroom.storage_service.access.paths import Reach, SimplePathAuthz, decide
from strongroom.storage_service.access.sign_ins import REMEMBERED, THREADS, PasswordRefused, SignIns
from strongroom.storage_service.access.users_file import REACH, UsersFile
from strongroom.storage_service.client.pool import Place, Pool
from strongroom.storage_service.errors import ConfigurationError, Internal
from tests.access.test_sign_ins import Records, credential, record

CHEAP = argon2.PasswordHasher.from_parameters(argon2.profiles.CHEAPEST)
PASSWORD = "tr0ub4dor:&3 π"


class Checks:
    """Counts the verifications that were really made, and can hold them up."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, stored: str, password: bytes) -> bool:
        self.go.wait(10)
        self.stored.append(stored)
        return verify(stored, password)


class SigningInByFile:
    """Sign-ins at a worker that has a users file, and records beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = Records()
        self.checks = Checks()
        self.clock = 1000.0
        self.sign_ins = self.worker(self.checks)

    def worker(self, check: Callable[[str, bytes], bool]) -> SignIns:
        """Return the sign-ins of another worker."""
        file = UsersFile(self.path)
        return SignIns(self.records, self.records.keep, file, clock=lambda: self.clock, verify=check)  # type: ignore[arg-type]

    async def principal(self, name: str, password: str = PASSWORD) -> Principal:
        return await self.sign_ins.authenticate(name, password.encode(), "192.0.2.1")

    async def who(self, name: str, password: str = PASSWORD) -> str:
        """Return whom a sign-in is taken for; "" where it is refused."""
        try:
            return (await self.principal(name, password)).id
        except PasswordRefused:
            return ""


@pytest.fixture
async def by_file(tmp_path: Path) -> AsyncIterator[SigningInByFile]:
    """Two users with different hashes, of whom alice may see credentials."""
    path = tmp_path / "users.json"
    path.touch(0o600)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    path.write_text(
        json.dumps({"alice": {"hash": CHEAP.hash(PASSWORD), "reveal_credentials": True}, "bob": {"hash": hashed}})
    )
    made = SigningInByFile(path)
    yield made
    made.checks.go.set()
    await made.sign_ins.close()


# What they reach

SEEN = ("secrets/hosts/192.0.2.7", "secrets/container_managers/m")
PLAIN = (
    "hosts/192.0.2.7",
    "hosts/",
    "clusters/c",
    "cluster_deploys/c",
    "cluster_restarts/c",
    "cluster_upgrades/c",
    "networks/n",
    "container_managers/m",
)
OTHERS = (
    "secrets/",
    "secrets/db/key",
    "secrets/hosts2/x",
    "system/access/users/alice",
    "system/access/apikeys/x",
    "system/keyring/lock",
    "system/audit/log",
    "services/x",
)
BLIND = {Action.LIST, Action.CREATE, Action.DELETE}


async def test_they_reach_what_the_routes_of_the_proxy_are_about(by_file: SigningInByFile) -> None:
    """All of plain records, of credentials what one may who sees them or does not, and nothing else, in each action."""
    deciders = (Reach(), SimplePathAuthz(("/",)))
    for name, sees in {"alice": True, "bob": False}.items():
        who = await by_file.principal(name)
        assert not who.is_whole
        for action in Action:
            said = {each: decide(deciders, who, action, each) for each in (*PLAIN, *SEEN, *OTHERS)}
            assert said == {each: each in PLAIN or (each in SEEN and (sees or action in BLIND)) for each in said}, (
                action
            )
            ruled_out = Reach().rules_out(who, action, "secrets/hosts/")
            assert ruled_out is (not sees and action not in BLIND)


async def test_they_are_no_principals_of_rules_alone(by_file: SigningInByFile) -> None:
    """Rules come on top of a reach of their own, so that a deny holds for them, and an allow adds nothing."""
    who = await by_file.principal("bob")
    assert (who.id, who.paths, who.ruled, who.exempt) == ("user:bob", REACH, False, False)


# Which of the two it is


@pytest.mark.parametrize(
    "story", ["the same name", "another case", "a damaged record", "disabled", "a service", "ended"]
)
async def test_a_name_that_has_a_record_is_the_records(
    by_file: SigningInByFile, caplog: pytest.LogCaptureFixture, story: str
) -> None:
    """Whatever its record is, or was, the file lets in nobody of the name, and the log says so once."""
    assert await by_file.who("alice") == "user:alice"
    places: dict[str, tuple[str, object]] = {
        "the same name": (names.USERS + "alice", record(credential(1, "x"))),
        "another case": (names.USERS + "Alice", record(credential(1, "x"))),
        "a damaged record": (names.USERS + "alice", Damaged(Internal("damaged"))),
        "disabled": (names.USERS + "alice", record(disabled=True)),
        "a service": (names.SERVICES + "alice", record()),
        "ended": (names.USERS + "alice", record()),
    }
    place, found = places[story]
    gone = frozenset((spent("users", "alice"),)) if story == "ended" else frozenset()
    by_file.records.snapshot = snapshot_of(1, Snapshot().epoch, {place: found}, gone)
    for _ in range(3):
        assert await by_file.who("alice") == ""
        assert await by_file.who("bob") == "user:bob"
    assert caplog.text.count("alice has or had a record") == 1


async def test_the_password_of_the_record_counts(by_file: SigningInByFile) -> None:
    """Who is in both signs in as the record says, and is one whom rules alone allow anything."""
    stored = credential(1, "", data=CHEAP.hash("of the record"))
    by_file.records.snapshot = snapshot_of(1, Snapshot().epoch, {names.USERS + "alice": record(stored)}, frozenset())
    who = await by_file.principal("alice", "of the record")
    assert (who.id, who.ruled, who.credential) == ("user:alice", True, stored.id)
    assert await by_file.who("alice") == ""


async def test_nothing_of_the_file_is_hashed_anew(by_file: SigningInByFile) -> None:
    """An older hash stays as it is: the file is its owner's."""
    assert await by_file.who("bob") == "user:bob"
    await by_file.sign_ins.close()
    assert by_file.records.kept == []


# What a sign-in costs


async def test_an_unknown_user_costs_what_a_known_one_does(by_file: SigningInByFile) -> None:
    """Each wrong guess is one verification, for a name that is none always of the same hash, in all workers."""

    async def checked(name: str) -> list[str]:
        stored: list[str] = []

        def note(hashed: str, _: bytes) -> bool:
            stored.append(hashed)
            return False

        worker = by_file.worker(note)
        for password in ("wrong", "other"):
            with pytest.raises(PasswordRefused) as refused:
                await worker.authenticate(name, password.encode(), "192.0.2.1")
            assert refused.value.claimed == (f"user:{name}" if name in ("alice", "bob") else "")
        await worker.close()
        return stored

    found = {name: await checked(name) for name in ("alice", "bob", "", "m/1", "π", *(f"m{n}" for n in range(20)))}
    assert {(len(stored), len(set(stored))) for stored in found.values()} == {(2, 1)}
    assert len({stored[0] for name, stored in found.items() if name.startswith("m")}) == 2
    assert await checked("m0") == found["m0"]


async def test_a_changed_file_counts_at_once(by_file: SigningInByFile) -> None:
    """A user who was taken out, or whose password changed, is out, however recently they were in."""
    assert [await by_file.who(name) for name in ("alice", "bob")] == ["user:alice", "user:bob"]
    by_file.path.write_text(json.dumps({"alice": {"hash": CHEAP.hash("new")}}))

    assert [await by_file.who(name) for name in ("alice", "bob")] == ["", ""]
    assert (await by_file.principal("alice", "new")).unseen


async def test_a_right_password_is_not_hashed_each_time(by_file: SigningInByFile) -> None:
    """For a minute, and not longer."""
    for _ in range(5):
        await by_file.who("alice")
    assert len(by_file.checks.stored) == 1
    by_file.clock += REMEMBERED + 1
    await by_file.who("alice")
    assert len(by_file.checks.stored) == 2


async def test_the_file_counts_as_it_is_when_the_turn_comes(by_file: SigningInByFile) -> None:
    """A user who was taken out while waiting does not get in, and one who was put in does."""
    by_file.checks.go.clear()
    guesses = [asyncio.create_task(by_file.who("bob", f"guess-{n}")) for n in range(THREADS)]
    await asyncio.sleep(0.01)
    alice, dave = (asyncio.create_task(by_file.who(name)) for name in ("alice", "dave"))
    for _ in range(8):
        await asyncio.sleep(0)
    by_file.path.write_text(json.dumps({"dave": {"hash": CHEAP.hash(PASSWORD)}}))
    by_file.checks.go.set()

    assert await asyncio.gather(alice, dave, *guesses) == ["", "user:dave", *[""] * THREADS]


# What the file may hold

GARBAGE: Mapping[str, str | bytes] = {
    "no JSON": "{",
    "a hash that is not UTF-8": b'{"alice": {"hash": "$argon2id$\xff"}}',
    "a name that is not UTF-8": b'{"al\xefce": {"hash": "$argon2id$x"}}',
    "a hash with half of a pair": '{"alice": {"hash": "$argon2id$\\ud800"}}',
    "a hash beyond ASCII": '{"alice": {"hash": "$argon2id$\u00ef"}}',
    "too deep": '{"alice": ' + '{"a":' * 100_000,
    "a list": "[]",
    "no hash": '{"alice": {}}',
    "a password in the clear": '{"alice": {"hash": "sesame"}}',
    "an unknown member": '{"alice": {"hash": "$argon2id$x", "admin": true}}',
    "a flag that is none": '{"alice": {"hash": "$argon2id$x", "reveal_credentials": "yes"}}',
    "a name with a line break": '{"al\\nice": {"hash": "$argon2id$x"}}',
    "a name with a slash": '{"al/ice": {"hash": "$argon2id$x"}}',
    "a name beyond ASCII": '{"al\u00efce": {"hash": "$argon2id$x"}}',
    "endless": '{"alice": {"hash": "$argon2' + "x" * 1024 * 1024 + '"}}',
}


@pytest.mark.parametrize("story", GARBAGE)
async def test_a_file_with_anything_wrong_lets_nobody_in(
    by_file: SigningInByFile, caplog: pytest.LogCaptureFixture, story: str
) -> None:
    """One bad entry closes the door for all, who were in before, too; the log says so once, and quotes nothing."""
    await by_file.who("alice")
    content = GARBAGE[story]
    by_file.path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.DEBUG):
        assert [await by_file.who("alice") for _ in range(3)] == ["", "", ""]

    (said,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert "nobody of the users file can sign in" in said
    assert "sesame" not in caplog.text


async def test_whatever_goes_wrong_while_reading_lets_nobody_in(
    by_file: SigningInByFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what nobody thought of leaves none of those in who were, and the file counts as soon as it can be read."""
    await by_file.who("alice")
    by_file.path.touch()
    with monkeypatch.context() as broken:
        broken.setattr("strongroom.storage_service.access.users_file.changed_by_others", lambda path, status: 1 // 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await by_file.who("alice")
    assert await by_file.who("alice") == "user:alice"


async def test_a_file_that_is_gone_lets_nobody_in_until_it_is_back(
    by_file: SigningInByFile, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, not with every request; and those of records go on."""
    text = by_file.path.read_text()
    await by_file.who("alice")
    by_file.path.unlink()
    assert [await by_file.who("alice") for _ in range(3)] == ["", "", ""]
    assert [each.levelname for each in caplog.records].count("ERROR") == 1
    by_file.path.write_text(text)
    assert await by_file.who("alice") == "user:alice"


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o622, 0o666])
async def test_a_file_that_others_may_write_lets_nobody_in(
    by_file: SigningInByFile, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """Who can write it can be anybody: the log says what to run, and then it counts at once."""
    by_file.path.chmod(mode)
    assert [await by_file.who("alice") for _ in range(3)] == ["", "", ""]
    (said,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]
    assert f"chmod go-w {by_file.path}" in said

    by_file.path.chmod(mode & ~0o022)
    assert await by_file.who("alice") == "user:alice"


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o644])
async def test_a_file_that_its_owner_alone_may_write_counts(by_file: SigningInByFile, mode: int) -> None:
    """Others may read it, or a group."""
    by_file.path.chmod(mode)
    assert await by_file.who("alice") == "user:alice"


async def test_no_credential_of_the_file_is_ever_logged(
    by_file: SigningInByFile, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the password, not the hash, right or wrong, at any level."""
    with caplog.at_level(logging.DEBUG):
        for name, password in (("alice", PASSWORD), ("alice", "wr0ng-pass"), ("mallory", "wr0ng-pass")):
            await by_file.who(name, password)
    users = UsersFile(by_file.path).current()
    for secret in (PASSWORD, "wr0ng-pass", "$argon2", "$2b$"):
        assert secret not in caplog.text + repr(users) + repr(users["alice"].credential("alice"))


@pytest.mark.parametrize("stored", ["$argon2id$garbage", "$2b$12$short", "$2b$", "$argon2"])
def test_a_hash_of_the_file_that_is_none_matches_nothing(stored: str) -> None:
    """Half a hash in the file is a user who cannot sign in, not an error."""
    assert not verify(stored, b"")
    assert not verify(stored, b"x")


def test_a_long_password_means_to_bcrypt_what_it_always_did() -> None:
    """Bcrypt looks at 72 bytes; hashes made when its libraries cut silently go on working."""
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert verify(stored, b"x" * 100)
    assert not verify(stored, b"x" * 71)


# What the proxy is told of it


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([("kerberos", {})], "no authenticator 'kerberos'"),
        ([("basic", {"users": "y"})], "takes one option: filepath"),
        ([("basic", {"filepath": "/x", "users": "y"})], "takes one option: filepath"),
        ([("apikey", {"x": "y"})], "takes no options"),
        ([("token", {"x": "y"})], "takes no options"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wanted: list[tuple[str, dict[str, str]]], words: str) -> None:
    """At the start, with words for the operator."""
    with pytest.raises(ConfigurationError, match=words):
        authn.make(wanted, Pool(Place("/nowhere"), 1))


def test_authenticators_keep_their_order() -> None:
    """They are asked as they are listed."""
    made = authn.make([("basic", {"filepath": "/x"}), ("apikey", {})], Pool(Place("/nowhere"), 1))
    assert [type(one).__name__ for one in made] == ["PasswordAuthenticator", "ApiKeyAuthenticator"]
