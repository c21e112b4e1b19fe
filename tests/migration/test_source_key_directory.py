"""A directory of keys as a source: which files are keys, and what becomes of the files."""

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import files, open_source
from strongroom.models import HostCreds
from strongroom.storage_service.errors import ConfigurationError
from tests.laws.sources import Reader, reading
from tests.migration.sources.key_directory import KeyDirectory, new_key

_RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_EC: Final = ec.generate_private_key(ec.SECP256R1())
_OPEN: Final = NoEncryption()
_PASSPHRASE: Final = BestAvailableEncryption(b"a passphrase")


@pytest.fixture
def keys(tmp_path: Path) -> KeyDirectory:
    """An empty directory."""
    return KeyDirectory(tmp_path)


def _reading(keys: KeyDirectory, **options: Sequence[str]) -> Any:
    """Give the source of a directory, with other options."""
    said: Mapping[str, object] = {"kind": keys.kind, "place": keys.place, "options": {**keys.options, **options}}
    return reading(type("Said", (), dict(said))())


def _item(keys: KeyDirectory, **options: Sequence[str]) -> Item:
    """Return the one item there is."""
    with _reading(keys, **options) as reader:
        (item,) = reader.items()
    return item


def _creds(item: Item) -> HostCreds:
    (record,) = item.records
    return HostCreds.from_json(base64.b64decode(record.value.reveal()))


def _pem(key: Any, form: PrivateFormat, encryption: Any = _OPEN) -> bytes:
    content: bytes = key.private_bytes(Encoding.PEM, form, encryption)
    return content


# What is a key.

KEYS: Final[dict[str, bytes]] = {
    "OpenSSH": new_key(),
    "OpenSSH, RSA": _pem(_RSA, PrivateFormat.OpenSSH),
    "OpenSSH, a passphrase": _pem(_EC, PrivateFormat.OpenSSH, _PASSPHRASE),
    "PKCS 1": _pem(_RSA, PrivateFormat.TraditionalOpenSSL),
    "PKCS 1, a passphrase": _pem(_RSA, PrivateFormat.TraditionalOpenSSL, _PASSPHRASE),
    "SEC 1": _pem(_EC, PrivateFormat.TraditionalOpenSSL),
    "PKCS 8": _pem(_RSA, PrivateFormat.PKCS8),
    "PKCS 8, short": _pem(_EC, PrivateFormat.PKCS8),
    "PKCS 8, a passphrase": _pem(_RSA, PrivateFormat.PKCS8, _PASSPHRASE),
    "with Windows's lines": _pem(_RSA, PrivateFormat.PKCS8).replace(b"\n", b"\r\n"),
    "with words before it": b"Bag Attributes: none\n" + _pem(_RSA, PrivateFormat.PKCS8) + b"\n",
}


@pytest.mark.parametrize("content", KEYS.values(), ids=KEYS)
def test_a_key_moves_byte_for_byte(keys: KeyDirectory, content: bytes) -> None:
    """Every form that OpenSSH reads moves as it is."""
    keys.write("10.0.0.7", content)
    item = _item(keys)

    assert item.fault == ""
    assert item.records[0].name == "secrets/hosts/10.0.0.7"
    creds = _creds(item)
    assert (creds.address, creds.remote_user) == ("10.0.0.7", "root")
    assert base64.b64decode(creds.ssh_priv_key.reveal()) == content


def _without(lines: int, content: bytes) -> bytes:
    """Return a PEM without the last lines of its body."""
    split = content.splitlines(keepends=True)
    return b"".join(split[: -1 - lines] + split[-1:])


