"""API keys: what the store holds of them, who they make of a caller, and that revoking ends them."""

import hashlib
import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from strongroom.models.names import ACCESS, APIKEYS, EPOCH, USAGE
from strongroom.models.secret import Secret
from strongroom.storage_service.access.apikeys import ApiKeys, Expired
from strongroom.storage_service.access.base import Action
from strongroom.storage_service.access.directory import spent
from strongroom.storage_service.backends.base import Backend, Put
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend, Killed
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    Contradicted,
    Exists,
    Internal,
    Invalid,
    Locked,
    NotFound,
    ServiceError,
    Undecipherable,
)
from strongroom.storage_service.jose.jwe import kid_of
from strongroom.storage_service.keyring.document import ACCESS_KEYSET
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Place, Ring
from strongroom.storage_service.keyring.usage import index
from tests.directories import directory_of
from tests.keyring.fixed import Fixed

OWN = ("storage_service", Secret("own-key"))
RING: Final = Ring(
    [DataKey("default.1", bytes(64)), DataKey("access.1", bytes(range(64)))], places={ACCESS: Place(ACCESS_KEYSET)}
)


def sealed(backend: Backend) -> EncryptedBackend:
    return EncryptedBackend(backend, Fixed(RING))


@pytest.fixture
async def backend() -> MemoryBackend:
    backend = MemoryBackend()
    await backend.open()
    return backend


@pytest.fixture
def keys(backend: MemoryBackend) -> ApiKeys:
    return ApiKeys(directory_of(backend, sealed(backend)), OWN, now=lambda: datetime(2026, 11, 22, 9, 30, tzinfo=UTC))


async def test_a_key_makes_its_principal(keys: ApiKeys) -> None:
    """The right key gives the principal with the paths and actions it was made with."""
    key, _ = await keys.create("ci", ["/secrets/hosts"], ["get", "list"])

    principal = await keys.authenticate("ci", key.reveal())

    assert principal is not None
    assert principal.id == "apikey:ci"
    assert principal.paths == ("/secrets/hosts",)
    assert principal.actions == {Action.GET, Action.LIST}


@pytest.mark.parametrize("key_id", ["ci", "nobody", "", "../ci", "ci/", "CI", "ci\x00", "*"])
async def test_anything_else_makes_nobody(keys: ApiKeys, key_id: str) -> None:
    """A wrong key, an unknown id and an id that is none are all nobody."""
    await keys.create("ci", ["/secrets"], ["get"])

    assert await keys.authenticate(key_id, "wrong") is None
    assert await keys.authenticate(key_id, "") is None


async def test_the_store_holds_a_verifier_alone(keys: ApiKeys, backend: MemoryBackend) -> None:
    """Neither the key nor a part of it lies in the store."""
    key, _ = await keys.create("ci", ["/secrets"], ["get"])

    entry = await backend.get(APIKEYS + "ci")

    assert entry is not None
    assert key.reveal().encode() not in entry.value


async def test_records_of_keys_are_under_a_keyset_of_their_own(keys: ApiKeys, backend: MemoryBackend) -> None:
    """A record is encrypted under keyset `access`, has its row in the index, and both go when the key is revoked."""
    await keys.create("ci", ["/secrets"], ["get"])
    entry = await backend.get(APIKEYS + "ci")
    assert entry is not None
    assert kid_of(entry.value) == "access.1"
    assert index.row("access.1", APIKEYS + "ci") in (await backend.list(USAGE)).names

    await keys.revoke("ci")

    assert set((await backend.list("")).names) == {EPOCH, spent("apikeys", "ci"), index.row("access.1", EPOCH)}


