"""Which store the records of a home are in: what is written down, and what is another one."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from strongroom.models.secret import Secret
from strongroom.storage_service.backends.url import as_said, same_place, without_password
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.http.app import StorageApp
from strongroom.storage_service.keyring.shared_root import SharedRoot
from strongroom.storage_service.record_of_store import RecordOfStore


@pytest.fixture
def record(tmp_path: Path) -> RecordOfStore:
    """The record of a home where nothing was written down."""
    return RecordOfStore(tmp_path / "store.json")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("etcd://a:2379,b/p", "etcd://B:2379,c/p/", True),
        ("etcd://u:secret@a/p?timeout=1", "etcd://v@a/p", True),
        ("etcd://a", "etcd://a:2379/strongroom", True),
        ("etcd://[::1]:2379/p", "etcd://[::1]/p", True),
        ("etcd://a:2379/p", "etcd://a:2380/p", False),
        ("etcd://a/p", "etcd://b/p", False),
        ("etcd://a/p", "etcd://a/q", False),
        ("etcd://a/p", "sqlite:/p", False),
        ("sqlite:/x/y.db", "sqlite:/x/../x/y.db?busy_timeout=1", True),
        ("sqlite:/x/y.db", "sqlite:/x/z.db", False),
        ("sqlite:/x/y.db", "memory:", False),
    ],
)
def test_what_one_store_is(one: str, other: str, same: bool) -> None:
    """A store is where it is, and neither who asks nor any option; of a cluster one common member is enough."""
    assert (same_place(one, other), same_place(other, one)) == (same, same)


def test_a_file_is_one_by_any_path(tmp_path: Path) -> None:
    """A link to a file, or to its directory, leads to the same store."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/s.db").touch()
    (tmp_path / "b").symlink_to("a")
    os.link(tmp_path / "a/s.db", tmp_path / "c.db")

    assert same_place(f"sqlite:{tmp_path}/a/s.db", f"sqlite:{tmp_path}/b/s.db")
    assert same_place(f"sqlite:{tmp_path}/a/s.db", f"sqlite:{tmp_path}/c.db")
    assert same_place(f"sqlite:{tmp_path}/a/new.db", f"sqlite:{tmp_path}/b/new.db")


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("etcd://u:canary@a,b/p?password=canary&timeout=2", "etcd://u@a,b/p?timeout=2"),
        ("etcd://a?password=canary", "etcd://a"),
        ("sqlite:/x%20y.db?busy_timeout=3", "sqlite:/x%20y.db?busy_timeout=3"),
    ],
)
def test_no_password_is_written_down(record: RecordOfStore, tmp_path: Path, url: str, left: str) -> None:
    """What is kept is the place, whom we are there, and options, but no password."""
    record.keep(url)

    assert without_password(url) == left
    assert json.loads((tmp_path / "store.json").read_text()) == {"store": left}
    assert (tmp_path / "store.json").stat().st_mode & 0o777 == 0o600


def test_another_store_is_refused_and_told(record: RecordOfStore, tmp_path: Path) -> None:
    """The text says the store as people write it, and each way out; the same store by one member is taken."""
    record.refuse_another("etcd://a/p")
    record.keep(f"sqlite:{tmp_path}/a%20%23.db")
    with pytest.raises(ConfigurationError) as refused:
        record.refuse_another("etcd://a/p")
    assert f'say store = "sqlite:{tmp_path}/a #.db" in strongroom.toml, or --store' in str(refused.value)
    assert f"remove {tmp_path}/store.json" in str(refused.value)

    record.keep("etcd://a,b,c/p")
    record.refuse_another("etcd://c,d,e/p")
    record.forget()
    record.refuse_another("etcd://x/p")


def test_a_home_that_was_moved_has_its_store_with_it(tmp_path: Path) -> None:
    """The file of a store that lies in the home is found where the home lies now."""
    (tmp_path / "old").mkdir()
    RecordOfStore(tmp_path / "old/store.json").keep(f"sqlite:{tmp_path}/old/data/s.db?busy_timeout=3")
    (tmp_path / "old").rename(tmp_path / "new")

    moved = RecordOfStore(tmp_path / "new/store.json")

    assert moved.read() == f"sqlite:{tmp_path}/new/data/s.db?busy_timeout=3"
    moved.refuse_another(f"sqlite:{tmp_path}/new/data/s.db")
    with pytest.raises(ConfigurationError, match="records are in"):
        moved.refuse_another(f"sqlite:{tmp_path}/old/data/s.db")


