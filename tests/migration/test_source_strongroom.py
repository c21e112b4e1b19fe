"""One Strongroom as the estate of another: what is read and what is told, by real services on SQLite and on etcd."""

import asyncio
import base64
import itertools
import shlex
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item, Record
from strongroom.migration.retries import Retries
from strongroom.migration.sources import open_source
from strongroom.migration.sources.strongroom.reading import UNREADABLE
from strongroom.migration.sources.strongroom.source import StrongroomSource
from strongroom.models import (
    MODELS,
    Cluster,
    ClusterDeploy,
    ClusterRestart,
    ClusterUpgrade,
    ContainerManagerConfig,
    ContainerManagerCreds,
    Host,
    HostCreds,
    Model,
    Network,
    WatcherRecord,
)
from strongroom.models.secret import Secret
from strongroom.models.steps import Step
from strongroom.storage_service.backends.faulty import Fault, FaultyBackend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.client import AsyncStorageClient, StorageClient
from strongroom.storage_service.client.bulk_operations import Write
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import NEW
from tests.deploy.running import Done, clean_environment, strongroom
from tests.etcd_server import Etcd
from tests.migration.house import house
from tests.migration.sources.strongroom import StrongroomEstate, put_past
from tests.ssh_keys import in_base64

T = TypeVar("T")

_PREFIXES: Final = itertools.count()
OCTETS: Final = bytes(range(256)) * 2048  # as large as a secret may be

EVERY_MODEL: Final[Sequence[Model]] = (
    Host(address="10.0.0.1", cpus=2),
    HostCreds(address="10.0.0.1", ssh_priv_key=Secret(in_base64("10.0.0.1")), remote_user="core"),
    Cluster(name="honeynut", hostset=["10.0.0.1"], container_manager="shift"),
    ClusterDeploy(name="honeynut", version="7"),
    ClusterRestart(name="honeynut"),
    ClusterUpgrade(name="gone"),
    Network(name="default"),
    ContainerManagerConfig(name="shift"),
    ContainerManagerCreds(name="shift", token=Secret("the token")),
    WatcherRecord(address="10.0.0.1"),
)


@contextmanager
def running(*arguments: str, settings: str = "") -> Iterator[StrongroomEstate]:
    """Run a Strongroom in a home of its own, with a short path, for the socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="sr-"))
    home = directory / "home"
    home.mkdir(mode=0o700)
    if settings:
        (home / "strongroom.toml").write_text(settings)
    estate = StrongroomEstate(home, *arguments)
    estate.start()
    try:
        yield estate
    finally:
        estate.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def service() -> Iterator[StrongroomEstate]:
    """A service on SQLite; what a test puts into it has names of its own."""
    with running() as estate:
        estate.fill()
        yield estate


def fill(estate: StrongroomEstate) -> dict[str, str]:
    """Put one of everything in; return what it should become, by name."""
    with estate.client as client:
        for model in EVERY_MODEL:
            client.save(model)
        for container in ("empty", "box", "box/in"):
            client.create_container(container)
        client.set_secret("box", "words", "Grüße,\nan alle")
        client.set_secret("box/in", "octets", OCTETS)
        client.create_apikey("ci", paths=["/secrets/box"], actions=["get"])
    expected = {(record := Record.of(model)).name: record.value.reveal() for model in EVERY_MODEL}
    containers = ("empty/", "box/", "box/in/", "hosts/", "container_managers/")
    expected |= dict.fromkeys((f"secrets/{container}" for container in containers), "")
    expected["secrets/box/words"] = "Grüße,\nan alle"
    expected["secrets/box/in/octets"] = base64.b64encode(OCTETS).decode()
    return expected


def reading(source: StrongroomSource, call: Coroutine[Any, Any, T]) -> T:
    """Open *source*, return what *call* does, and close it."""

    async def opened() -> T:
        try:
            await source.open(Digest())
            return await call
        finally:
            await source.close()

    return asyncio.run(opened())


def opening(source: StrongroomSource) -> None:
    """Open *source*, and close it."""

    async def open_and_close() -> None:
        try:
            await source.open(Digest())
        finally:
            await source.close()

    asyncio.run(open_and_close())


def source_of(estate: StrongroomEstate) -> StrongroomSource:
    """Return the estate's source, as the command makes it."""
    source = open_source("strongroom", estate.place, {})
    assert isinstance(source, StrongroomSource)
    return source


def items_of(estate: StrongroomEstate) -> dict[str, Item]:
    """Return every item by its id."""
    source = source_of(estate)

    async def read() -> list[Item]:
        return [item async for item in source.items()]

    return {item.id: item for item in reading(source, read())}


def contents_of(estate: StrongroomEstate) -> dict[str, str]:
    """Return what each item becomes, by name."""
    return {record.name: record.value.reveal() for item in items_of(estate).values() for record in item.records}


