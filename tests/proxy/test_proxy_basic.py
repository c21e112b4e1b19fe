"""Users and passwords: what the file may hold, what is checked how often, and what is told."""

import asyncio
import base64
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import argon2
import bcrypt
import pytest

from strongroom.http_proxy import authn
from strongroom.http_proxy.authn.base import Identity, Refused
from strongroom.http_proxy.authn.basic import MAX_REMEMBERED, REMEMBERED, BasicAuthenticator, verify
from strongroom.http_proxy.request import forwarded
from strongroom.storage_service.client.pool import Place, Pool
from strongroom.storage_service.errors import ConfigurationError

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


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def header(name: str, password: str, address: str = "192.0.2.1") -> dict[bytes, bytes]:
    """Return the fields of a sign-in from *address*."""
    return {
        b"authorization": b"Basic " + base64.b64encode(f"{name}:{password}".encode()),
        b"forwarded": forwarded(address, "http").encode(),
    }


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file of two users with different hashes."""
    path = tmp_path / "users.json"
    path.touch(0o600)
    path.write_text(
        json.dumps(
            {
                "alice": {"hash": CHEAP.hash(PASSWORD), "reveal_credentials": True},
                "bob": {"hash": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
            }
        )
    )
    return path


@pytest.fixture
def checks() -> Iterator[Checks]:
    checks = Checks()
    yield checks
    checks.go.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def basic(users: Path, checks: Checks, clock: Clock) -> BasicAuthenticator:
    return BasicAuthenticator(users, clock, checks)


async def test_both_kinds_of_hash_open(basic: BasicAuthenticator) -> None:
    """Argon2 and old bcrypt hashes are both verified; what a user may see is the file's word."""
    assert await basic.authenticate(header("alice", PASSWORD)) == Identity("user:alice", reveal_credentials=True)
    assert await basic.authenticate(header("bob", PASSWORD)) == Identity("user:bob", reveal_credentials=False)


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Bearer x"}, {b"authorization": b"Basically x"}])
async def test_what_is_not_basic_is_left_to_others(basic: BasicAuthenticator, headers: dict[bytes, bytes]) -> None:
    """Other credentials are not this authenticator's to refuse."""
    assert await basic.authenticate(headers) is None


UNKNOWN = [f"m{number}" for number in range(60)]  # names that nobody has
ODD = ["", "m/1", "m\n", "π", "m" * 4000]  # and some that nobody can have


async def checked(users: Path, names: Sequence[str], *passwords: str) -> dict[str, list[str]]:
    """Return the hashes that a new authenticator verified for each of *names*, one after the other."""
    stored: list[str] = []

    def note(hashed: str, password: bytes) -> bool:
        stored.append(hashed)
        return False

    basic = BasicAuthenticator(users, verify=note)
    found: dict[str, list[str]] = {}
    for name in names:
        for password in passwords:
            with pytest.raises(Refused):
                await basic.authenticate(header(name, password))
        found[name], stored[:] = list(stored), []
    return found


async def test_an_unknown_user_costs_what_a_known_one_does(users: Path) -> None:
    """Each wrong guess is one verification: of a user's own hash, or for a name that is none always of the same."""
    found = await checked(users, ["alice", "bob", *UNKNOWN, *ODD], "wrong", "other", "third")

    assert {len(stored) for stored in found.values()} == {3}
    assert {len(set(stored)) for stored in found.values()} == {1}


async def test_unknown_names_take_as_long_as_users_do(users: Path) -> None:
    """Where hashes are of several kinds, names that are none stand for each of them, as often as users do."""
    hashes = [user["hash"] for user in json.loads(users.read_text()).values()]
    kept = {f"u{number}": {"hash": hashes[number == 0] + "x" * number} for number in range(4)}
    users.write_text(json.dumps(kept))
    found = await checked(users, UNKNOWN, "wrong")

    counted = Counter(stored for (stored,) in found.values())
    assert set(counted) == {user["hash"] for user in kept.values()}
    assert max(counted.values()) < len(UNKNOWN) / 2


