"""Records through a handler: plain ones in JSON, secret ones as Custodia's values, on a backend that encrypts."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pytest

from strongroom.models import Cluster, ContainerManagerCreds, Host, HostCreds, Model, Network, Secret, SecretModel
from strongroom.storage_service.backends.base import (
    ABSENT,
    MAX_BATCH,
    MAX_PAGE,
    PRESENT,
    Backend,
    Change,
    Delete,
    Entry,
    Put,
)
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import (
    Changed,
    Exists,
    Fate,
    Invalid,
    ServiceError,
    TooLarge,
    Unavailable,
    Undecipherable,
)
from strongroom.storage_service.handlers import BadRecord, Handler, Stored
from strongroom.storage_service.keyring.overlay import EncryptedBackend
from strongroom.storage_service.keyring.ring import DataKey, Ring
from strongroom.storage_service.wire import MAX_SECRET
from tests.keyring.fixed import Fixed
from tests.models.forms import STORED, smallest
from tests.service import single

CANARY: Final = "Q0FOQVJZLXRoYXQtc2luZ3M="


class Crowded(MemoryBackend):
    """A store that others use too: before each commit of the one under test, the next of *others* is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[Sequence[Change]] = []

    async def commit(self, changes: Sequence[Change]) -> int:
        """Let the next other go first."""
        if self.others:
            await super().commit(self.others.pop(0))
        return await super().commit(changes)


@dataclass
class Kept:
    """Handlers for both kinds on one store."""

    store: Crowded
    plain: Handler
    secret: Handler
    opened: EncryptedBackend

    def of(self, model: type[Model]) -> Handler:
        """Return the handler for *model*."""
        return self.secret if issubclass(model, SecretModel) else self.plain

    def commits(self) -> int:
        """Return how many commits there were since this was last asked."""
        return self.store.calls.pop("commit", 0)


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """Give an opened, empty store and its handlers."""
    store = Crowded()
    await store.open()
    opened = EncryptedBackend(store, Fixed(Ring([DataKey("default.1", bytes(range(64)))])))
    yield Kept(store, Handler(store, secret=False), Handler(opened, secret=True), opened)
    await store.close()


def hosts(*addresses: str) -> list[Host]:
    """Return a host for each of *addresses*."""
    return [Host(address=address) for address in addresses]


def creds(*addresses: str) -> list[HostCreds]:
    """Return credentials for each of *addresses*."""
    return [HostCreds(address=address, ssh_priv_key=Secret(CANARY)) for address in addresses]


# What is stored


@pytest.mark.parametrize("model", STORED, ids=lambda model: model.__name__)
async def test_every_model_comes_back_as_it_was_saved(kept: Kept, model: type[Model]) -> None:
    """A record of any model is saved, fetched, listed and deleted by its key."""
    handler = kept.of(model)
    record = model.from_dict(smallest(model))
    stored = await single.save(handler, record)

    assert stored == await single.get(handler, model, record.key)
    assert (stored,) == (await handler.list(model)).records
    assert [stored, None] == await handler.get_many(model, [record.key, "other"])
    await single.delete(handler, model, record.key)
    assert await handler.get_many(model, [record.key]) == [None]


async def test_a_plain_record_is_its_json_under_its_name(kept: Kept) -> None:
    """What an operator finds in the store of plain records is readable."""
    (host,) = hosts("10.0.0.7")
    await single.save(kept.plain, host)

    assert await kept.store.get("hosts/10.0.0.7") == Entry(host.to_json(), 2)


async def test_a_secret_record_is_the_value_custodia_would_store(kept: Kept) -> None:
    """The bytes that an octet-stream PUT of the same JSON would leave, so both doors lead to one record."""
    (record,) = creds("10.0.0.7")
    await single.save(kept.secret, record)
    entry = await kept.opened.get("secrets/hosts/10.0.0.7")

    assert entry is not None
    assert base64.b64encode(record.to_json()) == entry.value
    await kept.opened.commit([Put("secrets/hosts/b", base64.b64encode(b'{"address": "b", "remote_user": "core"}'))])
    assert HostCreds(address="b", remote_user="core") == (await single.get(kept.secret, HostCreds, "b")).record


