"""What is read by the batch: measured before it is loaded, found to open before any is given, given one by one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from strongroom.models import Host, HostCreds
from strongroom.models.secret import Secret
from strongroom.storage_service import wire
from strongroom.storage_service.access.apikeys import ApiKeys
from strongroom.storage_service.access.base import Action, Principal
from strongroom.storage_service.access.paths import Reach, SimplePathAuthz
from strongroom.storage_service.audit.log import AuditLog
from strongroom.storage_service.backends.base import Entry, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import Denied, Invalid, NotFound, TooLarge, Unavailable, Undecipherable
from strongroom.storage_service.handlers import Handler
from strongroom.storage_service.jose.content_encryption import ContentEncryption
from strongroom.storage_service.keyring.holder import Holder
from strongroom.storage_service.keyring.opening.unattended import KeyFile
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.routing import build
from strongroom.storage_service.services.bulk import BulkService
from strongroom.storage_service.services.door import Caller, Door
from strongroom.storage_service.services.large_answers import RULE, LargeAnswers
from strongroom.storage_service.services.records import RecordService, Reference
from strongroom.storage_service.services.secrets import SecretService
from tests.audit_lines import audit_lines
from tests.directories import directory_of

OPERATOR = Caller(Principal("apikey:operator"), "request-1")
NARROW = Caller(Principal("apikey:narrow", ("/secrets/db/a",), frozenset({Action.GET})), "request-2")
SMALL, LARGE = b"s" * 1000, b"L" * (320 * 1024)  # two large ones are over what is small together


class Counting(MemoryBackend):
    """A store in memory that counts the bytes of the values that it has given out."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Mapping[str, Entry]:
        """Count what is given."""
        found = await super().get_many(names, limit=limit)
        self.given += sum(len(entry.value) for entry in found.values())
        return found


class Decryptions:
    """The sizes of the plaintexts that were made, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        decrypt = ContentEncryption.decrypt

        def counted(content: ContentEncryption, *parts: bytes) -> bytes:
            value = decrypt(content, *parts)
            self.sizes.append(len(value))
            return value

        monkeypatch.setattr(ContentEncryption, "decrypt", counted)


@dataclass
class Rig:
    """One worker of a service on a store that counts."""

    store: Counting
    encrypted: EncryptedBackend
    door: Door
    secrets: SecretService
    records: RecordService
    bulk: BulkService
    answers: LargeAnswers
    audit: Path

    def lines(self) -> list[tuple[str, str, str]]:
        """What was written down: action, name and decision."""
        lines = audit_lines(self.audit)
        return [(line["action"], line["name"], line["decision"]) for line in lines]

    async def fill(self, **values: bytes) -> list[str]:
        """Put each value into the container ``db``, and return the names."""
        for name, value in values.items():
            await self.encrypted.commit([Put(f"secrets/db/{name}", value)])
        return [f"secrets/db/{name}" for name in values]

    async def damage(self, name: str) -> None:
        """Let a stored secret open no more, by its last character."""
        entry = await self.store.get(name)
        assert entry is not None
        await self.store.commit([Put(name, entry.value[:-2] + (b"BA" if entry.value[-2:] != b"BA" else b"CA"))])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """An open service with the container ``db``, whose turns are waited for but a moment."""
    store = Counting()
    await store.open()
    audit = AuditLog(tmp_path / "audit.log")
    audit.open()
    shared, file = SharedRoot(), KeyFile(tmp_path / "secrets.key")
    holder = Holder(store, shared, [file], autogen=file)
    await holder.open()
    encrypted = EncryptedBackend(store, holder)
    directory = directory_of(store, encrypted)
    keys = ApiKeys(directory, ("own", Secret("own-key")))
    await encrypted.commit([Put("secrets/db/", b"")])
    answers = LargeAnswers(replace(RULE, patience=0.05))
    door = Door((Reach(), SimplePathAuthz(("/",))), audit)
    routing = build((), secrets=Handler(encrypted, secret=True), store="memory:", backend=store)
    yield Rig(
        store,
        encrypted,
        door,
        SecretService(door, encrypted, answers),
        RecordService(door, routing, answers),
        BulkService(door, encrypted, keys, directory, answers),
        answers,
        tmp_path / "audit.log",
    )
    await directory.close()
    await holder.close()
    await audit.close()
    shared.close()


async def _read(rig: Rig, wanted: Sequence[str], caller: Caller = OPERATOR) -> dict[str, bytes | None]:
    async with rig.secrets.read_many(caller, wanted) as values:
        return {name: None if entry is None else entry.value async for name, entry in values}


@pytest.mark.parametrize("value", [SMALL, LARGE])
async def test_values_come_in_the_order_asked(rig: Rig, value: bytes) -> None:
    """A batch, small or large, gives every name in its order, with nothing for what is not there."""
    await rig.fill(a=value, b=value + b"b", c=value + b"c")
    asked = ["secrets/db/c", "secrets/db/none", "secrets/db/a", "secrets/db/b"]

    found = await _read(rig, asked)

    assert list(found) == asked
    assert list(found.values()) == [value + b"c", None, value, value + b"b"]
    assert {name: entry.value for name, entry in (await rig.secrets.get_many(OPERATOR, asked)).items()} == {
        name: value for name, value in found.items() if value is not None
    }


async def test_large_values_are_decrypted_one_by_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large batch none is decrypted before it is given; a small one is decrypted at once."""
    large, small = await rig.fill(a=LARGE, b=LARGE, c=LARGE), await rig.fill(d=SMALL, e=SMALL)
    made = Decryptions(monkeypatch)

    async with rig.secrets.read_many(OPERATOR, large) as values:
        assert (values.turn is None, made.sizes) == (False, [])
        given = 0
        async for _ in values:
            given += 1
            assert made.sizes == [len(LARGE)] * given
    made.sizes.clear()
    async with rig.secrets.read_many(OPERATOR, small) as values:
        assert (values.turn, made.sizes) == (None, [len(SMALL)] * 2)


