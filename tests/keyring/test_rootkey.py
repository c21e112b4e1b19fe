"""The root key file: which files are one, how one is made, and that racing makers agree."""

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from jwcrypto.jwk import JWK

from strongroom.storage_service.errors import KeyFileMissing, KeyFileUnusable, StartupError
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.opening import next_file
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.private_file import PrivateFile
from tests.keyring.racing import race

FILE: Final = PrivateFile("root key file", exposed="the keys it wraps are to be rotated")
BITS: Final = bytes(range(64))
GOOD: Final = JWK(
    kty="oct", k="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw"
).export()


def file(path: Path, text: str | bytes = GOOD, mode: int = 0o600) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)


def linked(path: Path, mode: int = 0o400) -> None:
    """Lay *path* out as Kubernetes does the files of a Secret: a link, to a link, to a folder that is replaced."""
    folder = path.with_name("..2026_11_30")
    folder.mkdir()
    file(folder / path.name, mode=mode)
    path.with_name("..data").symlink_to(folder.name)
    path.symlink_to(f"..data/{path.name}")


def folder_is_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Which files are a root key.

ACCEPTED: Final[dict[str, Callable[[Path], None]]] = {
    "as Custodia writes it": file,
    "with a newline after": lambda path: file(path, GOOD + "\n"),
    "members in another order": lambda path: file(path, json.dumps(dict(reversed(json.loads(GOOD).items())))),
    "with an id and a use of somebody's": lambda path: file(
        path, json.dumps({**json.loads(GOOD), "kid": "x", "use": "enc"})
    ),
    "read-only": lambda path: file(path, mode=0o400),
}


@pytest.mark.parametrize("story", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_files(tmp_path: Path, story: Callable[[Path], None]) -> None:
    """A 512-bit symmetric JWK in a file of ours that nobody else can touch is a root key."""
    story(tmp_path / "secrets.key")

    assert rootkey.read(tmp_path / "secrets.key") == RootKey(BITS)


REFUSED: Final[dict[str, tuple[Callable[[Path], object], type[StartupError], str]]] = {
    "missing": (lambda path: None, KeyFileMissing, "there is no root key file at"),
    "its folder missing": (lambda path: path.parent.rmdir(), KeyFileMissing, "there is no root key file at"),
    "empty": (lambda path: file(path, ""), KeyFileUnusable, "not JSON"),
    "garbage": (lambda path: file(path, b"\x00\xff\xfe" * 20), KeyFileUnusable, "not UTF-8"),
    "text": (lambda path: file(path, "hunter2"), KeyFileUnusable, "not JSON"),
    "half a file": (lambda path: file(path, GOOD[:50]), KeyFileUnusable, "not JSON"),
    "two files in one": (lambda path: file(path, GOOD + GOOD), KeyFileUnusable, "not JSON"),
    "a list": (lambda path: file(path, f"[{GOOD}]"), KeyFileUnusable, "not a JSON object"),
    "a set of keys": (lambda path: file(path, f'{{"keys":[{GOOD}]}}'), KeyFileUnusable, 'of type "oct"'),
    "a member twice": (lambda path: file(path, GOOD[:-1] + ',"kty":"oct"}'), KeyFileUnusable, "twice"),
    "short: 256 bits": (
        lambda path: file(path, JWK.generate(kty="oct", size=256).export()),
        KeyFileUnusable,
        "512 bits",
    ),
    "long: 1024 bits": (
        lambda path: file(path, JWK.generate(kty="oct", size=1024).export()),
        KeyFileUnusable,
        "512 bits",
    ),
    "an elliptic key": (lambda path: file(path, JWK.generate(kty="EC").export()), KeyFileUnusable, 'of type "oct"'),
    "a kind of the future": (lambda path: file(path, GOOD.replace("oct", "oct2")), KeyFileUnusable, 'of type "oct"'),
    "no k": (lambda path: file(path, '{"kty":"oct"}'), KeyFileUnusable, 'its "k" is not'),
    "k a number": (lambda path: file(path, '{"kty":"oct","k":5}'), KeyFileUnusable, 'its "k" is not'),
    "k with padding": (lambda path: file(path, GOOD.replace('Pw"', 'Pw=="')), KeyFileUnusable, "base64url"),
    "k beyond ASCII": (lambda path: file(path, '{"kty":"oct","k":"ÄÄ"}'), KeyFileUnusable, 'its "k" is not'),
    "far too large": (lambda path: file(path, GOOD + " " * 5000), KeyFileUnusable, "too large"),
    "readable by the group": (lambda path: file(path, mode=0o640), KeyFileUnusable, "run: chmod 600"),
    "readable by all": (lambda path: file(path, mode=0o604), KeyFileUnusable, "run: chmod 600"),
    "writable by the group": (lambda path: file(path, mode=0o620), KeyFileUnusable, "run: chmod 600"),
    "a folder": (lambda path: path.mkdir(), KeyFileUnusable, "not a plain file"),
    "its folder a file": (folder_is_a_file, KeyFileUnusable, "cannot be opened: Not a directory"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), KeyFileUnusable, "not a plain file"),
    "a link to one that others read": (lambda path: linked(path, 0o644), KeyFileUnusable, "run: chmod 600"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), KeyFileUnusable, "is a symbolic link to nothing"),
}


