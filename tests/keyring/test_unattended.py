"""The root key file as a way to the root key: what opens, what it leaves alone, and what an operator must mend."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends.base import Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    StartupError,
    WrongRootKey,
)
from strongroom.storage_service.jose import jwk
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import rootkey
from strongroom.storage_service.keyring.opening import wraps
from strongroom.storage_service.keyring.opening.unattended import KeyFile, as_recipient
from strongroom.storage_service.keyring.rootkey import RootKey

NOW: Final = "2026-11-22T09:30:00Z"
ROOT: Final = RootKey(b"r" * 64)
OURS: Final = RootKey(b"o" * 64)  # in the file that the store has a wrap for
STRANGERS: Final = RootKey(b"s" * 64)  # in another
UNLOCK: Final = Key("unlock.abcd", bytes(64))


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "secrets.key")


def write(path: Path, key: RootKey) -> None:
    """Put *key* into a root key file at *path*."""
    path.unlink(missing_ok=True)
    rootkey.make(path, lambda _: key.reveal())


async def wrap_for(store: MemoryBackend, *recipients: Key) -> None:
    """Let the store have a wrap for each of *recipients*."""
    if recipients:
        await store.commit([wraps.put(wraps.wrap(ROOT, recipient, NOW)) for recipient in recipients])


# What opens.


@pytest.mark.parametrize(
    ("here", "beside", "then"),
    [
        (OURS, None, (OURS, None)),
        (OURS, STRANGERS, (OURS, STRANGERS)),  # a rotation is being prepared
        (STRANGERS, OURS, (OURS, None)),  # one was cut off after its switch
        (None, OURS, (OURS, None)),  # and the old file was removed by hand
        (OURS, OURS, (OURS, OURS)),
    ],
    ids=["the file", "another beside it", "the other beside it", "only the other", "the same twice"],
)
async def test_a_file_opens(
    store: MemoryBackend,
    file: KeyFile,
    here: RootKey | None,
    beside: RootKey | None,
    then: tuple[RootKey, RootKey | None],
) -> None:
    """The file, or the one that is to take its place, opens its wrap; the one that does is the file from then on."""
    await wrap_for(store, UNLOCK, as_recipient(OURS), as_recipient(RootKey(b"x" * 64)))
    for path, key in ((file.path, here), (file.next, beside)):
        if key is not None:
            write(path, key)

    assert await file.open(store, ROOT.kid) == ROOT

    held = rootkey.read(file.path), rootkey.read(file.next) if file.next.exists() else None
    assert held == then
    assert await file.open(store, ROOT.kid) == ROOT


async def test_workers_that_open_together_all_open(store: MemoryBackend, file: KeyFile) -> None:
    """Many that find a file which is to take the place of the other all open, and leave one file."""
    await wrap_for(store, as_recipient(OURS))
    write(file.path, STRANGERS)
    write(file.next, OURS)

    assert await asyncio.gather(*(file.open(store, ROOT.kid) for _ in range(12))) == [ROOT] * 12

    assert (rootkey.read(file.path), file.next.exists()) == (OURS, False)


async def test_a_file_that_takes_its_place_while_we_read_is_seen(
    store: MemoryBackend, file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our reading of the two files, another worker may put the one in the place of the other."""
    await wrap_for(store, as_recipient(OURS))
    read: Callable[[Path], RootKey] = rootkey.read
    for turn in range(2):
        write(file.path, STRANGERS)
        write(file.next, OURS)
        reads = 0

        def read_slowly(path: Path) -> RootKey:
            nonlocal reads
            if reads == turn:  # noqa: B023  # called in this turn
                file.next.replace(file.path)
            reads += 1
            return read(path)

        with monkeypatch.context() as patched:
            patched.setattr(rootkey, "read", read_slowly)
            assert await file.open(store, ROOT.kid) == ROOT


async def test_where_no_file_is_meant_none_is_looked_at(store: MemoryBackend, file: KeyFile) -> None:
    """A store whose root key is wrapped for people alone has no business with a file, however broken it is."""
    file.path.write_bytes(b"garbage")

    for recipients in ((), (UNLOCK,)):
        await wrap_for(store, *recipients)
        assert await file.open(store, ROOT.kid) is None
    assert file.path.read_bytes() == b"garbage"


# What an operator must mend.


def nothing(file: KeyFile) -> None:
    """Leave no file."""


