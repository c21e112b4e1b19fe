"""A store of the first form becomes one of today's: whole, once, whoever races and whoever is killed."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from strongroom.models.names import KEYRING, KEYRING_DOCUMENT
from strongroom.models.secret import Secret
from strongroom.storage_service.apikeys import ApiKeys
from strongroom.storage_service.backends.base import Backend, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    ConfigurationError,
    KeyFileMissing,
    KeyFileUnusable,
    KeyringDamaged,
    Overtaken,
    StartupError,
    Unavailable,
    WrongRootKey,
)
from strongroom.storage_service.jose import jwk
from strongroom.storage_service.jose.key import Key
from strongroom.storage_service.keyring import census, rootkey, upgrade, vault
from strongroom.storage_service.keyring.document import Assignment, Document
from strongroom.storage_service.keyring.keeper import Keeper
from strongroom.storage_service.keyring.page import Page
from strongroom.storage_service.keyring.ring import DataKey
from strongroom.storage_service.keyring.rootkey import RootKey
from strongroom.storage_service.keyring.unattended import KeyFile
from strongroom.storage_service.overlay import EncryptedBackend
from tests.jose.reference import sealed
from tests.keyring import story

FILE_BITS: Final = b"file-key-bits-that-must-never-be-shown-anywhere-outside-the-file"
FIRST: Final = DataKey("default.1", b"data-key-bits-that-must-never-be-shown-anywhere-outside-the-ring")
SECOND: Final = DataKey("default.2", bytes(range(64)))
TENTH: Final = DataKey("default.10", bytes(range(64, 128)))
OTHERS: Final = DataKey("hosts.3", bytes(range(128, 192)))
STRANGER: Final = RootKey(bytes(64))
SECRETS: Final = {"secrets/hosts/10.0.0.7": b"one", "secrets/hosts/10.0.0.8": b"two", "secrets/top": b""}
API_KEY: Final = "system/access/apikeys/backup"


# The first form, written by hand.


def row(held: RootKey, key: DataKey, *, kid: str | None = None, place: str | None = None, form: int = 1) -> Put:
    """Return the row of a data key as the first form had it, or with something else in it."""
    name = KEYRING + (place or key.kid)
    text = b'{"format":%d,"k":"%s","kid":"%s","kty":"oct"}' % (
        form,
        jwk.decode(jwk.encode(key.reveal()))["k"].encode(),
        (kid or key.kid).encode(),
    )
    return Put(name, under(held, KEYRING + key.kid, text))


def under(key: Key, name: str, value: bytes) -> bytes:
    """Return a value encrypted as the first form did."""
    pinned = "keys/" + name.removeprefix("secrets/") if name.startswith("secrets/") else name
    header = f'{{"alg":"dir","enc":"A256CBC-HS512","kid":"{key.kid}","custodia.key":"{pinned}"}}'
    return sealed(header.encode(), value, key)


def first_form(held: RootKey, keys: Sequence[DataKey] = (FIRST,)) -> list[Put]:
    """Return all rows of a store of the first form: its keys, its secrets and an API key, spread over the keys."""
    records = {**SECRETS, API_KEY: b"not looked into"}
    return [
        *(row(held, key) for key in keys),
        Put("secrets/hosts/", b""),
        *(Put(name, under(keys[n % len(keys)], name, value)) for n, (name, value) in enumerate(records.items())),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


@pytest.fixture
def held(path: Path) -> RootKey:
    """The key in the root key file."""
    return rootkey.make(path, lambda _: FILE_BITS)


@asynccontextmanager
async def reopened(store: Backend, path: Path) -> AsyncIterator[EncryptedBackend]:
    """Give the store as a service that opens it with the file sees it."""
    page = Page()
    keeper = Keeper(store, page, [KeyFile(path)])
    try:
        await keeper.open()
        yield EncryptedBackend(store, keeper)
    finally:
        await keeper.close()
        page.close()


async def document_of(store: Backend, path: Path) -> Document:
    found = await vault.read(store)
    assert found is not None
    root = await KeyFile(path).open(store, found.root)
    assert root is not None
    return vault.open_document(found, root)


async def everything(store: Backend) -> Mapping[str, bytes]:
    names = await story.names(store, "")
    return {name: entry.value for name, entry in (await store.get_many(names)).items()}


async def assert_upgraded(store: Backend, path: Path) -> None:
    """Assert that the store is whole in today's form, and that nothing of the first is left."""
    assert not await upgrade.is_first_form(store)
    left = [name.removeprefix(KEYRING).partition("/")[0] for name in await story.names(store, KEYRING)]
    assert left == ["keys", "wraps"]
    async with reopened(store, path) as secrets:
        assert await story.read_all(secrets) == {**SECRETS, API_KEY: b"not looked into"}


