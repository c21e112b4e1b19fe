"""Access keys: each is known in every spelling, and what is too weak or something else is refused with its reason."""

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from strongroom.models.access import InvalidAccess
from strongroom.storage_service.access.credentials import access_key as kind
from strongroom.storage_service.access.credentials.access_key import access_key, key_of
from strongroom.storage_service.wire import ssh
from tests.access.ssh_holders import KINDS, SK_ECDSA, SK_ED25519, SoftwareKey

SPKI = PublicFormat.SubjectPublicKeyInfo
kinds = pytest.mark.parametrize("name", KINDS)
POINT = ec.generate_private_key(ec.SECP256R1()).public_key()
LONG_POINT = POINT.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
SHORT_POINT = POINT.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def pem(public: Any, form: PublicFormat = SPKI) -> str:
    return public.public_bytes(Encoding.PEM, form).decode()


def public_line(file: Path) -> str:
    return file.with_suffix(".pub").read_text()


def refusal(given: str) -> str:
    """Return why *given* is refused; nothing of it is repeated."""
    with pytest.raises(InvalidAccess) as caught:
        access_key(given)
    assert caught.value.field == "data"
    assert caught.value.__cause__ is None
    assert not [word for word in given.split() if len(word) > 20 and word in str(caught.value)]
    return str(caught.value)


@kinds
def test_fingerprint_and_line_are_those_of_ssh_keygen(name: str, key_files: dict[str, Path]) -> None:
    """A line of OpenSSH is kept without its comment, and known by the fingerprint that ssh-keygen tells."""
    line = public_line(key_files[name])
    told = subprocess.run(["ssh-keygen", "-lf", str(key_files[name])], capture_output=True, text=True, check=True)

    key = access_key(line)

    assert line == f"{key.line} {name} of ann\n"
    assert key.fingerprint == told.stdout.split()[1]
    assert kind.canonical(key.line) == key.line
    assert kind.shown(key.line) == {"type": key.kind, "fingerprint": key.fingerprint, "public_key": key.line}


@kinds
def test_one_key_in_two_spellings_is_one(name: str, key_files: dict[str, Path]) -> None:
    """PEM, with Windows's line ends too, and OpenSSH's line are kept as one line, so that duplicates are known."""
    line = public_line(key_files[name])
    public = load_ssh_public_key(line.encode())
    spellings = [line, pem(public), pem(public).replace("\n", "\r\n"), f"  {line}\n"]
    if name == "rsa":
        spellings.append(pem(public, PublicFormat.PKCS1))

    assert len({kind.canonical(each) for each in spellings}) == 1
    assert len({kind.identity(kind.canonical(each)) for each in spellings}) == 1


@pytest.mark.parametrize("name", [SK_ED25519, SK_ECDSA])
def test_hardware_keys_are_taken(name: str) -> None:
    """Both kinds of hardware keys are read, with what they are for, and never to be encrypted to."""
    blob = SoftwareKey(name, "ssh:work").blob
    key = access_key(ssh.line_of(blob) + " yubi")

    assert (key.kind, key.application, key.encrypts) == (name, "ssh:work", None)
    assert key.line == ssh.line_of(blob)


def test_what_can_be_encrypted_to() -> None:
    """RSA and EC decrypt; Ed25519 only signs."""
    keys: list[Any] = [
        rsa.generate_private_key(65537, 3072),
        ec.generate_private_key(ec.SECP384R1()),
        Ed25519PrivateKey.generate(),
    ]

    assert [access_key(pem(key.public_key())).encrypts is None for key in keys] == [False, False, True]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: pem(rsa.generate_private_key(65537, 2048).public_key()), "3,072"),
        (lambda: pem(rsa.generate_private_key(65537, 2048).public_key(), PublicFormat.PKCS1), "3,072"),
        (lambda: pem(rsa.generate_private_key(3, 3072).public_key()), "exponent"),
        (lambda: pem(ec.generate_private_key(ec.SECP256K1()).public_key()), "P-256"),
        (lambda: pem(ec.generate_private_key(ec.SECP224R1()).public_key()), "P-256"),
        (lambda: pem(dsa.generate_private_key(2048).public_key()), "neither RSA nor EC"),
        (lambda: pem(ed448.Ed448PrivateKey.generate().public_key()), "neither RSA nor EC"),
        (lambda: pem(x25519.X25519PrivateKey.generate().public_key()), "neither RSA nor EC"),
        (lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "public key in PEM"),
        (lambda: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate"),
        (lambda: 2 * pem(POINT), "one block"),
        (lambda: pem(POINT) + "ssh-ed25519 AAAA", "one block"),
    ],
)
def test_pem_that_is_no_good_key_is_refused(made, why: str) -> None:
    """Short RSA, odd exponents, other curves, other kinds, certificates and more than one block are refused."""
    assert why in refusal(made())