async def test_what_is_too_large_is_not_loaded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over `MAX_BATCH_STORED` bytes in the store nothing leaves it and nothing is decrypted, whichever door asks."""
    names = await rig.fill(**{f"n{number}": b"x" * wire.MAX_SECRET for number in range(12)})
    references = [Reference(name.rpartition("/")[2]) for name in await _save_creds(rig, 20)]
    rig.store.given = 0
    made = Decryptions(monkeypatch)

    for reading in (
        rig.secrets.get_many(OPERATOR, names),
        rig.bulk.read(OPERATOR, names),
        rig.records.fetch(OPERATOR, HostCreds, references),
    ):
        with pytest.raises(TooLarge):
            await reading
    assert (rig.store.given, made.sizes) == (0, [])


async def _save_creds(rig: Rig, count: int) -> list[str]:
    records = [HostCreds.new(address=f"h{number}", ssh_priv_key="k" * 380_000) for number in range(count)]
    for record in records:
        await rig.records.save(OPERATOR, [record], [None])
    return [record.record_name for record in records]


async def test_a_name_twice_is_refused(rig: Rig) -> None:
    """A name that stands twice is not answered twice: nothing is decided, and nothing written down."""
    (name,) = await rig.fill(a=SMALL)
    for reading in (
        rig.secrets.get_many(OPERATOR, [name, "secrets/db/b", name]),
        rig.records.fetch(OPERATOR, Host, [Reference("h"), Reference("h")]),
    ):
        with pytest.raises(Invalid):
            await reading
    assert rig.lines() == []


async def test_a_name_many_times_makes_no_large_answer(rig: Rig) -> None:
    """In bulk a name is answered as often as it is asked, as long as the answer stays within its limit."""
    (name,) = await rig.fill(a=LARGE)
    assert len(await rig.bulk.read(OPERATOR, [name] * 3)) == 3
    with pytest.raises(TooLarge):
        await rig.bulk.read(OPERATOR, [name] * 1000)


@pytest.mark.parametrize("value", [SMALL, LARGE])
async def test_if_one_does_not_open_none_is_given(rig: Rig, value: bytes) -> None:
    """A value that was changed in the store is found before the first is given, and written down."""
    names = await rig.fill(a=value, b=value, c=value)
    await rig.damage(names[-1])

    with pytest.raises(Undecipherable):
        async with rig.secrets.read_many(OPERATOR, names):
            pytest.fail("it was given")
    assert rig.lines()[-1] == ("get", names[-1], "failed")
    assert await _read(rig, names[:2]) == {names[0]: value, names[1]: value}  # and no turn was kept


async def test_if_one_may_not_be_read_none_is(rig: Rig) -> None:
    """Of a batch with one name out of reach nothing is loaded, and the refusal is written down."""
    names = await rig.fill(a=LARGE, b=LARGE)
    rig.store.given = 0
    with pytest.raises(Denied):
        await _read(rig, names, NARROW)
    assert (rig.store.given, rig.lines()) == (0, [("get", names[1], "denied")])


async def test_one_large_batch_at_a_time(rig: Rig) -> None:
    """While one is handed over, a second one, of any door, is told to come back; small ones and single ones go on."""
    names = await rig.fill(a=LARGE, b=LARGE)
    await _save_creds(rig, 2)

    async with rig.secrets.read_many(OPERATOR, names):
        for reading in (
            rig.secrets.get_many(OPERATOR, names),
            rig.bulk.read(OPERATOR, names),
            rig.records.fetch(OPERATOR, HostCreds, [Reference("h0"), Reference("h1")]),
        ):
            with pytest.raises(Unavailable):
                await reading
        assert await _read(rig, names[:1]) == {names[0]: LARGE}
        assert (await rig.secrets.get(OPERATOR, names[1])).value == LARGE
    assert len(await _read(rig, names)) == 2


async def test_many_large_batches_hold_one(rig: Rig) -> None:
    """Of 64 principals at once, the ciphertext of one is loaded at a time, and each is answered in the end."""
    names = await rig.fill(a=LARGE, b=LARGE)
    rig.answers.queue.rule = replace(RULE, patience=60.0)
    held = most = 0

    async def read(number: int) -> None:
        nonlocal held, most
        async with rig.secrets.read_many(Caller(Principal(f"apikey:{number}"), "request-1"), names) as values:
            held += 1
            most = max(most, held)
            assert [len(entry.value) async for _, entry in values if entry] == [len(LARGE)] * 2
            await asyncio.sleep(0)
            held -= 1

    await asyncio.gather(*map(read, range(64)))
    assert most == 1


async def test_a_principal_has_one_large_batch_and_one_that_waits(rig: Rig) -> None:
    """A third of one principal is refused at once, and nothing is loaded for it; another principal's is answered."""
    names = await rig.fill(a=LARGE, b=LARGE)
    rig.answers.queue.rule = replace(RULE, patience=60.0)
    async with rig.secrets.read_many(OPERATOR, names):
        waiting = asyncio.create_task(_read(rig, names))
        await asyncio.wait((waiting,), timeout=0.5)
        other = asyncio.create_task(_read(rig, names, Caller(Principal("apikey:other"), "request-3")))
        await asyncio.wait((other,), timeout=0.5)
        given = rig.store.given
        with pytest.raises(Unavailable):
            await _read(rig, names)
        assert rig.store.given == given
        assert not (waiting.done() or other.done())
    await asyncio.wait((waiting, other), return_when=asyncio.FIRST_COMPLETED)
    assert other.done()
    assert len(await waiting) == len(await other) == 2