def migrate(verb: str, from_: StrongroomEstate, to: StrongroomEstate, *arguments: object) -> Done:
    """Run a verb of the command."""
    environ = clean_environment(STRONGROOM_HOME=str(to.home))
    return strongroom("migrate", verb, "strongroom", from_.place, *arguments, environ=environ)


# What is read.


def test_there_is_no_model_that_is_not_read() -> None:
    """The estate of these tests has a record of every model there is."""
    assert {type(model).__name__ for model in EVERY_MODEL} == set(MODELS)


def test_everything_is_read_by_name() -> None:
    """Every model, secrets, containers that are empty, and API keys are items; an item's id is its record's name."""
    with running() as estate:
        expected = fill(estate)
        items = items_of(estate)

    keys = {name for name in items if name.startswith("system/")}
    assert keys == {"system/access/apikeys/ci"}
    assert {name: item.records[0].value.reveal() for name, item in items.items() if name not in keys} == expected
    assert all(item.records[0].name == name and not item.notes for name, item in items.items())


def test_home_and_socket_are_one_estate(service: StrongroomEstate) -> None:
    """A service is the same estate by its home and by its socket, which takes a client.json."""
    socket = service.home / "run" / "storage.sock"
    by_socket = open_source("strongroom", str(socket), {"client_file": [str(service.home / "client.json")]})

    assert by_socket.identity == source_of(service).identity
    assert isinstance(by_socket, StrongroomSource)
    opening(by_socket)


def test_what_the_service_cannot_open_is_told_by_name(service: StrongroomEstate) -> None:
    """Secrets and records that are broken in the store are faults, each under its own name; the rest is read."""
    good = {f"hosts/{key}" for key in ("10.1.0.1", "a", "a.b", "m", "zz.z")}
    bad = {f"hosts/{key}" for key in ("+", ".-", ".hidden", "10.1.0.2", "a.bad", "a.bad2", "m+m", "zzz")}
    with service.client as client:
        client.save_many([Host(address=name.removeprefix("hosts/")) for name in good])
    put_past(service.store, dict.fromkeys(bad, b"no record") | {"secrets/estate/bad": b"no ciphertext"})
    bad.add("secrets/estate/bad")

    items = items_of(service)
    source = source_of(service)

    assert {name for name, item in items.items() if item.fault} >= bad
    assert {items[name].mark for name in bad} == {UNREADABLE}
    assert good <= {name for name, item in items.items() if not item.fault}
    marks = reading(source, source.marks([*bad, *good]))
    assert marks == {name: items[name].mark for name in bad | good}
    found = reading(source, source.find(["hosts/a", "hosts/a.bad", "secrets/estate/bad"]))
    assert {name: record is None for name, record in found.items()} == {
        "hosts/a": False,
        "hosts/a.bad": True,
        "secrets/estate/bad": True,
    }


def test_hosts_of_other_handlers_are_read() -> None:
    """Hosts that a handler of their own keeps come with the others, and the handler's name stays behind."""
    handlers = '[[storage_handlers]]\ntype = "sqlite"\n[[storage_handlers]]\nname = "läger"\ntype = "sqlite"\n'
    with running(settings=handlers + 'models = []\nurl = "sqlite:data/other.db"\n') as estate:
        with estate.client as client:
            client.save_many([Host(address="a"), Host(address="b", source="läger"), Host(address="c", source="sqlite")])
        items = items_of(estate)
        there = "hosts/b of the handler l\\xe4ger"
        source = source_of(estate)
        marks = reading(source, source.marks([there, "hosts/b", "hosts/a"]))
        found = reading(source, source.find(["hosts/b", "hosts/c", "hosts/d"]))

    assert list(items) == ["hosts/a", "hosts/c", there]
    assert {item.records[0].model().to_dict()["source"] for item in items.values()} == {""}
    assert items[there].records[0].name == "hosts/b"
    assert [bool(item.notes) for item in items.values()] == [False, True, True]
    assert marks == {there: items[there].mark, "hosts/a": items["hosts/a"].mark}
    assert found == {"hosts/b": items[there].records[0], "hosts/c": items["hosts/c"].records[0]}


# Who may read.


def test_a_key_that_does_not_reach_everything_is_refused(service: StrongroomEstate, tmp_path: Path) -> None:
    """Neither a limited API key nor a wrong one reads an estate; the text says which one would."""
    own = ClientFile.read(service.home / "client.json")
    with service.client as client:
        limited = client.create_apikey("limited", paths=["/secrets/estate"])
    for api_id, api_key in (("limited", limited.api_key), (own.api_id, Secret("wrong")), ("nobody", Secret("wrong"))):
        file = tmp_path / f"{api_id}.json"
        file.touch(0o600)
        file.write_bytes(ClientFile(url="", socket=own.socket, api_id=api_id, api_key=api_key).text())
        source = open_source("strongroom", service.place, {"client_file": [str(file)]})
        assert isinstance(source, StrongroomSource)

        with pytest.raises(SourceRefused, match="client_file") as caught:
            opening(source)
        assert api_key.reveal() not in str(caught.value) + repr(source)


