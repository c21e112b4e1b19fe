"""Commissaire's records in a real etcd, by both interfaces: read, scrubbed while others write, restored."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, NamedTuple

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Original
from strongroom.migration.sources.commissaire.keys import Held
from strongroom.migration.sources.commissaire.source import CommissaireSource, make
from strongroom.migration.sources.commissaire.v3 import LARGEST_PAGE
from strongroom.models.secret import Secret
from strongroom.storage_service.backends.etcd.messages_pb2 import PutRequest
from strongroom.storage_service.errors import ConfigurationError
from tests.etcd_admin_pb2 import LeaseGrantRequest
from tests.etcd_server import LEASE_GRANT, PUT, Etcd, running
from tests.migration.http_cuts import HttpCuts
from tests.migration.sources.commissaire import CommissaireEstate, EstateV2, EstateV3, container_manager, host
from tests.tcp_fault import Fault, TcpFault

NONE, LOSE_REQUEST, LOSE_REPLY, _, _ = Fault
KEY: Final = "S2V5IG51bWJlciBvbmUsIGxvbmcgZW5vdWdoIHRvIGJlIGZvdW5k"
OTHER: Final = "S2V5IG51bWJlciB0d28sIGxvbmcgZW5vdWdoIHRvIGJlIGZvdW5k"
PATIENT: Final = {"timeout": ["20"]}  # seconds, of which an attempt has eight
_NUMBERS: Final = count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd that serves both interfaces; each test keeps to a prefix of its own."""
    with running(tmp_path_factory.mktemp("etcd"), flags=["--enable-v2"]) as store:
        yield store


@pytest.fixture(params=[EstateV3, EstateV2], ids=["v3", "v2"])
def estate(store: Etcd, request: pytest.FixtureRequest) -> CommissaireEstate:
    """An empty estate, by each interface."""
    made: CommissaireEstate = request.param(store, f"old-{next(_NUMBERS)}")
    return made


@asynccontextmanager
async def opened(
    estate: CommissaireEstate, place: str = "", options: Mapping[str, Sequence[str]] | None = None
) -> AsyncGenerator[CommissaireSource, None]:
    """Give the source of an estate, opened."""
    source = open_source(estate.kind, place or estate.place, options or PATIENT)
    assert isinstance(source, CommissaireSource)
    await source.open(Digest())
    try:
        yield source
    finally:
        await source.close()


async def by_path(source: CommissaireSource, estate: CommissaireEstate) -> dict[str, Item]:
    """Return every item by its key below the prefix."""
    return {item.id.removeprefix(estate.prefix): item async for item in source.items()}


# Reading.


async def test_a_whole_estate_is_read(estate: CommissaireEstate) -> None:
    """Every key is an item: of all kinds, unicode, empty, huge, malformed and unknown ones; none hides another."""
    estate.put_value("hosts/10.0.0.1", host("10.0.0.1", KEY, "fedora"))
    estate.put_value("hosts/10.0.0.2", host("10.0.0.2"))
    estate.put_value("hosts/empty", b"")
    estate.put_value("hosts/huge", {"address": "huge", "ssh_priv_key": "A" * 400_000})
    estate.put_value("hosts/malformed", b'{"address": "malf')
    estate.put_value("hosts/Grüße 東京", {"address": "Grüße 東京"})
    estate.put_value("clusters/c", {"name": "c", "status": "ok", "hostset": ["10.0.0.1"]})
    estate.put_value("cluster/c/deploy", {"name": "c", "version": "7"})
    estate.put_value("cluster/c/restart", {"name": "c"})
    estate.put_value("cluster/c/upgrade", {"name": "c"})
    estate.put_value("container_managers/m", container_manager("m", token=KEY))
    estate.put_value("networks/n", {"name": "n", "options": {"ü": "東京"}})
    estate.put_value("status", b"OK")
    estate.put_value("config/storage.conf", b"{}")
    async with opened(estate) as source:
        items = await by_path(source, estate)
        told = await source.count()

    assert told == len(items) == 14
    moved = {path: [record.name for record in item.records] for path, item in items.items() if item.records}
    assert moved == {
        "hosts/10.0.0.1": ["hosts/10.0.0.1", "secrets/hosts/10.0.0.1"],
        "hosts/10.0.0.2": ["hosts/10.0.0.2"],
        "clusters/c": ["clusters/c"],
        "cluster/c/deploy": ["cluster_deploys/c"],
        "cluster/c/restart": ["cluster_restarts/c"],
        "cluster/c/upgrade": ["cluster_upgrades/c"],
        "container_managers/m": ["container_managers/m", "secrets/container_managers/m"],
        "networks/n": ["networks/n"],
    }
    assert {path for path, item in items.items() if item.fault} == {
        "hosts/empty",
        "hosts/malformed",
        "hosts/huge",
        "hosts/Gr%C3%BC%C3%9Fe%20%E6%9D%B1%E4%BA%AC",
    }
    assert all("stays behind" in str(items[path].notes[0]) for path in ("status", "config/storage.conf"))


