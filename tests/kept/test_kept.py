"""What earlier versions have written opens: homes, stores, backups and exports that were kept (`tests.kept.making`)."""

import base64
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strongroom import StorageClient
from tests.deploy.running import Up, clean_environment, up
from tests.etcd_server import Etcd
from tests.kept.making import run

KEPT = sorted(each for each in Path(__file__).parent.iterdir() if (each / "said.json").exists())

pytestmark = pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)


@pytest.fixture
def home() -> Iterator[Path]:
    """The place of a home, with a short path."""
    place = Path(tempfile.mkdtemp(prefix="sr"))
    yield place / "home"
    shutil.rmtree(place)


def said(kept: Path) -> dict[str, Any]:
    """Return what is in them."""
    found: dict[str, Any] = json.loads((kept / "said.json").read_text())
    return found


def unpack(file: Path, home: Path) -> None:
    """Lay out a home as it was."""
    home.mkdir(mode=0o700)
    with tarfile.open(file) as archive:
        archive.extractall(home, filter="data")


def private_copy(file: Path, place: Path) -> Path:
    """Return a copy of *file* that its owner alone may read."""
    shutil.copyfile(file, place)
    place.chmod(0o600)
    return place


def holds_all(running: Up, kept: Path) -> None:
    """All that was written is there: secrets, the host's key, who may ask, and every key."""
    known = said(kept)
    for name, value in known["secrets"].items():
        assert run(running.home, "secret", "get", name) == value
    assert run(running.home, "host", "creds", known["host"]) == known["ssh_key"]
    with StorageClient(socket=running.socket, api_id="reader", api_key=known["api_key"]) as reader:
        assert reader.get_secret("db", "first").reveal() == known["secrets"]["db/first"]
    usage = run(running.home, "key", "usage", "--scan")
    assert (usage["missing"], usage["stale"], usage["unreadable"]) == (0, 0, [])


def test_a_home(kept: Path, home: Path) -> None:
    """A home starts, and all of it is there; its migration can be taken back."""
    unpack(kept / "home.tar.gz", home)

    with up(home) as running:
        holds_all(running, kept)
        (row,) = run(home, "migrate", "status")["runs"]
        assert row["run"].startswith("jsonl-")


@pytest.mark.parametrize(("mode", "needed"), [("unlock", 1), ("shares", 2)])
def test_a_home_that_people_open(kept: Path, home: Path, mode: str, needed: int) -> None:
    """Unlock keys and shares that were written down open it."""
    unpack(kept / f"{mode}.tar.gz", home)

    with up(home, environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")):
        run(home, "key", "unlock", stdin="\n".join(said(kept)[mode][-needed:]))
        assert run(home, "secret", "get", "db/first") == said(kept)["secrets"]["db/first"]


def test_a_backup(kept: Path, home: Path) -> None:
    """A backup is whole, and a store is made of it."""
    key = private_copy(kept / "secrets.key", home.parent / "secrets.key")
    run(home, "backup", "verify", kept / "backup")
    run(home, "restore", kept / "backup", "--key-file", key)

    with up(home) as running:
        holds_all(running, kept)


def test_an_export(kept: Path, home: Path) -> None:
    """An exported keyring, brought to a store that lost its own, opens the secrets in it."""
    key = private_copy(kept / "secrets.key", home.parent / "secrets.key")
    unpack(kept / "home.tar.gz", home)
    run(home, "key", "import", kept / "export", "--key-file", key, "--replace")

    with up(home) as running:
        holds_all(running, kept)


def test_a_store_in_etcd(kept: Path, home: Path, etcd: Etcd) -> None:
    """The rows of a store in etcd, put into another etcd, are a store."""
    prefix = f"kept-{kept.name}"
    with etcd.admin() as admin:
        for line in (kept / "etcd.jsonl").read_text().splitlines():
            key, value = json.loads(line)
            admin.put(key.replace("/kept/", f"/{prefix}/", 1), base64.b64decode(value))
    home.mkdir(mode=0o700)
    private_copy(kept / "secrets.key", home / "secrets.key")

    with up(home, "--store", etcd.url(prefix)) as running:
        holds_all(running, kept)
