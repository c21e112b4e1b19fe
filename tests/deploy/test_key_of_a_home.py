"""The key of a home, and who is shown it: those that listen where its ``client.json`` says, and nobody else."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.running import clean_environment, strongroom

KEY = "cAnArY-4e1d"
PLACES = ("--home", "HOME", "CLIENT", "usual")


class Listener:
    """Hears what is sent to a port of its own, and answers nothing."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._over = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(10)
                said = connection.recv(65536)
            if self._over:
                return
            self.heard.append(said)

    def close(self) -> None:
        """End, once all who came were heard."""
        if self._over:
            return
        self._over = True
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with contextlib.closing(Listener()) as listener:
        yield listener


def _home(folder: Path, url: str) -> Path:
    home = folder / ".strongroom"
    home.mkdir()
    file = home / "client.json"
    file.touch(0o600)
    file.write_text(json.dumps({"url": url, "api_id": "local", "api_key": KEY}))
    return home


def _leading(home: Path, place: str) -> tuple[list[str], dict[str, str]]:
    """Return the flags and variables that lead to *home*."""
    if place == "--home":
        return ["--home", str(home)], {}
    if place == "usual":
        return [], {}
    return [], {f"STRONGROOM_{place}": str(home / "client.json" if place == "CLIENT" else home)}


@pytest.mark.parametrize(
    ("place", "said"), [*((place, "flag") for place in PLACES), ("HOME", "variable"), ("CLIENT", "variable")]
)
def test_another_address_hears_no_key_of_a_home(tmp_path: Path, listener: Listener, place: str, said: str) -> None:
    """Nothing is sent there at all, and the error says why and what to do."""
    flags, variables = _leading(_home(tmp_path, "http://127.0.0.1:1"), place)
    if said == "flag":
        flags += ["--url", listener.url]
    else:
        variables["STRONGROOM_URL"] = listener.url
    done = strongroom(*flags, "whoami", environ=clean_environment(HOME=str(tmp_path), **variables))

    assert done.code == 2
    if place != "usual":
        assert "is for the addresses that this file names" in done.err
    assert "STRONGROOM_API_ID and STRONGROOM_API_KEY" in done.err
    assert "strongroom " in done.err
    assert " login" in done.err
    listener.close()
    assert listener.heard == []


@pytest.mark.parametrize("place", PLACES)
def test_the_address_of_a_home_hears_its_key(tmp_path: Path, listener: Listener, place: str) -> None:
    """Where the file names the address, also in another spelling, the key goes there as ever."""
    flags, variables = _leading(_home(tmp_path, listener.url), place)
    if place != "usual":
        flags += ["--url", listener.url + "/"]
    strongroom(*flags, "whoami", environ=clean_environment(HOME=str(tmp_path), **variables))

    assert listener.heard
    assert all(KEY.encode() in each for each in listener.heard)