async def test_nothing_of_a_secret_is_in_the_store(kept: Kept) -> None:
    """Below the encrypting backend there are names, the index', too, and ciphertext."""
    await kept.secret.save_many(creds("a", "b"))
    found = await kept.store.get_many((await kept.store.list("")).names)

    records = {"secrets/hosts/", "secrets/hosts/a", "secrets/hosts/b"}
    rows = {"system/usage/default.1/secrets/hosts/a", "system/usage/default.1/secrets/hosts/b"}
    assert set(found) == records | rows
    for entry in found.values():
        assert CANARY.encode() not in entry.value
        assert base64.b64encode(CANARY.encode())[:-4] not in entry.value


# Saving


@pytest.mark.parametrize(
    ("there", "expected", "error"),
    [
        (False, None, None),
        (False, ABSENT, None),
        (False, PRESENT, Changed),
        (False, "its own", Changed),
        (True, None, None),
        (True, ABSENT, Exists),
        (True, PRESENT, None),
        (True, "its own", None),
        (True, "another", Changed),
    ],
)
@pytest.mark.parametrize("model", [Host, HostCreds])
async def test_a_save_replaces_unless_told_what_to_expect(
    kept: Kept, model: type[Model], there: bool, expected: int | str | None, error: type[ServiceError] | None
) -> None:
    """Without an expected revision a save is an upsert; with one it is done at that revision or not at all."""
    handler = kept.of(model)
    revision = (await single.save(handler, model.from_dict({"address": "a"}))).revision if there else 7
    known = {"its own": revision, "another": revision + 1}
    guard = known[expected] if isinstance(expected, str) else expected
    other = model.from_dict({"address": "b"})
    if error is None:
        first, second = await handler.save_many([other, model.from_dict({"address": "a"})], [None, guard])
        assert first.revision == second.revision > revision * there
        assert first == await single.get(handler, model, "b")
    else:
        with pytest.raises(error):
            await handler.save_many([other, model.from_dict({"address": "a"})], [None, guard])
        assert await handler.get_many(model, ["b"]) == [None]


async def test_all_records_are_valid_or_none_is_saved(kept: Kept) -> None:
    """Every fault of every record is told with its place, and the store is not even asked."""
    records = [*hosts("a", "b/c"), Host.new(address="d", cpus=True, status="bad")]
    with pytest.raises(Invalid) as raised:
        await kept.plain.save_many(records)

    assert [field for field, _ in raised.value.faults] == ["[1].address", "[2].status", "[2].cpus"]
    with pytest.raises(Invalid) as raised:
        await single.save(kept.plain, records[1])
    assert [field for field, _ in raised.value.faults] == ["address"]
    assert not kept.store.calls


