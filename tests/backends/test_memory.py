"""What the store in memory promises beyond the law."""

from urllib.parse import urlsplit

import pytest

from strongroom.storage_service.backends.base import Entry, Put
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.errors import ConfigurationError, Unavailable


async def test_calls_are_counted() -> None:
    """What was asked is counted by method, so that a test can say what a request costs."""
    backend = MemoryBackend()
    await backend.open()
    await backend.commit([Put("a", b"one")])
    await backend.get("a")
    await backend.get("b")
    await backend.list("")

    assert dict(backend.calls) == {"commit": 1, "get": 2, "list": 1}


async def test_it_outlives_closing() -> None:
    """What was committed is there when the backend is opened again, as in a store that outlives the service."""
    backend = MemoryBackend()
    with pytest.raises(Unavailable):
        await backend.get("a")
    await backend.open()
    revision = await backend.commit([Put("a", b"one")])
    await backend.close()
    await backend.open()

    assert await backend.get("a") == Entry(b"one", revision)


@pytest.mark.parametrize("url", ["memory:/path", "memory://host"])
def test_it_has_no_place(url: str) -> None:
    """A memory URL with a path or a host is a mistake, and says so."""
    with pytest.raises(ConfigurationError, match="nothing more"):
        MemoryBackend.from_url(urlsplit(url), {})
