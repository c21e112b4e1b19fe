"""What a power cut would take: nothing that was said to be made, by any way to a file on the disk."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.cli.machine import pair
from strongroom.deploy.home import Home
from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.backends.base import Delete, Put
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.bootstrap import Parts, SharedRoot, build
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import Exists
from strongroom.storage_service.keyring.machines.key import Kind
from strongroom.storage_service.services.door import Caller
from tests.forgetful_disk import forgetful_disk
from tests.laws.sources import reading
from tests.migration.sources.csv_file import estate, estate_of_key_files
from tests.migration.sources.key_directory import KeyDirectory

OPERATOR = Caller(Principal("apikey:operator"), "request-1")


class Place:
    """A directory for the keys and one for the log, so that what is done for one does nothing for the other."""

    def __init__(self, directory: Path) -> None:
        self.keys, self.log = directory / "keys", directory / "log"
        self.keys.mkdir()
        self.log.mkdir()
        self.settings = ServiceSettings(
            socket=directory / "socket",
            audit_log=self.log / "audit.log",
            root_key=self.keys / "secrets.key",
            store="memory:",
            api_id="own",
            api_key=Secret("own-key"),
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where a service is to have its files."""
    return Place(tmp_path)


@pytest.fixture
async def started(place: Place) -> AsyncIterator[Parts]:
    """A service that has started there."""
    shared = SharedRoot()
    parts = await build(place.settings, shared)
    yield parts
    await parts.close()
    shared.close()


async def test_a_first_start(place: Place) -> None:
    """The root key and the audit log are on disk, whole and by name, before anything is under the one or in the other.

    What is under a key that is lost is lost with it.
    """
    shared = SharedRoot()
    with forgetful_disk(place.keys, place.log) as disk:
        parts = await build(place.settings, shared)
        await parts.secrets.create_container(OPERATOR, "secrets/db/")
        assert (disk.forgotten(), disk.hasty) == ([], [])
        assert set(disk.left(place.keys)) == {"secrets.key"}
        assert b"secrets/db/" in disk.left(place.log)["audit.log"]
    await parts.close()
    shared.close()


async def test_a_log_that_was_moved_away(place: Place, started: Parts) -> None:
    """The audit log that is begun in the place of one that was moved away is on disk, by name, with its first line."""
    with forgetful_disk(place.keys, place.log) as disk:
        place.settings.audit_log.rename(place.log / "audit.log.1")
        await started.secrets.create_container(OPERATOR, "secrets/db/")

        assert disk.forgotten() == []
        assert b"secrets/db/" in disk.left(place.log)["audit.log"]


async def test_a_new_root_key(place: Place, started: Parts) -> None:
    """A root key that is prepared, confirmed or abandoned is on disk, or gone from it, when that is said."""
    keys = started.keys
    with forgetful_disk(place.keys) as disk:
        abandoned = await keys.prepare_root(OPERATOR, "file")
        assert (disk.forgotten(), disk.hasty, len(disk.left(place.keys))) == ([], [], 2)
        await keys.abandon_root(OPERATOR, abandoned.root)
        assert (disk.forgotten(), set(disk.left(place.keys))) == ([], {"secrets.key"})

        old = disk.left(place.keys)
        made = await keys.prepare_root(OPERATOR, "file")
        await keys.confirm_root(OPERATOR, made.root, None)
        assert (disk.forgotten(), disk.hasty, set(disk.left(place.keys))) == ([], [], {"secrets.key"})
        assert disk.left(place.keys) != old


def test_a_home(tmp_path: Path) -> None:
    """The settings, and the key that opens the service to programs, are on disk before anybody is given it."""
    home = Home(tmp_path / "home")
    home.prepare()
    with forgetful_disk(home.path, home.path / "run") as disk, home.lock():
        key = home.furnish().api_key.reveal()

        assert (disk.forgotten(), disk.hasty) == ([], [])
        assert set(disk.left(home.path)) == {"strongroom.toml", "client.json", "proxy.json"}
        assert key.encode() in disk.left(home.path)["client.json"]


def test_a_machine(tmp_path: Path) -> None:
    """A machine's key pair is on disk before its public key can be carried to somebody who lets it in."""
    home = tmp_path / "home"
    Home(home).prepare()
    with forgetful_disk(home) as disk:
        pair.initialize(home, Kind.EC, None)

        assert (disk.forgotten(), disk.hasty) == ([], [])
        assert set(disk.left(home)) == {"machine.key", "machine.pub", "strongroom.toml"}
        with suppress(Exists):
            pair.initialize(home, Kind.EC, None)
        assert disk.forgotten() == []


@pytest.mark.parametrize(
    ("made", "below"), [(estate, ()), (estate_of_key_files, ("keys",))], ids=["cells", "key files"]
)
def test_a_table_that_is_scrubbed(made: Callable[[Path], Any], below: tuple[str, ...], tmp_path: Path) -> None:
    """What is removed from a table and its key files is gone after a power cut, and what is put back is there."""
    with made(tmp_path) as table:
        put = table.put_many([1, 2, 3])
        before = table.path.read_bytes()
        with (
            forgetful_disk(tmp_path, *(tmp_path / name for name in below)) as disk,
            reading(table) as reader,
        ):
            originals = reader.originals(put)
            assert reader.scrub(originals) == [True] * 3
            assert (disk.forgotten(), disk.hasty) == ([], [])
            assert reader.restore(originals) == [True] * 3
            assert (disk.forgotten(), disk.hasty) == ([], [])
        assert table.path.read_bytes() == before


def test_a_directory_of_keys_that_is_scrubbed(tmp_path: Path) -> None:
    """A key file that is removed is gone after a power cut, and one that is put back is there."""
    keys = KeyDirectory(tmp_path)
    put = [keys.put(1), keys.put(2)]
    before = list(keys.raw())
    with forgetful_disk(keys.directory) as disk, reading(keys) as reader:
        originals = reader.originals(put)
        assert reader.scrub(originals) == [True, True]
        assert (disk.forgotten(), disk.hasty) == ([], [])
        assert reader.restore(originals) == [True, True]
        assert (disk.forgotten(), disk.hasty) == ([], [])
    assert list(keys.raw()) == before


async def test_every_commit_of_sqlite(tmp_path: Path) -> None:
    """Every transaction that ends well ends with SQLite set to bring it to the disk, in its log, before it says so."""
    ended: list[tuple[int, str]] = []

    class Watched(sqlite3.Connection):
        """The connection that writes."""

        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            """Look how it is set, where a transaction ends."""
            if statement == "COMMIT":
                ask = super().execute
                ended.append((ask("PRAGMA synchronous").fetchone()[0], ask("PRAGMA journal_mode").fetchone()[0]))
            return super().execute(statement, *arguments)

    full = 2
    backend = SqliteBackend(tmp_path / "store.db", factory=Watched)
    await backend.open()
    before = len(ended)
    await backend.commit([Put("secrets/db/a", b"a")])
    await backend.commit([Delete("secrets/db/a")])
    await backend.close()

    assert {synchronous for synchronous, _ in ended} == {full}
    assert ended[before:] == [(full, "wal")] * 2