async def test_while_locked_known_keys_are_known_still(backend: MemoryBackend) -> None:
    """Who was known when the service was locked is let in, until somebody else changes access: then nobody is."""
    held = Fixed(RING)
    directory = directory_of(backend, EncryptedBackend(backend, held))
    keys = ApiKeys(directory, OWN)
    known, _ = await keys.create("known", ["/"], ["get"])
    await keys.authenticate("known", known.reveal())
    other, _ = await keys.create("other", ["/"], ["get"])
    await directory.current()
    elsewhere = ApiKeys(directory_of(backend, sealed(backend)), OWN)
    held.current = None

    assert await keys.authenticate("known", known.reveal()) is not None
    assert await keys.authenticate("known", other.reveal()) is None
    assert await keys.authenticate("nobody", other.reveal()) is None
    assert await keys.authenticate(OWN[0], OWN[1].reveal()) is not None
    assert await keys.authenticate("other", other.reveal()) is not None
    for act in (keys.create("new", ["/"], ["get"]), keys.revoke("known")):
        with pytest.raises(Locked):
            await act
    await elsewhere.revoke("known")  # in another service, which is not locked
    for key_id, key in (("known", known), ("other", other)):
        with pytest.raises(Locked):
            await keys.authenticate(key_id, key.reveal())
    assert await keys.authenticate(OWN[0], OWN[1].reveal()) is not None


async def test_keys_are_256_random_bits(keys: ApiKeys) -> None:
    """Two keys differ, and each is 43 characters of base64url."""
    first, _ = await keys.create("a", ["/"], ["get"])
    second, _ = await keys.create("b", ["/"], ["get"])

    assert first != second
    assert len(first) == len(second) == 43


async def test_a_revoked_key_ends_at_once_for_every_worker(keys: ApiKeys, backend: MemoryBackend) -> None:
    """Another worker, which has the key's record parsed already, refuses it after the revocation."""
    key, _ = await keys.create("ci", ["/secrets"], ["get"])
    elsewhere = ApiKeys(directory_of(backend, sealed(backend)), OWN)
    assert await elsewhere.authenticate("ci", key.reveal()) is not None

    await keys.revoke("ci")

    assert await elsewhere.authenticate("ci", key.reveal()) is None


async def test_no_id_is_given_out_twice(keys: ApiKeys, backend: MemoryBackend) -> None:
    """An id that was revoked makes no other key, in whichever worker, and the refusal says why; another id does."""
    await keys.create("ci", ["/secrets"], ["get"])
    await keys.revoke("ci")
    elsewhere = ApiKeys(directory_of(backend, sealed(backend)), OWN)

    for each in (keys, elsewhere):
        with pytest.raises(Exists, match="never given again"):
            await each.create("ci", ["/secrets"], ["get"])
        with pytest.raises(NotFound):
            await each.revoke("ci")
    await keys.create("ci2", ["/secrets"], ["get"])

    assert [key_id for key_id, _ in await keys.list()] == ["ci2"]


async def test_an_id_is_taken_once(keys: ApiKeys) -> None:
    """A second key of one id is refused, and the first goes on working."""
    key, _ = await keys.create("ci", ["/secrets"], ["get"])

    with pytest.raises(Exists):
        await keys.create("ci", ["/"], ["get"])

    assert await keys.authenticate("ci", key.reveal()) is not None


@pytest.mark.parametrize("key_id", ["nobody", "", "../x", "a/b"])
async def test_revoking_nobody(keys: ApiKeys, key_id: str) -> None:
    """Revoking what is not there says so."""
    with pytest.raises(NotFound):
        await keys.revoke(key_id)


@pytest.mark.parametrize(
    ("key_id", "paths", "actions", "field"),
    [
        ("", ["/"], ["get"], "id"),
        ("a/b", ["/"], ["get"], "id"),
        (".hidden", ["/"], ["get"], "id"),
        ("a" * 65, ["/"], ["get"], "id"),
        ("ci", [], ["get"], "paths"),
        ("ci", ["secrets"], ["get"], "paths"),
        ("ci", ["/a/../b"], ["get"], "paths"),
        ("ci", ["/"], [], "actions"),
        ("ci", ["/"], ["steal"], "actions"),
    ],
)
async def test_what_is_no_key(keys: ApiKeys, key_id: str, paths: list[str], actions: list[str], field: str) -> None:
    """An id, path or action that is none is refused, and the field is named."""
    with pytest.raises(Invalid) as caught:
        await keys.create(key_id, paths, actions)

    assert [fault[0] for fault in caught.value.faults] == [field]
    assert await keys.list() == []