async def test_an_empty_estate_has_no_items(estate: CommissaireEstate) -> None:
    """Where there is no key, nothing is read, and nothing is found."""
    async with opened(estate) as source:
        assert await by_path(source, estate) == {}
        assert await source.count() == 0
        assert await source.find(["hosts/h", "secrets/hosts/h"]) == {}


async def test_only_keys_below_the_prefix_are_ours(estate: CommissaireEstate) -> None:
    """Keys beside the prefix are no items, and cannot be asked for, however they are spelt."""
    estate.put_value("hosts/ours", host("ours", KEY))
    beside = estate.prefix.rstrip("/") + "x/hosts/theirs"
    estate.write(beside, json.dumps(host("theirs", KEY)).encode())
    spellings = [beside, f"{estate.prefix}../{beside[1:]}", f"{estate.prefix}hosts/%6Furs", f"{estate.prefix}hosts/"]
    async with opened(estate) as source:
        assert list(await by_path(source, estate)) == ["hosts/ours"]
        assert await source.marks(spellings) == {}
        assert await source.originals(spellings) == {}


async def test_many_pages_are_read_once_each(estate: CommissaireEstate) -> None:
    """Keys of all sizes come page by page, each once, and in the same order again."""
    for number in range(LARGEST_PAGE + 100):
        size = 60_000 if number % 50 == 0 else number % 7
        estate.put_value(f"hosts/h{number:04}", {"address": f"h{number:04}", "ssh_priv_key": "AAAA" * size})
    async with opened(estate) as source:
        first = [item.id async for item in source.items()]
        second = [item.id async for item in source.items()]

    assert first == second == [f"{estate.prefix}hosts/h{number:04}" for number in range(LARGEST_PAGE + 100)]


async def test_a_history_that_is_forgotten_meanwhile_ends_nothing(store: Etcd) -> None:
    """When etcd compacts the revision that pages were read at, reading goes on at the present one."""
    estate = EstateV3(store, f"old-{next(_NUMBERS)}")
    for number in range(100):
        estate.put(number)
    async with opened(estate) as source:
        items = source.items()
        read = [(await anext(items)).id]
        estate.put(99)
        with store.admin() as admin:
            admin.compact()
        read += [item.id async for item in items]

    assert len(set(read)) == len(read) == 100


async def test_bytes_that_are_no_text_are_told(estate: CommissaireEstate) -> None:
    """A value that is no UTF-8 cannot move; so it is in v2, which shows other characters in place of such bytes."""
    value = b'{"address": "h", "ssh_priv_key": "", "os": "\xff"}'
    if isinstance(estate, EstateV2):
        estate.put_value("hosts/h", value.replace(b"\xff", "\ufffd".encode()))
    else:
        estate.put_value("hosts/h", value)
    async with opened(estate) as source:
        items = await by_path(source, estate)
        originals = await source.originals([estate.prefix + "hosts/h"])

        assert "not UTF-8" in items["hosts/h"].fault
        assert await source.scrub(list(originals.values())) == [False]


async def test_keys_that_are_no_text_are_told(store: Etcd) -> None:
    """In v3 a key may be any bytes: its id is printable, and asking by it finds it again."""
    estate = EstateV3(store, f"old-{next(_NUMBERS)}")
    with store.admin() as admin:
        admin.call(PUT, PutRequest(key=estate.prefix.encode() + b"hosts/\xff%\n", value=b"{}"))
    async with opened(estate) as source:
        (item,) = [item async for item in source.items()]

        assert item.id == estate.prefix + "hosts/%FF%25%0A"
        assert item.fault
        assert await source.marks([item.id]) == {item.id: item.mark}