@pytest.mark.parametrize("way", ["{}/link", "{}/old", "{}/link/../link"])
@pytest.mark.parametrize("file", ["{}/old/data/s.db", "{}/link/data/s.db"])
def test_a_home_has_its_store_with_it_by_whatever_way(tmp_path: Path, way: str, file: str) -> None:
    """Where home and store were said by links, a copy of both serves the copy's store, and not the original's."""
    (tmp_path / "old/data").mkdir(parents=True)
    (tmp_path / "old/data/s.db").touch()
    (tmp_path / "link").symlink_to("old")
    RecordOfStore(Path(way.format(tmp_path)) / "store.json").keep(f"sqlite:{file.format(tmp_path)}?busy_timeout=3")
    shutil.copytree(tmp_path / "old", tmp_path / "new")

    moved = RecordOfStore(tmp_path / "new/store.json")

    assert moved.read() == f"sqlite:{tmp_path}/new/data/s.db?busy_timeout=3"
    moved.refuse_another(f"sqlite:{tmp_path}/new/data/s.db")


def test_a_record_that_others_may_change_is_not_believed(record: RecordOfStore, tmp_path: Path) -> None:
    """They could lead the start to another store; a link is what it leads to. The service that runs leaves it."""
    record.keep("sqlite:/x")
    (tmp_path / "store.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "store.json").symlink_to("elsewhere.json")
    record.refuse_another("sqlite:/x")
    (tmp_path / "elsewhere.json").chmod(0o666)

    with pytest.raises(ConfigurationError, match=r"store\.json can be changed by others \(mode 0666\); run: chmod"):
        record.refuse_another("sqlite:/x")
    record.try_to_keep("sqlite:/y")
    assert (tmp_path / "store.json").is_symlink()


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff", '{"store":"a\\nb"}', "[" * 60_000])
def test_a_damaged_record_is_told(record: RecordOfStore, tmp_path: Path, text: str) -> None:
    """What does not say a store ends the start, for it may have said another one; removing it is a person's affair."""
    (tmp_path / "store.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="does not say which store"):
        record.refuse_another("sqlite:/x")


def test_where_it_cannot_be_written_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A service whose home is not there, or not its own to write, serves all the same."""
    with caplog.at_level(logging.WARNING):
        RecordOfStore(tmp_path / "none/store.json").try_to_keep("sqlite:/x")

    assert "none/store.json is not written, and the next start cannot tell another store: No such file" in caplog.text


@pytest.mark.parametrize("autogen", [True, False])
async def test_the_service_keeps_the_record(tmp_path: Path, autogen: bool) -> None:
    """However it is started, a worker writes down its store once there are keys in it, and then opens no other."""

    def app(store: str) -> StorageApp:
        return StorageApp(
            ServiceSettings(
                socket=tmp_path / "socket",
                audit_log=tmp_path / "audit.log",
                root_key=tmp_path / "secrets.key",
                store=store,
                api_id="own",
                api_key=Secret("own-key"),
                autogen_root_key=autogen,
                store_record=tmp_path / "store.json",
            ),
            SharedRoot(),
        )

    first, in_memory = app(f"sqlite:{tmp_path}/one.db"), app("memory:")
    await in_memory.open()
    await in_memory.close()
    assert not (tmp_path / "store.json").exists()  # what is in memory is another one each time
    await first.open()
    await first.close()

    assert (tmp_path / "store.json").exists() is autogen
    other = app(f"sqlite:{tmp_path}/two.db")
    if autogen:
        with pytest.raises(ConfigurationError, match=f"records are in sqlite:{tmp_path}/one.db"):
            await other.open()
    else:
        await other.open()
        await other.close()
    assert (tmp_path / "two.db").exists() is not autogen


def test_a_store_is_said_as_people_write_it() -> None:
    """The path of a file is shown as it is, with its options; any other URL stays."""
    assert as_said("sqlite:/a%20b.db?busy_timeout=3") == "sqlite:/a b.db?busy_timeout=3"
    assert as_said("etcd://a/p") == "etcd://a/p"
