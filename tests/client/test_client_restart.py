"""A service that is restarted under its clients: as long as a call has time, nobody sees it."""

import os
import threading
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import pytest

from strongroom.storage_service.client.address import read_home
from tests.client.faces import FACES
from tests.deploy.running import Up, eventually, up

SLOW = 60.0  # seconds a start may take where many tests run side by side


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("how", [SIGTERM, SIGKILL])
def test_a_restart_is_not_seen(short_path: Path, face: str, how: Signals) -> None:
    """Reads go on through two restarts, orderly or not, and guarded writes through orderly ones, without an error."""
    home = short_path / "home"
    stop = threading.Event()
    seen: list[str] = []
    wrong: list[BaseException] = []

    def work() -> None:
        address, caller = read_home(home)
        client = FACES[face](socket=address.socket, api_id=caller.api_id, api_key=caller.api_key, timeout=SLOW)
        try:
            client.create_container("r")
            etag = client.set_secret("r", "k", "0")
            while not stop.is_set():
                if how is SIGTERM:
                    etag = client.set_secret("r", "k", str(len(seen)), etag=etag)
                seen.append(client.get_secret("r", "k").reveal())
        except BaseException as error:
            wrong.append(error)
        finally:
            client.close()

    def goes_on(since: int) -> bool:
        return len(seen) > since + 20 or bool(wrong)

    worker = threading.Thread(target=work)
    for start in range(3):
        with up(home) as running:
            if start == 0:
                worker.start()
            since = len(seen)
            eventually(lambda since=since: goes_on(since))
            if start == 2:
                stop.set()
                worker.join()
            end(running, how)
    assert wrong == []
    assert seen == ([str(n) for n in range(len(seen))] if how is SIGTERM else ["0"] * len(seen))


def end(running: Up, how: Signals) -> None:
    """End the service; a kill takes every process of it."""
    if how is SIGTERM:
        running.end()
        return
    for pid in running.family():
        os.kill(pid, SIGKILL)
    running.ended()