def test_a_locked_service_is_unavailable(service: StrongroomEstate) -> None:
    """A locked service tells nothing, and its operator what to do."""
    with service.client as client:
        client.lock()
        try:
            with pytest.raises(SourceUnavailable) as caught:
                opening(source_of(service))
            assert caught.value.next == (Step("unlock it there", "key unlock", {"home": service.place}),)
        finally:
            client.unlock()


def test_places_that_are_none_are_refused(service: StrongroomEstate, tmp_path: Path) -> None:
    """A place is a home with a socket, or a socket with a client.json that is its owner's alone."""
    mine = tmp_path / "mine.json"
    shutil.copy(service.home / "client.json", mine)
    mine.chmod(0o644)
    only_url = tmp_path / "only-url"
    only_url.mkdir()
    (only_url / "client.json").touch(0o600)
    (only_url / "client.json").write_bytes(
        ClientFile(url="http://127.0.0.1:1", socket=None, api_id="a", api_key=Secret("k")).text()
    )
    socket = str(service.home / "run" / "storage.sock")

    for place, options, reason in (
        (str(tmp_path / "nowhere"), {}, "neither"),
        (str(tmp_path), {}, "client.json"),
        (socket, {}, "client_file"),
        (socket, {"client_file": [str(mine)]}, "chmod 600"),
        (str(only_url), {}, "no socket"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            open_source("strongroom", place, options)


# What is removed and put back.


def test_scrubbing_leaves_what_is_no_secret(service: StrongroomEstate) -> None:
    """Plain records, containers and API keys stay as they are, and are as they were when they are restored."""
    with service.client as client:
        client.create_container("scrubbed")
        client.set_secret("scrubbed", "s", "a secret")
        client.save(Host(address="scrubbed"))
        client.create_apikey("scrubbed", paths=["/secrets/scrubbed"])
    kept = ["hosts/scrubbed", "secrets/scrubbed/", "system/access/apikeys/scrubbed"]
    before = items_of(service)
    source = source_of(service)

    async def scrub_and_restore() -> tuple[Sequence[bool], Sequence[bool], Mapping[str, str]]:
        originals = list((await source.originals([*kept, "secrets/scrubbed/s"])).values())
        assert len(originals) == 4
        scrubbed = await source.scrub(originals)
        left = await source.marks([*kept, "secrets/scrubbed/s"])
        return scrubbed, await source.restore(originals), left

    scrubbed, restored, left = reading(source, scrub_and_restore())

    assert all(scrubbed)
    assert left == {name: before[name].mark for name in kept}
    assert all(restored)
    assert items_of(service)["secrets/scrubbed/s"].records == before["secrets/scrubbed/s"].records


def test_containers_are_put_back_with_what_lay_in_them(service: StrongroomEstate) -> None:
    """A secret goes back into its container, and an empty container is one, although somebody removed them."""
    with service.client as client:
        for container in ("outer", "outer/inner", "outer/empty"):
            client.create_container(container)
        client.set_secret("outer/inner", "s", "a secret")
    source = source_of(service)

    async def scrub() -> Any:
        found = await source.originals(["secrets/outer/empty/", "secrets/outer/inner/s"])
        return list(found.values()), await source.scrub(list(found.values()))

    originals, _ = reading(source, scrub())
    with service.client as client:
        for container in ("outer/inner", "outer/empty", "outer"):
            client.delete_container(container)

    assert reading(source, source.restore(originals)) == [True, True]
    with service.client as client:
        assert client.list_container("outer") == ["empty/", "inner/", "inner/s"]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.LOST])
async def test_whatever_operation_of_the_store_fails_it_is_settled(fault: Fault) -> None:
    """A scrub, and then a restore, is done whichever operation of the store fails in it, and done once."""
    names = ["secrets/box/a", "secrets/box/b"]
    for number in itertools.count():
        store = FaultyBackend(MemoryBackend())
        async with house(store) as client:
            await client.create_container("box")
            for key in ("a", "b"):
                await client.set_secret("box", key, f"the secret {key}")
            source = _in(client)
            before = await source.originals(names)
            begun = len(store.operations)
            store.faults[begun + number] = fault

            assert await source.scrub(list(before.values())) == [True, True]
            assert await source.marks(names) == {}
            assert await source.restore(list(before.values())) == [True, True]
            ended = len(store.operations)
            after = await source.originals(names)
        assert {name: each.content for name, each in after.items()} == {
            name: each.content for name, each in before.items()
        }
        if begun + number >= ended:
            break
    assert number > 4