FAULTS: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n\n", "it is empty"),
    "words": (b"this was a key once\n", "no private key"),
    "bytes": (bytes(range(256)), "no private key"),
    "PuTTY": (b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen"),
    "its first half": (new_key()[:200], "cut short"),
    "OpenSSH without its last line": (_without(1, new_key()), "cut short"),
    "PKCS 1 without its last line": (_without(1, KEYS["PKCS 1"]), "cut short"),
    "PKCS 8 without its last two": (_without(2, KEYS["PKCS 8"]), "cut short"),
    "no base64": (KEYS["PKCS 8"].replace(b"M", b"*", 1), "damaged"),
    "nothing between": (b"-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----\n", "damaged"),
    "nothing of OpenSSH's": (
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        "damaged",
    ),
    "too large": (new_key() + b"\n" * 65536, "its file is over 64 KiB"),
}


@pytest.mark.parametrize(("content", "match"), FAULTS.values(), ids=FAULTS)
def test_what_might_have_been_a_key_is_a_fault(keys: KeyDirectory, content: bytes, match: str) -> None:
    """What is no key, or was cut short, does not move, and the fault says why."""
    keys.write("10.0.0.7", content)
    item = _item(keys)

    assert match in item.fault
    assert item.records == ()


PUBLIC: Final[dict[str, tuple[str, bytes]]] = {
    "a public key": ("web.pub", _RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)),
    "in PEM": ("web", _RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    "known hosts": ("known_hosts", b"|1|abc= ssh-ed25519 AAAA\n"),
    "a configuration": ("config", b"Host *\n"),
}


@pytest.mark.parametrize(("name", "content"), PUBLIC.values(), ids=PUBLIC)
def test_what_is_no_secret_stays_behind(keys: KeyDirectory, name: str, content: bytes) -> None:
    """Public keys and ssh's own files are told, and are no fault."""
    keys.write(name, content)
    item = _item(keys)

    assert (item.fault, item.records) == ("", ())
    assert "stays behind" in str(item.notes[0])


# Which files.


def _a_pipe(keys: KeyDirectory) -> None:
    os.mkfifo(keys.directory / "h")


def _a_link_out(keys: KeyDirectory) -> None:
    (keys.directory.parent / "outside").write_bytes(new_key())
    (keys.directory / "h").symlink_to("../outside")


def _a_link_to_nothing(keys: KeyDirectory) -> None:
    (keys.directory / "h").symlink_to("nothing")


def _a_link_to_itself(keys: KeyDirectory) -> None:
    (keys.directory / "h").symlink_to("h")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_a_pipe, "not a regular file"),
        (_a_link_out, "put the key itself here"),
        (_a_link_to_nothing, "put the key itself here"),
        (_a_link_to_itself, "put the key itself here"),
    ],
)
def test_what_is_no_file(keys: KeyDirectory, make: Callable[[KeyDirectory], None], match: str) -> None:
    """Nothing but files of this directory is read; a pipe keeps nobody waiting."""
    make(keys)
    item = _item(keys)

    assert match in item.fault
    assert item.records == ()


def test_directories_are_told(keys: KeyDirectory) -> None:
    """What lies in a directory below is not read, and that is said."""
    (keys.directory / "old").mkdir()
    (keys.directory / "old/h1").write_bytes(new_key())
    item = _item(keys)

    assert (item.id, item.fault, item.records) == ("old", "", ())
    assert "not looked into" in str(item.notes[0])


def test_a_link_inside_is_another_host_of_the_same_key(keys: KeyDirectory) -> None:
    """A link to a file beside it gives its host that key; both are scrubbed and come back, in any order."""
    content = keys.write("h1", new_key()).read_bytes()
    (keys.directory / "h2").symlink_to("h1")
    with reading(keys) as reader:
        assert [base64.b64decode(_creds(item).ssh_priv_key.reveal()) for item in reader.items()] == [content] * 2
        originals = reader.originals(["h1", "h2"])
        for order in (originals, originals[::-1]):
            assert reader.scrub(order) == [True, True]
            assert list(keys.directory.iterdir()) == []
            assert reader.restore(order) == [True, True]
            assert (keys.directory / "h2").readlink() == Path("h1")
            assert (keys.directory / "h2").read_bytes() == content


