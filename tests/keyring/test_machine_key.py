"""Machine keys: which are accepted, the file one lies in, and the wraps that one opens, and no other key."""

import hashlib
import json
import pickle
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from strongroom.models.secret import REDACTED
from strongroom.storage_service.errors import Exists, Invalid, KeyFileMissing, KeyFileUnusable, Undecipherable
from strongroom.storage_service.jose import base64url, jwk
from strongroom.storage_service.jose.jwe import Reason
from strongroom.storage_service.keyring.machines import key as machine_key
from strongroom.storage_service.keyring.machines.key import Kind, MachineKey
from tests.keyring.machine_keys import NEXT_ROOT, RFC_7517, ROOT, key_of

KINDS: Final = pytest.mark.parametrize("kind", Kind)
GOLDEN: Final = (  # ROOT for the key of RFC 7517, made by the first generation that made wraps
    "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZDQkMtSFM1MTIiLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJF"
    "QyIsIngiOiJ3VlFsbm5aQ3BQN3NXbndWMW1CeEJEMnNkZXo4WjdCN1ZaZWFYMnRqcUxrIiwieSI6InZaVDdIeGZlTEJUMlo3THo4"
    "NVFaMVViRmNkZEFIWWw1cjk5ZVRMQkdEMEEifSwia2lkIjoicm9vdC5DNzh4RXFQcDFiX0xzd0U4IiwibWFjaGluZSI6IjcyN2Y4"
    "OGZkNjM0YzBhNTdhMTg5NWE3OWQ2MmZmNDU2OTM4NDM1NmQ2ZWE0NDdhYjAzY2IwNDZhNmU2MTlmZWIifQ.9H7miTCOEEP0Oz7Un"
    "W8oK1GZP_6K-"
    "Srub9UmAF8LAztQj8QUSDf0tiqHFCOufbvoUQleZZLWfXM62TPb4kpkA68UtJoNkBn1.kWaGtEUTiISpmUyYpiRxYw.ZsJyxad_N"
    "bgeZjBh9Mc1UJa9jrQYNtpzvyay1FapaKXbpZQ4qqSQND4OKAevjqKjs9ydM9OLp5Dh2fDPgc2wu0hF1Oif0py3uXKQPUHAc-"
    "3NBNQDUQdBmHs25LykC9seIGfLdHUfoVbJITtkMcDYFQ.oFpGsK5tX_TjS6hkw9SQgfB9QSDpI9ubKEF-GnkkyIc"
)


def reason_of(key: MachineKey, root_kid: str, text: str) -> str:
    """Return why *text* is refused, after looking whether the error tells more than that."""
    with pytest.raises(Undecipherable) as caught:
        key.unwrap(root_kid, text)
    error = caught.value
    assert str(error) == f"system/keyring/machines/{key.fingerprint}: {error.reason}"
    assert error.__context__ is None
    return error.reason


def altered(text: str, **members: object) -> str:
    """Return a wrap with other members in its header; None takes one away."""
    protected, rest = text.split(".", 1)
    header = json.loads(base64url.decode(protected.encode())) | members
    header = {name: member for name, member in header.items() if member is not None}
    return f"{base64url.encode(json.dumps(header).encode()).decode()}.{rest}"


def forged(key: MachineKey, value: bytes = jwk.encode(ROOT.reveal()), **members: object) -> str:
    """Return a wrap as anybody can make one who has the public key, its tag right, with other members in its header."""
    alg = "RSA-OAEP-256" if "n" in key.public_jwk() else "ECDH-ES+A256KW"
    header = {"alg": alg, "enc": "A256CBC-HS512", "kid": ROOT.kid, "machine": key.fingerprint} | members
    token = JWE(value, json.dumps(header), algs=[header["alg"], header["enc"]])
    recipient = JWK(kty="oct", k="A" * 86) if header["alg"] == "dir" else JWK(**key.public_jwk())
    token.add_recipient(recipient)
    return str(token.serialize(compact=True))


# What is wrapped, opens.