# What becomes of a store.


@pytest.mark.parametrize(
    ("keys", "versions", "active"),
    [
        ([FIRST], ("access.1", "default.1"), "default.1"),
        ([TENTH, SECOND], ("access.1", "default.2", "default.10"), "default.10"),
        ([FIRST, OTHERS], ("access.1", "default.1", "hosts.3"), "default.1"),
    ],
    ids=["one-key", "rotated", "another-keyset"],
)
async def test_every_key_keeps_its_kid_and_every_record_opens(
    store: Backend, path: Path, held: RootKey, keys: list[DataKey], versions: tuple[str, ...], active: str
) -> None:
    """After the upgrade the document has the same keys under the same ids, the highest active, and nothing else."""
    await store.commit(first_form(held, keys))

    assert await upgrade.upgrade(store, KeyFile(path))

    await assert_upgraded(store, path)
    document = await document_of(store, path)
    assert document.versions == versions
    assert document.active_versions["default"] == active
    assert document.numbers == {each.rpartition(".")[0]: int(each.rpartition(".")[2]) for each in versions}
    assert not document.counted
    ring = document.ring()
    assert [ring.get(key.kid) for key in keys] == keys


async def test_api_keys_stay_valid_and_move_to_their_own_keyset(store: Backend, path: Path, held: RootKey) -> None:
    """An API key of the first form lets its holder in afterwards; what is written of them is under `access`."""
    record = b'{"format":1,"verifier":"%s","paths":["/secrets"],"actions":["get"],"created":"2026-01-01T00:00:00Z"}'
    verifier = b"8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"  # SHA-256 of "admin"
    await store.commit([row(held, FIRST), Put(API_KEY, under(FIRST, API_KEY, record % verifier))])

    await upgrade.upgrade(store, KeyFile(path))

    async with reopened(store, path) as secrets:
        keys = ApiKeys(store, secrets, ("own", Secret("own")))
        principal = await keys.authenticate("backup", "admin")
        assert principal is not None and principal.id == "apikey:backup"
        await keys.create("another", ["/secrets"], ["get"])
        assert await story.versions(store) == {API_KEY: "default.1", "system/access/apikeys/another": "access.1"}
    places = (await document_of(store, path)).places
    assert places == {"system/access/": Assignment("access", before=("default",))}  # so a re-encryption moves the other


@pytest.mark.parametrize("made", ["unused", "of today"])
async def test_other_stores_are_left_alone(store: Backend, path: Path, made: str) -> None:
    """A store that was never used, or is of today's form, is not touched, and the file not even looked for."""
    if made == "of today":
        await story.initialize(store)
    before = await everything(store)

    assert not await upgrade.is_first_form(store)
    assert not await upgrade.upgrade(store, KeyFile(path))

    assert await everything(store) == before


async def test_the_two_reasons_for_secrets_without_a_document_are_told_apart(store: Backend, held: RootKey) -> None:
    """Secrets with rows of keys beside them are the first form; secrets alone are a store whose keyring is gone."""
    rows = first_form(held)
    await store.commit(rows[1:])
    assert not await upgrade.is_first_form(store)
    with pytest.raises(KeyringDamaged):
        await vault.read(store)

    await store.commit(rows[:1])

    assert await upgrade.is_first_form(store)


async def test_the_census_is_complete_when_it_was_completed(store: Backend, path: Path, held: RootKey) -> None:
    """What the upgrade leaves open, the census, is brought in order by what does that for every store."""
    await store.commit(first_form(held, [FIRST, SECOND]))
    await upgrade.upgrade(store, KeyFile(path))
    page = Page()
    keeper = Keeper(store, page, [KeyFile(path)])
    await keeper.open()

    async with keeper.root() as root:
        await census.complete(store, root, keeper)

    await story.assert_census_is_true(store)
    assert (await document_of(store, path)).counted
    await keeper.close()
    page.close()


# Whoever races, and whoever is killed.