def test_a_link_that_was_turned_is_left(keys: KeyDirectory) -> None:
    """A link that leads elsewhere now, or whose key is another, is not removed."""
    keys.write("h1", new_key())
    keys.write("h3", new_key())
    link = keys.directory / "h2"
    link.symlink_to("h1")
    with reading(keys) as reader:
        originals = reader.originals(["h2"])
        link.unlink()
        link.symlink_to("h3")
        assert reader.scrub(originals) == [False]
        link.unlink()
        link.symlink_to("h1")
        keys.change("h1")
        assert reader.scrub(originals) == [False]
        link.unlink()
        link.write_bytes(b"a file by now")
        assert reader.scrub(originals) == [False]
        assert reader.restore(originals) == [False]

    assert link.read_bytes() == b"a file by now"


NAMES: Final[dict[str, tuple[str, str, str]]] = {
    "an address": ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
    "IPv6": ("fe80::1", "fe80::1", "fe80::1"),
    "an ending": ("web.pem", "web.pem", "web"),
    "the longer of two": ("web.key.pem", "web.key.pem", "web"),
    "another ending": ("web.key", "web.key", "web.key"),
    "an ending alone": (".pem", ".pem", ".pem"),
    "a blank": ("web 1", "web%201", ""),
    "unicode": ("büro", "b%C3%BCro", ""),
    "no unicode": (os.fsdecode(b"b\xfcro"), "b%FCro", ""),
    "a percent sign": ("a%20b", "a%2520b", ""),
    "a line break": ("a\nb", "a%0Ab", ""),
    "a very long one": ("n" * 255, "n" * 255, "n" * 255),
}


@pytest.mark.parametrize(("name", "key", "address"), NAMES.values(), ids=NAMES)
def test_names(keys: KeyDirectory, name: str, key: str, address: str) -> None:
    """A file's name without its ending is the address; one that is none is a fault, and all the same has an id."""
    keys.write(name, new_key())
    with _reading(keys, strip=[".pem", ".key.pem"]) as reader:
        (item,) = reader.items()
        assert reader.marks([key]) == {key: item.mark}
        assert [original.id for original in reader.originals([key])] == [key]

    assert item.id == key
    assert bool(item.fault) is not bool(address)
    assert [record.name for record in item.records] == ([f"secrets/hosts/{address}"] if address else [])


@pytest.mark.parametrize("key", ["", ".", "..", "../keys/h1", "%2E%2E%2Fh1", "h%31", "h1%00"])
def test_no_id_leads_out_of_the_directory(keys: KeyDirectory, key: str) -> None:
    """Ids that the source never gave are unknown to it, whatever they would lead to."""
    keys.write("h1", new_key())
    with reading(keys) as reader:
        assert reader.marks([key]) == {}
        assert reader.run(reader.source.originals([key])) == {}  # type: ignore[attr-defined]


def test_the_user_is_said_once_for_all(keys: KeyDirectory) -> None:
    """The remote user is the option's."""
    keys.write("h1", new_key())

    assert _creds(_item(keys, user=["core"])).remote_user == "core"


def test_an_exposed_key_is_told(keys: KeyDirectory) -> None:
    """That others may read a file, or that it has other names, is a note: the key moves."""
    path = keys.write("h1", new_key())
    path.chmod(0o644)
    (keys.directory.parent / "elsewhere").hardlink_to(path)
    item = _item(keys)

    assert item.records
    assert len(item.notes) == 2
    assert "new key" in str(item.notes[0])
    assert "hard links" in str(item.notes[1])


@pytest.mark.parametrize("options", [{"user": [""]}, {"strip": [".pem", ""]}])
def test_options_without_a_value(keys: KeyDirectory, options: dict[str, list[str]]) -> None:
    """An empty option is refused."""
    with pytest.raises(ConfigurationError):
        open_source("keys", keys.place, options)


