"""Fixtures of this room: homes with short paths, and one running service for the tests that only talk to it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.running import Up, up


def _short() -> Path:
    return Path(tempfile.mkdtemp(prefix="sr"))  # pytest's own paths may be too long for a unix socket


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, removed in the end."""
    path = _short()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(short: Path) -> Path:
    """A home that does not exist yet."""
    return short / "home"


@pytest.fixture(scope="session")
def service() -> Iterator[Up]:
    """A service that runs for the whole session; each test keeps to containers of its own."""
    path = _short()
    with up(path / "home", "--workers", "2") as running:
        yield running
    shutil.rmtree(path)
