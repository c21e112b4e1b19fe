"""A data key opens what lies in the places of its keyset, now or from before, and nothing else."""

import gc
import json
import weakref
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from strongroom.models.names import APIKEYS
from strongroom.models.secret import Secret
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.backends.base import Delete, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import InUse, Undecipherable
from strongroom.storage_service.jose.jwe import Reason, encrypt
from strongroom.storage_service.keyring import stored
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from strongroom.storage_service.keyring.usage import index, sweep
from tests.directories import directory_of
from tests.keyring.fixed import Fixed
from tests.keyring.story import ROOT, Rings, initialize


def key(kid: str) -> DataKey:
    return DataKey(kid, kid.encode().ljust(64, b"."))


KIDS: Final = ("default.1", "default.2", "access.1", "payments.1", "payments.2", "hosts.1.1", "hosts.1.2")
PLACES: Final = {
    "system/access/": Place("access"),
    "secrets/payments/": Place("payments"),
    "secrets/hosts/": Place("hosts", ("default",)),
    "secrets/hosts/pay/": Place("payments", ("hosts", "default")),
}
RING: Final = Ring(map(key, KIDS), places=PLACES)

OPENED: Final = {  # name -> the keysets whose keys open it
    "secrets/a": {"default"},
    "secrets/paymentsx/a": {"default"},
    "system/journal/1/a": {"default"},
    "system/access/apikeys/evil": {"access"},
    "secrets/payments/a": {"payments"},
    "secrets/payments/in/a": {"payments"},
    "secrets/hosts/a": {"hosts", "default"},
    "secrets/hosts/pay/a": {"payments", "hosts", "default"},
}


async def opened_store() -> MemoryBackend:
    store = MemoryBackend()
    await store.open()
    return store


Reader = Callable[[EncryptedBackend, str], Awaitable[bytes]]


async def _got(overlay: EncryptedBackend, name: str) -> bytes:
    entry = await overlay.get(name)
    assert entry is not None
    return entry.value


async def _got_with_others(overlay: EncryptedBackend, name: str) -> bytes:
    return (await overlay.get_many([name]))[name].value


async def _got_closed(overlay: EncryptedBackend, name: str) -> bytes:
    return (await overlay.get_closed([name]))[name].reveal()


READERS: Final[list[Reader]] = [_got, _got_with_others, _got_closed]


@pytest.mark.parametrize("name", OPENED)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__.lstrip("_"))
async def test_every_key_under_every_prefix(name: str, read: Reader) -> None:
    """However a record is read, it opens with the keys of its place's keysets alone; of others the error says so."""
    for kid in KIDS:
        below = await opened_store()
        overlay = EncryptedBackend(below, Fixed(RING))
        await below.commit([Put(name, encrypt(key(kid), name, b"planted"))])
        if kid.partition(".")[0] in OPENED[name]:
            assert await read(overlay, name) == b"planted"
            continue
        with pytest.raises(Undecipherable) as refused:
            await read(overlay, name)
        assert refused.value.reason == Reason.MISPLACED


def test_a_ring_that_is_let_go_of_takes_its_keys_along() -> None:
    """What a ring remembers of names keeps none of its keys in memory when nobody holds it any more."""

    class Followed(DataKey):
        """A key that a weak reference can follow."""

    held = Followed("default.1", bytes(64))
    ring = Ring([held])
    assert ring.at("secrets/a")["default.1"] is held
    gone = weakref.ref(held)
    gc.disable()  # or a collection of cycles could do it by chance
    try:
        del ring, held
        assert gone() is None
    finally:
        gc.enable()


