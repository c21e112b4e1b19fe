"""Opening a store's keys: order, refusals, races and faults; at no point a key that is used but not persisted."""

import asyncio
import base64
import gc
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from storage_service.backends import open_backend
from storage_service.backends.base import Backend, Change, Delete, Put
from storage_service.backends.faulty import Fault, FaultyBackend
from storage_service.backends.memory import MemoryBackend
from storage_service.errors import (
    ConfigurationError,
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    StartupError,
    Unavailable,
    WrongRootKey,
)
from storage_service.keyring import envelope, jwk, rootkey
from storage_service.keyring.ring import DataKey, Key, Ring
from storage_service.keyring.rootkey import RootKey
from storage_service.keyring.vault import KEYRING, open_ring
from storage_service.overlay import EncryptedBackend
from tests.keyring.racing import race

FIRST: Final = KEYRING + "default.1"
ROOT_BITS: Final = b"root-key-bits-that-must-never-be-shown-anywhere-outside-the-file"
DATA_BITS: Final = b"data-key-bits-that-must-never-be-shown-anywhere-outside-the-ring"
STRANGER: Final = RootKey(bytes(64))


@pytest.fixture
async def store() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


def key_file(path: Path, bits: bytes = ROOT_BITS) -> RootKey:
    return rootkey.make(path, lambda _: bits)


def wrapped(root: RootKey, kid: str = "default.1") -> Put:
    """Return the record of a wrapped key, as it should be."""
    return sealed(root, KEYRING + kid, jwk.encode(DATA_BITS, format=1, kid=kid))


def sealed(key: Key, name: str, document: bytes) -> Put:
    return Put(name, envelope.encrypt(key, name, document))


# The first start.


async def test_the_first_start_makes_both_keys(store: MemoryBackend, path: Path) -> None:
    """With store and file empty, a root key file is made, and a data key wrapped under it and bound to its name."""
    ring = await open_ring(store, path)

    assert repr(ring) == "<Ring default.1*>"
    entry = await store.get(FIRST)
    assert entry is not None
    root = rootkey.read(path)
    assert envelope.kid_of(entry.value) == root.kid
    assert json.loads(envelope.decrypt({root.kid: root}, FIRST, entry.value)) == {
        "format": 1,
        "k": jwk.decode(jwk.encode(ring.active().reveal()))["k"],
        "kid": "default.1",
        "kty": "oct",
    }
    assert (await store.list("")).names == (FIRST,)


async def test_the_second_start_makes_nothing(store: MemoryBackend, path: Path) -> None:
    """Later starts read the same keys and write nothing, neither file nor store."""
    first = await open_ring(store, path)
    before, commits = path.stat().st_mtime_ns, store.calls["commit"]

    second = await open_ring(store, path)

    assert second.active() == first.active()
    assert (path.stat().st_mtime_ns, store.calls["commit"]) == (before, commits)


async def test_every_store_has_its_own_keys(store: MemoryBackend, path: Path) -> None:
    """Two stores under one root key file share no data key."""
    other = MemoryBackend()
    await other.open()

    assert (await open_ring(store, path)).active() != (await open_ring(other, path)).active()


async def test_a_custodia_key_file_is_taken_over(store: MemoryBackend, path: Path) -> None:
    """A key file that is there before the store is used as the root key, whether one may be made or not."""
    root = key_file(path)

    await open_ring(store, path, autogen=False)

    entry = await store.get(FIRST)
    assert entry is not None
    assert envelope.kid_of(entry.value) == root.kid


async def test_all_versions_are_opened(store: MemoryBackend, path: Path) -> None:
    """Every wrapped key is in the ring, and the newest version is active."""
    root = key_file(path)
    await store.commit([wrapped(root, kid) for kid in ("default.1", "default.2", "default.10", "other.1")])

    ring = await open_ring(store, path)

    assert repr(ring) == "<Ring default.1 default.2 default.10* other.1*>"


# What stops a start.


async def nothing(store: Backend, path: Path) -> None:
    """Leave store and file new."""


