"""The stores there are, by the scheme of their URL.

sqlite:/var/lib/strongroom/data/store.db           one file, one machine
etcd://[user:password@]host:port,host:port/prefix  a cluster
memory:                                            gone with the process
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl

from strongroom.storage_service.backends.base import Backend
from strongroom.storage_service.backends.url import check_at, split
from strongroom.storage_service.errors import ConfigurationError

__all__ = ["BACKENDS", "open_backend"]


def _sqlite(url: SplitResult, options: Mapping[str, str]) -> Backend:
    from strongroom.storage_service.backends.sqlite import SqliteBackend

    return SqliteBackend.from_url(url, options)


def _memory(url: SplitResult, options: Mapping[str, str]) -> Backend:
    from strongroom.storage_service.backends.memory import MemoryBackend

    return MemoryBackend.from_url(url, options)


def _etcd(url: SplitResult, options: Mapping[str, str]) -> Backend:
    # PERF, and safety: grpc must not be imported before a process forks, so only who names etcd loads it.
    from strongroom.storage_service.backends.etcd import EtcdBackend

    return EtcdBackend.from_url(url, options)


BACKENDS: Final[Mapping[str, Callable[[SplitResult, Mapping[str, str]], Backend]]] = {
    "sqlite": _sqlite,
    "memory": _memory,
    "etcd": _etcd,
}
"""What makes a backend of a URL (without its query) and its options, by the URL's scheme."""


def open_backend(url: str, **options: str) -> Backend:
    """Return the backend that *url* names; it is opened by its own `open`, in the process that will use it.

    Args:
        url: ``<scheme>:…``; its query is options too (``etcd://host:2379?cacert=/etc/ssl/ca.pem``).
        options: what a backend of that scheme takes besides its URL.

    Raises:
        ConfigurationError: an unknown scheme or option, an option said twice, or an ``@`` too many. The text
            never repeats the URL, as it may hold a password.
    """
    try:
        parts = split(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError("the store's URL is not a URL; write e.g. sqlite:/path/to/store.db") from None
    make = BACKENDS.get(parts.scheme)
    if make is None:
        raise ConfigurationError(f"the store's URL must begin with one of the schemes {', '.join(BACKENDS)}")
    check_at(parts)
    names = [name for name, _ in query] + list(options)
    if len(names) != len(set(names)):
        raise ConfigurationError("an option of the store is given twice")
    return make(parts._replace(query=""), dict(query) | options)