async def test_listing_pages_through_all(keys: ApiKeys) -> None:
    """All keys are listed by id, each with when it was made."""
    for number in range(3):
        await keys.create(f"k{number}", ["/"], ["get"])

    assert [(key_id, record.created) for key_id, record in await keys.list()] == [
        (f"k{number}", "2026-11-22T09:30:00Z") for number in range(3)
    ]


async def test_our_own_key_is_the_configured_one(keys: ApiKeys, backend: MemoryBackend) -> None:
    """The configured key reaches everything, lies in no record, and its id cannot be taken."""
    principal = await keys.authenticate("storage_service", "own-key")

    assert principal is not None
    assert principal.paths == ("/",)
    assert await keys.authenticate("storage_service", "other") is None
    with pytest.raises(Exists):
        await keys.create("storage_service", ["/"], ["get"])
    assert (await backend.list("")).names == ()


async def test_a_known_record_is_not_opened_twice(backend: MemoryBackend) -> None:
    """The second request of a key costs one read of the store."""
    keys = ApiKeys(directory_of(backend, sealed(backend)), OWN)
    key, _ = await keys.create("ci", ["/secrets"], ["get"])
    await keys.authenticate("ci", key.reveal())
    await keys.authenticate("ci", key.reveal())
    before = backend.calls.total()

    await keys.authenticate("ci", key.reveal())

    assert backend.calls.total() - before == 1


async def test_a_record_of_another_id_opens_nothing(keys: ApiKeys, backend: MemoryBackend) -> None:
    """A record copied to another id, by whoever may write the store, is no key of that id."""
    key, _ = await keys.create("ci", ["/secrets"], ["get"])
    entry = await backend.get(APIKEYS + "ci")
    assert entry is not None
    await backend.commit([Put(APIKEYS + "root", entry.value)])

    afresh = ApiKeys(directory_of(backend, sealed(backend)), OWN)
    with pytest.raises(Undecipherable):
        await afresh.authenticate("root", key.reveal())
    assert await afresh.authenticate("ci", key.reveal()) is not None  # and others are not lost with it


PLANTED = (
    b'{"format":1,"verifier":"%s","paths":["/"],"actions":["get"],"created":""}'
    % hashlib.sha256(b"k").hexdigest().encode()
)


@pytest.mark.parametrize("value", [b"", b"{}", b"garbage", PLANTED])
async def test_a_damaged_record_opens_nothing(keys: ApiKeys, backend: MemoryBackend, value: bytes) -> None:
    """A record planted or edited in the store is an error and never a principal."""
    await backend.commit([Put(APIKEYS + "ci", value)])

    with pytest.raises(Internal):
        await keys.authenticate("ci", "k")


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 12, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rotating(backend: MemoryBackend, clock: Clock) -> ApiKeys:
    return ApiKeys(directory_of(backend, sealed(backend)), OWN, now=clock)