def broken(file: KeyFile) -> None:
    file.path.write_bytes(b"")
    file.path.chmod(0o600)


def open_to_others(file: KeyFile) -> None:
    write(file.path, OURS)
    file.path.chmod(0o644)


def another(file: KeyFile) -> None:
    write(file.path, STRANGERS)


def broken_beside_it(file: KeyFile) -> None:
    write(file.path, OURS)
    file.next.write_bytes(b"")
    file.next.chmod(0o600)


STOPS: Final[dict[str, tuple[Callable[[KeyFile], None], type[StartupError], str]]] = {
    "the file is lost": (nothing, KeyFileMissing, "no new one will be made"),
    "the file is lost, and what to do": (nothing, KeyFileMissing, "restore the one that was made with this store"),
    "the file is broken": (broken, KeyFileUnusable, "not JSON"),
    "the file is open to others": (open_to_others, KeyFileUnusable, "chmod 600"),
    "the file of another store": (another, WrongRootKey, "put the secrets.key that was made with this store"),
    "a broken one beside it": (broken_beside_it, KeyFileUnusable, "secrets.key.next"),
}


@pytest.mark.parametrize(("story", "error", "text"), STOPS.values(), ids=STOPS)
async def test_what_does_not_open(
    store: MemoryBackend, file: KeyFile, story: Callable[[KeyFile], None], error: type[StartupError], text: str
) -> None:
    """Each is told by its reason and says what to do; neither file nor store is changed."""
    await wrap_for(store, as_recipient(OURS), UNLOCK)
    story(file)
    files = {path.name: path.read_bytes() for path in file.path.parent.iterdir()}
    commits = store.calls["commit"]

    with pytest.raises(error) as caught:
        await file.open(store, ROOT.kid)

    assert type(caught.value) is error
    assert text in str(caught.value)
    assert str(file.path) in str(caught.value)
    assert {path.name: path.read_bytes() for path in file.path.parent.iterdir()} == files
    assert store.calls["commit"] == commits


async def test_a_wrong_file_is_told_by_ids(store: MemoryBackend, file: KeyFile) -> None:
    """The operator is told which files the store wants, and which one is here, by ids that reveal nothing."""
    meant = [as_recipient(OURS).kid, as_recipient(RootKey(b"x" * 64)).kid]
    await wrap_for(store, as_recipient(OURS), as_recipient(RootKey(b"x" * 64)))
    write(file.path, STRANGERS)

    with pytest.raises(WrongRootKey) as caught:
        await file.open(store, ROOT.kid)

    held = as_recipient(STRANGERS).kid
    assert f"wrapped for {', '.join(sorted(meant))}, but {file.path} is {held}" in str(caught.value)


async def test_a_broken_wrap_is_not_the_files_fault(store: MemoryBackend, file: KeyFile) -> None:
    """Where the file is right and the wrap is not, it is the store that has to be mended."""
    write(file.path, OURS)
    forged = wraps.wrap(ROOT, Key(as_recipient(OURS).kid, bytes(64)), NOW)
    await store.commit([wraps.put(forged)])

    with pytest.raises(KeyringDamaged, match="its tag is wrong"):
        await file.open(store, ROOT.kid)
    await store.commit([Put(forged.name, b"garbage")])
    with pytest.raises(KeyringDamaged, match="is not a wrap"):
        await file.open(store, ROOT.kid)


# Making one.


async def test_a_file_is_made_once(file: KeyFile) -> None:
    """However many workers make the file at one moment, they all have its key."""
    made = await asyncio.gather(*(file.make() for _ in range(8)))

    assert made == [as_recipient(rootkey.read(file.path))] * 8
    assert await file.make() == made[0]


async def test_a_custodia_key_file_is_taken_over(file: KeyFile) -> None:
    """A key file of Custodia's that is there before the store becomes the recipient, as it is."""
    text = jwk.encode(OURS.reveal())
    file.path.write_bytes(text)
    file.path.chmod(0o600)

    assert await file.make() == as_recipient(OURS)
    assert file.path.read_bytes() == text


def test_a_recipient_is_known_by_its_file() -> None:
    """The id of the recipient is that of the key in the file, so that an operator can tell which file a store wants."""
    recipient = as_recipient(OURS)

    assert recipient.kid == "file." + OURS.kid.removeprefix("root.")
    assert recipient.reveal() == OURS.reveal()