@KINDS
def test_a_wrap_opens_for_its_machine(kind: Kind) -> None:
    """A root key comes back as it was, and each wrap of it is another text."""
    key = key_of(kind)
    texts = [machine_key.wrap(ROOT, key.public_jwk()) for _ in range(2)]

    assert [key.unwrap(ROOT.kid, text) for text in texts] == [ROOT, ROOT]
    assert texts[0] != texts[1]
    assert max(map(len, texts)) < machine_key.MAX_WRAP / 2


def test_a_wrap_of_old_opens() -> None:
    """A wrap that an earlier version made opens, as do the fingerprint and the root key's id mean what they meant."""
    key = MachineKey(RFC_7517)

    assert key.fingerprint == "727f88fd634c0a57a1895a79d62ff4569384356d6ea447ab03cb046a6e619feb"
    assert key.unwrap("root.C78xEqPp1b_LswE8", GOLDEN) == ROOT


def test_a_fingerprint_is_the_thumbprint() -> None:
    """The fingerprint is SHA-256 over the public members in order, without spaces (RFC 7638 sec. 3), in hex."""
    text = '{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}'.format(**RFC_7517)

    assert machine_key.fingerprint_of(MachineKey(RFC_7517).public_jwk()) == hashlib.sha256(text.encode()).hexdigest()


@KINDS
def test_any_jose_library_reads_a_wrap(kind: Kind) -> None:
    """A wrap is a JWE as the RFCs have it, and opens with nothing of ours."""
    key = key_of(kind)
    token = JWE()
    token.deserialize(machine_key.wrap(ROOT, key.public_jwk()), JWK.from_json(key.private_text().reveal()))

    assert token.payload == jwk.encode(ROOT.reveal())


# What does not open.


@KINDS
def test_another_machine_opens_nothing(kind: Kind) -> None:
    """A wrap for one machine does not open for another, also if its header is made to say so."""
    key = key_of(kind)
    theirs = machine_key.wrap(ROOT, machine_key.make(kind).public_jwk())

    assert reason_of(key, ROOT.kid, theirs) == Reason.WRONG_NAME
    assert reason_of(key, ROOT.kid, altered(theirs, machine=key.fingerprint)) == Reason.WRONG_TAG
    other = key_of(next(each for each in Kind if each is not kind))
    assert reason_of(other, ROOT.kid, theirs) == Reason.ALGORITHM


REFUSED: Final[Mapping[str, tuple[Mapping[str, object], Reason]]] = {
    "no algorithm": ({"alg": None}, Reason.ALGORITHM),
    "none": ({"alg": "none"}, Reason.ALGORITHM),
    "dir": ({"alg": "dir"}, Reason.ALGORITHM),
    "RSA with the old padding": ({"alg": "RSA1_5"}, Reason.ALGORITHM),
    "RSA-OAEP with SHA-1": ({"alg": "RSA-OAEP"}, Reason.ALGORITHM),
    "direct agreement": ({"alg": "ECDH-ES"}, Reason.ALGORITHM),
    "a password": ({"alg": "PBES2-HS512+A256KW", "p2c": 10**9, "p2s": "AA"}, Reason.ALGORITHM),
    "an algorithm that is no text": ({"alg": ["RSA-OAEP-256"]}, Reason.ALGORITHM),
    "no encryption": ({"enc": None}, Reason.ALGORITHM),
    "GCM": ({"enc": "A256GCM"}, Reason.ALGORITHM),
    "a shorter key": ({"enc": "A128CBC-HS256"}, Reason.ALGORITHM),
    "compressed": ({"zip": "DEF"}, Reason.ALGORITHM),
    "critical": ({"crit": ["exp"], "exp": 1}, Reason.ALGORITHM),
    "critical, of nothing": ({"crit": []}, Reason.ALGORITHM),
    "a party's data": ({"apu": "AAAA"}, Reason.ALGORITHM),
    "a key of its own": ({"jwk": RFC_7517}, Reason.ALGORITHM),
    "a place for keys": ({"jku": "https://example.org/keys"}, Reason.ALGORITHM),
    "a type": ({"typ": "JWE"}, Reason.ALGORITHM),
    "no machine": ({"machine": None}, Reason.WRONG_NAME),
    "another machine": ({"machine": "0" * 64}, Reason.WRONG_NAME),
    "the machine in capitals": ({"machine": MachineKey(RFC_7517).fingerprint.upper()}, Reason.WRONG_NAME),
    "no root key": ({"kid": None}, Reason.WRONG_NAME),
    "another root key": ({"kid": NEXT_ROOT.kid}, Reason.WRONG_NAME),
    "a root key that is no text": ({"kid": [ROOT.kid]}, Reason.WRONG_NAME),
}