async def used_then_file_lost(store: Backend, path: Path) -> None:
    await open_ring(store, path)
    path.unlink()


async def container_alone(store: Backend, path: Path) -> None:
    await store.commit([Put("secrets/hosts/", b"")])


async def secret_without_keys(store: Backend, path: Path) -> None:
    ring = await open_ring(store, path)
    await store.commit([sealed(ring.active(), "secrets/a", b"x"), Delete(FIRST)])


async def access_without_keys(store: Backend, path: Path) -> None:
    key_file(path)
    await store.commit([Put("system/access/apikeys/ci", b"x")])


async def file_of_another_store(store: Backend, path: Path) -> None:
    await used_then_file_lost(store, path)
    key_file(path, STRANGER.reveal())


async def broken_file(store: Backend, path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)


async def garbage(store: Backend, path: Path) -> None:
    await open_ring(store, path)
    await store.commit([Put(FIRST, b"garbage")])


async def not_wrapped(store: Backend, path: Path) -> None:
    key_file(path)
    await store.commit([Put(FIRST, jwk.encode(DATA_BITS, format=1, kid="default.1"))])


async def under_another_name(store: Backend, path: Path) -> None:
    await store.commit([Put(FIRST, wrapped(key_file(path), "default.2").value)])


async def a_strangers_under_our_id(store: Backend, path: Path) -> None:
    root = key_file(path)
    ours, theirs = wrapped(root).value, wrapped(STRANGER).value
    await store.commit([Put(FIRST, b".".join([*ours.split(b".")[:1], *theirs.split(b".")[1:]]))])


async def under_a_data_key(store: Backend, path: Path) -> None:
    ring = await open_ring(store, path)
    document = jwk.encode(DATA_BITS, format=1, kid="default.2")
    await store.commit([sealed(ring.active(), KEYRING + "default.2", document)])


def document(text: bytes, kid: str = "default.1") -> "Story":
    """Return a story in which the keyring holds *text*, rightly wrapped, besides nothing."""

    async def story(store: Backend, path: Path) -> None:
        await store.commit([sealed(key_file(path), KEYRING + kid, text)])

    return story


async def a_crowd(store: Backend, path: Path) -> None:
    key_file(path)
    for batch in range(11):
        await store.commit([Put(f"{KEYRING}default.{batch * 100 + number + 1}", b"") for number in range(100)])


Story = Callable[[Backend, Path], Awaitable[None]]
ANOTHER: Final = jwk.encode(DATA_BITS, format=1, kid="default.2")
UNNAMED: Final = jwk.encode(DATA_BITS, format=1)
POLICY: Final = jwk.encode(DATA_BITS, format=1, kid="policy")
SHORT: Final = b'{"format":1,"k":"AAAA","kid":"default.1","kty":"oct"}'
FUTURE: Final = b'{"format":2,"seed":"of another kind"}'

STOPS: Final[dict[str, tuple[Story, bool, type[StartupError], str]]] = {
    "the file is lost": (used_then_file_lost, True, KeyFileMissing, "no new one will be made"),
    "the file is lost, and none may be made": (used_then_file_lost, False, KeyFileMissing, "restore the secrets.key"),
    "secrets, and neither keys nor file": (container_alone, True, KeyFileMissing, "restore the secrets.key"),
    "all is new, and no file may be made": (nothing, False, KeyFileMissing, "autogen_root_key"),
    "the file is broken": (broken_file, True, KeyFileUnusable, "not JSON"),
    "secrets, and the keys are gone": (secret_without_keys, True, KeyringDamaged, "no new key will be made"),
    "API keys, and the keys are gone": (access_without_keys, True, KeyringDamaged, "no new key will be made"),
    "the file of another store": (file_of_another_store, True, WrongRootKey, f"holds {STRANGER.kid}"),
    "a wrapped key is garbage": (garbage, True, KeyringDamaged, "not a compact JWE"),
    "a key is not wrapped": (not_wrapped, True, KeyringDamaged, "not a compact JWE"),
    "one wrapped key under another's name": (under_another_name, True, KeyringDamaged, "not written under this name"),
    "a stranger's key under our root's id": (a_strangers_under_our_id, True, KeyringDamaged, "its tag is wrong"),
    "a data key wrapped under a data key": (under_a_data_key, True, KeyringDamaged, "names no key of the ring"),
    "a key that says it is another": (document(ANOTHER), True, KeyringDamaged, "another key"),
    "a key that does not say which it is": (document(UNNAMED), True, KeyringDamaged, "another key"),
    "a key that is too short": (document(SHORT), True, KeyringDamaged, "512 bits"),
    "a key that is none": (document(b"null"), True, KeyringDamaged, "not a JSON object"),
    "a format of the future": (document(FUTURE), True, ConfigurationError, "a later version wrote it"),
    "a record of the future": (document(POLICY, "policy"), True, ConfigurationError, "a later version wrote it"),
    "more keys than a keyring has": (a_crowd, True, KeyringDamaged, "no keyring grows so large"),
}