async def test_who_has_one_data_key_makes_no_api_key() -> None:
    """A record of an API key that was written under the key of another keyset names nobody, and is an error."""
    store = await opened_store()

    def keys() -> ApiKeys:
        return ApiKeys(directory_of(store, EncryptedBackend(store, Fixed(RING))), ("own", Secret("own key")))

    _, record = await keys().create("real", ["/"], ["get"])
    planted = json.dumps({"verifier": record.verifier, "paths": ["/"], "actions": ["get"], "created": record.created})
    for kid in KIDS:
        name = APIKEYS + "evil"
        await store.commit([Put(name, encrypt(key(kid), name, planted.encode()))])
        if kid.startswith("access."):
            assert await keys().authenticate("evil", "wrong") is None  # it is a record
        else:
            with pytest.raises(Undecipherable):
                await keys().authenticate("evil", "wrong")


async def test_a_reader_behind_an_assignment_looks_again() -> None:
    """What was written under a keyset that was assigned meanwhile opens with the ring that knows of it."""
    store = await opened_store()
    before = Ring([key("default.1"), key("payments.1")])
    keys = Fixed(before)
    keys.newer = Ring([key("default.1"), key("payments.1")], places={"secrets/db/": Place("payments", ("default",))})
    await store.commit([Put("secrets/db/a", encrypt(key("payments.1"), "secrets/db/a", b"value"))])

    assert await _got(EncryptedBackend(store, keys), "secrets/db/a") == b"value"
    assert keys.refreshed == 1


async def _assigned() -> tuple[MemoryBackend, Rings, EncryptedBackend]:
    store = await opened_store()
    await initialize(store)
    await stored.edit(store, ROOT, lambda said: said.with_keyset("payments", stored.now()))
    keys = Rings(store)
    overlay = EncryptedBackend(store, keys)
    await overlay.commit([Put("secrets/db/", b""), Put("secrets/db/a", b"value"), Put("secrets/other", b"value")])
    await stored.edit(store, ROOT, lambda said: said.assigned("secrets/db/", "payments"))
    return store, keys, overlay


async def test_formerly_is_until_all_is_re_encrypted() -> None:
    """After an assignment the former keyset opens what is there until nothing is left; from then on it does not."""
    store, keys, overlay = await _assigned()
    entry = await store.get("secrets/db/a")
    assert entry is not None
    former = entry.value
    assert await _got(overlay, "secrets/db/a") == b"value"

    assert (await sweep.step(store, keys, "payments", None, 100)).moved == 1
    await sweep.settle(store, ROOT, "payments")
    await keys.refresh(await keys.sync())
    assert await _got(overlay, "secrets/db/a") == b"value"

    await store.commit([Put("secrets/db/a", former)])
    with pytest.raises(Undecipherable):
        await _got(overlay, "secrets/db/a")
    assert await _got(overlay, "secrets/other") == b"value"


async def test_nothing_is_shut_out_of_which_the_index_does_not_tell() -> None:
    """A record whose row was removed is not made unreadable: settling looks at the records, and names it."""
    store, keys, overlay = await _assigned()
    await store.commit([Delete(index.row("default.1", "secrets/db/a"))])
    assert (await sweep.step(store, keys, "payments", None, 100)).moved == 0

    with pytest.raises(InUse) as refused:
        await sweep.settle(store, ROOT, "payments")

    assert refused.value.holders == ("secrets/db/a",)
    assert await _got(overlay, "secrets/db/a") == b"value"


async def test_a_scan_and_a_sweep_take_no_stray_for_a_record() -> None:
    """A value under a key that has nothing to open there is unreadable to both, and stays as it is."""
    store, keys, _ = await _assigned()
    ring = await keys.sync()
    planted = encrypt(ring.active("access"), "secrets/other", b"planted")
    await store.commit([Put("secrets/other", planted), Put(index.row("access.1", "secrets/other"), b"")])
    await stored.edit(store, ROOT, lambda said: said.rotated("access", stored.now()))

    assert (await index.scan(store, keys)).unreadable == ("secrets/other",)
    assert (await sweep.step(store, keys, None, None, 100)).unreadable == ("secrets/other",)
    entry = await store.get("secrets/other")
    assert entry is not None and entry.value == planted