@pytest.mark.parametrize("model", [Host, HostCreds])
async def test_as_many_as_fit_are_saved_in_one_commit(kept: Kept, model: type[Model]) -> None:
    """A full batch is one commit; one record more makes it two; deletes go in batches too."""
    handler = kept.of(model)
    room = kept.opened.max_batch if handler is kept.secret else MAX_BATCH
    at_once = room - (handler is kept.secret)  # and the container
    records = [model.from_dict({"address": f"h{index:04}"}) for index in range(2 * at_once + 1)]
    await single.save(handler, records[0])
    kept.commits()

    assert len({stored.revision for stored in await handler.save_many(records[:at_once])}) == 1
    assert kept.commits() == 1
    stored = await handler.save_many(records)
    assert kept.commits() == 3
    assert list((await handler.list(model)).records) == stored
    assert await handler.delete_many(model, [record.key for record in records]) == [True] * len(records)
    assert kept.commits() == -(-len(records) // room)


class Shrinking(FaultyBackend):
    """A backend that takes *room* changes at once, but ten the first time; it notes how many came."""

    def __init__(self, backend: Backend, room: int) -> None:
        super().__init__(backend)
        self.sizes: list[int] = []
        self._room = room

    @property
    def max_batch(self) -> int:
        """As many as now."""
        return self._room if self.sizes else 10

    async def commit(self, changes: Sequence[Change]) -> int:
        """Apply *changes*."""
        self.sizes.append(len(changes))
        return await super().commit(changes)


@pytest.mark.parametrize(
    ("room", "saved", "removed"),
    [
        (2, [9, *[2] * 17], [10, *[2] * 7]),
        (3, [9, *[2] * 17], [10, *[3] * 4, 2]),
        (4, [9, *[3] * 8, 2], [10, *[4] * 3, 2]),
        (9, [9, 8, 8, 5], [10, 9, 5]),
    ],
)
async def test_a_batch_is_as_large_as_the_backend_takes_now(
    kept: Kept, room: int, saved: list[int], removed: list[int]
) -> None:
    """What a backend takes is asked for each batch; the smallest still holds a record and its container."""
    await kept.store.commit([Put("secrets/hosts/", b""), Put("secrets/container_managers/", b"")])
    records = [*creds(*(f"h{number:02}" for number in range(24))), ContainerManagerCreds(name="m", token=Secret("t"))]
    backend = Shrinking(kept.opened, room)
    stored = await Handler(backend, secret=True).save_many(records)

    assert backend.sizes == saved
    assert [each.record for each in stored] == records
    assert list((await kept.secret.list(HostCreds)).records) == stored[:-1]

    backend = Shrinking(kept.opened, room)
    keys = [record.key for record in records[:-1]]
    assert await Handler(backend, secret=True).delete_many(HostCreds, keys) == [True] * 24
    assert backend.sizes == removed
    assert not (await kept.secret.list(HostCreds)).records


async def test_secrets_of_several_models_share_a_commit(kept: Kept) -> None:
    """One batch holds secrets of different models, and the containers of them all."""
    await kept.secret.save_many([*creds("a"), ContainerManagerCreds(name="m", token=Secret("t"))])

    assert (await kept.store.list("secrets/")).names == (
        "secrets/container_managers/",
        "secrets/container_managers/m",
        "secrets/hosts/",
        "secrets/hosts/a",
    )


@pytest.mark.parametrize(
    ("records", "faults", "fate", "left"),
    [
        (MAX_BATCH, {0: Fault.BEFORE}, Fate.NOT_APPLIED, 0),
        (MAX_BATCH, {0: Fault.AFTER}, Fate.UNKNOWN, MAX_BATCH),
        (MAX_BATCH + 1, {0: Fault.BEFORE}, Fate.NOT_APPLIED, 0),
        (MAX_BATCH + 1, {1: Fault.BEFORE}, Fate.UNKNOWN, MAX_BATCH),
        (MAX_BATCH + 1, {1: Fault.AFTER}, Fate.UNKNOWN, MAX_BATCH + 1),
    ],
)
async def test_a_store_that_fails_tells_the_fate_of_all(
    kept: Kept, records: int, faults: dict[int, Fault], fate: Fate, left: int
) -> None:
    """That it was not applied is said only where nothing of the whole request was applied."""
    handler = Handler(FaultyBackend(kept.store, faults), secret=False)
    with pytest.raises(Unavailable) as raised:
        await handler.save_many(hosts(*(f"h{index}" for index in range(records))))

    assert raised.value.fate is fate
    assert len((await kept.store.list("hosts/")).names) == left


async def test_a_guard_that_fails_halfway_tells_the_fate_of_all(kept: Kept) -> None:
    """A tag that does not hold in a later batch leaves the batches before it: that nothing was applied is not said."""
    handler = Handler(kept.store, secret=False)
    for at, fate, left in ((0, Fate.NOT_APPLIED, 0), (MAX_BATCH, Fate.UNKNOWN, MAX_BATCH)):
        guards: list[int | None] = [None] * (MAX_BATCH + 1)
        guards[at] = 7
        with pytest.raises(Changed) as raised:
            await handler.save_many(hosts(*(f"h{index}" for index in range(MAX_BATCH + 1))), guards)

        assert raised.value.fate is fate
        assert len((await kept.store.list("hosts/")).names) == left


async def test_a_record_stands_once_in_a_request(kept: Kept) -> None:
    """Which of two would win is not left to chance."""
    with pytest.raises(Invalid, match="twice"):
        await kept.plain.save_many(hosts("a", "b", "a"))
    with pytest.raises(Invalid, match="twice"):
        await kept.plain.delete_many(Host, ["a", "a"])
    with pytest.raises(Invalid, match="for each"):
        await kept.plain.save_many(hosts("a"), [1, 2])


async def test_nothing_costs_nothing(kept: Kept) -> None:
    """Empty requests are answered without asking the store."""
    assert await kept.plain.save_many([]) == []
    assert await kept.secret.save_many([]) == []
    assert await kept.plain.get_many(Host, []) == []
    assert await kept.plain.delete_many(Host, []) == []
    assert not kept.store.calls


async def test_a_record_over_the_limit_is_refused(kept: Kept) -> None:
    """The limit of a secret holds for every record, and one at the limit is kept."""
    overhead = len(HostCreds(address="a").to_json())
    for key, error in (("A" * ((MAX_SECRET - overhead) // 4 * 4), None), ("A" * MAX_SECRET, TooLarge)):
        record = HostCreds(address="a", ssh_priv_key=Secret(key))
        if error is None:
            assert await single.save(kept.secret, record) == await single.get(kept.secret, HostCreds, "a")
        else:
            with pytest.raises(error):
                await single.save(kept.secret, record)


@pytest.mark.parametrize("wrong", ["save", "get", "delete", "list"])
async def test_a_handler_keeps_its_own_kind(kept: Kept, wrong: str) -> None:
    """A secret cannot reach a handler of plain records by any mistake in between, nor the reverse."""
    for handler, record in ((kept.plain, creds("a")[0]), (kept.secret, hosts("a")[0])):
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "save": lambda: single.save(handler, record),  # noqa: B023  # called in this turn
            "get": lambda: single.get(handler, type(record), "a"),  # noqa: B023
            "delete": lambda: single.delete(handler, type(record), "a"),  # noqa: B023
            "list": lambda: handler.list(type(record)),  # noqa: B023
        }
        with pytest.raises(TypeError):
            await acts[wrong]()
    assert not kept.store.calls


# Containers

MAKE: Final = Put("secrets/hosts/", b"", ABSENT)
REMOVE: Final = Delete("secrets/hosts/", PRESENT)


@pytest.mark.parametrize(
    ("there", "others", "commits"),
    [
        (True, [], 1),  # the usual case
        (False, [], 2),  # the first secret of its kind
        (False, [[Put("x/y", b"")], [MAKE]], 3 + 2),  # another made it while we were about to
        (True, [[REMOVE]], 2 + 1),  # another removed it first
        (True, [[REMOVE], [MAKE], [REMOVE]], 4 + 3),  # and again
    ],
)
async def test_a_secrets_container_is_there_when_the_secret_is(
    kept: Kept, there: bool, others: list[Sequence[Change]], commits: int
) -> None:
    """Saving makes the container in the same commit, whoever makes or removes it meanwhile."""
    if there:
        await kept.store.commit([MAKE])
    kept.commits()
    kept.store.others = others
    await kept.secret.save_many(creds("a"))

    assert kept.commits() == commits
    assert (await kept.store.list("secrets/")).names == ("secrets/hosts/", "secrets/hosts/a")


async def test_a_container_that_comes_and_goes_is_given_up_on(kept: Kept) -> None:
    """Trying is bounded, and nothing is written when it ends."""
    comings_and_goings: list[Sequence[Change]] = [[MAKE], [REMOVE]]
    kept.store.others = [[Put("x/y", b"")], *comings_and_goings * 10]
    with pytest.raises(Unavailable) as raised:
        await kept.secret.save_many(creds("a"))

    assert raised.value.fate is Fate.NOT_APPLIED
    assert await kept.secret.get_many(HostCreds, ["a"]) == [None]


async def test_a_missing_container_does_not_hide_a_conflict(kept: Kept) -> None:
    """Expecting a record to be there fails for that reason, and leaves no empty container behind."""
    with pytest.raises(Changed):
        await single.save(kept.secret, creds("a")[0], PRESENT)

    assert (await kept.store.list("")).names == ()


# Getting


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", ("(document)", "the text is not JSON")),
        (b"canary", ("(document)", "the text is not JSON")),
        (b'["canary"]', ("(document)", "must be an object")),
        (b'{"address": "a", "canary": 1}', ("(unknown)", "is not a field of {model}")),
        (b'{"address": "b"}', ("address", "is not the one in its name")),
        (
            b'{"address": "canary/"}',
            ("address", "must be one segment of [A-Za-z0-9._@:+-], not '.' or '..', in a name of 512 bytes"),
        ),
    ],
)
@pytest.mark.parametrize("model", [Host, HostCreds])
async def test_what_is_stored_and_not_valid_is_named_and_not_shown(
    kept: Kept, model: type[Model], value: bytes, fault: tuple[str, str]
) -> None:
    """A stored value that is no valid record fails inside, naming the record, its faults, and nothing of the value."""
    backend = kept.opened if issubclass(model, SecretModel) else kept.store
    encoded = base64.b64encode(value) if issubclass(model, SecretModel) else value
    await backend.commit([Put(model.name_of("a"), encoded)])
    for act in (single.get(kept.of(model), model, "a"), kept.of(model).list(model)):
        with pytest.raises(BadRecord) as raised:
            await act
        assert raised.value.code == "malformed-record"
        assert raised.value.name == model.name_of("a") in str(raised.value)
        assert raised.value.faults == ((fault[0], fault[1].format(model=model.__name__)),)
        assert "canary" not in str(raised.value)
    await single.delete(kept.of(model), model, "a")


async def test_a_secret_that_was_put_as_text_is_no_record(kept: Kept) -> None:
    """A JSON message put through /secrets holds no base64, so it is not taken for credentials."""
    await kept.opened.commit([Put("secrets/hosts/a", b"just a canary")])
    with pytest.raises(BadRecord, match=r"^secrets/hosts/a holds no valid HostCreds: \(document\) is not base64$"):
        await single.get(kept.secret, HostCreds, "a")


async def test_a_value_that_does_not_open_can_still_be_deleted(kept: Kept) -> None:
    """A swapped secret fails to open and fails nothing else."""
    await kept.secret.save_many(creds("a", "b"))
    swapped = await kept.store.get("secrets/hosts/b")
    assert swapped is not None
    await kept.store.commit([Put("secrets/hosts/a", swapped.value)])

    with pytest.raises(Undecipherable):
        await single.get(kept.secret, HostCreds, "a")
    assert await kept.secret.delete_many(HostCreds, ["a", "b"]) == [True, True]


async def test_keys_are_answered_in_their_order(kept: Kept) -> None:
    """Records come in the order asked, a key asked twice twice, and pages are no limit."""
    (a, b) = await kept.plain.save_many(hosts("a", "b"))

    assert await kept.plain.get_many(Host, ["b", "x", "a", "b"]) == [b, None, a, b]
    many = [f"h{index}" for index in range(MAX_PAGE)]
    assert await kept.plain.get_many(Host, [*many, "a"]) == [None] * MAX_PAGE + [a]


@pytest.mark.parametrize("key", ["", "a/b", "..", "a b", "x" * 513])
async def test_what_is_no_key_is_the_callers_fault(kept: Kept, key: str) -> None:
    """A key that names nothing is refused, the fault on the primary key."""
    acts: list[Awaitable[object]] = [
        kept.plain.get_many(Host, ["a", key]),
        kept.plain.delete_many(Host, ["a", key]),
        kept.plain.list(Host, after=key),
    ]
    for act in acts:
        with pytest.raises(Invalid) as raised:
            await act
        assert [field for field, _ in raised.value.faults] == ["address"]
    assert not kept.store.calls


# Deleting


@pytest.mark.parametrize(
    ("others", "expected", "answer", "commits"),
    [
        ([], None, [True, False, True], 2),
        ([[Delete("hosts/a")]], None, [False, False, True], 1 + 2),
        ([[Put("x/y", b"")], [Delete("hosts/a")]], None, [False, False, True], 2 + 3),
        ([[Delete("hosts/a"), Delete("hosts/c")]], None, [False, False, False], 1 + 1),
        ([], [2, None, PRESENT], [True, False, True], 2),
        ([], [2, PRESENT, None], Changed, 1),
        ([], [3, None, None], Changed, 1),
        ([[Put("x/y", b"")], [Put("hosts/a", b"")]], [2, None, None], Changed, 2 + 2),
        ([], [ABSENT, None, None], Invalid, 0),
    ],
)
async def test_a_delete_tells_what_was_there(
    kept: Kept,
    others: list[Sequence[Change]],
    expected: list[int | None] | None,
    answer: list[bool] | type[ServiceError],
    commits: int,
) -> None:
    """For each record, whether it was there when it was deleted, whoever else deletes it; no value is read."""
    await kept.plain.save_many(hosts("a", "c"))
    kept.commits()
    kept.store.others = others
    if isinstance(answer, list):
        assert await kept.plain.delete_many(Host, ["a", "b", "c"], expected) == answer
        assert (await kept.store.list("hosts/")).names == ()
    else:
        with pytest.raises(answer):
            await kept.plain.delete_many(Host, ["a", "b", "c"], expected)
        assert "hosts/c" in (await kept.store.list("hosts/")).names
    assert kept.commits() == commits
    assert kept.store.calls["get_many"] == 0


# Listing


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 1000])
async def test_a_listing_goes_page_by_page(kept: Kept, limit: int) -> None:
    """Every record comes once, in the byte order of keys; containers, and secrets in containers below, do not."""
    below = [Put(f"secrets/hosts/{name}", b"") for name in ("", "b/", "b/x", "b/y", "z/", "z/x")]
    await kept.opened.commit(below)
    stored = sorted(await kept.secret.save_many(creds("b-1", "a", "Z", "b", "c:d")), key=lambda each: each.record.key)
    await single.save(kept.secret, ContainerManagerCreds(name="m", token=Secret("t")))

    listed: list[Stored[HostCreds]] = []
    after, more = None, True
    while more:
        page = await kept.secret.list(HostCreds, after, limit)
        assert len(page.records) <= limit
        listed += page.records
        after, more = (page.records[-1].record.key, page.more) if page.records else (None, False)
    assert listed == stored


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_keys_are_listed_unread(kept: Kept, limit: int) -> None:
    """Every key comes once, in byte order, that of a record that is not valid, too; no value is read."""
    below = [Put(f"secrets/hosts/{name}", b"") for name in ("", "b/", "b/x", "z/")]
    await kept.opened.commit([*below, Put("secrets/hosts/bad", b"no record")])
    await kept.secret.save_many(creds("b-1", "a", "c:d"))
    kept.store.calls.clear()

    listed: list[str] = []
    after, more = None, True
    while more:
        page = await kept.secret.keys(HostCreds, after, limit)
        assert len(page.keys) <= limit
        listed += page.keys
        after, more = (page.keys[-1], page.more) if page.keys else (None, False)
    assert listed == ["a", "b-1", "bad", "c:d"]
    assert set(kept.store.calls) == {"list"}
    with pytest.raises(Invalid):
        await kept.secret.keys(HostCreds, None, 1001)