@pytest.mark.parametrize(("story", "autogen", "error", "text"), STOPS.values(), ids=STOPS)
async def test_what_stops_a_start(
    store: MemoryBackend, path: Path, story: Story, autogen: bool, error: type[StartupError], text: str
) -> None:
    """Each state that is not sound is refused by its reason, says what to do, and stays as it was, file and store."""
    await story(store, path)
    file = path.read_bytes() if path.exists() else None
    commits = store.calls["commit"]

    with pytest.raises(error) as caught:
        await open_ring(store, path, autogen)

    assert type(caught.value) is error
    assert text in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == file
    assert store.calls["commit"] == commits


async def test_a_wrong_file_is_told_by_ids(store: MemoryBackend, path: Path) -> None:
    """The operator is told which root key the store wants and which one the file holds, by ids that reveal nothing."""
    wanted = key_file(path)
    await open_ring(store, path)
    path.unlink()
    key_file(path, STRANGER.reveal())

    with pytest.raises(WrongRootKey, match=rf"under the root key {wanted.kid}, but {path} holds {STRANGER.kid}"):
        await open_ring(store, path)


# Races.


async def test_racing_tasks_agree(store: MemoryBackend, path: Path) -> None:
    """Many starts at one moment, on one machine, end with one root key and one data key."""
    rings = await asyncio.gather(*(open_ring(store, path) for _ in range(12)))

    assert all(ring.active() == rings[0].active() for ring in rings)
    assert (await store.list("")).names == (FIRST,)


async def test_racing_machines_do_not_disagree(store: MemoryBackend, tmp_path: Path) -> None:
    """Where each machine makes its own file, one is first; the others are told so, and none holds another key."""
    paths = [tmp_path / str(number) for number in range(8)]

    outcomes = await asyncio.gather(*(open_ring(store, path) for path in paths), return_exceptions=True)

    (winner,) = [path for path, outcome in zip(paths, outcomes, strict=True) if isinstance(outcome, Ring)]
    assert all(isinstance(outcome, Ring | WrongRootKey) for outcome in outcomes)
    assert (await store.list("")).names == (FIRST,)
    # The operator does as the text says: the winner's file goes to the others.
    ring = await open_ring(store, winner)
    for path in paths:
        path.write_bytes(winner.read_bytes())
        assert (await open_ring(store, path)).active() == ring.active()