@KINDS
@pytest.mark.parametrize(("members", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_headers(kind: Kind, members: Mapping[str, object], reason: Reason) -> None:
    """The header says what we write, of this machine and that root key, or nothing is tried with it."""
    key = key_of(kind)

    assert reason_of(key, ROOT.kid, altered(machine_key.wrap(ROOT, key.public_jwk()), **members)) == reason


FORGED: Final[Mapping[str, tuple[Kind, Mapping[str, object]]]] = {
    "compressed, EC": (Kind.EC, {"zip": "DEF"}),
    "compressed, RSA": (Kind.RSA, {"zip": "DEF"}),
    "a key that all know": (Kind.EC, {"alg": "dir"}),
    "direct agreement": (Kind.EC, {"alg": "ECDH-ES"}),
    "RSA with the old padding": (Kind.RSA, {"alg": "RSA1_5"}),
    "RSA-OAEP with SHA-1": (Kind.RSA, {"alg": "RSA-OAEP"}),
    "GCM": (Kind.EC, {"enc": "A256GCM"}),
    "a type": (Kind.RSA, {"typ": "JWE"}),
}


@pytest.mark.parametrize(("kind", "members"), FORGED.values(), ids=FORGED)
def test_refused_though_they_would_open(kind: Kind, members: Mapping[str, Any]) -> None:
    """What a JOSE library would open, but is not of our one form for the key, is refused without trying."""
    key = key_of(kind)

    assert reason_of(key, ROOT.kid, forged(key, **members)) == Reason.ALGORITHM


EPHEMERAL: Final[Mapping[str, object]] = {
    "none": None,
    "a text": "AAAA",
    "of another curve": JWK.generate(kty="EC", crv="P-384").export_public(as_dict=True),
    "of another sort": JWK.generate(kty="OKP", crv="X25519").export_public(as_dict=True),
    "off the curve": {**MachineKey(RFC_7517).public_jwk(), "y": RFC_7517["x"]},
    "with its private half": RFC_7517,
    "with more to say": {**MachineKey(RFC_7517).public_jwk(), "kid": "x"},
    "too long": {**MachineKey(RFC_7517).public_jwk(), "x": "A" * 48},
}


@pytest.mark.parametrize("epk", EPHEMERAL.values(), ids=EPHEMERAL)
def test_refused_ephemeral_keys(epk: object) -> None:
    """The sender's key is a point of our curve (RFC 8725 sec. 3.4), and nothing beside it."""
    key = key_of(Kind.EC)

    assert reason_of(key, ROOT.kid, altered(machine_key.wrap(ROOT, key.public_jwk()), epk=epk)) == Reason.MALFORMED


def test_an_ephemeral_key_where_none_belongs() -> None:
    """A wrap by RSA has no sender's key."""
    key = key_of(Kind.RSA)
    text = altered(machine_key.wrap(ROOT, key.public_jwk()), epk=MachineKey(RFC_7517).public_jwk())

    assert reason_of(key, ROOT.kid, text) == Reason.ALGORITHM


CONTENT: Final[Mapping[str, tuple[bytes, str]]] = {
    "another root key": (jwk.encode(NEXT_ROOT.reveal()), "it holds another root key than it names"),
    "half a key": (JWK.generate(kty="oct", size=256).export().encode(), Reason.MALFORMED),
    "no key": (b'{"kty":"oct"}', Reason.MALFORMED),
    "no JSON": (b"hunter2", Reason.MALFORMED),
    "a list": (b"[]", Reason.MALFORMED),
}


@KINDS
@pytest.mark.parametrize(("value", "reason"), CONTENT.values(), ids=CONTENT)
def test_what_is_inside_is_that_root_key(kind: Kind, value: bytes, reason: str) -> None:
    """Anybody can encrypt something to a machine; only the root key whose id was asked for is taken."""
    key = key_of(kind)

    assert reason_of(key, ROOT.kid, forged(key, value)) == reason


def test_every_changed_character_is_noticed() -> None:
    """A wrap with any one character changed does not open."""
    key = key_of(Kind.EC)
    text = machine_key.wrap(ROOT, key.public_jwk())

    for place, character in enumerate(text):
        reason_of(key, ROOT.kid, text[:place] + ("A" if character != "A" else "B") + text[place + 1 :])


@KINDS
def test_every_changed_segment_is_noticed(kind: Kind) -> None:
    """A wrap with a segment of another wrap of the same key does not open, except for the whole of it."""
    key = key_of(kind)
    one, two = (machine_key.wrap(ROOT, key.public_jwk()).split(".") for _ in range(2))

    for place in range(1, 5):
        mixed = [*one[:place], two[place], *one[place + 1 :]]
        assert reason_of(key, ROOT.kid, ".".join(mixed)) == Reason.WRONG_TAG


@KINDS
def test_truncated_wraps(kind: Kind) -> None:
    """No beginning of a wrap opens, nor a wrap with something behind it."""
    key = key_of(kind)
    text = machine_key.wrap(ROOT, key.public_jwk())

    for cut in range(len(text) - 1):
        reason_of(key, ROOT.kid, text[:cut])
    for more in (".", "=", "\n", ".AAAA", "A" * 4096):
        assert reason_of(key, ROOT.kid, text + more) == Reason.MALFORMED


@pytest.mark.parametrize(
    "text", ["", "....", "a.b.c.d.e", "Ä.Ä.Ä.Ä.Ä", "\udc80", "{}", "W10....", "bnVsbA....", "." * 9000]
)
def test_what_is_no_wrap(text: str) -> None:
    """Nonsense is refused as nonsense."""
    assert reason_of(key_of(Kind.EC), ROOT.kid, text) == Reason.MALFORMED


def test_members_twice() -> None:
    """A header that says a thing twice, as two readers may read differently, is refused."""
    key = key_of(Kind.EC)
    protected, rest = machine_key.wrap(ROOT, key.public_jwk()).split(".", 1)
    header = base64url.decode(protected.encode())
    doubled = base64url.encode(header[:-1] + b',"kid":"%b"}' % ROOT.kid.encode()).decode()

    assert reason_of(key, ROOT.kid, f"{doubled}.{rest}") == Reason.MALFORMED


# Which keys are one.


def of(kind: Kind) -> dict[str, str]:
    """Return the members of a private key."""
    return dict(json.loads(key_of(kind).private_text().reveal()))


def exchanged(**members: object) -> bytes:
    return json.dumps(RFC_7517 | members).encode()


NO_KEYS: Final[Mapping[str, Callable[[], bytes]]] = {
    "empty": lambda: b"",
    "text": lambda: b"hunter2",
    "a list": lambda: b"[]",
    "no type": lambda: b"{}",
    "a type that is no text": lambda: exchanged(kty=["EC"]),
    "symmetric": lambda: jwk.encode(ROOT.reveal()),
    "another curve": lambda: JWK.generate(kty="EC", crv="P-384").export().encode(),
    "a curve for signatures": lambda: JWK.generate(kty="OKP", crv="Ed25519").export().encode(),
    "RSA of 2048 bits": lambda: JWK.generate(kty="RSA", size=2048).export().encode(),
    "RSA, shortened": lambda: json.dumps(of(Kind.RSA) | {"n": "A" * 512}).encode(),
    "with another exponent": lambda: json.dumps(of(Kind.RSA) | {"e": "Aw"}).encode(),
    "halves of two keys": lambda: exchanged(d=of(Kind.EC)["d"]),
    "halves of two keys, RSA": lambda: json.dumps(of(Kind.RSA) | {"d": of(Kind.RSA)["n"]}).encode(),
    "off the curve": lambda: exchanged(y=RFC_7517["x"]),
    "zero": lambda: exchanged(d="A" * 43),
    "a number": lambda: exchanged(d=5),
    "beyond ASCII": lambda: exchanged(d="Ä" * 43),
    "padded": lambda: exchanged(x=RFC_7517["x"] + "="),
    "another spelling of the same": lambda: exchanged(x=RFC_7517["x"][:-1] + "5"),
    "with an id": lambda: exchanged(kid="x"),
    "with a use": lambda: exchanged(use="enc"),
    "a member twice": lambda: exchanged()[:-1] + b',"kty":"EC"}',
    "far too large": lambda: exchanged() + b" " * 5000,
}


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS)
def test_files_that_hold_no_key(tmp_path: Path, text: Callable[[], bytes]) -> None:
    """A file that holds anything but a key of ours, in its one spelling, is refused, and nothing of it repeated."""
    path = tmp_path / "machine.key"
    path.write_bytes(text())
    path.chmod(0o600)

    with pytest.raises(KeyFileUnusable) as caught:
        machine_key.read_private(path)

    assert str(caught.value).startswith(f"{path} does not hold a machine's private key: ")
    assert not any(secret in str(caught.value) for secret in (RFC_7517["d"], "hunter2", "AAECAw"))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS)