def test_whom_the_proxy_acts_for_is_counted_apart() -> None:
    """Each for whom the proxy acts holds a turn of his own, and who acts for nobody is counted as he is."""
    front = Principal("apikey:proxy", ("/hosts",))
    holders = {Caller(front, "request-1", None, each).holder for each in ("user:a", "user:b", None)}
    assert holders == {"apikey:proxy for user:a", "apikey:proxy for user:b", "apikey:proxy"}


async def test_a_turn_ends_with_its_reader(rig: Rig) -> None:
    """A reader that fails in the middle gives its turn back."""
    names = await rig.fill(a=LARGE, b=LARGE)
    with pytest.raises(ConnectionError):
        async with rig.secrets.read_many(OPERATOR, names):
            raise ConnectionError
    assert len(await _read(rig, names)) == 2


async def test_pages_of_records_are_as_large_as_they_may_be(rig: Rig) -> None:
    """A page of large records ends early and says that there is more; all pages together hold each record once."""
    await _save_creds(rig, 5)
    await rig.records.save(
        OPERATOR, [HostCreds.new(address=f"s{number}", ssh_priv_key="kkkk") for number in range(5)], [None] * 5
    )
    pages, after = [], None
    while True:
        page = await rig.records.list_records(OPERATOR, HostCreds, after, 1000)
        pages.append([stored.record.key for stored in page.records])
        if not page.more:
            break
        after = pages[-1][-1]
    assert [key for page in pages for key in page] == [f"h{n}" for n in range(5)] + [f"s{n}" for n in range(5)]
    assert all(len([key for key in page if key.startswith("h")]) <= 1 for page in pages)
    assert len(pages) < 10


async def test_a_container_is_listed_page_by_page(rig: Rig) -> None:
    """A listing asks for a page when the one before it was taken, and gives others their turn in between."""
    names = [f"n{number:05}" for number in range(2500)]
    for start in range(0, len(names), 40):
        await rig.encrypted.commit([Put(f"secrets/db/{name}", b"x") for name in names[start : start + 40]])
    rig.store.calls.clear()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(other())
    listing = await rig.secrets.listing(OPERATOR, "secrets/db/")
    assert (listing.large, rig.store.calls["list"]) == (True, 1)
    pages = []
    async for page in listing:
        pages.append(page)
        assert rig.store.calls["list"] == len(pages)
        before, turns = turns, 0
        assert before > 0
    counting.cancel()
    assert [name for page in pages for name in page] == names
    assert await rig.secrets.list_container(OPERATOR, "secrets/db/") == names


async def test_an_empty_container_and_none(rig: Rig) -> None:
    """An empty container has one page with nothing in it; one that does not exist is not found."""
    listing = await rig.secrets.listing(OPERATOR, "secrets/db/")
    assert (listing.large, [page async for page in listing]) == (False, [[]])
    with pytest.raises(NotFound):
        await rig.secrets.listing(OPERATOR, "secrets/none/")


async def test_what_is_expected_is_decided_and_not_recorded(rig: Rig) -> None:
    """Asking beforehand writes down a refusal, once, and nothing of what is still to be allowed."""
    await rig.door.expect(OPERATOR, Action.PUT, ["hosts/a"])
    assert rig.lines() == []
    with pytest.raises(Denied):
        await rig.door.expect(NARROW, Action.PUT, ["secrets/db/a", "hosts/a"])
    assert rig.lines() == [("put", "secrets/db/a", "denied"), ("put", "hosts/a", "denied")]