def test_racing_processes_agree(tmp_path: Path) -> None:
    """Many workers that start at one moment on a new SQLite store end with the same keys; what each wrote opens."""
    program = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from storage_service.backends import open_backend\n"
        "from storage_service.backends.base import Put\n"
        "from storage_service.keyring.vault import open_ring\n"
        "from storage_service.overlay import EncryptedBackend\n"
        "async def main():\n"
        "    store = open_backend(sys.argv[1])\n"
        "    await store.open()\n"
        "    ring = await open_ring(store, Path(sys.argv[2]))\n"
        "    await EncryptedBackend(store, ring).commit([Put(f'secrets/{sys.argv[3]}', sys.argv[3].encode())])\n"
        "    await store.close()\n"
        "    print(ring)\n"
        "ready()\n"
        "asyncio.run(main())\n"
    )
    url, path, racers = f"sqlite:{tmp_path}/store.db", tmp_path / "secrets.key", [str(number) for number in range(6)]

    printed = race(program, [(url, str(path), racer) for racer in racers])

    assert set(printed) == {"<Ring default.1*>"}

    async def read() -> None:
        store = open_backend(url)
        await store.open()
        try:
            sealed_store = EncryptedBackend(store, await open_ring(store, path))
            for racer in racers:
                entry = await sealed_store.get(f"secrets/{racer}")
                assert entry is not None
                assert entry.value == racer.encode()
        finally:
            await store.close()

    asyncio.run(read())


# Faults.


async def operations_of_a_first_start(tmp_path: Path) -> int:
    faulty = FaultyBackend(MemoryBackend())
    await faulty.open()
    await open_ring(faulty, tmp_path / "counted.key")
    return len(faulty.operations)


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_a_store_that_fails_at_any_step(tmp_path: Path, fault: Fault) -> None:
    """Wherever the store fails, no ring is returned; the next start succeeds, and then all agree on what is stored."""
    for step in range(await operations_of_a_first_start(tmp_path)):
        store = MemoryBackend()
        await store.open()
        path = tmp_path / f"{fault.name}.{step}.key"

        with pytest.raises(Unavailable):
            await open_ring(FaultyBackend(store, {step: fault}), path)
        written = await store.get(FIRST)
        ring = await open_ring(store, path)

        kept = await store.get(FIRST)
        assert kept is not None
        assert written in (None, kept), "a key that was persisted is the one that is used"
        assert (await open_ring(store, path)).active() == ring.active()


async def test_a_ring_holds_what_the_store_gave_back(store: MemoryBackend, path: Path) -> None:
    """Who loses the race to persist a first key does not use the one it drew."""
    root = key_file(path)

    class Overtaken(FaultyBackend):
        async def commit(self, changes: Sequence[Change]) -> int:
            await store.commit([wrapped(root)])  # somebody else, a moment earlier
            return await super().commit(changes)

    ring = await open_ring(Overtaken(store), path)

    assert ring.active() == DataKey("default.1", DATA_BITS)


# What must not come out.


async def test_no_key_comes_out(store: MemoryBackend, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through all of the above, no repr, error, traceback or log line, and no stored byte, holds a key's bits."""
    caplog.set_level(logging.DEBUG)
    root = key_file(path)
    said = [repr(root)]
    for story, _, _, _ in STOPS.values():
        fresh = MemoryBackend()
        await fresh.open()
        path.unlink(missing_ok=True)
        await story(fresh, path)
        try:
            said.append(repr(await open_ring(fresh, path, autogen=False)))
        except StartupError as error:
            said += [*traceback.format_exception(error), repr(error)]
    path.unlink(missing_ok=True)
    ring = await open_ring(store, path, random=lambda size: DATA_BITS[:size])
    entry = await store.get(FIRST)
    assert entry is not None
    said += [repr(ring), repr(ring.active()), repr(vars(EncryptedBackend(store, ring))), repr(store), repr(entry)]
    said += [repr(entry.value), caplog.text]

    text = "\n".join(said)
    for bits in (ROOT_BITS, DATA_BITS):
        for spelling in (
            bits.decode(),
            bits.hex(),
            base64.b64encode(bits).decode().rstrip("="),
            base64.b64encode(bits[:30]).decode(),
            base64.b64encode(bits[1:31]).decode(),
            base64.b64encode(bits[2:32]).decode(),
        ):
            assert spelling not in text


async def test_the_root_key_is_let_go(store: MemoryBackend, path: Path) -> None:
    """When the ring is open, nothing holds the root key any more."""
    await open_ring(store, path)
    await asyncio.sleep(0)  # the event loop itself holds the last result until its next step
    gc.collect()

    held = [held for held in gc.get_objects() if isinstance(held, RootKey)]
    assert rootkey.read(path) not in held
