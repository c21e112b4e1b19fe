"""Where etcd keeps what was scrubbed: databases and logs before and after, and what an operator does about the rest."""

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Place
from strongroom.migration.sources.commissaire.places import ids_of
from strongroom.migration.sources.commissaire.source import CommissaireSource
from strongroom.storage_service.backends.etcd.messages_pb2 import StatusRequest
from strongroom.storage_service.backends.etcd.methods import STATUS
from strongroom.storage_service.errors import ConfigurationError
from tests.etcd_server import Etcd, binary, running
from tests.migration.sources.commissaire import CommissaireEstate, EstateV2, EstateV3

ETCDCTL: Final = Path(binary()).with_name("etcdctl")


@asynccontextmanager
async def opened(
    estate: CommissaireEstate, *directories: Path, place: str = ""
) -> AsyncGenerator[CommissaireSource, None]:
    """Give the source of an estate, opened, with the files of some members."""
    options = {"timeout": ["20"], "data_dir": [str(directory) for directory in directories]}
    source = open_source(estate.kind, place or estate.place, options)
    assert isinstance(source, CommissaireSource)
    await source.open(Digest())
    try:
        yield source
    finally:
        await source.close()


async def held_in(places: Sequence[Place], *patterns: bytes) -> dict[str, int]:
    """Return for each place that can be read and holds any of *patterns* how many of them it holds."""
    found = {}
    for place in places:
        held: set[bytes] = set()
        tail = b""
        async for chunk in place.chunks() if place.chunks is not None else _nothing():
            text = tail + chunk
            held |= {pattern for pattern in patterns if pattern in text}
            tail = text[-max(map(len, patterns)) :]
        if held:
            found[place.name] = len(held)
    return found


async def _nothing() -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


def unreachable(places: Sequence[Place]) -> list[str]:
    """Return the names of those that cannot be read."""
    return [place.name for place in places if place.chunks is None]


async def scrub_all(source: CommissaireSource, ids: Sequence[str]) -> None:
    """Scrub and purge."""
    originals = list((await source.originals(ids)).values())
    assert await source.scrub(originals) == [True] * len(ids)
    await source.purge()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd that serves both interfaces, for one test."""
    with running(tmp_path, flags=["--enable-v2"]) as store:
        yield store


async def test_a_purged_database_holds_nothing_and_the_log_does(alone: Etcd) -> None:
    """Before, snapshot, database and log hold all keys; after scrub and purge the log alone, and advice is given."""
    estate = EstateV3(alone)
    ids = estate.put_many(range(12))
    stream, database = (
        f"the database of etcd member {alone.endpoints}, streamed by it",
        estate.directory / "member/snap/db",
    )
    (log,) = (estate.directory / "member/wal").glob("*.wal")
    async with opened(estate, estate.directory) as source:
        originals = list((await source.originals(ids)).values())
        patterns = [pattern for original in originals for pattern in source.search_patterns(original)]
        assert len(patterns) == 12
        everywhere = {stream: 12, str(database): 12, str(log): 12}
        assert await held_in(await source.places(), *patterns) == everywhere
        assert await source.scrub(originals) == [True] * 12
        places = await source.places()
        assert all([str(database) in await held_in(places, pattern) for pattern in patterns]), (
            "a scrub alone is not enough"
        )

        (done,) = await source.purge()
        assert "compacted up to revision" in done
        assert "defragmented" in done
        places = await source.places()
        assert await held_in(places, *patterns) == {str(log): 12}

    assert unreachable(places) == ["backups and snapshots made before"]
    (told,) = [place for place in places if place.name == str(log)]
    assert "etcdctl snapshot save, etcdctl snapshot restore" in told.advice


async def test_files_from_a_snapshot_hold_nothing(alone: Etcd, tmp_path: Path) -> None:
    """What the advice says helps: a member started on files from a snapshot has the estate, and no key anywhere."""
    estate = EstateV3(alone)
    ids = estate.put_many(range(12))
    (member,) = alone.members
    async with opened(estate) as source:
        patterns = [
            pattern for each in (await source.originals(ids)).values() for pattern in source.search_patterns(each)
        ]
        await scrub_all(source, ids)

    snapshot, fresh = tmp_path / "snapshot.db", tmp_path / "fresh"
    etcdctl("snapshot", "save", str(snapshot), f"--endpoints={member.endpoint}")
    peer = member.peer.partition("=")[2]
    etcdctl("snapshot", "restore", str(snapshot), f"--data-dir={fresh}", f"--name={member.name}",
            f"--initial-cluster={member.peer}", f"--initial-advertise-peer-urls={peer}")  # fmt: skip
    member.kill()
    shutil.rmtree(estate.directory)
    fresh.rename(estate.directory)
    member.restart()

    async with opened(estate, estate.directory) as source:
        assert await source.count() == 12
        places = await source.places()
        assert await held_in(places, *patterns) == {}
        assert unreachable(places) == ["backups and snapshots made before"]


async def test_v2_lets_go_of_its_history_and_not_of_its_log(alone: Etcd) -> None:
    """After a purge nobody can watch a scrubbed value back out of v2; its log holds it, and v2 says it cannot help."""
    estate = EstateV2(alone)
    key = estate.put(0)
    secret = estate.secret_of(0)
    async with opened(estate, estate.directory) as source:
        originals = list((await source.originals([key])).values())
        assert await source.scrub(originals) == [True]
        since = f"?wait=true&waitIndex={int(originals[0].mark) + 1}"
        assert secret in str(estate.ask("GET", key, since)), "a watch shows what was there before"
        done = await source.purge()

        assert estate.ask("GET", key, since)["errorCode"] == 401
        assert "can be asked for no more" in done[-1]
        assert [item.id async for item in source.items()] == [key]
        (log,) = await held_in(await source.places(), secret.encode())
    assert log.endswith(".wal")


async def test_files_from_a_v2_backup_hold_nothing(alone: Etcd, tmp_path: Path) -> None:
    """So for v2: a snapshot after the scrub, and a backup of that, leave no key."""
    estate = EstateV2(alone)
    ids = estate.put_many(range(12))
    (member,) = alone.members
    async with opened(estate) as source:
        patterns = [
            pattern for each in (await source.originals(ids)).values() for pattern in source.search_patterns(each)
        ]
        await scrub_all(source, ids)
    flags = member.flags
    member.flags = [*flags, "--snapshot-count=1"]
    member.restart()
    estate.put_value("clusters/last", {"name": "last"})
    member.kill()
    fresh = tmp_path / "fresh"
    etcdctl("backup", f"--data-dir={estate.directory}", f"--backup-dir={fresh}", api="2")
    shutil.rmtree(estate.directory)
    fresh.rename(estate.directory)
    member.flags = [*flags, "--force-new-cluster"]
    member.restart()

    async with opened(estate, estate.directory) as source:
        assert await source.count() == 13
        places = await source.places()
        assert await held_in(places, *patterns) == {}


def etcdctl(*words: str, api: str = "3") -> None:
    """Run etcd's own tool."""
    subprocess.run([str(ETCDCTL), *words], env={**os.environ, "ETCDCTL_API": api}, check=True, capture_output=True)


