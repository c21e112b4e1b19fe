"""``strongroom up``, whole: real processes on a home of their own, and how they begin and end."""

import base64
import http.client
import json
import os
import pwd
import re
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from strongroom.deploy.serving import listeners
from strongroom.storage_service.wire import MAX_SECRET_BODY
from tests.deploy.running import (
    ENDED_WITHIN,
    PATIENT,
    Up,
    alive,
    clean_environment,
    descendants,
    eventually,
    spawn,
    strongroom,
    up,
)
from tests.etcd_server import Etcd

MAX_MEMORY = 200 * 1024  # kB that all processes of `up` may take together


def credentials(home: Path) -> dict[str, str]:
    """Return the header fields that the home's API key makes, as CPD-101 spells them."""
    client = json.loads((home / "client.json").read_text())
    return {"CUSTODIA_AUTH_ID": client["api_id"], "CUSTODIA_KEY_ID": client["api_key"]}


@contextmanager
def connected(running: Up) -> Iterator[http.client.HTTPConnection]:
    """Give out a connection to the proxy."""
    parts = urlsplit(running.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=ENDED_WITHIN)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def begun(running: Up, key: str, length: int) -> Iterator[socket.socket]:
    """Give out a connection to the proxy on which a PUT waits for *length* bytes of its body: it was told to go on."""
    parts = urlsplit(running.url)
    fields = credentials(running.home) | {
        "Host": parts.netloc,
        "Expect": "100-continue",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(length),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=ENDED_WITHIN) as connection:
        connection.sendall(f"PUT /api/v0/secrets/up/{key} HTTP/1.1\r\n{head}\r\n".encode())
        assert connection.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        yield connection


def put(running: Up, key: str, value: str) -> None:
    done = strongroom("--home", running.home, "secret", "put", "--parents", f"up/{key}", stdin=value.encode())
    assert done.code == 0, done.err


def got(running: Up, key: str) -> str:
    return strongroom("--home", running.home, "secret", "get", f"up/{key}").out


def left_behind(running: Up, family: list[int]) -> list[object]:
    """Return what an end should not leave: processes, the socket, the pid file."""
    files = [each for each in (running.socket, running.home / "run/up.pid") if each.exists()]
    return [*files, *(pid for pid in family if alive(pid))]


