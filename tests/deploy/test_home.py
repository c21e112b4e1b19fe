"""The home directory: what is made in it, who may use it, and that one at a time does."""

import errno
import os
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from strongroom.deploy.home import AlreadyRunning, Home, new_private, write_client
from strongroom.models.secret import Secret
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.files import replace_private
from tests.deploy.running import ROOT


def begin(home: Path) -> ClientFile:
    """Do what a start does to a home."""
    Home(home).prepare()
    with Home(home).lock():
        return Home(home).furnish()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_start_makes_the_home(home: Path) -> None:
    """Directories are 0700, files 0600, the settings say what a new home is given, and keys have 256 bits."""
    client = begin(home)

    made = {path.name: mode(path) for path in (home, *home.iterdir())}
    assert made == {
        "home": 0o700,
        "run": 0o700,
        "data": 0o700,
        "log": 0o700,
        "strongroom.toml": 0o600,
        "client.json": 0o600,
        "proxy.json": 0o600,
    }
    assert tomllib.loads((home / "strongroom.toml").read_text()) == {"tls_minimum": "1.3"}
    assert client.api_id == "storage_service"
    assert len(client.api_key) == 43  # 32 bytes in base64url, without padding
    proxy = ClientFile.read(home / "proxy.json")
    assert (proxy.api_id, len(proxy.api_key)) == ("http_proxy", 43)
    assert proxy.api_key != client.api_key


def test_a_second_start_changes_nothing(home: Path) -> None:
    """Key and settings are made once."""
    first = begin(home)
    (home / "strongroom.toml").write_text("debug = true\n")

    assert begin(home) == first
    assert (home / "strongroom.toml").read_text() == "debug = true\n"


def test_two_homes_have_two_keys(short: Path) -> None:
    """Each key is made for its home."""
    assert begin(short / "a").api_key != begin(short / "b").api_key


@pytest.mark.parametrize("open_to_others", [0o750, 0o701, 0o704])
def test_a_home_that_others_can_enter_is_refused(home: Path, open_to_others: int) -> None:
    """The text says what to do about it."""
    home.mkdir()
    home.chmod(open_to_others)

    with pytest.raises(ConfigurationError, match="is open to others than its owner; run: chmod 700"):
        Home(home).prepare()


def test_a_client_file_that_others_can_read_is_refused(home: Path) -> None:
    """A key that was open may be known; the text says to close it, and to replace the key."""
    begin(home)
    (home / "client.json").chmod(0o604)

    with pytest.raises(ConfigurationError, match=r"run: chmod 600 .* - and replace the key if they may have read it"):
        begin(home)


def test_a_home_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else owns they can change at any time."""
    home.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(ConfigurationError, match="belongs to another user; choose another --home"):
        Home(home).prepare()


def test_a_file_in_its_place_is_refused(home: Path) -> None:
    """A home is a directory."""
    home.write_text("")

    with pytest.raises(ConfigurationError, match="File exists"):
        Home(home).prepare()


def test_the_client_file_comes_back_as_written(short: Path) -> None:
    """What one process writes another reads, and the key is in no repr."""
    written = ClientFile("http://[::1]:1", Path("/run/s"), "id", Secret("c4nary"))
    write_client(written, short / "client.json")

    assert ClientFile.read(short / "client.json") == written
    assert "c4nary" not in repr(written)


def test_a_file_is_written_whole_or_not_at_all(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails, the file that was there is still there, and nothing beside it."""
    file = short / "file"
    replace_private(file, b"before")

    def failing(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space left"):
        replace_private(file, b"after")

    assert file.read_bytes() == b"before"
    assert list(short.iterdir()) == [file]


def without_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let link(2) fail as on a file system without hard links."""

    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_new_file_needs_no_hard_links(short: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where there are no hard links a new file gets its name all the same, and still takes no other's place."""
    without_links(monkeypatch, number)
    with new_private(short / "file") as file:
        file.write(b"whole")
    assert ((short / "file").read_bytes(), mode(short / "file")) == (b"whole", 0o600)

    with pytest.raises(FileExistsError), new_private(short / "other") as file:  # noqa: PT012  # it comes at the end
        file.write(b"mine")
        (short / "other").write_bytes(b"theirs")

    assert (short / "other").read_bytes() == b"theirs"
    assert {each.name for each in short.iterdir()} == {"file", "other"}


def test_a_name_that_did_not_come_to_the_disk_is_taken_back(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the directory cannot be brought to the disk, no new file is left there."""
    sync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"), new_private(short / "file") as file:
        file.write(b"x")

    assert [*short.iterdir()] == []


def test_one_process_at_a_time_has_the_home(home: Path) -> None:
    """The second is told which process has it; the pid file goes when the lock does."""
    Home(home).prepare()
    pid_file = home / "run/up.pid"

    with Home(home).lock():
        assert pid_file.read_text() == f"{os.getpid()}\n"
        with (
            pytest.raises(AlreadyRunning, match=f"in use by process {os.getpid()}; stop"),
            Home(home).lock(),
        ):
            pass
        assert pid_file.exists()
    assert not pid_file.exists()
    with Home(home).lock():
        pass


def test_a_pid_file_left_behind_stops_nobody(home: Path) -> None:
    """The lock is the kernel's; a file that a killed process left says nothing."""
    Home(home).prepare()
    (home / "run/up.pid").write_text("1\n")

    with Home(home).lock():
        assert (home / "run/up.pid").read_text() == f"{os.getpid()}\n"


def test_what_a_killed_process_leaves_is_waited_for(home: Path) -> None:
    """Children of a process that was killed share its lock while they end; the next one lets them."""
    Home(home).prepare()
    code = f"""
import os, sys
from pathlib import Path
from strongroom.deploy.home import Home
with Home(Path({str(home)!r})).lock():
    if os.fork() == 0:
        print("held", flush=True)
        sys.stdin.read()  # until its end of the pipe closes
    os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        process.wait()  # the one that locked is dead, its child lives
        waiting = threading.Timer(0.2, process.stdin.close)
        waiting.start()
        with Home(home).lock():
            assert process.stdin.closed
        waiting.join()
