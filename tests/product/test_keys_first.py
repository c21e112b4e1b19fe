"""The first keys of a store: who is proposed to hold them, and that keys nobody has seen are not in force."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.keyring import rootkey
from tests.deploy.running import PATIENCE, ROOT, Up, clean_environment, strongroom, up
from tests.deploy.terminal import Terminal

SR1 = re.compile(r"SR1(?:-[0-9A-Z]{1,5}){12}")
SHARE = re.compile(r"^ *\d  ((?:[a-z]+ ?){20,33})$", re.MULTILINE)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that does not exist yet; its path is short, for the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path / "home"
    shutil.rmtree(path)


@pytest.fixture
def running(home: Path) -> Iterator[Up]:
    """A service that nobody has made keys for yet, and that was handed none."""
    with up(home, environ=clean_environment(STRONGROOM_AUTOGEN_ROOT_KEY="false")) as running:
        yield running


@pytest.fixture
def client(running: Up) -> Iterator[StorageClient]:
    """A client of that service."""
    with StorageClient.from_home(running.home) as client:
        yield client


def init(home: Path, *arguments: str, stdout: int) -> int:
    """Run ``key init`` with its answer going to *stdout*, and return its exit code."""
    command = [sys.executable, "-m", "strongroom.deploy.cli", "--home", str(home), "key", "init", *arguments]
    environ, nobody = clean_environment(), subprocess.DEVNULL
    done = subprocess.run(
        command, stdin=nobody, stdout=stdout, stderr=nobody, cwd=ROOT, env=environ, timeout=PATIENCE, check=False
    )
    return done.returncode


class TestKeysThatNobodySaw:
    """They are not in force, and the store is as it was."""

    @pytest.mark.parametrize("how", [("--mode", "unlock", "--keys", "2"), ("--mode", "shares", "--shares", "2/3")])
    def test_a_full_disk(self, client: StorageClient, home: Path, how: tuple[str, ...]) -> None:
        """Where they cannot be written, init fails, the store has no keyring, and the next init makes one."""
        full = os.open("/dev/full", os.O_WRONLY)
        code = init(home, *how, stdout=full)
        os.close(full)

        assert code == 2
        assert client.keyring().state == "uninitialized"
        made = strongroom("--home", home, "key", "init", *how, "--json")
        assert made.code == 0
        assert client.keyring().root == made.json["root"]

    def test_a_reader_that_has_gone(self, client: StorageClient, home: Path) -> None:
        """Where nobody is left at the other end of the pipe, the store has no keyring."""
        reading, writing = os.pipe()
        os.close(reading)
        code = init(home, "--mode", "unlock", stdout=writing)
        os.close(writing)

        assert code == 2
        assert client.keyring().state == "uninitialized"

    def test_who_gives_up_at_the_terminal(self, client: StorageClient, home: Path) -> None:
        """Ctrl-C in place of the keys leaves the store without a keyring, and says so."""
        with Terminal(home, "init", "--mode", "unlock", "--keys", "2") as screen:
            screen.sees("New key 1 of 2: ")
            screen.interrupts()
            screen.sees("Nothing has changed: those keys are not in force")

            assert screen.ends() == 130
        assert client.keyring().state == "uninitialized"

    def test_a_terminal_that_is_closed(self, client: StorageClient, home: Path) -> None:
        """A line that breaks before they were typed back leaves the store without a keyring."""
        with Terminal(home, "init", "--mode", "unlock", "--keys", "1") as screen:
            screen.sees("New key 1 of 1: ")
            assert client.keyring().state == "locked"

        assert client.keyring().state == "uninitialized"

    def test_what_was_shown_is_kept(self, client: StorageClient, home: Path) -> None:
        """Keys that were written to a program are in force, and a second init keeps them and names the way out."""
        made = strongroom("--home", home, "key", "init", "--keys", "1", "--json")
        again = strongroom("--home", home, "key", "init", "--keys", "1")

        assert again.code == 5
        assert again.err.endswith(f"nothing was stored yet: strongroom --home {home} key init --again\n")
        assert client.keyring().root == made.json["root"]


class TestTypedBack:
    """At a terminal keys are in force when they have been typed back, and then the service is unlocked."""

    def test_all_unlock_keys(self, client: StorageClient, home: Path) -> None:
        """Each of them is asked for; one that is another's does not do; the service is unlocked at the end."""
        with Terminal(home, "init", "--keys", "2") as screen:
            screen.sees("New key 1 of 2: ")
            one, two = SR1.findall(screen.screen)
            screen.types(one)
            screen.sees("New key 2 of 2: ")
            screen.types(one)
            screen.sees("These are not the keys that were shown; once more")
            screen.sees("New key 1 of 2: ")
            screen.types(two)
            screen.sees("New key 2 of 2: ")
            screen.types(one)
            screen.sees("the service is unlocked")

            assert screen.ends() == 0
        client.lock()
        client.unlock(two)
        assert client.keyring().state == "unlocked"

    def test_enough_shares(self, client: StorageClient, home: Path) -> None:
        """As many as are needed open the service."""
        with Terminal(home, "init", "--shares", "2/3") as screen:
            screen.sees("Share 1 of 2: ")
            shares = [share.strip() for share in SHARE.findall(screen.screen)]
            assert len(shares) == 3
            screen.types(shares[2])
            screen.sees("Share 2 of 2: ")
            screen.types(shares[0])
            screen.sees("the service is unlocked")

            assert screen.ends() == 0
        assert client.keyring().state == "unlocked"


class TestWhoIsProposed:
    """What suits the service as it was set up."""

    def test_a_service_with_a_key_file_is_offered_no_keys_to_type(self, client: StorageClient, home: Path) -> None:
        """Nothing is asked: the key file that the service was handed opens the store, which is unlocked."""
        rootkey.make(home / "secrets.key")
        assert client.keyring().proposed == "file"

        with Terminal(home, "init") as screen:
            screen.sees("the service is unlocked, and its key file opens it: keep a copy of that")
            assert screen.ends() == 0

        assert "unlock keys" not in screen.screen
        assert [each.kind for each in client.keyring().recipients] == ["file"]

    def test_a_service_with_a_machine_key_is_told_of_that(self, client: StorageClient, home: Path) -> None:
        """The machine's own key is proposed, which another command puts into force."""
        made = strongroom("--home", home, "machine", "config", "init", "--name", "a")
        assert made.code == 0

        with Terminal(home, "init") as screen:
            screen.sees("[machine]: ")
            screen.types("")
            screen.sees(" machine init")
            assert screen.ends() == 1

    def test_all_modes_are_named(self, client: StorageClient, home: Path) -> None:
        """Without either, every mode is told with what it means, and a person chooses."""
        with Terminal(home, "init") as screen:
            screen.sees("Who is to open the keys")
            for mode in ("file ", "unlock ", "shares ", "machine "):
                screen.sees(f"\n  {mode}")
            screen.sees("[unlock]: ")
            screen.types("file")
            screen.sees("the service is unlocked")
            assert screen.ends() == 0

    def test_nobody_is_there_to_choose(self, client: StorageClient, home: Path) -> None:
        """Away from a terminal nothing is made that was not asked for, and every mode is named."""
        done = strongroom("--home", home, "key", "init")

        assert done.code == 1
        for way in ("--mode file", "--mode unlock", "--mode shares", " machine init"):
            assert way in done.err
        assert client.keyring().state == "uninitialized"

    def test_there_is_one_already(self, client: StorageClient, home: Path) -> None:
        """Nobody is asked to choose for a store that has its keyring."""
        client.init_keyring("file")

        assert strongroom("--home", home, "key", "init").code == 5