async def test_an_unknown_name_is_the_same_everywhere(users: Path) -> None:
    """Another worker, and one after a restart, checks it against the same hash, however the file is written."""
    found = await checked(users, UNKNOWN, "wrong")
    assert await checked(users, UNKNOWN, "wrong") == found

    users.write_text(json.dumps(dict(reversed(json.loads(users.read_text()).items())), indent=1))
    assert await checked(users, UNKNOWN, "wrong") == found


async def test_an_unknown_name_changes_with_one_user_alone(users: Path) -> None:
    """A user who is added takes some names over, and a user who goes leaves the others where they were."""
    kept = json.loads(users.read_text())
    before = await checked(users, UNKNOWN, "wrong")
    added = CHEAP.hash("x")
    users.write_text(json.dumps({**kept, "carol": {"hash": added}}))
    after = await checked(users, UNKNOWN, "wrong")
    assert 0 < sum(stored == [added] for stored in after.values()) < len(UNKNOWN)
    assert all(stored in (before[name], [added]) for name, stored in after.items())

    users.write_text(json.dumps(kept))
    assert await checked(users, UNKNOWN, "wrong") == before


async def test_an_unknown_user_with_the_right_password_of_another_is_refused(
    basic: BasicAuthenticator, checks: Checks
) -> None:
    """The hash that stands in for the unknown never lets them in, even where it matches."""
    for name in ("mallory", "trent", "eve", "oscar"):
        for _ in range(2):
            with pytest.raises(Refused):
                await basic.authenticate(header(name, PASSWORD))
    assert len(checks.stored) == 8


async def test_a_right_password_is_not_hashed_each_time(
    basic: BasicAuthenticator, checks: Checks, clock: Clock
) -> None:
    """For a minute, and not longer; a wrong one is hashed every time."""
    for _ in range(5):
        await basic.authenticate(header("alice", PASSWORD))
    assert len(checks.stored) == 1
    with pytest.raises(Refused):
        await basic.authenticate(header("alice", PASSWORD + "x"))
    assert len(checks.stored) == 2
    clock.now += REMEMBERED + 1
    await basic.authenticate(header("alice", PASSWORD))
    assert len(checks.stored) == 3


async def test_a_changed_file_counts_at_once(basic: BasicAuthenticator, users: Path) -> None:
    """A user who was taken out, or whose password changed, is out, however recently they were in."""
    await basic.authenticate(header("alice", PASSWORD))
    await basic.authenticate(header("bob", PASSWORD))
    users.write_text(json.dumps({"alice": {"hash": CHEAP.hash("new")}}))

    for name in ("alice", "bob"):
        with pytest.raises(Refused):
            await basic.authenticate(header(name, PASSWORD))
    assert await basic.authenticate(header("alice", "new")) == Identity("user:alice")


async def test_callers_with_one_password_wait_for_one_check(basic: BasicAuthenticator, checks: Checks) -> None:
    """A burst of requests of one user is one verification, and one that leaves does not take it along."""
    checks.go.clear()
    callers = [asyncio.create_task(basic.authenticate(header("alice", PASSWORD))) for _ in range(20)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    checks.go.set()
    told = await asyncio.gather(*callers[1:])

    assert [identity.name for identity in told if identity] == ["user:alice"] * 19
    assert len(checks.stored) == 1


async def test_what_is_remembered_is_bounded(users: Path, clock: Clock) -> None:
    """However many passwords are found right, the memory of it has an end."""
    basic = BasicAuthenticator(users, clock, lambda stored, password: True)
    for number in range(MAX_REMEMBERED + 10):
        await basic.authenticate(header("alice", str(number)))

    assert 0 < len(basic._users.remembered) <= MAX_REMEMBERED


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
    basic: BasicAuthenticator, users: Path, caplog: pytest.LogCaptureFixture, story: str
) -> None:
    """One bad entry closes the door for all, who were in before, too; the log says so once, and quotes nothing."""
    await basic.authenticate(header("alice", PASSWORD))
    content = GARBAGE[story]
    users.write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            with pytest.raises(Refused):
                await basic.authenticate(header("alice", PASSWORD))

    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "nobody can sign in" in record.getMessage()
    assert "sesame" not in caplog.text


