"""How a URL becomes a backend, and what is said when it cannot."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from strongroom.storage_service.backends import BACKENDS, open_backend
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import ConfigurationError

ROOT: Final = Path(__file__).parents[2]


def test_the_table_of_schemes() -> None:
    """There are three stores, and no other scheme is taken."""
    assert list(BACKENDS) == ["sqlite", "memory", "etcd"]


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("sqlite:/data/store.db", {}, SqliteBackend),
        ("sqlite:///data/store.db", {}, SqliteBackend),
        ("sqlite:/data/a%20b.db?busy_timeout=0.5", {}, SqliteBackend),
        ("sqlite:/data/store.db", {"busy_timeout": "2"}, SqliteBackend),
        ("memory:", {}, MemoryBackend),
    ],
)
def test_a_url_becomes_its_backend(url: str, options: dict[str, str], kind: type) -> None:
    """A URL and its options make a backend of its scheme, without any file being touched."""
    backend = open_backend(url, **options)
    assert type(backend) is kind
    assert not Path("/data").exists()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("", {}, "sqlite, memory, etcd"),
        ("/var/lib/store.db", {}, "sqlite, memory, etcd"),
        ("redis://user:hunter2@host/0", {}, "sqlite, memory, etcd"),
        ("sqlite:/\nhunter2", {}, "not a URL"),
        ("sqlite:relative-hunter2.db", {}, "absolute path"),
        ("sqlite://host/hunter2.db", {}, "absolute path"),
        ("sqlite:/data/hunter2.db#part", {}, "absolute path"),
        ("sqlite:", {}, "absolute path"),
        ("sqlite:/data/hunter2.db?mode=ro", {}, "takes busy_timeout, not mode"),
        ("sqlite:/data/hunter2.db", {"cacert": "hunter2"}, "not cacert"),
        ("sqlite:/data/hunter2.db?busy_timeout=1", {"busy_timeout": "1"}, "given twice"),
        ("sqlite:/data/hunter2.db?busy_timeout=1&busy_timeout=1", {}, "given twice"),
        ("sqlite:/data/hunter2.db?busy_timeout=hunter2", {}, "a number of seconds"),
        ("sqlite:/data/hunter2.db?busy_timeout=61", {}, "0 to 60"),
        ("sqlite:/data/hunter2.db?busy_timeout=nan", {}, "0 to 60"),
        ("memory:", {"busy_timeout": "1"}, "no options"),
        ("memory:?busy_timeout=1", {}, "no options"),
    ],
)
def test_what_is_wrong_is_said_without_repeating_it(url: str, options: dict[str, str], says: str) -> None:
    """Each mistake has a text that says what to write, and never holds the URL, which may hold a password."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        open_backend(url, **options)
    assert "hunter2" not in str(caught.value)


def test_grpc_is_loaded_by_who_names_etcd_alone() -> None:
    """Neither the table nor the other stores import gRPC, which must not be loaded before a fork."""
    program = (
        "import sys; from strongroom.storage_service.backends import open_backend; "
        "open_backend('memory:'); open_backend('sqlite:/data/store.db'); sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