async def test_models_of_like_names_are_listed_apart(kept: Kept) -> None:
    """A prefix ends in its slash: clusters are not cluster_deploys, and secrets are not the plain twins."""
    await kept.plain.save_many([Cluster(name="c"), Network(name="n"), *hosts("a")])
    await kept.secret.save_many(creds("a"))

    assert [stored.record for stored in (await kept.plain.list(Cluster)).records] == [Cluster(name="c")]
    assert [stored.record for stored in (await kept.plain.list(Host)).records] == hosts("a")


async def test_what_vanishes_between_name_and_value_is_left_out(kept: Kept) -> None:
    """A page is filled with what is still there."""

    class Vanishing(MemoryBackend):
        async def get_many(self, names: Sequence[str], *, limit: int | None = None) -> Any:
            if "hosts/a" in names and await self.get("hosts/a"):
                await self.commit([Delete("hosts/a")])
            return await super().get_many(names, limit=limit)

    store = Vanishing()
    await store.open()
    handler = Handler(store, secret=False)
    await handler.save_many(hosts("a", "b", "c"))
    page = await handler.list(Host, limit=2)

    assert [stored.record.key for stored in page.records] == ["b", "c"]
    assert not page.more


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
async def test_a_page_has_bounds(kept: Kept, limit: int) -> None:
    """A page of no size, or over the limit, is the caller's fault."""
    with pytest.raises(Invalid):
        await kept.plain.list(Host, limit=limit)


def test_what_a_handler_returns_may_be_logged() -> None:
    """The repr of a stored record is that of the record."""
    assert CANARY not in repr(Stored(creds("a")[0], 1))
    assert msgspec.json.decode(creds("a")[0].to_json())["ssh_priv_key"] == CANARY