@pytest.mark.parametrize(("story", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_refused_files(tmp_path: Path, story: Callable[[Path], object], error: type[StartupError], text: str) -> None:
    """Everything else is refused by name and reason, and neither changed nor repeated."""
    path = tmp_path / "home" / "secrets.key"
    path.parent.mkdir()
    story(path)

    with pytest.raises(error) as caught:
        rootkey.read(path)

    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert "AAECAwQF" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def status(kind: int, mode: int, uid: int) -> os.stat_result:
    return os.stat_result((kind | mode, 1, 1, 1, uid, 0, 107, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "uid", "accepted"),
    [
        (0o600, 990, True),
        (0o400, 990, True),
        (0o600, 0, True),
        (0o400, 0, True),
        (0o440, 0, True),  # systemd's LoadCredential=, which lets the unit in by an ACL
        (0o440, 990, False),
        (0o460, 0, False),
        (0o640, 0, False),
        (0o444, 0, False),
        (0o600, 1000, False),
        (0o400, 1000, False),
    ],
    ids=lambda value: f"{value:04o}" if isinstance(value, int) and value not in (0, 990, 1000) else str(value),
)
def test_owners_and_modes(mode: int, uid: int, accepted: bool) -> None:
    """To a service that runs as 990: its own and root's files that nobody else can read, and systemd's credentials."""
    path = Path("/run/credentials/strongroom.service/secrets.key")
    if accepted:
        FILE.check(path, status(stat.S_IFREG, mode, uid), 990)
    else:
        with pytest.raises(KeyFileUnusable, match=r"run: (chmod 600|chown 990)"):
            FILE.check(path, status(stat.S_IFREG, mode, uid), 990)


def test_a_device_is_no_file() -> None:
    """Only a plain file is read."""
    with pytest.raises(KeyFileUnusable, match="plain file"):
        FILE.check(Path("/dev/zero"), status(stat.S_IFCHR, 0o600, 0), 0)


# Making one.


def test_a_file_is_made_as_custodia_makes_it(tmp_path: Path) -> None:
    """The file holds the JWK and nothing else, is 0600 under any umask, and leaves nothing beside it."""
    path = tmp_path / "secrets.key"
    mask = os.umask(0o277)
    try:
        made = rootkey.make(path, lambda size: BITS[:size])
    finally:
        os.umask(mask)

    assert path.read_text() == GOOD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["secrets.key"]
    assert made == RootKey(BITS) == rootkey.read(path)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Making where there is a file gives that file's key, and touches it no more than reading would."""
    path = tmp_path / "secrets.key"
    file(path)
    before = path.stat()

    assert rootkey.make(path) == RootKey(BITS)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names_in(tmp_path) == ["secrets.key"]


@pytest.mark.parametrize("text", ["", "garbage"])
def test_a_broken_file_is_not_replaced(tmp_path: Path, text: str) -> None:
    """A file that is no key may be one that can be mended; making refuses it and leaves it."""
    path = tmp_path / "secrets.key"
    file(path, text)

    with pytest.raises(KeyFileUnusable):
        rootkey.make(path)

    assert path.read_text() == text
    assert names_in(tmp_path) == ["secrets.key"]


def test_a_link_is_not_followed_to_make_one(tmp_path: Path) -> None:
    """A link that somebody laid to nowhere is refused, and nothing is made where it leads."""
    path = tmp_path / "secrets.key"
    path.symlink_to("elsewhere")

    with pytest.raises(KeyFileUnusable, match="symbolic link"):
        rootkey.make(path)

    assert names_in(tmp_path) == ["secrets.key"]


def test_a_link_to_a_key_file_is_followed(tmp_path: Path) -> None:
    """The files of a Kubernetes Secret are links; the one that is reached is the key, and making leaves it as it is."""
    path = tmp_path / "secrets.key"
    linked(path)

    assert rootkey.read(path).reveal() == BITS
    assert rootkey.make(path).reveal() == BITS
    assert path.is_symlink()


def test_another_users_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may lay a link beside ours could choose which of our keys is read; so the link must be ours or root's."""
    path = tmp_path / "secrets.key"
    linked(path)
    laid = path.lstat()
    fields = list(laid[:10])
    fields[4] = os.geteuid() + 1  # st_uid
    monkeypatch.setattr(os, "lstat", lambda _: os.stat_result(fields))

    with pytest.raises(KeyFileUnusable, match="another user's link"):
        rootkey.read(path)


def test_a_rotation_makes_no_file_beside_a_link(tmp_path: Path) -> None:
    """The old key would stay where the link leads; so no next file is made, and the link stays."""
    path = tmp_path / "secrets.key"
    linked(path)

    with pytest.raises(KeyFileUnusable, match="what it leads to would stay"):
        next_file.make(path)

    assert names_in(tmp_path) == ["..2026_11_30", "..data", "secrets.key"]


def test_no_folder_no_file(tmp_path: Path) -> None:
    """Where it cannot be made, the text says so and why."""
    with pytest.raises(KeyFileUnusable, match="cannot be made: No such file or directory"):
        rootkey.make(tmp_path / "missing" / "secrets.key")


def test_randomness_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    """If no key can be drawn, there is no file, whole or half."""

    def broken(size: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(KeyFileUnusable, match="Input/output"):
        rootkey.make(tmp_path / "secrets.key", broken)

    assert names_in(tmp_path) == []


def test_what_a_crash_left_is_no_obstacle(tmp_path: Path) -> None:
    """A temporary file of a maker that died is not taken for the key, nor in the way of the next."""
    stray = tmp_path / ".secrets.key.0123456789abcdef"
    file(stray, GOOD[:40])

    key = rootkey.make(tmp_path / "secrets.key")

    assert rootkey.read(tmp_path / "secrets.key") == key
    assert stray.read_text() == GOOD[:40]


def test_racing_threads_agree(tmp_path: Path) -> None:
    """Of many makers and readers at one moment, every one that gets a key gets the same, and no reader sees half."""
    path = tmp_path / "secrets.key"
    makers, readers = 12, 4
    barrier = Barrier(makers + readers)

    def make() -> RootKey:
        barrier.wait()
        return rootkey.make(path)

    def read() -> RootKey:
        barrier.wait()
        while True:
            try:
                return rootkey.read(path)
            except KeyFileMissing:
                continue

    with ThreadPoolExecutor(makers + readers) as pool:
        futures = [pool.submit(make) for _ in range(makers)] + [pool.submit(read) for _ in range(readers)]
        keys = [future.result(timeout=30) for future in futures]

    assert all(key == keys[0] for key in keys)
    assert names_in(tmp_path) == ["secrets.key"]


def test_racing_processes_agree(tmp_path: Path) -> None:
    """Of many processes that start at one moment, all end with the one file's key."""
    program = (
        "from pathlib import Path\n"
        "from strongroom.storage_service.keyring import rootkey\n"
        "ready()\n"
        "print(rootkey.make(Path(sys.argv[1])).kid)\n"
    )
    path = tmp_path / "secrets.key"

    kids = race(program, [[str(path)]] * 6)

    assert set(kids) == {rootkey.read(path).kid}
    assert names_in(tmp_path) == ["secrets.key"]


# What it is called.


def test_its_id_is_its_thumbprint() -> None:
    """The kid is the beginning of the RFC 7638 thumbprint, as jwcrypto computes it too, and no part of the key."""
    key = RootKey(BITS)

    assert key.kid == "root." + JWK.from_json(GOOD).thumbprint()[:16]
    assert rootkey.is_root_kid(key.kid)


@pytest.mark.parametrize("kid", ["", "root.", "root.1", "default.1", "root." + "x" * 17, "root." + "x" * 15 + "!"])
def test_what_is_no_root_id(kid: str) -> None:
    """Data keys and nonsense have no root key's id."""
    assert not rootkey.is_root_kid(kid)