async def test_two_keys_are_good_while_they_overlap(rotating: ApiKeys, clock: Clock) -> None:
    """Both make the same principal until the overlap ends, then the new one alone; no third, nor an empty one, does."""
    first, _ = await rotating.create("ci", ["/secrets"], ["get"])
    before = await rotating.authenticate("ci", first.reveal())
    second, record = await rotating.rotate("ci", timedelta(hours=1))

    assert first != second
    assert record.former is not None and record.former.ends == "2026-12-01T13:00:00Z"
    for key in (first, second):
        assert await rotating.authenticate("ci", key.reveal()) == before
    assert await rotating.authenticate("ci", "") is None
    with pytest.raises(Contradicted, match="good until 2026-12-01T13:00:00Z") as caught:
        await rotating.rotate("ci", timedelta(hours=1))
    assert [each.verb for each in caught.value.next] == ["apikey end-former"]

    clock.now += timedelta(hours=1)
    with pytest.raises(Expired) as refused:
        await rotating.authenticate("ci", first.reveal())
    assert (str(refused.value), refused.value.inner) == (
        "wrong API id or key",
        "the key was rotated, and its overlap has ended",
    )
    assert await rotating.authenticate("ci", second.reveal()) is not None
    await rotating.rotate("ci", timedelta())
    assert await rotating.authenticate("ci", second.reveal()) is None


async def test_the_key_before_can_end_early(rotating: ApiKeys) -> None:
    """From then on it is nobody's; where there is none, that is said."""
    first, _ = await rotating.create("ci", ["/secrets"], ["get"])
    with pytest.raises(NotFound):
        await rotating.end_former("ci")
    second, _ = await rotating.rotate("ci", timedelta(days=90))
    await rotating.end_former("ci")

    assert await rotating.authenticate("ci", first.reveal()) is None
    assert await rotating.authenticate("ci", second.reveal()) is not None
    with pytest.raises(NotFound):
        await rotating.end_former("ci")
    with pytest.raises(NotFound):
        await rotating.rotate("nobody", timedelta())
    with pytest.raises(Invalid):
        await rotating.rotate("ci", timedelta(days=91))


async def test_a_key_expires(rotating: ApiKeys, clock: Clock) -> None:
    """From that moment on it is worth nothing, overlap or not; the one in its place has an end of its own."""
    for wrong in ("2026-12-01T12:00:00Z", "tomorrow", "2027-01-01"):
        with pytest.raises(Invalid):
            await rotating.create("ci", ["/secrets"], ["get"], expires=wrong)
    first, record = await rotating.create("ci", ["/secrets"], ["get"], expires="2026-12-01T13:00:00Z")
    assert record.expires == "2026-12-01T13:00:00Z"
    second, rotated = await rotating.rotate("ci", timedelta(days=1))
    assert rotated.former is not None and rotated.former.ends == "2026-12-01T13:00:00Z"
    third, _ = await rotating.create("other", ["/secrets"], ["get"], expires="2026-12-01T13:00:00Z")
    assert await rotating.authenticate("other", third.reveal()) is not None

    clock.now += timedelta(hours=1)
    for key_id, key in (("ci", first), ("other", third)):
        with pytest.raises(Expired):
            await rotating.authenticate(key_id, key.reveal())
    assert await rotating.authenticate("ci", second.reveal()) is not None


@pytest.mark.parametrize("fault", [Fault.DIE_BEFORE, Fault.DIE_AFTER, Fault.BEFORE, Fault.AFTER])
async def test_a_rotation_is_whole_or_not_at_all(fault: Fault) -> None:
    """Killed, or without an answer, at each operation of it: the key of before opens, alone or beside the new one."""
    reached = 0
    for number in itertools.count():
        store = MemoryBackend()
        await store.open()
        first, made = await ApiKeys(directory_of(store, sealed(store)), OWN).create("ci", ["/secrets"], ["get"])
        faulty = FaultyBackend(store, {number: fault})
        directory = directory_of(faulty, sealed(faulty))
        try:
            await ApiKeys(directory, OWN).rotate("ci", timedelta(hours=1))
        except (Killed, ServiceError):
            reached += 1
        else:
            break
        finally:
            with suppress(Killed):  # of what it was reading when it was killed
                await directory.close()
        fresh = ApiKeys(directory_of(store, sealed(store)), OWN)
        assert await fresh.authenticate("ci", first.reveal()) is not None
        found = await fresh.record("ci")
        assert found == made or (found.former is not None and found.former.verifier == made.verifier)
    assert reached > 2
