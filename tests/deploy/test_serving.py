"""One process at a time: under systemd, under a gunicorn of one's own, and where each may listen."""

import http.client
import json
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy import settings
from strongroom.deploy.home import Home
from strongroom.deploy.serving import server
from strongroom.deploy.serving.server import Role
from strongroom.storage_service.errors import ConfigurationError
from tests.deploy.running import ENDED_WITHIN, PATIENCE, ROOT, Done, clean_environment, eventually, spawn, strongroom


@pytest.fixture
def made(home: Path) -> Path:
    """A home that is made and not in use."""
    place = Home(home)
    place.prepare()
    place.furnish()
    return home


def load(home: Path, **flags: object) -> settings.Settings:
    return settings.load(environ={}, home=home, flags=flags)


@contextmanager
def serving(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Give out a process, and see that it is gone afterwards."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE)


def end(process: "subprocess.Popen[str]") -> Done:
    """Ask for the end, and return how it was."""
    process.terminate()
    out, err = process.communicate(timeout=ENDED_WITHIN)
    return Done(process.returncode, out, err)


def status(home: Path) -> Done:
    return strongroom("--home", home, "status")


class TestServe:
    """``strongroom serve``."""

    def test_storage_is_served_until_told_to_end(self, made: Path) -> None:
        """It logs its life at level info, and its end leaves no socket."""
        with serving(spawn("serve", "storage", "--home", made)) as process:
            eventually(lambda: status(made).code == 0)
            socket_ = made / "run/storage.sock"
            assert stat.S_IMODE(socket_.stat().st_mode) == 0o660

            done = end(process)

            assert (done.code, done.out) == (0, "")
            assert "INFO gunicorn.error" in done.err
            assert not socket_.exists()

    def test_a_store_that_is_lost_is_missed(self, made: Path) -> None:
        """The service itself writes down which store its records are in, and does not take an empty one for it."""
        with serving(spawn("serve", "storage", "--home", made)) as process:
            eventually(lambda: status(made).code == 0)
            assert end(process).code == 0
        assert json.loads((made / "store.json").read_text()) == {"store": "sqlite:data/strongroom.db"}
        (made / "data/strongroom.db").unlink()

        for more, why in (
            ((), "the store holds no records of ours, and this home's records are in"),
            (("--store", "memory"), "name another store"),
        ):
            with serving(spawn("serve", "storage", "--home", made, *more)) as process:
                _, said = process.communicate(timeout=PATIENCE)
            assert (process.returncode != 0, why in said) == (True, True), said

    def test_a_home_that_cannot_be_written_ends_nothing(self, made: Path) -> None:
        """Where the service has no place for what it has seen, it serves, and the log says what is not known then."""
        (made / "strongroom.toml").write_text('keyring_seen = "nowhere/keyring.seen"\n')
        with serving(spawn("serve", "storage", "--home", made)) as process:
            eventually(lambda: status(made).code == 0)
            done = end(process)
        assert (done.code, "nowhere/store.json is not written, and the next start" in done.err) == (0, True)

    def test_json_lines_are_json(self, made: Path) -> None:
        """Every line of the log is an object when that is asked for."""
        with serving(spawn("serve", "storage", "--home", made, "--log-format", "json")) as process:
            eventually(lambda: status(made).code == 0)
            lines = [json.loads(line) for line in end(process).err.splitlines()]
        assert {"time", "level", "logger", "pid", "message"} == set(lines[0])

    def test_the_proxy_waits_for_the_service(self, made: Path) -> None:
        """The two may start in any order: without the service the proxy lives, and is not ready."""
        address = f"127.0.0.1:{free_port()}"
        with serving(spawn("serve", "proxy", "--home", made, "--listen", address)):
            eventually(lambda: answer(address, "/livez") == 200)
            assert answer(address, "/readyz") == 503
            with serving(spawn("serve", "storage", "--home", made)):
                eventually(lambda: answer(address, "/readyz") == 200)

    def test_workers_are_replaced_on_sighup(self, made: Path) -> None:
        """A hang-up reads the application anew and loses no request in between."""
        with serving(spawn("serve", "storage", "--home", made)) as process:
            eventually(lambda: status(made).code == 0)
            before = children(process.pid)
            process.send_signal(signal.SIGHUP)
            eventually(lambda: children(process.pid) and not before & children(process.pid))
            assert status(made).code == 0
            assert end(process).code == 0

    def test_systemd_hands_over_the_socket_and_is_told(self, made: Path, short: Path) -> None:
        """LISTEN_FDS is taken in place of a socket of its own, stays when it ends, and READY=1 is sent."""
        handed = made / "run/storage.sock"
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            listening.bind(str(handed))
            listening.listen()
            notified.bind(str(short / "notify"))
            notified.settimeout(PATIENCE)
            # systemd says the process id of the very process that it executes, as this does by becoming it.
            become = (
                "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()));"
                "os.execv(sys.executable, [sys.executable, '-m', 'strongroom.deploy.cli', *sys.argv[2:]])"
            )
            with serving(
                subprocess.Popen(
                    [sys.executable, "-c", become, str(listening.fileno()), "serve", "storage", "--home", str(made)],
                    env=clean_environment(NOTIFY_SOCKET=str(short / "notify"), LISTEN_FDS="1"),
                    pass_fds=[listening.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            ) as process:
                assert b"READY=1" in notified.recv(1024)
                eventually(lambda: status(made).code == 0)
                assert end(process).code == 0
            assert handed.exists()

    def test_a_missing_directory_is_told(self, made: Path) -> None:
        """It is made only when that is asked for."""
        (made / "strongroom.toml").write_text('audit_log = "else/where/audit.log"\n')
        done = strongroom("serve", "storage", "--home", made)
        assert (done.code, f"{made}/else/where does not exist; make it, or say makedirs = true" in done.err) == (
            2,
            True,
        )

        with serving(spawn("serve", "storage", "--home", made, "--makedirs")):
            eventually(lambda: status(made).code == 0)
        assert stat.S_IMODE((made / "else/where").stat().st_mode) == 0o700


class TestGunicorn:
    """``gunicorn -c python:strongroom.deploy.serving.gunicorn…``."""

    @pytest.mark.parametrize("module", ["storage_service", "http_proxy"])
    def test_a_plain_gunicorn_serves_the_same(self, made: Path, module: str) -> None:
        """The configuration modules bring settings and application, told by STRONGROOM_HOME where they are."""
        address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "gunicorn", "-c", f"python:strongroom.deploy.serving.gunicorn.{module}"]
        environ = clean_environment(STRONGROOM_HOME=str(made), STRONGROOM_LISTEN=address)
        with serving(
            subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ) as process:
            if module == "storage_service":
                eventually(lambda: status(made).code == 0)
                assert stat.S_IMODE((made / "run/storage.sock").stat().st_mode) == 0o660
            else:
                eventually(lambda: answer(address, "/livez") == 200)
            assert end(process).code == 0

    def test_neither_opens_a_way_in_of_its_own(self, made: Path) -> None:
        """Gunicorn's own log of accesses, and its socket for control, stay shut, however it is started."""
        for role in Role:
            configured = server.options(role, load(made))
            assert configured["worker_class"] == "strongroom.deploy.serving.workers.StrongroomWorker"
            assert configured["accesslog"] is None
            assert configured["control_socket_disable"] is True


class TestPage:
    """The memory that the storage service's workers share."""

    def test_it_outlives_a_reload(self, made: Path) -> None:
        """The process that forks the workers makes one, and gives it to those that come with a SIGHUP, too."""
        told = load(made)
        gunicorn = server.Server(Role.STORAGE, told, server.options(Role.STORAGE, told))
        first = gunicorn.load()
        gunicorn.reload()

        assert gunicorn.load().application._shared is first.application._shared

    def test_it_outlives_a_reload_of_a_plain_gunicorn(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The configuration module may be run anew, as gunicorn does with a file: the page stays the same."""
        monkeypatch.setenv("STRONGROOM_HOME", str(made))
        first, again = (runpy.run_path(str(ROOT / "deploy/serving/gunicorn/storage_service.py")) for _ in range(2))

        assert first["application"]().application._shared is again["application"]().application._shared

    def test_the_proxy_has_none(self, made: Path) -> None:
        """What has no keys has no place for them."""
        told = load(made)
        before = Path("/proc/self/maps").read_text().count("memfd:strongroom")
        server.Server(Role.PROXY, told, server.options(Role.PROXY, told))

        assert Path("/proc/self/maps").read_text().count("memfd:strongroom") == before


class TestListener:
    """Where a process may listen."""

    def test_a_socket_left_behind_is_replaced(self, made: Path) -> None:
        """What a killed process left is in nobody's use."""
        path = made / "run/storage.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        with server.listener(Role.STORAGE, load(made)) as bound:
            assert bound.getsockname() == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o660

    def test_nobody_comes_in_before_the_mode_is_set(self, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until it is opened to its group the socket is its owner's alone, whatever the umask allows."""
        chmod, before = Path.chmod, []

        def noted(path: Path, mode: int) -> None:
            before.append(stat.S_IMODE(path.stat().st_mode))
            chmod(path, mode)

        loaded = load(made)
        monkeypatch.setattr(Path, "chmod", noted)
        umask = os.umask(0)
        try:
            with server.listener(Role.STORAGE, loaded) as bound:
                assert stat.S_IMODE(Path(bound.getsockname()).stat().st_mode) == 0o660
            assert os.umask(0) == 0  # and others of this process are left their umask
        finally:
            os.umask(umask)
        assert before == [0o600]

    def test_a_socket_in_use_is_left_alone(self, made: Path) -> None:
        """Another service's socket is not taken from it."""
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(str(made / "run/storage.sock"))
            live.listen()
            with pytest.raises(ConfigurationError, match=r"something listens at .* already; stop that first"):
                server.listener(Role.STORAGE, load(made))

    def test_what_is_no_socket_is_left_alone(self, made: Path) -> None:
        """A file in the way is somebody's file."""
        (made / "run/storage.sock").write_text("mine")
        with pytest.raises(ConfigurationError, match="is in the way and is not a socket"):
            server.listener(Role.STORAGE, load(made))

    def test_a_foreign_address_is_told(self, made: Path) -> None:
        """192.0.2.0/24 is nobody's (RFC 5737)."""
        with pytest.raises(ConfigurationError, match=r"cannot listen at 192\.0\.2\.1:80: Cannot assign"):
            server.listener(Role.PROXY, load(made, listen="192.0.2.1:80"))

    def test_port_zero_is_a_free_port(self, made: Path) -> None:
        """The kernel chooses."""
        with server.listener(Role.PROXY, load(made, listen="127.0.0.1:0")) as bound:
            assert bound.getsockname()[1] > 0


def answer(address: str, path: str) -> int:
    """Return the status of a GET."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def free_port() -> int:
    """Return a port on which nothing listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: Any = probe.getsockname()[1]
        return int(port)


def children(pid: int) -> set[int]:
    """Return the child processes of *pid*."""
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