async def test_whatever_goes_wrong_while_reading_lets_nobody_in(
    basic: BasicAuthenticator, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what nobody thought of leaves none of those in who were, and the file counts as soon as it can be read."""
    await basic.authenticate(header("alice", PASSWORD))
    users.touch()
    with monkeypatch.context() as broken:
        broken.setattr("strongroom.http_proxy.authn.basic.changed_by_others", lambda path, status: 1 // 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await basic.authenticate(header("alice", PASSWORD))
    assert await basic.authenticate(header("alice", PASSWORD)) is not None


async def test_a_file_that_is_gone_lets_nobody_in_until_it_is_back(
    basic: BasicAuthenticator, users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, not with every request."""
    text = users.read_text()
    await basic.authenticate(header("alice", PASSWORD))
    users.unlink()
    for _ in range(3):
        with pytest.raises(Refused):
            await basic.authenticate(header("alice", PASSWORD))
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    users.write_text(text)
    assert await basic.authenticate(header("alice", PASSWORD)) is not None


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o622, 0o666])
async def test_a_file_that_others_may_write_lets_nobody_in(
    basic: BasicAuthenticator, users: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """Who can write it can be anybody: the log says what to run, and then it counts at once."""
    users.chmod(mode)
    for _ in range(3):
        with pytest.raises(Refused):
            await basic.authenticate(header("alice", PASSWORD))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "nobody can sign in" in record.getMessage()
    assert f"chmod go-w {users}" in record.getMessage()

    users.chmod(mode & ~0o022)
    assert await basic.authenticate(header("alice", PASSWORD)) is not None


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o644])
async def test_a_file_that_its_owner_alone_may_write_counts(basic: BasicAuthenticator, users: Path, mode: int) -> None:
    """Others may read it, or a group."""
    users.chmod(mode)
    assert await basic.authenticate(header("alice", PASSWORD)) is not None


async def test_no_credential_is_ever_logged(basic: BasicAuthenticator, caplog: pytest.LogCaptureFixture) -> None:
    """Not the password, not the field it came in, not the hash, right or wrong, at any level."""
    with caplog.at_level(logging.DEBUG):
        await basic.authenticate(header("alice", PASSWORD))
        for name, password in (("alice", "wr0ng-pass"), ("mallory", "wr0ng-pass")):
            with pytest.raises(Refused):
                await basic.authenticate(header(name, password))

    for secret in (PASSWORD, "wr0ng-pass", header("alice", PASSWORD)[b"authorization"].decode(), "$argon2", "$2b$"):
        assert secret not in caplog.text
    assert "$argon2" not in repr(vars(basic._users)) + repr(basic)


@pytest.mark.parametrize("stored", ["$argon2id$garbage", "$2b$12$short", "$2b$", "$argon2"])
def test_a_hash_that_is_none_matches_nothing(stored: str) -> None:
    """Half a hash in the file is a user who cannot sign in, not an error."""
    assert not verify(stored, b"")
    assert not verify(stored, b"x")


def test_a_long_password_means_to_bcrypt_what_it_always_did() -> None:
    """Bcrypt looks at 72 bytes; hashes made when its libraries cut silently go on working."""
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert verify(stored, b"x" * 100)
    assert not verify(stored, b"x" * 71)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([("kerberos", {})], "no authenticator 'kerberos'"),
        ([("basic", {"users": "y"})], "takes one option"),
        ([("basic", {"filepath": "/x", "users": "y"})], "takes one option"),
        ([("apikey", {"x": "y"})], "takes no options"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wanted: list[tuple[str, dict[str, str]]], words: str) -> None:
    """At the start, with words for the operator."""
    with pytest.raises(ConfigurationError, match=words):
        authn.make(wanted, Pool(Place("/nowhere"), 1))


def test_authenticators_keep_their_order() -> None:
    """They are asked as they are listed."""
    made = authn.make([("basic", {"filepath": "/x"}), ("apikey", {})], Pool(Place("/nowhere"), 1))
    assert [type(one).__name__ for one in made] == ["BasicAuthenticator", "ApiKeyAuthenticator"]
