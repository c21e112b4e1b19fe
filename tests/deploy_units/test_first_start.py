"""The first start, by systemd or in a container: a keyring, an unlocked service, and what to keep on the screen."""

import json
import os
import shutil
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen, run
from typing import Any

import pytest
import yaml

from strongroom.deploy.first_start import main, make_keyring, make_keys
from strongroom.deploy.home import MARK
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import ConfigurationError
from tests.deploy.running import PATIENCE, ROOT, clean_environment, strongroom
from tests.etcd_server import free_port

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/container/compose.yaml").read_text())["services"]
VOLUMES = ("/run/keys", "/run/client", "/run/proxy", "/run/strongroom", "/var/lib/strongroom", "/var/log/strongroom")


class Machine:
    """Volumes of a composition, in a folder, and what its containers run, as they say it but for paths and the port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        for volume in VOLUMES:
            (root / volume[1:]).mkdir(parents=True, mode=0o700)

    def here(self, text: str) -> str:
        """Return *text* with what is a container's put in terms of this machine."""
        text = text.replace(":8000", f":{self.port}").replace("0.0.0.0", "127.0.0.1")
        for volume in VOLUMES:
            text = text.replace(volume, f"{self.root}{volume}")
        return text

    def environ(self, name: str) -> dict[str, str]:
        """Return the environment of a container."""
        return clean_environment(**{k: self.here(v) for k, v in SERVICES[name].get("environment", {}).items()})

    def command(self, words: list[str]) -> list[str]:
        """Return the command of a container, or of its health check, run with this Python."""
        command, *arguments = words
        program = ["-m", "strongroom.deploy.cli"] if command.endswith("/strongroom") else []
        return [sys.executable, *program, *map(self.here, arguments)]

    def one_shot(self, name: str, *more: str) -> CompletedProcess[str]:
        """Run what ends by itself."""
        command = [*self.command(SERVICES[name]["entrypoint"]), *more]
        return run(
            command, cwd=ROOT, env=self.environ(name), capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    def health(self, name: str) -> int:
        """Return the exit code of a container's health check."""
        command = self.command(SERVICES[name]["healthcheck"]["test"][1:])
        return run(command, cwd=ROOT, env=self.environ(name), stdout=DEVNULL, stderr=DEVNULL, check=False).returncode

    @contextmanager
    def runs(self, name: str) -> Iterator[None]:
        """Run what serves; it is there when its health check says so."""
        command = self.command(["strongroom/strongroom", *SERVICES[name]["command"]])
        with Popen(command, cwd=ROOT, env=self.environ(name), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE) as process:
            try:
                until = time.monotonic() + PATIENCE
                while self.health(name) != 0:
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    assert time.monotonic() < until
                yield
            finally:
                process.terminate()
                process.communicate(timeout=PATIENCE)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine on which nothing was started yet; its path is short, for the socket in it."""
    root = Path(tempfile.mkdtemp(prefix="sr"))
    yield Machine(root)
    shutil.rmtree(root)


@pytest.fixture
def storage(machine: Machine) -> Iterator[Machine]:
    """The same, with keys and a storage service."""
    done = machine.one_shot("keys", "--socket", f"{machine.root}/run/strongroom/storage.sock")
    assert (done.returncode, done.stderr) == (0, "")
    with machine.runs("storage"):
        yield machine


def test_the_container_is_ready_for_secrets(storage: Machine) -> None:
    """After the one-shots of the composition the service is unlocked, both health checks pass, and a secret is kept."""
    done = storage.one_shot("keyring")

    keys, client = storage.here("/run/keys"), storage.here("/run/client")
    assert done.returncode == 0
    assert done.stdout.startswith(f"The service is unlocked.\nKeep a copy of {keys}/secrets.key where")
    with storage.runs("proxy"), StorageClient.from_home(client) as service:
        service.create_container("db")
        service.set_secret("db", "a", "value")
        assert (storage.health("storage"), storage.health("proxy")) == (0, 0)
        assert service.keyring().recipients[0].kind == "file"
    kept = json.loads(Path(storage.here("/var/lib/strongroom/store.json")).read_text())
    assert kept == {"store": "sqlite:strongroom.db"}


def test_the_health_check_can_fail(machine: Machine) -> None:
    """Neither check passes where nothing runs."""
    assert machine.health("storage") != 0
    assert machine.health("proxy") != 0


def test_again_changes_nothing(storage: Machine) -> None:
    """Each start runs both steps again; the keyring and the keys stay."""
    client = Path(storage.here("/run/client"))
    assert make_keyring(client) == "unlocked"
    with StorageClient.from_home(client) as service:
        root = service.keyring().root
        make_keys(Path(storage.here("/run/keys")), client)

        assert make_keyring(client) == "unlocked"

        assert service.keyring().root == root
        assert (client / MARK).read_text() == f"{root}\n"


def test_a_lost_store_is_not_taken_for_a_new_one(storage: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there was a keyring and the store is empty, none is made, and it is said what to look at."""
    client = Path(storage.here("/run/client"))
    (client / MARK).write_text("root.AAAAAAAAAAAAAAAA\n")

    with pytest.raises(ConfigurationError, match=r"the store is empty, and it was not \(its root key was root.A{16}\)"):
        make_keyring(client)

    assert main(["keyring", str(client)]) == 2
    assert "restore a backup" in capsys.readouterr().err
    for mode in ([], ["--mode", "file"]):
        done = strongroom("key", "init", *mode, "--home", client)
        assert (done.code, f"to begin with nothing all the same, remove {client / MARK}" in done.err) == (2, True), done
    with StorageClient.from_home(client) as service:
        assert service.keyring().state == "uninitialized"


def test_keys_are_made_once(tmp_path: Path) -> None:
    """The keys are for their owner alone, and a second installation leaves them as they are."""
    make_keys(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    make_keys(tmp_path)

    assert first.keys() == {"secrets.key", "client.json", "proxy.json"}
    assert modes == {0o600}
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def context(destination: Path) -> None:
    """Copy what the ignore file lets into a build: it leaves out everything but the names that it takes back."""
    rules = (ROOT / "deploy/container/Containerfile.dockerignore").read_text().split()
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__"
    for name in [rule.removeprefix("!") for rule in rules[1:-1]]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, destination / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, destination / name)


def test_the_image_is_built_from_what_the_ignore_file_lets_through(tmp_path: Path) -> None:
    """The wheel is built from that and nothing else, holds every package, and its command and first start run."""
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()
    context(source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    run([*pip, "wheel", *offline, "--wheel-dir", wheels, source], cwd=tmp_path, env=environ, check=True)
    [wheel] = wheels.glob("strongroom-*.whl")
    run([*pip, "install", *offline, "--target", site, wheel], cwd=tmp_path, env=environ, check=True)

    there = {name.rpartition("/")[0] for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/__init__.py")}
    rooms = ("models", "storage_service", "http_proxy", "migration", "deploy")
    here = {
        f"strongroom/{path.parent.relative_to(ROOT)}" for room in rooms for path in (ROOT / room).rglob("__init__.py")
    }
    assert here - there <= {"strongroom/deploy/tools"}  # which makes the environment, from the source tree
    at = environ | {"PYTHONPATH": str(site)}
    shown = run(
        [sys.executable, "-P", "-m", "strongroom.deploy.cli", "--home", tmp_path / "home", "config", "check", "--json"],
        cwd=tmp_path,
        env=at,
        capture_output=True,
        check=True,
    )
    assert json.loads(shown.stdout)["valid"] is True
    run(
        [sys.executable, "-P", "-m", "strongroom.deploy.first_start", "keys", tmp_path],
        cwd=tmp_path,
        env=at,
        check=True,
    )
    assert (tmp_path / "secrets.key").exists()
    run([sys.executable, "-m", "deploy.tools.make_venv", "--help"], cwd=source, env=at, check=True, stdout=DEVNULL)
