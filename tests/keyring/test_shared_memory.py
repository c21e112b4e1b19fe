"""What is left in the memory that workers share, looked at from outside: nothing of a key that is not in force."""

import secrets
from pathlib import Path

from strongroom.models.secret import Secret
from strongroom.storage_service.access.base import Principal
from strongroom.storage_service.bootstrap import SharedRoot, build
from strongroom.storage_service.config import ServiceSettings
from strongroom.storage_service.services.door import Caller

OPERATOR = Caller(Principal("apikey:operator"), "request-1")
PIECE = 16  # bytes: what is still in memory of a key is found, though a part of it was wiped


def shared() -> bytes:
    """Return all that this process shares of memory files, as the kernel shows it to whoever may see it."""
    found = b""
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "/memfd:strongroom" in line:
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                memory.seek(start)
                found += memory.read(end - start)
    return found


def pieces_of(key: bytes) -> int:
    """Return how many pieces of *key* are in memory that is shared."""
    memory = shared()
    return sum(memory.count(key[start : start + PIECE]) for start in range(0, len(key), PIECE))


def root_of(shared: SharedRoot) -> bytes:
    """Return the root key that is shared."""
    _, _, octets = shared.read()
    assert octets is not None
    return bytes(octets)


def test_after_a_lock_nothing_is_left() -> None:
    """When `lock` returns, before anybody reads the shared root, no piece of the root key is in it."""
    shared, key = SharedRoot(), secrets.token_bytes(64)
    shared.unlock(key)
    assert pieces_of(key) == len(key) // PIECE

    shared.lock()
    assert pieces_of(key) == 0
    shared.close()


def test_after_another_unlock_nothing_is_left() -> None:
    """When another root key takes the place of one, the old one is gone at once, and the new one is there once."""
    shared, old, new = SharedRoot(), secrets.token_bytes(64), secrets.token_bytes(64)
    shared.unlock(old)

    shared.unlock(new)
    assert (pieces_of(old), pieces_of(new)) == (0, len(new) // PIECE)
    shared.failed(1000.0)
    assert pieces_of(new) == len(new) // PIECE
    shared.close()


async def test_a_service_that_is_locked(tmp_path: Path) -> None:
    """When a service says that it is locked, or that its root key was rotated, nothing of the key before is shared."""
    settings = ServiceSettings(
        socket=tmp_path / "socket",
        audit_log=tmp_path / "audit.log",
        root_key=tmp_path / "secrets.key",
        store="memory:",
        api_id="own",
        api_key=Secret("own-key"),
    )
    shared = SharedRoot()
    parts = await build(settings, shared)
    old = root_of(shared)
    assert pieces_of(old) == len(old) // PIECE

    made = await parts.keys.prepare_root(OPERATOR, "file")
    await parts.keys.confirm_root(OPERATOR, made.root, None)
    new = root_of(shared)
    assert (pieces_of(old), pieces_of(new)) == (0, len(new) // PIECE)

    await parts.keys.lock(OPERATOR)
    assert pieces_of(new) == 0
    await parts.close()
    shared.close()
