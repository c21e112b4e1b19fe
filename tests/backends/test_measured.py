"""What a store tells of its own size, or of who keeps it."""

import signal
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Measurable, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from tests.etcd_server import running


async def test_an_sqlite_store_tells_the_sizes_of_its_files(tmp_path: Path) -> None:
    """The database and its log are told as they lie on the disk, and the log grows with what is written."""
    file = tmp_path / "store.db"
    backend = open_backend(f"sqlite:{file}")
    assert isinstance(backend, Measurable)
    await backend.open()
    try:
        before = await backend.measure()
        await backend.commit([Put("secrets/a", b"x" * 50_000)])
        after = await backend.measure()
        assert after["sqlite_bytes", "database"] == file.stat().st_size
        assert after["sqlite_bytes", "log"] >= 50_000 > before["sqlite_bytes", "log"]
    finally:
        await backend.close()


def test_a_store_in_memory_has_nothing_to_tell() -> None:
    """It is asked nothing."""
    assert not isinstance(MemoryBackend(), Measurable)


async def test_etcd_tells_how_many_members_have_a_leader(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One of three that hangs is told as such, and the two others as well; when it is back, all are."""
    with running(tmp_path_factory.mktemp("etcd"), members=3) as etcd:
        backend = open_backend(etcd.url("/measured"))
        assert isinstance(backend, Measurable)
        await backend.open()
        try:
            assert await backend.measure() == {("etcd_members", "healthy"): 3, ("etcd_members", "unhealthy"): 0}
            etcd.members[2].signal(signal.SIGSTOP)
            assert await backend.measure() == {("etcd_members", "healthy"): 2, ("etcd_members", "unhealthy"): 1}
            etcd.members[2].signal(signal.SIGCONT)
            assert (await backend.measure())["etcd_members", "healthy"] == 3
        finally:
            await backend.close()


async def test_etcd_tells_when_our_certificate_expires(tmp_path: Path) -> None:
    """The moment is that of the file that is named; one that is gone says nothing."""
    authority = trustme.CA()
    pair = authority.issue_cert("client")
    paths = {name: tmp_path / f"{name}.pem" for name in ("cacert", "cert", "key")}
    authority.cert_pem.write_to_path(paths["cacert"])
    pair.cert_chain_pems[0].write_to_path(paths["cert"])
    pair.private_key_pem.write_to_path(paths["key"])
    backend = open_backend("etcd://127.0.0.1:1/measured", **{name: str(path) for name, path in paths.items()})
    assert isinstance(backend, Measurable)
    name = "etcd_certificate_expiry_timestamp_seconds", ""

    expiry = x509.load_pem_x509_certificate(paths["cert"].read_bytes()).not_valid_after_utc
    assert (await backend.measure())[name] == expiry.timestamp()
    paths["cert"].unlink()
    assert name not in await backend.measure()