async def test_of_all_workers_that_begin_together_one_does_it(store: Backend, path: Path, held: RootKey) -> None:
    """Eight upgrades at once: one is made, the others see it done, and all go on with the same keyring."""
    await store.commit(first_form(held, [FIRST, SECOND]))

    made = await asyncio.gather(*(upgrade.upgrade(store, KeyFile(path)) for _ in range(8)))

    assert sorted(made) == [False] * 7 + [True]
    await assert_upgraded(store, path)


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_cut_off_at_any_operation_it_is_done_or_not_begun(path: Path, held: RootKey, fault: Fault) -> None:
    """Killed or failed at each store operation, it leaves a store of one form or the other, and the next finishes."""
    for number in range(await operations(path, held)):
        store = MemoryBackend()
        await store.open()
        await store.commit(first_form(held, [FIRST, SECOND]))
        before = await everything(store)

        with pytest.raises((Killed, Unavailable)):
            await upgrade.upgrade(FaultyBackend(store, {number: fault}), KeyFile(path))

        begun = not await upgrade.is_first_form(store)
        assert begun or await everything(store) == before
        assert await upgrade.upgrade(store, KeyFile(path)) is not begun
        await assert_upgraded(store, path)


async def operations(path: Path, held: RootKey) -> int:
    """Return how many operations an upgrade asks of the store."""
    store = MemoryBackend()
    await store.open()
    await store.commit(first_form(held, [FIRST, SECOND]))
    counting = FaultyBackend(store)
    assert await upgrade.upgrade(counting, KeyFile(path))
    assert counting.operations.count("commit") == 1
    return len(counting.operations)


# What is refused.


def another_file(path: Path) -> None:
    path.unlink()
    rootkey.make(path, lambda _: bytes(64))


# The rows, what befalls the file, and the error with a part of its text.
Refusal: TypeAlias = tuple[Callable[[RootKey], list[Put]], Callable[[Path], object], type[StartupError], str]
REFUSED: Final[Mapping[str, Refusal]] = {
    "the file is gone": (first_form, Path.unlink, KeyFileMissing, "restore the secrets.key that was made with"),
    "the file is open to others": (first_form, lambda path: path.chmod(0o644), KeyFileUnusable, "chmod 600"),
    "the file is another store's": (first_form, another_file, WrongRootKey, f"{STRANGER.kid}: put the secrets.key"),
    "a row is cut": (lambda _: [Put(KEYRING + "default.1", b"cut")], str, KeyringDamaged, "does not open"),
    "a row was changed": (
        lambda held: [Put(KEYRING + "default.1", row(held, FIRST).value[:-2] + b"AA")],
        str,
        KeyringDamaged,
        "does not open",
    ),
    "a row is another's": (lambda held: [row(held, FIRST, place="default.2")], str, KeyringDamaged, "does not open"),
    "a row holds another kid": (lambda held: [row(held, FIRST, kid="default.2")], str, KeyringDamaged, "another key"),
    "a row is of a later format": (lambda held: [row(held, FIRST, form=2)], str, ConfigurationError, "later version"),
    "default is missing": (lambda held: [row(held, OTHERS)], str, KeyringDamaged, "keys of default are missing"),
    "there are too many": (
        lambda held: [row(held, DataKey(f"default.{n}", bytes(64))) for n in range(1, 128)],
        str,
        KeyringDamaged,
        "127 wrapped keys",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_whole_is_refused_and_left_alone(path: Path, held: RootKey, case: str) -> None:
    """Each way for file and rows not to fit has its own error, which shows no key, and the store stays as it was."""
    rows, spoil, kind, text = REFUSED[case]
    store = MemoryBackend()
    await store.open()
    for each in rows(held):
        await store.commit([each])
    spoil(path)
    before = await everything(store)

    with pytest.raises(kind, match=text) as caught:
        await upgrade.upgrade(store, KeyFile(path))

    assert await everything(store) == before
    said = "".join(traceback.format_exception(caught.value))
    assert not any(bits[:16].decode() in said for bits in (FILE_BITS, FIRST.reveal()))


async def test_rows_that_change_meanwhile_are_not_replaced(path: Path, held: RootKey) -> None:
    """A row that is written between its reading and its replacing stops the upgrade, and nothing is done."""
    store = MemoryBackend()
    await store.open()
    await store.commit(first_form(held, [FIRST, SECOND]))
    slow = FaultyBackend(store, {await operations(path, held) - 1: Fault.SLOW})
    upgrading = asyncio.create_task(upgrade.upgrade(slow, KeyFile(path)))
    while slow.operations.count("commit") == 0:
        await asyncio.sleep(0)
    await store.commit([row(held, SECOND)])
    slow.release()

    with pytest.raises(Overtaken):
        await upgrading

    assert await store.get(KEYRING_DOCUMENT) is None
    assert await upgrade.upgrade(store, KeyFile(path))