async def test_records_are_found_by_their_names(estate: CommissaireEstate) -> None:
    """What a key becomes is found by name; a malformed one is None, and what no key becomes is left out."""
    estate.put_value("hosts/h", host("h", KEY))
    estate.put_value("hosts/bare", host("bare"))
    estate.put_value("hosts/bad", b"{")
    estate.put_value("cluster/c/deploy", {"name": "c", "version": "7"})
    estate.put_value("container_managers/m", container_manager("m", token=KEY))
    wanted = ["secrets/hosts/h", "hosts/h", "secrets/hosts/bare", "secrets/hosts/bad", "secrets/hosts/none"]
    wanted += ["cluster_deploys/c", "secrets/container_managers/m", "secrets/generic/x", "networks/h"]
    async with opened(estate) as source:
        items = await by_path(source, estate)
        found = await source.find(wanted)

    records = {record.name: record for item in items.values() for record in item.records}
    expected = ["secrets/hosts/h", "hosts/h", "cluster_deploys/c", "secrets/container_managers/m"]
    assert found == {**{name: records[name] for name in expected}, "secrets/hosts/bad": None}


# Scrubbing while others write.


async def test_a_scrub_takes_the_secrets_and_nothing_else(estate: CommissaireEstate) -> None:
    """After a scrub each value is the same text without what moved; after restoring it is the same bytes again."""
    keys = {
        estate.put_value("hosts/h", host("h", KEY, rack=1.5)): host("h", rack=1.5),
        estate.put_value("container_managers/m", container_manager("m", token=KEY)): container_manager("m"),
        estate.put_value("clusters/c", {"name": "c"}): {"name": "c"},
    }
    before = {key: estate.read(key) for key in keys}
    async with opened(estate) as source:
        originals = list((await source.originals(list(keys))).values())

        assert await source.scrub(originals) == [True] * 3
        for key, left in keys.items():
            expected = {name: value for name, value in left.items() if name not in ("ssh_priv_key", "remote_user")}
            assert estate.read(key) == json.dumps(expected).encode()
        assert await source.restore(originals) == [True] * 3
        assert {key: estate.read(key) for key in keys} == before
        assert await source.scrub(originals) == [True] * 3, "what was restored is scrubbed by the same original"


class Edit(NamedTuple):
    """What somebody else does right before a change reaches etcd, and what a scrub and a restore answer then."""

    title: str
    act: Callable[[CommissaireEstate, str], object]
    scrub: bool
    restore: bool


EDITS: Final = [
    Edit("another key", lambda estate, key: estate.write(key, _text(host("h", OTHER))), False, False),
    Edit("another field", lambda estate, key: estate.write(key, _text(host("h", KEY, cpus=9))), False, False),
    Edit("malformed", lambda estate, key: estate.write(key, b'{"ssh_priv_key": "cut'), False, False),
    Edit("without the secret", lambda estate, key: estate.write(key, _text(host("h", cpus=9))), True, False),
    Edit("the same again", lambda estate, key: estate.write(key, estate.read(key)), True, True),
    Edit("deleted", lambda estate, key: estate.delete(key), True, False),
]


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.title.replace(" ", "-"))
@pytest.mark.parametrize("verb", ["scrub", "restore"])
async def test_an_edit_in_between_wins(estate: CommissaireEstate, edit: Edit, verb: str) -> None:
    """What somebody writes between reading and writing is never lost, and the answer says how the item is now."""
    key = estate.put_value("hosts/h", host("h", KEY))
    async with opened(estate) as source:
        originals = list((await source.originals([key])).values())
        if verb == "restore":
            assert await source.scrub(originals) == [True]
        swap, left = source._keys.swap, [edit]

        async def edited(held: Held, value: bytes) -> Held | None:
            while left:
                await asyncio.to_thread(left.pop().act, estate, key)
                theirs.append(None if edit.title == "deleted" else await asyncio.to_thread(estate.read, key))
            return await swap(held, value)

        theirs: list[bytes | None] = []
        source._keys.swap = edited  # type: ignore[method-assign]
        act, expected = (source.scrub, edit.scrub) if verb == "scrub" else (source.restore, edit.restore)

        assert await act(originals) == [expected]
        if edit.title != "the same again":
            found = await source.originals([key])
            assert [_value_of(each) for each in found.values()] == [text for text in theirs if text is not None]


def _value_of(original: Any) -> bytes:
    text: str = original.content.reveal()
    return text.removeprefix("=").encode()


async def test_a_revision_alone_is_not_trusted(estate: CommissaireEstate) -> None:
    """Where an etcd was made anew and counts from the beginning, what has the old revision and another value stays."""
    key = estate.put_value("hosts/h", host("h", OTHER))
    async with opened(estate) as source:
        mark = (await source.marks([key]))[key]
        old = Original(key, mark, Secret("=" + json.dumps(host("h", KEY))))

        assert await source.scrub([old]) == [False]
        assert await source.restore([old]) == [False]
    assert estate.read(key) == json.dumps(host("h", OTHER)).encode()