def test_texts_that_are_no_public_key(text: Callable[[], bytes]) -> None:
    """What is handed over as a machine's public key is one, or is refused with a reason."""
    with pytest.raises(Invalid, match=r"^that is not a machine's public key: "):
        machine_key.parse_public(text())


@KINDS
def test_public_keys(kind: Kind) -> None:
    """The public half, and it alone, is a public key; a private key is refused by its name."""
    key = key_of(kind)

    assert machine_key.parse_public(json.dumps(key.public_jwk()).encode()) == key.public_jwk()
    assert not key.public_jwk().keys() & {"d", "p", "q", "dp", "dq", "qi"}
    with pytest.raises(Invalid, match="it is a private key, which no machine may give away"):
        machine_key.parse_public(key.private_text().reveal().encode())


# The file.


@KINDS
def test_a_key_survives_its_file(tmp_path: Path, kind: Kind) -> None:
    """A key is written to a file that its owner alone can read, and comes back as it was."""
    path = tmp_path / "machine.key"
    key = key_of(kind)

    machine_key.write_private(path, key)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["machine.key"]
    again = machine_key.read_private(path)
    assert again.fingerprint == key.fingerprint
    assert again.private_text() == key.private_text()


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    """Where there is something, a link to nowhere among it, no key is written, and it stays."""
    taken, link = tmp_path / "machine.key", tmp_path / "link"
    taken.write_bytes(b"precious")
    link.symlink_to("nowhere")

    for path in (taken, link):
        with pytest.raises(Exists):
            machine_key.write_private(path, key_of(Kind.EC))

    assert taken.read_bytes() == b"precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "machine.key"]