# Clusters.


async def test_every_member_is_purged_and_told(tmp_path: Path) -> None:
    """Of a cluster, each member that the place names is defragmented and searched; each other one is told, twice."""
    with running(tmp_path, members=3, flags=["--enable-v2"]) as store:
        estate = EstateV3(store)
        ids = estate.put_many(range(30))
        async with opened(estate, *(tmp_path / member.name for member in store.members)) as source:
            originals = list((await source.originals(ids)).values())
            patterns = [pattern for original in originals for pattern in source.search_patterns(original)]
            await scrub_all(source, ids)
            places = await source.places()
            holding = await held_in(places, *patterns)
            assert list(holding.values()) == [30] * 3
            assert all(name.endswith(".wal") for name in holding)
            assert unreachable(places) == ["backups and snapshots made before"]
            assert await source.count() == len(ids), "what the purge wrote is gone"

        first = store.members[0]
        async with opened(estate, place=f"etcd://{first.endpoint}") as source:
            done = await source.purge()
            places = await source.places()
        assert sorted(line for line in done if "was not defragmented" in line) == [
            f"etcd member {name} was not defragmented: name it in the place too" for name in ("m1", "m2")
        ]
        assert sorted(unreachable(places))[1:] == [
            f"the files of etcd member {first.endpoint}",
            "the files of etcd member m1",
            "the files of etcd member m2",
        ]

        others = {f"the files of etcd member {store.members[number].endpoint}" for number in (0, 2)}
        for each in (estate, EstateV2(store)):
            async with opened(each, tmp_path / "m1") as source:
                assert set(unreachable(await source.places())) == {"backups and snapshots made before", *others}

        store.members[2].kill()
        async with opened(estate) as source:
            with pytest.raises(SourceUnavailable):
                await source.purge()
            gone = f"the database of etcd member {store.members[2].endpoint}, streamed by it"
            assert gone in unreachable(await source.places())


# Directories.


def test_a_log_says_whose_it_is(alone: Etcd, tmp_path: Path) -> None:
    """The ids in a log are those of its cluster and member; what is no log has none."""
    with alone.admin() as admin:
        header = admin.call(STATUS, StatusRequest()).header
    (log,) = tmp_path.rglob("*.wal")
    assert ids_of(log) == (header.cluster_id, header.member_id)

    content = log.read_bytes()[:200]
    for cut in range(0, 200, 3):
        (tmp_path / "cut.wal").write_bytes(content[:cut])
        assert ids_of(tmp_path / "cut.wal") in (None, (header.cluster_id, header.member_id))
    for garbage in (b"", b"\xff" * 100, os.urandom(300), bytes(300)):
        (tmp_path / "cut.wal").write_bytes(garbage)
        assert ids_of(tmp_path / "cut.wal") is None
    assert ids_of(tmp_path / "missing.wal") is None


async def test_what_cannot_be_looked_into_is_told(alone: Etcd, tmp_path: Path) -> None:
    """Links are told and not followed, other files are searched; a directory without files of etcd is refused."""
    estate = EstateV3(alone)
    (estate.directory / "member/wal/elsewhere").symlink_to(tmp_path)
    (estate.directory / "notes.txt").write_text("a pattern of somebody's")
    async with opened(estate, estate.directory) as source:
        places = await source.places()

        assert str(estate.directory / "member/wal/elsewhere") in unreachable(places)
        assert await held_in(places, b"a pattern of somebody's") == {str(estate.directory / "notes.txt"): 1}
        (estate.directory / "notes.txt").unlink()
        assert await held_in(places, b"a pattern of somebody's") == {}, "etcd removes files while they are searched"
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong in (empty, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="no files of etcd"):
            async with opened(estate, wrong):
                pass
