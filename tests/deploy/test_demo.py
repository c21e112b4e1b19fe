"""What `make run` shows: Strongroom at work, and no key on the screen."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from strongroom.storage_service.client.file import ClientFile
from tests.deploy.running import PATIENCE, ROOT, Done, alive, clean_environment, eventually


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[Path, Done]]:
    """Where it ran, and how it ended."""
    place = Path(tempfile.mkdtemp(prefix="sr"))  # a short path, in which a socket has room
    done = subprocess.run(
        [sys.executable, "-m", "strongroom.deploy.tools.demo", "--once"],
        cwd=place,
        env=clean_environment(
            PYTHONPATH=os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)])
        ),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    yield place, Done(done.returncode, done.stdout, done.stderr)
    shutil.rmtree(place)


def test_it_shows_that_the_key_is_not_in_the_store(shown: tuple[Path, Done]) -> None:
    """It stores a host with a key, gets that back, and does not find it in any file."""
    _, done = shown
    assert done.code == 0, done
    assert re.search(r"^PUT /\S+ with the private half: 201$", done.out, re.MULTILINE)
    assert "/creds: 200, and the key is the same" in done.out
    assert re.search(r"the private key, sought in [0-9,]+ bytes of \d+ files in data and log: not there", done.out)


def test_it_echoes_no_key(shown: tuple[Path, Done]) -> None:
    """Neither the API key nor the private key stands in what it prints; curl reads the former from a private file."""
    place, done = shown
    key = ClientFile.read(place / ".run/home/client.json").api_key.reveal()
    headers = place / ".run/headers"
    for printed in (done.out, done.err):
        assert key not in printed
        assert "PRIVATE KEY" not in printed
        assert "LS0tLS1CRUdJTi" not in printed  # how base64 of PEM begins
    assert key in headers.read_text()
    assert stat.S_IMODE(headers.stat().st_mode) == 0o600


def test_what_it_started_ends_with_it() -> None:
    """However the demonstration ends, SIGTERM or SIGKILL, the service that it started ends, too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        place = Path(tempfile.mkdtemp(prefix="sr"))
        paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)]
        with subprocess.Popen(
            [sys.executable, "-u", "-m", "strongroom.deploy.tools.demo"],
            cwd=place,
            env=clean_environment(PYTHONPATH=os.pathsep.join(paths)),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert "Strongroom serves" in process.stdout.readline()
            service = int((place / ".run/home/run/up.pid").read_text())
            process.send_signal(number)
            process.wait(PATIENCE)
            eventually(partial(_is_gone, service))
        shutil.rmtree(place)


def _is_gone(pid: int) -> bool:
    return not alive(pid)


def test_make_echoes_no_command() -> None:
    """`make run` shows what the demonstration prints, and not the command for it."""
    (recipe,) = re.findall(r"^run:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(line.startswith("\t@") for line in recipe.splitlines())