def test_files_that_are_refused(tmp_path: Path) -> None:
    """A machine's key file is looked at as strictly as a root key file, and the text says what follows."""
    path = tmp_path / "machine.key"
    with pytest.raises(KeyFileMissing, match="there is no machine key file at"):
        machine_key.read_private(path)
    with pytest.raises(KeyFileUnusable, match=r"the machine key file .* cannot be made: No such file or directory"):
        machine_key.write_private(tmp_path / "missing" / "machine.key", key_of(Kind.EC))
    machine_key.write_private(path, key_of(Kind.EC))
    path.chmod(0o640)
    with pytest.raises(KeyFileUnusable, match=r"run: chmod 600 .*; if others .*, revoke this machine and rotate"):
        machine_key.read_private(path)


# What a key tells of itself.


@KINDS
def test_a_key_shows_its_fingerprint_alone(kind: Kind) -> None:
    """No form in which a key is shown has its private half, and it is not pickled."""
    key = key_of(kind)
    secret = of(kind)["d"]

    assert repr(key) == f"<MachineKey {key.fingerprint[:16]}>"
    assert secret in key.private_text().reveal()
    for shown in (repr(key), str(key), f"{key}", repr(key.private_text()), str(key.public_jwk())):
        assert secret not in shown
    assert REDACTED in str(key.private_text())
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
