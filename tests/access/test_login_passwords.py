"""Passwords: kept as Argon2id, older hashes taken once more, and unknown names at the cost of known ones."""

import dataclasses

import argon2
import bcrypt
import pytest

from strongroom.models.access import Credential, InvalidAccess
from strongroom.storage_service.access.credentials import password as kind
from strongroom.storage_service.access.credentials.password import Match, Passwords, hashed, verify

CHEAP = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


def credential(number: int, data: str) -> Credential:
    return Credential(id=f"{number:032x}", kind="password", name="a", data=data, created="2026-11-30T12:00:00Z")


@dataclasses.dataclass
class Watched:
    """Counts which hashes are tried; a password is right where the hash says so in the clear."""

    tried: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, stored: str, password: bytes) -> bool:
        self.tried.append(stored)
        return stored == password.decode(errors="replace")


def test_a_new_password_is_argon2id_and_is_found() -> None:
    """A password is hashed as Argon2id, found again, and not hashed anew."""
    stored = hashed("correct horse")
    people = Passwords({"user:ann": [credential(1, stored)]})

    assert stored.startswith("$argon2id$")
    assert kind.canonical(stored) == stored
    assert people.match("user:ann", b"correct horse") == Match(f"{1:032x}", rehash=False)
    assert people.match("user:ann", b"correct hors") is None
    assert people.match("user:bob", b"correct horse") is None


@pytest.mark.parametrize(
    "stored",
    [
        bcrypt.hashpw(b"old password", bcrypt.gensalt(10)).decode(),
        CHEAP.hash("old password"),
        argon2.PasswordHasher(time_cost=5, memory_cost=7168, parallelism=1, type=argon2.Type.I).hash("old password"),
    ],
    ids=["bcrypt", "cheap", "argon2i"],
)
def test_an_older_hash_is_taken_and_to_be_hashed_anew(stored: str) -> None:
    """bcrypt, and Argon2 with other parameters, let in and say that they are to be replaced."""
    people = Passwords({"user:ann": [credential(1, kind.canonical(stored))]})

    assert people.match("user:ann", b"old password") == Match(f"{1:032x}", rehash=True)
    assert people.match("user:ann", b"old passwore") is None


def test_bcrypt_looks_at_72_bytes_as_it_always_did() -> None:
    """A long password of an older file goes on working."""
    assert verify(bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode(), b"x" * 90)


def test_unknown_names_cost_what_some_principal_costs() -> None:
    """A name that is nobody's is tried against the hashes of one principal, always the same, and refused even so."""
    rows = {f"user:{number}": [credential(number, f"hash {number}")] for number in range(20)}
    rows["user:two"] = [credential(98, "one"), credential(99, "other")]
    seen = set()
    for name in (f"user:unknown{number}" for number in range(200)):
        tries = []
        for password in (b"a", b"b", b"one"):
            watched = Watched()
            assert Passwords(rows, watched).match(name, password) is None
            tries.append(tuple(watched.tried))
        assert len(set(tries)) == 1
        assert list(tries[0]) in [[each.data for each in row] for row in rows.values()]
        watched = Watched()
        assert Passwords(rows, watched).match(name, tries[0][0].encode()) is None
        seen.add(tries[0])

    assert len(seen) > 15


def test_every_password_of_a_principal_is_tried() -> None:
    """While one password replaces another both let in, and no clock tells which it was."""
    for password, number in (("one", 1), ("other", 2)):
        watched = Watched()
        people = Passwords({"user:ann": [credential(1, "one"), credential(2, "other")]}, watched)
        found = people.match("user:ann", password.encode())

        assert found is not None
        assert found.credential == f"{number:032x}"
        assert watched.tried == ["one", "other"]


def test_where_nobody_has_a_password_nothing_is_tried() -> None:
    """Without passwords every name is refused at once, those of principals among them."""
    watched = Watched()

    assert Passwords({"user:ann": []}, watched).match("user:ann", b"x") is None
    assert watched.tried == []


@pytest.mark.parametrize("password", ["", "seven77", "x" * 1025, "\xe4" * 513])
def test_short_and_long_passwords_are_refused(password: str) -> None:
    """A password has eight characters or more, and no more bytes than are hashed; it is not repeated."""
    with pytest.raises(InvalidAccess, match=r"^a password is 8 characters or more"):
        hashed(password)


def test_a_long_guess_is_not_hashed() -> None:
    """What is longer than any password can be is refused before it costs anything."""
    watched = Watched()

    assert Passwords({"user:ann": [credential(1, "one")]}, watched).match("user:ann", b"x" * 1025) is None
    assert watched.tried == []


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "canary",
        "$argon2id$v=19$m=65536,t=3,p=4$",
        "$argon2id$v=19$m=4194304,t=3,p=4$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65536,t=1000,p=4$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65536,t=3,p=400$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65537,t=3,p=4$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65536,t=5,p=4$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=65536,t=3,p=5$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=7167,t=4,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=19456,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        "$2b$04$" + "a" * 53,
        "$2b$31$" + "a" * 53,
        "$2b$12$" + "a" * 52,
        "$2x$12$" + "a" * 53,
        "$1$abc$def",
        "$6$abc$def",
    ],
)
def test_a_hash_that_is_none_or_costs_too_much_is_refused(stored: str) -> None:
    """Other hashes, and those that cost too little or would stop the service, are not taken in, nor repeated."""
    with pytest.raises(InvalidAccess) as caught:
        kind.canonical(stored)

    assert not stored or stored not in str(caught.value)


def test_nothing_of_a_hash_is_shown() -> None:
    """What is told of a password is how it is hashed; two alike are no duplicates."""
    stored = CHEAP.hash("old password")

    assert kind.shown(stored) == {"hash": "argon2"}
    assert kind.shown("$2b$12$x") == {"hash": "bcrypt"}
    assert kind.identity(stored) is None
    assert stored not in repr(Passwords({"user:ann": [credential(1, stored)]}))