async def test_what_has_no_secret_is_looked_at(estate: CommissaireEstate) -> None:
    """Of an item without a secret a scrub changes nothing, and says so if it has one since."""
    key = estate.put_value("hosts/h", host("h"))
    async with opened(estate) as source:
        originals = list((await source.originals([key])).values())
        marks = await source.marks([key])

        assert await source.scrub(originals) == [True]
        assert await source.marks([key]) == marks
        estate.write(key, json.dumps(host("h", KEY)).encode())
        assert await source.scrub(originals) == [False]
        assert source.search_patterns(originals[0]) == []


async def test_what_lives_for_a_time_goes_on_doing_so(estate: CommissaireEstate) -> None:
    """A lease, or what is left to live, outlives scrub and restore; that it stays behind is told."""
    key, value = estate.prefix + "hosts/h", json.dumps(host("h", KEY)).encode()
    if isinstance(estate, EstateV2):
        estate.ask("PUT", key, value=value, ttl=1000)
    else:
        with estate.store.admin() as admin:
            lease = admin.call(LEASE_GRANT, LeaseGrantRequest(TTL=1000)).ID
            admin.call(PUT, PutRequest(key=key.encode(), value=value, lease=lease))
    async with opened(estate) as source:
        items = await by_path(source, estate)
        originals = list((await source.originals([key])).values())
        await source.scrub(originals)
        scrubbed = await source._keys.get_many([key])
        await source.restore(originals)
        restored = await source._keys.get_many([key])

    assert "it expires at the source, and will not here" in items["hosts/h"].notes
    assert scrubbed[key].life
    assert restored[key].life
    assert restored[key].value == value


# Answers that are lost.


@pytest.mark.parametrize(
    "script",
    [[LOSE_REQUEST], [LOSE_REPLY], [NONE, LOSE_REQUEST], [NONE, LOSE_REPLY], [NONE, LOSE_REPLY, LOSE_REPLY]],
    ids=str,
)
@pytest.mark.parametrize("verb", ["scrub", "restore"])
async def test_a_lost_change_is_settled_in_v3(store: Etcd, script: Sequence[Fault], verb: str) -> None:
    """Whatever is lost of a scrub's reading and writing, it is done once, and said to be."""
    estate = EstateV3(store, f"old-{next(_NUMBERS)}")
    key = estate.put_value("hosts/h", host("h", KEY))
    async with TcpFault(store.members[0].endpoint).running() as network:
        place = estate.place.replace(store.endpoints, network.endpoint)
        async with opened(estate, place) as source:
            originals = list((await source.originals([key])).values())
            if verb == "restore":
                await source.scrub(originals)
            network.say(script)
            act = source.scrub if verb == "scrub" else source.restore

            assert await act(originals) == [True]
    with store.admin() as admin:
        assert admin.keys(key)[key].version == (2 if verb == "scrub" else 3)
    assert (KEY.encode() in estate.read(key)) is (verb == "restore")


@pytest.mark.parametrize(
    "cuts", [["request"], ["reply"], ["", "request"], ["", "reply"], ["", "reply", "reply"]], ids=str
)
@pytest.mark.parametrize("verb", ["scrub", "restore"])
async def test_a_lost_change_is_settled_in_v2(store: Etcd, cuts: Sequence[str], verb: str) -> None:
    """So it is by HTTP."""
    estate = EstateV2(store, f"old-{next(_NUMBERS)}")
    key = estate.put_value("hosts/h", host("h", KEY))
    async with HttpCuts(store.members[0].endpoint).running() as network:
        place = estate.place.replace(store.endpoints, network.endpoint)
        async with opened(estate, place) as source:
            originals = list((await source.originals([key])).values())
            if verb == "restore":
                await source.scrub(originals)
            network.script.extend(cuts)
            act = source.scrub if verb == "scrub" else source.restore

            assert await act(originals) == [True]
    assert (KEY.encode() in estate.read(key)) is (verb == "restore")


async def test_a_listing_that_breaks_goes_on_after_its_last_key(store: Etcd) -> None:
    """When the connection breaks in the middle of a folder, v2 asks for it again, and yields each key once."""
    estate = EstateV2(store, f"old-{next(_NUMBERS)}")
    ids = [estate.put_value(f"hosts/h{number:03}", host(f"h{number:03}", KEY * 100)) for number in range(60)]
    async with HttpCuts(store.members[0].endpoint).running() as network:
        place = estate.place.replace(store.endpoints, network.endpoint)
        async with opened(estate, place) as source:
            network.script.extend(["", "middle", "middle", "request", "middle"])
            read = [item.id async for item in source.items()]

        assert read == ids
        assert not network.script


