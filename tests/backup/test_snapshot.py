"""A moment of a store, held while others write on."""

from pathlib import Path

import pytest

from strongroom.storage_service.backends.base import Delete, Put
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import ConfigurationError, Unavailable
from tests.backup.conftest import Stores
from tests.backup.copies import held, snapshot_of
from tests.etcd_server import Etcd

KINDS = pytest.mark.parametrize("kind", ["memory", "sqlite", "etcd"])


@KINDS
async def test_it_is_of_one_moment(stores: Stores, kind: str) -> None:
    """What is written, replaced and deleted after the moment is not in it, also between two of its pages."""
    async with stores(kind) as store:
        before = {f"a/{number:03}": b"%d" % number * 9000 for number in range(200)}
        for name, value in before.items():
            revision = await store.commit([Put(name, value)])

        async with snapshot_of(store).snapshot() as snapshot:
            rows: dict[str, bytes] = {}
            async for page in snapshot.pages():
                rows |= dict(page)
                await store.commit([Put("a/000", b"new"), Delete("a/199"), Put(f"b/{len(rows)}", b"")])

            assert rows == before
            assert (snapshot.revision, snapshot.count) == (revision, 200)
            assert (await snapshot.get("a/199"), await snapshot.get("a")) == (before["a/199"], None)
        assert (await held(store))["a/000"] == b"new"


@KINDS
async def test_names_come_in_order(stores: Stores, kind: str) -> None:
    """Names come in the order of their bytes, whatever the store; capitals first, and a slash before letters."""
    names = ["a", "A", "a/b", "a-b", "a.b", "a0", "B", "a/b/c", "a/b-c"]
    async with stores(kind) as store:
        await store.commit([Put(name, b"") for name in names])

        assert list(await held(store)) == sorted(names, key=str.encode)


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """To look at a store makes none: neither the file nor its log."""
    (tmp_path / "empty.db").touch()
    for name in ("none.db", "empty.db"):
        with pytest.raises(ConfigurationError):
            async with SqliteBackend(tmp_path / name).snapshot():
                pass

    assert [(each.name, each.stat().st_size) for each in tmp_path.iterdir()] == [("empty.db", 0)]


async def test_a_revision_that_etcd_forgets_is_told(stores: Stores, etcd: Etcd) -> None:
    """A compaction in the midst of it ends the copy with a word about it; nothing is left out silently."""
    async with stores("etcd") as store:
        for number in range(70):
            await store.commit([Put(f"a/{number:03}", b"")])
        async with snapshot_of(store).snapshot() as snapshot:
            pages = snapshot.pages()
            await anext(pages)
            await store.commit([Put("b", b"")])
            with etcd.admin() as admin:
                admin.compact()

            with pytest.raises(Unavailable, match="compacted"):
                await anext(pages)