class TestBegin:
    """What is there once it says that it is ready."""

    def test_it_tells_where_things_are(self, service: Up) -> None:
        """The document names url, socket, home and audit log, and client.json the same."""
        assert set(service.said) == {"url", "socket", "home", "audit_log", "pid", "state"}
        assert service.said["pid"] == service.process.pid
        client = json.loads((service.home / "client.json").read_text())
        assert (client["url"], client["socket"]) == (service.url, str(service.socket))
        assert urlsplit(service.url).port not in {0, None}

    def test_people_are_told_how_to_try_it(self, home: Path) -> None:
        """Without --json, the first lines say where things are and what to type."""
        process = spawn("up", "--home", home, "--listen", "127.0.0.1:0")
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(6)]
        finally:
            process.terminate()
            process.communicate(timeout=ENDED_WITHIN)
        assert lines[0].startswith("Ready at http://127.0.0.1:")
        assert lines[2] == f"Try:  strongroom --home {home} secret put --parents db/password\n"
        assert lines[5] == "Ctrl-C ends it.\n"

    def test_what_it_makes_is_private(self, service: Up) -> None:
        """Nobody but the owner reads anything of the home; the socket is its group's too."""
        for path in service.home.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            if path == service.socket:
                assert mode == 0o660
            else:
                assert not mode & 0o077, path

    def test_the_parent_holds_no_key_and_no_thread(self, service: Up) -> None:
        """No process has gRPC, the parent and both gunicorns have one thread, and the store is open in two workers."""
        store = service.home / "data/strongroom.db-shm"
        eventually(lambda: len(service.family()) == 6 and len(holders(store)) == 2)  # workers are started in turn
        parent, storage, proxy, *workers = service.family()
        assert not any(has_grpc(pid) for pid in (parent, storage, proxy, *workers))
        for pid in (parent, storage, proxy):
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        assert len(workers) == 3
        assert holders(store) < set(workers)

    def test_memory_is_shared(self, service: Up) -> None:
        """All processes together take less than 200 MB, shared pages counted once."""
        assert sum(weight(pid) for pid in service.family()) < MAX_MEMORY

    def test_headers_with_underscores_arrive(self, service: Up) -> None:
        """CPD-101's spelling of the credentials works over TCP, and no other header with underscores does."""
        put(service, "headers", "x")
        with connected(service) as connection:
            connection.request("GET", "/api/v0/secrets/up/headers", headers=credentials(service.home))
            assert connection.getresponse().read() == b'{"type":"simple","value":"x"}'

    @pytest.mark.parametrize(
        ("face", "path", "methods"),
        [
            ("proxy", "/livez", "GET, HEAD, OPTIONS"),
            ("proxy", "/api/v0/hosts", "GET, HEAD, OPTIONS"),
            ("proxy", "/api/v0/host/192.0.2.1", "GET, HEAD, PUT, DELETE, OPTIONS"),
            ("proxy", "/api/v0/host/192.0.2.1/creds", "GET, HEAD, PUT, OPTIONS"),
            ("proxy", "/api/v0/secrets/a/b", "GET, HEAD, PUT, DELETE, OPTIONS"),
            ("socket", "/livez", "GET, HEAD, OPTIONS"),
            ("socket", "/storage/get", "POST, OPTIONS"),
            ("socket", "/apikeys", "GET, HEAD, POST, OPTIONS"),
            ("socket", "/secrets/a/b", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ],
    )
    def test_allow_names_every_method(self, service: Up, face: str, path: str, methods: str) -> None:
        """OPTIONS and 405 name the same, HEAD where there is GET, and OPTIONS itself."""
        with connected(service) as connection:
            if face == "socket":
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.connect(str(service.socket))
            wrong = "POST" if "PUT" in methods else "PUT"
            for method, status in (("OPTIONS", {200, 204}), (wrong, {405})):
                connection.request(method, path, headers=credentials(service.home))
                answer = connection.getresponse()
                answer.read()
                assert (answer.status in status, answer.headers["Allow"]) == (True, methods), method

    @pytest.mark.parametrize("piece", [20, 1 << 10, 1 << 14, 1 << 18])
    def test_a_chunked_body_over_the_limit_is_413(self, service: Up, piece: int) -> None:
        """A client that says no length and waits for nothing, as curl with `Expect:` does, is told what is wrong."""
        parts = urlsplit(service.url)
        fields = credentials(service.home) | {
            "Host": parts.netloc,
            "Content-Type": "application/octet-stream",
            "Transfer-Encoding": "chunked",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        chunk = b"%x\r\n%b\r\n" % (piece, b"x" * piece)
        body = chunk * (MAX_SECRET_BODY // piece + 1) + b"0\r\n\r\n"
        for _ in range(8):
            with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=ENDED_WITHIN) as connection:
                connection.sendall(f"PUT /api/v0/secrets/up/large HTTP/1.1\r\n{head}\r\n".encode() + body)
                answer = http.client.HTTPResponse(connection, method="PUT")
                answer.begin()
                assert answer.status == 413, answer.read()

    def test_answers_name_no_version(self, service: Up) -> None:
        """The Server header tells at most the kind of server."""
        with connected(service) as connection:
            connection.request("GET", "/livez")
            server = connection.getresponse().headers.get("Server", "")
        assert not any(character.isdigit() for character in server)


# The processes of the storage service are closed to all but root; what follows is told of them to anyone.


def holders(file: Path) -> set[int]:
    """Return the processes that hold a lock on *file*, as SQLite does on its -shm while it has a store open."""
    inode = file.stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return {int(lock[4]) for lock in locks if lock[5].endswith(f":{inode}")}


def has_grpc(pid: int) -> bool:
    """Whether a process has loaded gRPC; of one that is closed to us, whether it has a thread of gRPC's."""
    try:
        return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()
    except PermissionError:
        return any(task.read_text().startswith("grpc") for task in Path(f"/proc/{pid}/task").glob("*/comm"))


def weight(pid: int) -> int:
    """Return the kB of a process, shared pages counted in part; of one that is closed to us, all that is no file's."""
    try:
        piece, field = Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"
    except PermissionError:
        piece, field = Path(f"/proc/{pid}/status").read_text(), "RssAnon:"
    return next(int(line.split()[1]) for line in piece.splitlines() if line.startswith(field))


def told_the_end(err: str, number: signal.Signals) -> bool:
    """Whether all that was logged is one line, and that names the signal."""
    line = rf"\S+ \S+ INFO strongroom\.deploy\.serving\.up\[\d+\] {number.name}: the proxy ends, then the service\n"
    return re.fullmatch(line, err) is not None


class TestEnd:
    """How it ends."""

    @pytest.mark.parametrize(
        "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGILL]
    )
    def test_a_signal_ends_everything(self, home: Path, number: signal.Signals) -> None:
        """Code 0, one line that names the signal, nothing left; and what was stored is there the next time."""
        with up(home) as running:
            put(running, "kept", "through the night")
            family = running.family()

            done = running.end(number)

            assert (done.code, told_the_end(done.err, number)) == (0, True), done
            assert left_behind(running, family) == []
        with up(home) as running:
            assert got(running, "kept") == "through the night"

    def test_a_request_under_way_is_answered(self, home: Path) -> None:
        """What a client has begun to send when the end is asked for is still stored."""
        with up(home) as running:
            put(running, "first", "x")
            with begun(running, "late", 8) as connection:
                running.process.send_signal(signal.SIGTERM)
                eventually(lambda: not listening(running.url))
                connection.sendall(b"complete")
                assert connection.recv(64).startswith(b"HTTP/1.1 201 ")
            assert running.ended().code == 0
        with up(home) as running:
            done = strongroom("--home", home, "secret", "get", "--binary", "up/late")
            assert done.out == "complete"

    def test_an_idle_connection_holds_nothing_up(self, home: Path) -> None:
        """Connections on which nobody waits for an answer are closed at once."""
        environ = clean_environment(**PATIENT)
        with up(home, environ=environ) as running, connected(running) as one, socket.socket(socket.AF_UNIX) as other:
            one.request("GET", "/livez")
            assert one.getresponse().read()
            other.connect(str(running.socket))
            assert running.end().code == 0

    def test_it_can_be_told_twice(self, home: Path) -> None:
        """A second Ctrl-C does not wait for the requests under way, and leaves nothing either."""
        with up(home, environ=clean_environment(**PATIENT)) as running:
            family = running.family()
            put(running, "first", "x")
            with begun(running, "never", 8):
                running.process.send_signal(signal.SIGINT)
                eventually(lambda: not listening(running.url))
                assert running.end(signal.SIGINT).code == 0
            assert left_behind(running, family) == []


MILESTONES = {  # what a start has come to, and by what that is seen
    "home": lambda home, _: (home / "run").exists(),
    "lock": lambda home, _: (home / "run/up.pid").exists(),
    "settings": lambda home, _: (home / "client.json").exists(),
    "socket": lambda home, _: (home / "run/storage.sock").exists(),
    "service": lambda _, pid: len(descendants(pid)) >= 1,
    "proxy": lambda _, pid: len(descendants(pid)) >= 2,
    "worker": lambda _, pid: len(descendants(pid)) >= 3,
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("milestone", MILESTONES)
def test_a_signal_during_the_start_leaves_nothing(home: Path, milestone: str, number: signal.Signals) -> None:
    """Whatever a start has come to, a signal ends it with code 0 and a line, without a process, socket or lock."""
    process = spawn("up", "--home", home, "--listen", "127.0.0.1:0")
    try:
        eventually(lambda: MILESTONES[milestone](home, process.pid))
        family = [process.pid, *descendants(process.pid)]
    finally:
        process.send_signal(number)
        _, err = process.communicate(timeout=ENDED_WITHIN)

    assert (process.returncode, told_the_end(err, number)) == (0, True), err
    assert list((home / "run").iterdir()) == []
    assert [pid for pid in family if alive(pid)] == []


def listening(url: str) -> bool:
    """Whether anything accepts connections there."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=1):
            return True
    except ConnectionRefusedError:
        return False


class TestDeaths:
    """What happens when a process is killed."""

    @pytest.mark.parametrize(("role", "name"), [("storage", "storage service"), ("proxy", "HTTP proxy")])
    def test_a_child_that_ends_takes_the_other_along(self, home: Path, role: str, name: str) -> None:
        """Half a service is none: all end, the code is 2, and the line says which died of what."""
        with up(home) as running:
            family = running.family()
            os.kill(running.gunicorn(role), signal.SIGKILL)

            done = running.ended()

            assert done.code == 2
            assert f"the {name} was ended by signal SIGKILL; its output is above" in done.err
            assert left_behind(running, family) == []

    def test_a_worker_that_dies_is_replaced(self, home: Path) -> None:
        """Each gunicorn starts another worker, and the service goes on."""
        with up(home) as running:
            put(running, "x", "before")
            workers = running.family()[3:]
            for worker in workers:
                os.kill(worker, signal.SIGKILL)

            eventually(lambda: len(set(running.family()[3:]) - set(workers)) == 2)
            eventually(lambda: got(running, "x") == "before")

    def test_the_children_follow_the_parent(self, home: Path) -> None:
        """After a kill -9 of `up` every other process ends by itself, and another `up` can start."""
        with up(home) as running:
            put(running, "x", "before")
            family = running.family()
            running.process.kill()
            running.process.wait()

            with up(home) as again:
                assert got(again, "x") == "before"
                assert [pid for pid in family if alive(pid)] == []


class TestRefusals:
    """What keeps it from starting; nothing is left running or changed."""

    def test_a_second_one_is_refused(self, service: Up) -> None:
        """One home, one `up`; the line names the process that has it."""
        done = strongroom("up", "--home", service.home, "--listen", "127.0.0.1:0")

        assert (done.code, done.out) == (2, "")
        assert f"{service.home} is in use by process {service.process.pid}; stop that first" in done.err
        assert service.socket.exists()

    def test_a_taken_address_is_refused(self, home: Path, service: Up) -> None:
        """At once, with who is there and with what to do."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            done = strongroom("up", "--home", home, "--listen", address)

        assert (done.code, done.out) == (2, "")
        who = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"
        assert f"{who} listens at {address} already; choose another with --listen" in done.err
        assert not (home / "run/storage.sock").exists()

    def test_an_address_that_another_user_has(self, home: Path, service: Up, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whose program it is, the kernel tells everybody; which, it does not."""
        monkeypatch.setattr(Path, "readlink", lambda _: Path("elsewhere"))
        port = urlsplit(service.url).port
        assert port is not None

        me = pwd.getpwuid(os.geteuid()).pw_name
        assert listeners.listener_at(port) == f"a program of the user {me}"
        assert strongroom("up", "--home", home, "--listen", urlsplit(service.url).netloc).code == 2

    def test_a_home_with_a_long_path_is_refused(self, short: Path) -> None:
        """The kernel takes no such socket path, and says so in no words that help."""
        done = strongroom("up", "--home", short / ("x" * 90), "--listen", "127.0.0.1:0")
        assert done.code == 2
        assert "choose a shorter home" in done.err

    def test_a_lost_root_key_is_told(self, home: Path) -> None:
        """The reason stands on a line of the log, then that `up` gave up; the store is as it was."""
        with up(home) as running:
            put(running, "x", "kept")
            running.end()
        (home / "secrets.key").rename(home / "elsewhere")

        process = spawn("up", "--home", home, "--listen", "127.0.0.1:0")
        out, err = process.communicate(timeout=60)

        assert (process.returncode, out) == (2, "")
        assert "secrets.key" in err
        assert not re.search("Traceback|unexpected ", err)
        assert err.splitlines()[-1] == "strongroom: the storage service ended with code 4; its output is above"
        (home / "elsewhere").rename(home / "secrets.key")
        with up(home) as running:
            assert got(running, "x") == "kept"

    @pytest.mark.parametrize(
        ("toml", "text"),
        [
            ('[[proxy_authenticators]]\nname = "kerberos"\n', "kerberos"),
            ('[[storage_handlers]]\ntype = "sqlite"\nmodels = ["HostCreds"]\n', "HostCreds"),
            ('store = "sqlite:data/x.db?bogus=1"\n', "an SQLite store takes"),
            ('[[authenticators]]\nhandler = "SimpleCredsAuth"\nuid = "no-such-user"\n', "no-such-user"),
        ],
    )
    def test_settings_that_cannot_be_are_told_in_a_line(self, home: Path, toml: str, text: str) -> None:
        """Wherever the mistake is found, there is no traceback, and nothing is left running."""
        home.mkdir(mode=0o700)
        (home / "strongroom.toml").write_text(toml)

        process = spawn("up", "--home", home, "--listen", "127.0.0.1:0")
        out, err = process.communicate(timeout=ENDED_WITHIN)

        assert (process.returncode, out) == (2, "")
        assert text in err
        assert not re.search("Traceback|unexpected ", err)
        assert list(home.glob("run/*")) == []

    def test_a_password_on_the_command_line_is_refused(self, home: Path) -> None:
        """The process list is everybody's."""
        done = strongroom("up", "--home", home, "--store", "etcd://u:c4nary@127.0.0.1")
        assert (done.code, "c4nary" in done.err) == (2, False)


def test_the_proxy_speaks_tls(home: Path, short: Path) -> None:
    """With a certificate the url is https, and readiness is asked for through it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(short / "key.pem"))
    (short / "key.pem").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(str(short / "cert.pem"))
    environ = clean_environment(
        STRONGROOM_TLS_CERTIFICATE=str(short / "cert.pem"), STRONGROOM_TLS_KEY=str(short / "key.pem")
    )
    with up(home, environ=environ) as running:
        assert running.url.startswith("https://127.0.0.1:")


def test_the_proposals_files_start_as_they_stand(home: Path, short: Path, etcd: Etcd) -> None:
    """Both examples of CPD-101 on a real etcd: a secret lies in their namespace as a JWE, and comes back.

    storage.conf names etcd's usual port; the test's etcd has another, and strongroom.toml says that one thing over it.
    """
    examples = Path(__file__).parent / "examples"
    host, port = etcd.members[0].endpoint.rsplit(":", 1)
    for name in ("lib", "log", "run", "home"):
        (short / name).mkdir(mode=0o700)
    (home / "strongroom.toml").write_text(
        f'[[storage_handlers]]\nname = "etcd"\nmodels = ["*"]\nurl = "etcd://{host}:{port}/commissaire"\n'
    )
    arguments = [f"--storage-conf={examples / 'storage.conf'}", f"--custodia-conf={examples / 'custodia.conf'}"]
    for name, value in {
        "etcd_server": host,
        "etcd_port": port,
        "libdir": short / "lib",
        "logdir": short / "log",
        "rundir": short / "run",
    }.items():
        arguments += ["--set", f"{name}={value}"]

    with up(home, *arguments) as running:
        assert running.socket == short / "run/custodia.sock"
        loaded = [pid for pid in running.family() if has_grpc(pid)]
        assert len(loaded) == 1  # gRPC is in the service's worker alone: it does not survive a fork
        assert loaded[0] in running.family()[3:]
        put(running, "password", "s3cret")
        assert got(running, "password") == "s3cret"
        key = short / "key"
        key.write_text("-----KEY-----")
        assert strongroom("--home", home, "host", "put", "10.0.0.7", "--force", "--ssh-key-file", key).code == 0
        with etcd.admin() as admin:
            stored = {name: bytes(kv.value) for name, kv in admin.keys("/").items()}
        assert not any(secret in value for value in stored.values() for secret in (b"s3cret", b"-----KEY-----"))
        header = stored["/custodia_commissaire_data/secrets/up/password"].partition(b".")[0]
        assert json.loads(base64.urlsafe_b64decode(header + b"=="))["enc"] == "A256CBC-HS512"
        assert "/custodia_commissaire_data/secrets/hosts/10.0.0.7" in stored
        assert b"ssh_priv_key" not in stored["/commissaire/hosts/10.0.0.7"]
        assert (short / "lib/secrets.key").exists()
        assert "up/password" in (short / "log/custodia-audit.log").read_text()


def test_settings_that_are_wrong_leave_nothing_behind(home: Path) -> None:
    """They are looked at before anything is made: no home, and no client.json that leads nowhere."""
    done = strongroom("--home", home, "up", "--listen", "nowhere")

    assert done.code == 2
    assert not home.exists()


def test_an_authenticator_that_is_wrong_leaves_nothing_behind(home: Path) -> None:
    """One of the proxy is looked at as early as all else; what was there before, and only that, is there after."""
    home.mkdir(mode=0o700)
    (home / "strongroom.toml").write_text('proxy_authenticators = [{name = "basic", file = "users.json"}]\n')
    done = strongroom("--home", home, "up")

    assert (done.code, "filepath" in done.err) == (2, True)
    assert [path.name for path in home.iterdir()] == ["strongroom.toml"]