def test_places_that_are_none(keys: KeyDirectory) -> None:
    """A file is no directory of keys, and a directory that is missing, or goes, is unavailable."""
    file = keys.write("h1", new_key())
    for place, error in ((str(file), ConfigurationError), (f"{keys.place}/nowhere", SourceUnavailable)):
        reader = Reader(open_source("keys", place, {}))
        with pytest.raises(error):
            reader.open()
        reader.close()
    with reading(keys) as reader:
        file.unlink()
        keys.directory.rmdir()
        with pytest.raises(SourceUnavailable):
            reader.items()
        with pytest.raises(SourceUnavailable):
            reader.marks(["h1"])


def test_of_several_files_for_one_host_the_first_is_found(keys: KeyDirectory) -> None:
    """A host's record is found by its name, whatever its file ends in; a malformed file is there, and has none."""
    keys.write("web", new_key())
    keys.write("web.pem", new_key())
    keys.write("db.pem", b"no key")
    keys.write("mail.pub", PUBLIC["a public key"][1])
    names = [f"secrets/hosts/{each}" for each in ("web", "db", "mail.pub", "web.pem", "../web")]
    with reading(keys) as reader:
        found = reader.run(reader.source.find(names))  # type: ignore[attr-defined]
        assert found == {names[0]: reader.by_id()["web"].records[0], names[1]: None}


# Scrubbing.


def test_a_scrubbed_key_is_written_over(keys: KeyDirectory) -> None:
    """Who still has the file open finds zeros in it, if no other name leads there."""
    alone, linked = keys.write("alone", new_key()), keys.write("linked", new_key())
    (keys.directory.parent / "elsewhere").hardlink_to(linked)
    content = linked.read_bytes()
    with alone.open("rb") as first, linked.open("rb") as second, reading(keys) as reader:
        size = len(alone.read_bytes())
        assert reader.scrub(reader.originals(["alone", "linked"])) == [True, True]

        assert first.read() == bytes(size)
        assert second.read() == content
    assert list(keys.directory.iterdir()) == []


def test_a_restored_file_is_as_it_was(keys: KeyDirectory) -> None:
    """Content, mode, owner and time come back, and ssh reads the key."""
    path = keys.write("h1", new_key())
    path.chmod(0o400)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    before, content = path.stat(), path.read_bytes()
    with reading(keys) as reader:
        originals = reader.originals(["h1"])
        assert reader.scrub(originals) == [True]
        assert reader.restore(originals) == [True]
    after = path.stat()

    assert path.read_bytes() == content
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
        before.st_mtime_ns,
    )
    load_ssh_private_key(content, None)


def test_a_file_that_became_a_link_is_left(keys: KeyDirectory) -> None:
    """A link that took a file's place is not followed to what it would remove."""
    keys.write("h1", new_key())
    with reading(keys) as reader:
        originals = reader.originals(["h1"])
        (keys.directory / "h1").rename(keys.directory / "h2")
        (keys.directory / "h1").symlink_to("h2")
        assert reader.scrub(originals) == [False]

    assert (keys.directory / "h1").is_symlink()


def test_what_a_killed_restoring_left_is_purged(keys: KeyDirectory) -> None:
    """A file that was being made when the process died is no item, and goes; a copy that somebody made stays."""
    unfinished = files.unfinished_of(keys.directory / "h1")
    unfinished.write_bytes(new_key())
    copy = keys.write("h1.bak", new_key())
    with reading(keys) as reader:
        assert [item.id for item in reader.items()] == ["h1.bak"]
        assert reader.purge()[0] == "removed unfinished files: 1"

    assert not unfinished.exists()
    assert copy.exists()


def test_a_copy_below_is_searched(keys: KeyDirectory) -> None:
    """A copy in a directory below is found by the key that was here."""
    content = keys.write("h1", new_key()).read_bytes()
    (keys.directory / "old").mkdir()
    (keys.directory / "old/copy").write_bytes(content)
    with reading(keys) as reader:
        originals = reader.originals(["h1"])
        (pattern,) = reader.scrubbable.search_patterns(originals[0])
        reader.scrub(originals)
        holding = [place.name for place in reader.places() if place.chunks and reader.holds(place, [pattern])[0]]

    assert holding == [str(keys.directory / "old/copy")]
