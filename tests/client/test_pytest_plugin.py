"""The fixtures that users of the library get."""

import os
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

from strongroom.deploy.pytest_plugin import Server
from strongroom.storage_service.client import AsyncStorageClient, StorageClient

ROOT = Path(__file__).parents[2]


def test_the_service_runs_in_a_home_of_its_own(strongroom_server: Server, strongroom_home: Path) -> None:
    """The home is private, and the process named is the one to end."""
    assert strongroom_server.home == strongroom_home
    assert stat.S_IMODE(strongroom_home.stat().st_mode) == 0o700
    assert strongroom_server.socket.is_socket()
    os.kill(strongroom_server.pid, 0)


def test_the_client_has_all_rights(strongroom: StorageClient) -> None:
    """It can make keys, which nobody else may."""
    assert strongroom.whoami().paths == ["/"]


async def test_the_awaiting_client_is_entered_by_the_test(strongroom_async: AsyncStorageClient) -> None:
    """On the event loop of the test, whichever plugin made that."""
    async with strongroom_async as client:
        assert (await client.status()).state == "unlocked"


def test_the_proxy_answers_at_its_url(strongroom_proxy_url: str) -> None:
    """It listens on loopback, and is ready."""
    assert strongroom_proxy_url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(strongroom_proxy_url + "/readyz") as answer:
        assert answer.status == 200


def test_importing_the_plugin_imports_nothing_of_ours() -> None:
    """Whoever has the product installed pays for the plugin in every test run, so it must cost nothing."""
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import strongroom.deploy.pytest_plugin\n"
        "new = set(sys.modules) - before - {'strongroom', 'strongroom.deploy', 'strongroom.deploy.pytest_plugin'}\n"
        "heavy = {'strongroom', 'httpx', 'falcon', 'cryptography', 'msgspec', 'asyncio'}\n"
        "print(sorted(name for name in new if name.partition('.')[0] in heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert shown.stdout == "[]\n"


TESTS = """
from pathlib import Path

def test_first(strongroom, strongroom_server):
    strongroom.create_container("db")
    Path("told").write_text(f"{strongroom_server.home} {strongroom_server.socket} {strongroom_server.url}")

def test_second(strongroom):
    assert strongroom.list_container("db") == []
    assert False
"""


def test_nothing_is_left_of_a_session(tmp_path: Path) -> None:
    """When a session ends, failed tests or not, so have the processes, and the home is gone."""
    (tmp_path / "test_users.py").write_text(TESTS)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "strongroom.deploy.pytest_plugin",
            "-p",
            "no:cacheprovider",
            "test_users.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "1 failed, 1 passed" in run.stdout
    home, path, url = (tmp_path / "told").read_text().split()
    assert not Path(home).exists()
    assert not Path(path).exists()
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as nobody:
        assert nobody.connect_ex((host, int(port))) != 0
