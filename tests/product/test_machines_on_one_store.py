"""Machines with keys of their own, on the running product: who starts, who follows, and who is out."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Locked
from tests.deploy.running import Done, Up, clean_environment, eventually, spawn, strongroom, up
from tests.etcd_server import Etcd

UNATTENDED = clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")  # a service that makes no key of its own


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, for the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["etcd", "etcd, documents in a file", "sqlite"])
def lines(request: pytest.FixtureRequest, directory: Path) -> str:
    """The settings that two machines share."""
    if request.param == "sqlite":
        return f'store = "sqlite:{directory}/data/store.db"\n'
    etcd: Etcd = request.getfixturevalue("etcd")
    store = f'store = "{etcd.url(f"/{directory.name}")}"\n'
    return store + (f'machine_documents = "{directory}/docs/machines.json"\n' if "file" in request.param else "")


class Machine:
    """One machine: a home with a key of its own."""

    def __init__(self, home: Path, lines: str) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        (home / "strongroom.toml").write_text(lines)
        self.made = self("machine", "config", "init")

    def __call__(self, *arguments: object) -> Done:
        """Run the command here."""
        return strongroom("--home", self.home, *arguments)

    def start(self, stack: ExitStack) -> Up:
        """Start its service, which has no way to the keyring but the machine's key, until the stack is unwound."""
        return stack.enter_context(up(self.home, environ=UNATTENDED))

    @property
    def client(self) -> StorageClient:
        return StorageClient.from_home(self.home)

    @property
    def state(self) -> str:
        with self.client as client:
            return client.status().state

    def read(self, key: str) -> str:
        with self.client as client:
            return client.get_secret("db", key).reveal()

    def write(self, key: str, value: str) -> None:
        with self.client as client:
            client.set_secret("db", key, value)

    def listed(self) -> dict[str, Any]:
        return {row["name"]: row["authorizer"] for row in self("machine", "list", "--json").json["machines"]}


def test_two_machines(directory: Path, lines: str) -> None:
    """One authorizes the other, both start by themselves and follow a rotation; who is revoked is out."""
    a, b = Machine(directory / "a", lines), Machine(directory / "b", lines)
    assert a("machine", "init", "--name", "alpha").code == 0

    with ExitStack() as stack:
        a.start(stack)
        with a.client as client:
            client.create_container("db")
        a.write("one", "1")
        assert not (a.home / "secrets.key").exists()
        assert a("machine", "authorize", b.home / "machine.pub", "--name", "beta").code == 0
        serving = b.start(stack)
        assert (b.state, b.read("one")) == ("unlocked", "1")
        assert b("machine", "authorize", a.home / "machine.pub", "--name", "gamma").code == 6

        before = b("machine", "verify", "--json").json["root"]
        rotated = a("key", "rotate", "root", "--json")
        assert (rotated.code, rotated.json["root"] == before) == (0, False)
        a.write("two", "2")
        assert b.read("two") == "2"
        b.write("three", "3")
        assert [a.read(key) for key in ("one", "two", "three")] == ["1", "2", "3"]
        assert b("machine", "verify", "--json").json["root"] == rotated.json["root"]
        assert a.listed() == {"alpha": "Yes", "beta": "No"}

        assert a("machine", "revoke", "beta").code == 0
        assert serving.end().code == 0
        b.start(stack)
        assert b.state == "locked"
        with pytest.raises(Locked):
            b.read("one")
        assert a.read("three") == "3"
        assert a("machine", "list", "--json").json["machines"][0]["name"] == "alpha"

    with ExitStack() as stack:
        a.start(stack)
        assert (a.state, a.read("three")) == ("unlocked", "3")


def test_a_service_that_waits_is_opened_by_init(directory: Path) -> None:
    """A service without a keyring takes up the one that `machine init` makes beside it, with nothing restarted."""
    a = Machine(directory / "a", "")
    with ExitStack() as stack:
        a.start(stack)
        assert a.state == "uninitialized"

        assert a("machine", "init", "--name", "alpha").code == 0

        eventually(lambda: a.state == "unlocked")
        with a.client as client:
            client.create_container("db")
        a.write("one", "1")
        assert a.read("one") == "1"
        [kind] = {each["kind"] for each in a("key", "status", "--json").json["recipients"]}
        assert kind == "machine"


def test_a_document_that_is_damaged_stops_the_start(directory: Path) -> None:
    """A service whose machine is authorized, but whose document does not open, ends and says what to do."""
    documents = directory / "docs/machines.json"
    a = Machine(directory / "a", f'machine_documents = "{documents}"\n')
    a("machine", "init", "--name", "alpha")
    [row] = json.loads(documents.read_text())
    row["keys"] = {root: wrap[:-8] for root, wrap in row["keys"].items()}
    documents.write_text(json.dumps([row]))

    process = spawn("up", "--home", a.home, "--listen", "127.0.0.1:0", environ=UNATTENDED)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "the wrap for the machine" in err
    assert "authorize the machine again" in err
    assert not ("Traceback" in err or "unexpected " in err)
