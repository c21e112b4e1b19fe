"""SSH keys as they move: what `ssh-keygen` reads afterwards, what it refuses is told, and what is no key is a fault."""

import base64
import os
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from strongroom.migration.sources import ssh_keys
from strongroom.migration.sources.files import Unfit
from tests.ssh_keys import private_key

_PASSPHRASE: Final = "a passphrase"
_OPEN: Final = NoEncryption()
_LOCKED: Final = BestAvailableEncryption(_PASSPHRASE.encode())
_RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_EC: Final = ec.generate_private_key(ec.SECP384R1())
_ED25519: Final = ed25519.Ed25519PrivateKey.generate()
_DSA: Final = dsa.generate_private_key(1024)
_OWN: Final = private_key().encode()


def _pem(key: Any, form: PrivateFormat, encryption: Any = _OPEN) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of DSA, which is what is asked for
        content: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return content


def ssh_reads(content: bytes, directory: Path) -> bool:
    """Whether ssh-keygen finds the public key of what lies in a file."""
    file = directory / "key"
    file.unlink(missing_ok=True)
    file.touch(0o600)
    file.write_bytes(content)
    command = ["ssh-keygen", "-y", "-P", _PASSPHRASE, "-f", str(file)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


FORMS: Final[Mapping[str, bytes]] = {
    "OpenSSH": _OWN,
    "OpenSSH, RSA": _pem(_RSA, PrivateFormat.OpenSSH),
    "OpenSSH, a passphrase": _pem(_EC, PrivateFormat.OpenSSH, _LOCKED),
    "PKCS 1": _pem(_RSA, PrivateFormat.TraditionalOpenSSL),
    "PKCS 1, a passphrase": _pem(_RSA, PrivateFormat.TraditionalOpenSSL, _LOCKED),
    "SEC 1": _pem(_EC, PrivateFormat.TraditionalOpenSSL),
    "PKCS 8": _pem(_RSA, PrivateFormat.PKCS8),
    "PKCS 8, a passphrase": _pem(_RSA, PrivateFormat.PKCS8, _LOCKED),
}
_PUBLIC: Final = _EC.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def _lines(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: b"".join(change(line) + b"\n" for line in content.splitlines())


SPELLINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "as it is": bytes,
    "without its last line break": lambda content: content.rstrip(b"\n"),
    "Windows's lines": lambda content: content.replace(b"\n", b"\r\n"),
    "old Macintosh's lines": lambda content: content.replace(b"\n", b"\r"),
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "a blank line before it": lambda content: b"\n" + content,
    "blanks before it": lambda content: b"  " + content,
    "blanks before its lines": _lines(lambda line: b"  " + line),
    "blanks behind its lines": _lines(lambda line: line + b"  "),
    "blanks at its end": lambda content: content.rstrip(b"\n") + b"  \n",
    "folded into one line": lambda content: content.replace(b"\n", b" "),
    "without any line break": lambda content: content.replace(b"\n", b""),
    "its body in one line": lambda content: b"\n".join(
        [content.splitlines()[0], b"".join(content.splitlines()[1:-1]), content.splitlines()[-1], b""]
    ),
    "line breaks as characters": lambda content: content.replace(b"\n", b"\\n"),
    "a public key before it": lambda content: _PUBLIC + content,
    "words before it": lambda content: b"the key of web-1\n" + content,
    "words behind it": lambda content: content + b"the key of web-1\n",
    "every line twice broken": lambda content: content.replace(b"\n", b"\n\n"),
    "all at once": lambda content: b"\xef\xbb\xbf  " + _PUBLIC + content.replace(b"\n", b" \r\n").rstrip() + b" words",
}
_HEADED: Final = "PKCS 1, a passphrase"  # whose headers end with an empty line, so that lines have a meaning there
_UNCLEAR: Final = {"folded into one line", "its body in one line", "without any line break"}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("form", FORMS)
def test_ssh_reads_what_moves(form: str, spelling: str, tmp_path: Path) -> None:
    """A key moves as it is if ssh reads it so; or else it is spelled so that ssh does, and that is told."""
    content = SPELLINGS[spelling](FORMS[form])
    if form == _HEADED and spelling in _UNCLEAR:
        with pytest.raises(Unfit, match="has lost its line breaks"):
            ssh_keys.examine(content)
        return
    examined = ssh_keys.examine(content)

    assert ssh_reads(examined.content, tmp_path)
    told = [note for note in examined.notes if "ssh refuses it" in note]
    assert bool(told) is (examined.content != content)
    if not ssh_reads(content, tmp_path):
        assert told
    assert ssh_keys.examine(examined.content).content == examined.content


def test_a_line_break_is_added() -> None:
    """Where only the last line break is missing, it is added, and nothing else is touched."""
    examined = ssh_keys.examine(_OWN.rstrip(b"\n"))

    assert examined.content == _OWN
    assert examined.notes == ("had no line break at its end, without which ssh refuses it: one was added",)


@pytest.mark.parametrize("spelling", ["a public key before it", "words before it", "all at once"])
def test_what_stands_beside_it(spelling: str) -> None:
    """What else was in its file stays behind, and that is told."""
    examined = ssh_keys.examine(SPELLINGS[spelling](_OWN))

    assert examined.content == _OWN
    assert "stood among other text, which stays behind" in examined.notes


class Told(NamedTuple):
    """A key, and what is told of it."""

    content: bytes
    note: str
    refused: bool = True  # by every OpenSSH, or by some


_TWISTED: Final = ec.generate_private_key(ec.SECP256K1())

TOLD: Final[Mapping[str, Told]] = {
    "a passphrase": Told(FORMS["OpenSSH, a passphrase"], "has a passphrase", refused=False),
    "a passphrase, PKCS 1": Told(FORMS["PKCS 1, a passphrase"], "has a passphrase", refused=False),
    "a passphrase, PKCS 8": Told(FORMS["PKCS 8, a passphrase"], "from version 9.6 on", refused=False),
    "DSA": Told(_pem(_DSA, PrivateFormat.OpenSSH), "is a DSA key", refused=False),
    "DSA, PEM": Told(_pem(_DSA, PrivateFormat.TraditionalOpenSSL), "is a DSA key", refused=False),
    "DSA, PEM, a passphrase": Told(_pem(_DSA, PrivateFormat.TraditionalOpenSSL, _LOCKED), "DSA key", refused=False),
    "DSA, PKCS 8": Told(_pem(_DSA, PrivateFormat.PKCS8), "is a DSA key", refused=False),
    "Ed25519 in PKCS 8": Told(_pem(_ED25519, PrivateFormat.PKCS8), "from version 9.6 on", refused=False),
    "Ed448": Told(_pem(ed448.Ed448PrivateKey.generate(), PrivateFormat.PKCS8), "of a kind that OpenSSH cannot use"),
    "X25519": Told(_pem(x25519.X25519PrivateKey.generate(), PrivateFormat.PKCS8), "of a kind that OpenSSH cannot use"),
    "another curve": Told(_pem(_TWISTED, PrivateFormat.TraditionalOpenSSL), "of a kind that OpenSSH cannot use"),
    "another curve, PKCS 8": Told(_pem(_TWISTED, PrivateFormat.PKCS8), "of a kind that OpenSSH cannot use"),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_is_told(what: str, tmp_path: Path) -> None:
    """A key that some ssh refuses whatever its spelling moves as it is, and what is to be done is told."""
    content, note, refused = TOLD[what]
    examined = ssh_keys.examine(content)

    assert examined.content == content
    assert any(note in each for each in examined.notes)
    if refused:
        assert not ssh_reads(content, tmp_path)


@pytest.mark.parametrize("form", [["-m", "PEM"], ["-m", "PKCS8"], []], ids=["PKCS 1", "PKCS 8", "OpenSSH"])
def test_a_short_key(form: list[str], tmp_path: Path) -> None:
    """An RSA key that is too short for OpenSSH is told, and one of 1,024 bits is not."""
    file = tmp_path / "long"
    command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", *form, "-N", "", "-f", str(file)]
    subprocess.run(command, check=True)
    assert ssh_keys.examine(file.read_bytes()).notes == ()

    # Nothing here makes one that short: the length of the number is what is looked at.
    body = b"".join(file.read_bytes().splitlines()[1:-1])
    short = _shortened(body)
    label = file.read_bytes().splitlines()[0].removeprefix(b"-----BEGIN ")
    content = b"-----BEGIN " + label + b"\n" + short + b"\n-----END " + label + b"\n"
    assert any("less than 1,024 bits" in note for note in ssh_keys.examine(content).notes)


def _shortened(body: bytes) -> bytes:
    """Return a key whose modulus begins with zeros."""
    key = base64.b64decode(body)
    at = key.index(b"\x81\x81\x00") + 3 if b"\x81\x81\x00" in key else key.index(b"\0\0\0\x81\0") + 5
    return base64.b64encode(key[:at] + bytes(8) + key[at + 8 :])


FAULTS: Final[Mapping[str, tuple[bytes, str]]] = {
    "nothing": (b"", "is empty"),
    "blanks": (b" \n", "is empty"),
    "a note": (b"call me about the key\n", "holds no private key"),
    "bytes": (os.urandom(64), "holds no private key"),
    "a public key": (_PUBLIC, "is a public key"),
    "a certificate": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is a public key or a cert"),
    "PuTTY's": (b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen"),
    "half of one": (_OWN[: len(_OWN) // 2], "cut short"),
    "half of one, PKCS 8": (FORMS["PKCS 8"][:200], "cut short"),
    "a key for OpenPGP": (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n", "holds no private key"),
    "in UTF-16": (_OWN.decode().encode("utf-16"), "holds no private key"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_no_key(what: str) -> None:
    """What is no private key is refused, and what it is is said without a word of it."""
    content, match = FAULTS[what]
    with pytest.raises(Unfit, match=match):
        ssh_keys.examine(content)