def test_a_private_key_is_refused_and_called_known(key_files: dict[str, Path]) -> None:
    """Whoever gives the private key by mistake is told to make another, in OpenSSH's form or PEM's."""
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    assert "make a new one" in refusal(private)
    assert "make a new one" in refusal(key_files["ed25519"].read_text())


def spelled(*parts: bytes | str) -> str:
    blob = b"".join(ssh.string(part) for part in parts)
    return f"{str(parts[0], 'ascii') if isinstance(parts[0], bytes) else parts[0]} {base64.b64encode(blob).decode()}"


MODULUS = (1 << 3071) | 1
NUMBER = MODULUS.to_bytes(385)
E = (65537).to_bytes(3)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "one line"),
        ("ssh-ed25519", "base64"),
        ("ssh-ed25519 !!!!", "base64"),
        ("ssh-ed25519 AAAA", "OpenSSH"),
        ("ssh-dss AAAA", "DSA"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificate"),
        ("ecdsa-sha2-nistp256-cert-v01@openssh.com AAAA", "certificate"),
        ("webauthn-sk-ecdsa-sha2-nistp256@openssh.com AAAA", "sk- kind"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
        (f'command="x" {spelled("ssh-ed25519", bytes(32))}', "options before it"),
        (f"no-pty {spelled('ssh-ed25519', bytes(32))}", "options before it"),
        (f"{spelled('ssh-ed25519', bytes(32))}\n{spelled('ssh-ed25519', bytes(32))}", "one line"),
        (spelled("ssh-ed25519", bytes(31)), "numbers"),
        (spelled("ssh-ed25519", bytes(32), b"more"), "follows"),
        (spelled("ssh-ed25519", bytes(32)).replace("ssh-ed25519 ", "ssh-rsa "), "of one kind"),
        (spelled("ssh-rsa", E, NUMBER, b""), "follows"),
        (spelled("ssh-rsa", b"\0" + E, NUMBER), "bytes to spare"),
        (spelled("ssh-rsa", E, b"\0" + NUMBER), "bytes to spare"),
        (spelled("ssh-rsa", E, NUMBER[1:]), "not positive"),
        (spelled("ssh-rsa", b"", NUMBER), "not positive"),
        (spelled("ssh-rsa", (1).to_bytes(1), NUMBER), "exponent"),
        (spelled("ssh-rsa", (65536).to_bytes(3), NUMBER), "exponent"),
        (spelled("ssh-rsa", (2**40 + 1).to_bytes(6), NUMBER), "exponent"),
        (spelled("ssh-rsa", E, (MODULUS - 1).to_bytes(385)), "exponent"),
        (spelled("ssh-rsa", E, ((1 << 16384) | 1).to_bytes(2049)), "3,072"),
        (spelled("ssh-rsa", E, b"\x7f" * 8000), "longer"),
        (spelled("ecdsa-sha2-nistp256", "nistp384", LONG_POINT), "its curve"),
        (spelled("ecdsa-sha2-nistp256", "nistp256", SHORT_POINT), "in full"),
        (spelled("ecdsa-sha2-nistp256", "nistp256", b"\0"), "in full"),
        (spelled("ecdsa-sha2-nistp256", "nistp256", LONG_POINT[:-1] + bytes([LONG_POINT[-1] ^ 1])), "numbers"),
        (spelled("ecdsa-sha2-nistp384", "nistp384", LONG_POINT), "numbers"),
        (spelled(SK_ED25519, bytes(32)), "ends before"),
        (spelled(SK_ED25519, bytes(32), "https://example.net"), "application"),
        (spelled(SK_ED25519, bytes(32), "ssh:\n"), "printable"),
        (spelled(SK_ECDSA, "nistp256", LONG_POINT, "web"), "application"),
        ("ssh-ed25519 " + "A" * 20_000, "longer"),
    ],
    ids=lambda each: each[:30],
)
def test_a_line_that_is_no_good_key_is_refused(line: str, why: str) -> None:
    """DSA, certificates, options, several lines, other spellings of one key and wrong numbers are each refused."""
    assert why in refusal(line)


@kinds
def test_each_byte_counts(name: str, key_files: dict[str, Path]) -> None:
    """A key with a byte cut off or added is no key, and with one changed it is refused or another."""
    blob = access_key(public_line(key_files[name])).blob
    for other in (blob[:-1], blob + b"\0", blob[1:], b""):
        with pytest.raises(InvalidAccess):
            key_of(other)
    for at in range(0, len(blob), 7):
        changed = blob[:at] + bytes([blob[at] ^ 0x11]) + blob[at + 1 :]
        try:
            assert key_of(changed).fingerprint != ssh.fingerprint_of(blob)
        except InvalidAccess:
            continue