@pytest.mark.parametrize("interface", [EstateV3, EstateV2], ids=["v3", "v2"])
async def test_a_fate_that_stays_unknown_is_told(store: Etcd, interface: type[CommissaireEstate]) -> None:
    """When nothing answers any more, the error says that a change may be under way, and nothing of its value."""
    estate = interface(store, f"old-{next(_NUMBERS)}")
    network: Any = (TcpFault if interface is EstateV3 else HttpCuts)(store.members[0].endpoint)
    lost: Any = LOSE_REPLY if interface is EstateV3 else "reply"
    key = estate.put_value("hosts/h", host("h", KEY))
    async with network.running():
        place = estate.place.replace(store.endpoints, network.endpoint)
        async with opened(estate, place, {"timeout": ["1"]}) as source:
            originals = list((await source.originals([key])).values())
            network.script.extend([lost] * 99)
            with pytest.raises(SourceUnavailable, match="may still be under way") as caught:
                await source.scrub(originals)

    assert KEY not in f"{caught.value!r} {caught.value}"


# Places.


class Misplaced(NamedTuple):
    """A place and options that are not understood, and what is said."""

    place: str
    options: Mapping[str, Sequence[str]]
    says: str


@pytest.mark.parametrize(
    "misplaced",
    [
        Misplaced("http://h:2379", {}, "Commissaire's place is etcd, etcd2, etcd2s"),
        Misplaced("etcd://[h", {}, "Commissaire's place"),
        Misplaced("etcd://h?timeout=1", {}, "Commissaire's place"),
        Misplaced("etcd://", {}, "etcd"),
        Misplaced("etcd://u:canary@h", {}, "password_file"),
        Misplaced("etcd2://u:canary@h", {}, "password_file"),
        Misplaced("etcd://u@h", {}, "needs a password"),
        Misplaced("etcd://h/a//b", {}, "prefix"),
        Misplaced("etcd2://h", {"cacert": ["/canary"]}, "etcd2s"),
        Misplaced("etcd://h", {"cert": ["/canary"]}, "go together"),
        Misplaced("etcd://h", {"timeout": ["canary"]}, "seconds"),
        Misplaced("etcd://h", {"canary": ["1"]}, "no option"),
    ],
    ids=str,
)
def test_a_place_that_is_none_is_refused(misplaced: Misplaced, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not understood, and a password where others see it, is a configuration error that repeats no value."""
    monkeypatch.delenv("STRONGROOM_ETCD_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match=misplaced.says) as caught:
        open_source("commissaire", misplaced.place, misplaced.options)

    assert "canary" not in str(caught.value) or "no option" in misplaced.says


def test_an_identity_is_of_the_estate() -> None:
    """Members in any order, and a user, are one estate; another prefix or interface is another."""
    one = make("etcd://a:1,b:2", {}).identity
    again = make("etcd://u@b:2,a:1/commissaire/", {"password_file": ["/there/is/none"]}).identity
    others = [make(place, {}).identity for place in ("etcd://a:1,b:2/other", "etcd2://a:1,b:2", "etcd://a:1")]

    assert one == again
    assert len({one, *others}) == 4
    assert make("etcd2s://a:1", {}).identity == make("etcd2://a:1", {}).identity


async def test_an_etcd_without_the_interface_is_told(etcd: Etcd) -> None:
    """Where v2 is not switched on, opening says so."""
    with pytest.raises(ConfigurationError, match="--enable-v2"):
        await make(f"etcd2://{etcd.endpoints}", {}).open(Digest())


async def test_a_prefix_that_is_one_key_is_told(store: Etcd) -> None:
    """In v2, what the place names is a folder."""
    estate = EstateV2(store, f"old-{next(_NUMBERS)}")
    estate.write(estate.prefix.rstrip("/"), b"one")
    with pytest.raises(ConfigurationError, match="not a folder"):
        await open_source(estate.kind, estate.place, {}).open(Digest())


async def test_the_next_member_is_asked(estate: CommissaireEstate) -> None:
    """Of two members that the place names, the one that answers is used."""
    key = estate.put_value("hosts/h", host("h", KEY))
    place = estate.place.replace("://", "://127.0.0.1:9,")
    async with opened(estate, place) as source:
        assert list(await source.marks([key])) == [key]
        assert await source.count() == 1