def _in(client: AsyncStorageClient) -> StrongroomSource:
    """Return a source, opened, that speaks with *client*."""
    source = StrongroomSource(Path("nowhere"), "nobody", Secret("nothing"), retries=Retries(first=0.0))
    source._opened = client
    return source


async def test_memory_is_bounded_by_what_an_answer_holds() -> None:
    """Where values are large, fewer are asked for at once."""
    store = MemoryBackend()
    async with house(store) as client:
        await client.create_container("box")
        for number in range(40):
            await client.commit_bulk([Write(f"secrets/box/{number:02}", Secret(f"{number}" + "x" * 500_000), NEW)])
        store.calls.clear()
        source = _in(client)
        items = [item async for item in source.items()]

    assert len(items) == 41
    assert 41 / 16 < store.calls["get_many"] < 41


# From one store to another.


@contextmanager
def writing(estate: StrongroomEstate, name: str) -> Iterator[None]:
    """Let somebody write at the source all the while: one secret again and again, and ever new ones."""
    done, begun = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with estate.client as client:
                for number in itertools.count():
                    client.commit_bulk([Write(f"secrets/box/{name}", Secret(f"written {number}"))])
                    client.commit_bulk([Write(f"secrets/box/{name}-{number}", Secret(f"new {number}"))])
                    client.save(Host(address="10.0.0.1", cpus=number))
                    begun.set()
                    if done.wait(0.01):
                        return
        except BaseException as error:
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not failed


def test_from_sqlite_to_etcd_and_back(etcd: Etcd) -> None:
    """All of a service moves online to etcd, while somebody writes to it, and from there to SQLite: all is the same."""
    with running() as first, running("--store", etcd.url(f"strongroom-{next(_PREFIXES)}")) as second:
        fill(first)
        with first.client as client:
            key = client.create_apikey("reader", paths=["/secrets/box"], actions=["get"])
        plan = first.home.with_name("plan")
        assert migrate("plan", first, second, "--out", plan).code == 0
        with writing(first, "busy"):
            moved = migrate("apply", first, second, "--plan", plan, "--json")
            migrate("apply", first, second)
        assert moved.code == 2
        told = {each["item"] for each in moved.json["problems"] if each["kind"] == "unplanned"}
        assert {"secrets/box/busy", "hosts/10.0.0.1"} <= told
        assert "secrets/box/words" not in told

        assert migrate("apply", first, second).code == 0
        assert migrate("apply", first, second, "--json").json["counts"].get("created", 0) == 0
        assert migrate("verify", first, second).code == 0
        assert contents_of(second) == contents_of(first)
        socket = second.home / "run" / "storage.sock"
        with StorageClient(socket=socket, api_id="reader", api_key=key.api_key) as client:
            assert client.get_secret("box", "words").reveal() == "Grüße,\nan alle"
        _take_away_and_bring_back(first, second)

        with running() as third:
            assert migrate("apply", second, third).code == 0
            assert migrate("verify", second, third).code == 0
            assert contents_of(third) == contents_of(first)


def _take_away_and_bring_back(first: StrongroomEstate, second: StrongroomEstate) -> None:
    """Scrub, and roll back: the secrets are gone from the one, and then from the other."""
    before = contents_of(first)
    secrets = {name for name in before if name.startswith("secrets/") and not name.endswith("/")}
    assert migrate("scrub", first, second, "--yes").code == 0
    assert contents_of(first).keys() == before.keys() - secrets
    assert migrate("rollback", first, second, "--yes").code == 0
    assert contents_of(first) == before
    assert not secrets & contents_of(second).keys()
    assert migrate("apply", first, second).code == 0


def test_a_service_does_not_move_into_itself() -> None:
    """Whoever names one service twice is stopped before anything is proved or removed."""
    with running() as estate:
        fill(estate)
        before = contents_of(estate)
        migrate("apply", estate, estate)
        refused = [migrate(verb, estate, estate, *yes) for verb, yes in (("verify", ()), ("scrub", ("--yes",)))]

        assert all(done.code != 0 and "into itself" in done.err for done in refused)
        (run,) = {each["run"] for each in _runs(estate)}
        (command,) = {done.err.partition(" migration: strongroom ")[2] for done in refused}
        assert shlex.split(command) == ["--home", str(estate.home), "migrate", "forget", run]
        assert strongroom(*shlex.split(command), "--yes", environ=clean_environment()).code == 0
        assert contents_of(estate) == before


def _runs(estate: StrongroomEstate) -> Any:
    done = strongroom("migrate", "status", "--json", environ=clean_environment(STRONGROOM_HOME=str(estate.home)))
    return done.json["runs"]
