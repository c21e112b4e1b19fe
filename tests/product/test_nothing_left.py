"""What is left of keys in memory after a lock that forgets: nothing, in no process of the service."""

import asyncio
import base64
import tempfile
from collections.abc import Iterable
from pathlib import Path

from strongroom.models.secret import Secret
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.opening import unlock_keys, wraps
from tests.deploy.running import Up, clean_environment, descendants, eventually, up
from tests.serving.test_level_memory import occurrences

WAITING = clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")  # for somebody to make the first keys


async def data_keys(home: Path, text: str) -> list[bytes]:
    """Return all data keys of a home's store, which the unlock key *text* opens."""
    store = open_backend(f"sqlite:{home}/data/strongroom.db")
    await store.open()
    try:
        sealed = await stored.read(store)
        assert sealed is not None
        (key,) = unlock_keys.parse(text).keys
        held = {wrap.recipient: wrap for wrap in await wraps.wraps_of(store, sealed.root)}
        document = stored.open_document(sealed, wraps.unwrap(held[key.kid], key))
    finally:
        await store.close()
    return [key for keyset in document.keysets.values() for generation in keyset.generations for key in generation.keys]


def workers(running: Up) -> set[int]:
    """Return the workers of the storage service."""
    return set(descendants(running.gunicorn("storage")))


def left(pids: Iterable[int], pieces: list[bytes]) -> int:
    """Return how often any of *pieces* stands in the memory of these processes."""
    return sum(sum(occurrences(pid, pieces)) for pid in pids)


def test_after_a_lock_that_forgets_no_key_is_left() -> None:
    """Of the unlock key that was typed and of the data keys nothing is left; locked, the service goes on."""
    with tempfile.TemporaryDirectory(prefix="sr") as place:
        home = Path(place) / "home"
        with up(home, "--workers", "2", environ=WAITING) as running, StorageClient.from_home(home) as client:
            eventually(lambda: len(workers(running)) == 2)
            made: Secret = client.init_keyring("unlock", total=1).keys[0]
            client.unlock(made)
            client.create_container("db")
            client.set_secret("db", "password", "hunter2")
            keys = asyncio.run(data_keys(home, made.reveal()))
            pieces = [key[:32] for key in keys] + [base64.b64encode(key)[:40] for key in keys]
            pieces.append(made.reveal().encode()[8:])
            known = workers(running)
            assert left(known, pieces) > 0

            client.lock(forget=True)
            eventually(lambda: len(workers(running)) == 2 and not workers(running) & known)

            assert left({running.process.pid, running.gunicorn("storage"), *workers(running)}, pieces) == 0
            assert client.status().state == "locked"
            client.unlock(made)
            assert client.get_secret("db", "password").reveal() == "hunter2"
