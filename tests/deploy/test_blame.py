"""Who is to blame when a command fails: each cause is made with the real thing, and told as what it is.

Nobody is sent to start a service that runs, to look for a store that is there, or to give up verifying a certificate.
"""

import hashlib
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.file import ClientFile
from strongroom.storage_service.errors import ConfigurationError
from tests.deploy.certificates import Files
from tests.deploy.running import ROOT, Done, Up, clean_environment, finished, spawn, strongroom, up
from tests.etcd_server import running as etcd_running

START = "strongroom up"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Files]]:
    """A service whose proxy speaks TLS, and its files: the certificate is for 127.0.0.1, of an authority of its own."""
    files = Files.at(tmp_path_factory.mktemp("blame") / "tls")
    files.renew()
    (files.directory / "ca.pem").write_bytes(files.authority.pem)
    home = Path(os.path.realpath(files.directory)) / "h"
    with up(home, environ=clean_environment(**files.environ)) as running:
        assert strongroom("--home", home, "secret", "put", "-p", "db/p", stdin=b"hunter2").code == 0
        yield running, files


def through(running: Up, url: str | None = None, *options: object, **more: str) -> Done:
    """Ask for a secret through the proxy, by another url if one is given."""
    kept = ClientFile.read(running.home / "client.json")
    environ = {"STRONGROOM_API_ID": kept.api_id, "STRONGROOM_API_KEY": kept.api_key.reveal()}
    environ["STRONGROOM_URL"] = url or running.url
    return strongroom(*options, "secret", "get", "db/p", environ=trusting_nobody(**environ | more))


def trusting_nobody(**more: str) -> dict[str, str]:
    """Return a clean environment, in which nothing says whom to trust."""
    return {name: value for name, value in clean_environment().items() if not name.startswith("SSL_CERT_")} | more


class TestCertificates:
    """Through the proxy, over TLS and not."""

    def test_who_names_the_authority_is_answered(self, secured: tuple[Up, Files]) -> None:
        """By --ca, a variable of ours, OpenSSL's two variables, or the file that says all of it."""
        running, files = secured
        ca, directory = files.directory / "ca.pem", files.directory / "hashed"
        directory.mkdir(exist_ok=True)
        (directory / f"{subject_hash(files):08x}.0").write_bytes(ca.read_bytes())
        kept = ClientFile.read(running.home / "client.json")
        apart = files.directory / "apart.json"
        apart.write_bytes(ClientFile(running.url, None, kept.api_id, kept.api_key, Path("ca.pem")).text())
        apart.chmod(0o600)

        answers = [
            through(running, None, "--ca", ca),
            through(running, STRONGROOM_CA=str(ca)),
            through(running, SSL_CERT_FILE=str(ca)),
            through(running, SSL_CERT_DIR=str(directory)),
            strongroom("secret", "get", "db/p", environ=trusting_nobody(STRONGROOM_CLIENT=str(apart))),
        ]

        assert answers == [Done(0, "hunter2", "")] * 5
        with StorageClient(url=running.url, api_id=kept.api_id, api_key=kept.api_key, ca=ca) as client:
            assert client.get_secret("db", "p").reveal() == "hunter2"

    def test_a_flag_comes_before_variables_and_is_all_that_is_trusted(self, secured: tuple[Up, Files]) -> None:
        """Whom --ca names is the only authority: another one that signed it, named elsewhere, does not count."""
        running, files = secured
        other = files.directory / "other.pem"
        other.write_bytes(Files.at(files.directory / "other").authority.pem)
        ca = str(files.directory / "ca.pem")

        done = through(running, None, "--ca", other, STRONGROOM_CA=ca, SSL_CERT_FILE=ca)

        assert (done.code, done.out) == (2, "")
        assert f"its certificate is not trusted: no authority in {other} signed it" in done.err

    def test_what_is_advised_can_be_pasted(self, secured: tuple[Up, Files]) -> None:
        """It has the authority that was named, so that the command reaches the same service."""
        running, files = secured
        kept = ClientFile.read(running.home / "client.json")
        environ = trusting_nobody(
            STRONGROOM_API_ID=kept.api_id, STRONGROOM_API_KEY=kept.api_key.reveal(), STRONGROOM_URL=running.url
        )

        ca = files.directory / "ca.pem"
        refused = strongroom("--ca", ca, "secret", "put", "pasted/p", stdin=b"x", environ=environ)
        advised = refused.err.partition("; make it first: strongroom ")[2]

        assert (refused.code, advised) == (4, f"--ca {ca} secret mkdir pasted\n")
        assert strongroom(*shlex.split(advised), environ=environ).code == 0

    def test_who_names_no_authority_is_told_how(self, secured: tuple[Up, Files]) -> None:
        """The flag stands beside the variables; an empty one, as of a variable that is not set, names none."""
        running, _ = secured

        untrusted, empty = through(running), through(running, None, "--ca", "")

        assert "the authority that signed it with --ca FILE, in STRONGROOM_CA, or for all programs in" in untrusted.err
        assert (empty.code, empty.out) == (1, "")
        assert empty.err.startswith("strongroom: invalid value for '--ca': is empty")

    @pytest.mark.parametrize("content", [None, b"", b"none", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
    def test_a_file_of_authorities_that_cannot_be_used_is_named(
        self, secured: tuple[Up, Files], short: Path, content: bytes | None
    ) -> None:
        """Whichever way it was said, nothing is trusted in its place, and nothing is sent."""
        running, _ = secured
        file = short / "ca.pem"
        if content is not None:
            file.write_bytes(content)

        for done in (
            through(running, None, "--ca", file),
            through(running, STRONGROOM_CA=str(file)),
            through(running, SSL_CERT_FILE=str(file)),
            through(running, SSL_CERT_DIR=str(file)),
        ):
            assert (done.code, done.out) == (2, "")
            assert f"{file}" in done.err and "cannot be used: " in done.err
            assert START not in done.err

    def test_an_authority_without_tls_is_no_slip_that_passes(self, secured: tuple[Up, Files]) -> None:
        """Who says whom to trust and http:// in one breath meant https://, and the key is not sent in the clear."""
        running, files = secured
        done = through(running, running.url.replace("https:", "http:"), "--ca", files.directory / "ca.pem")
        assert (done.code, done.out) == (2, "")
        assert "which takes TLS: say https:// in the url" in done.err

    def test_a_program_says_whom_to_trust_once(self, secured: tuple[Up, Files]) -> None:
        """A file of authorities and a context of the program's own exclude each other."""
        running, files = secured
        with pytest.raises(ConfigurationError, match="say ca or ssl_context"):
            StorageClient(url=running.url, api_id="i", api_key="k", ca="/ca.pem", ssl_context=files.trusting())

    @pytest.mark.parametrize(
        ("url", "trusted", "text"),
        [
            ("https://127.0.0.1", False, "its certificate is not trusted: name a file with the authority that signed"),
            ("https://localhost", True, "its certificate is for another name: call it by that name"),
            ("http://127.0.0.1", False, "if it speaks TLS there, say https:// in the url"),
        ],
        ids=["an authority that nobody knows", "another name", "plain HTTP to TLS"],
    )
    def test_what_is_wrong_with_tls_is_told(
        self, secured: tuple[Up, Files], url: str, trusted: bool, text: str
    ) -> None:
        """The certificate, the name or the url is to blame, and no service is to be started."""
        running, files = secured
        more = {"STRONGROOM_CA": str(files.directory / "ca.pem")} if trusted else {}
        done = through(running, f"{url}:{running.url.rpartition(':')[2]}", **more)
        assert (done.code, done.out) == (2, "")
        assert text in done.err
        assert START not in done.err and "does not listen" not in done.err

    def test_a_port_without_tls_is_told(self, service: Up) -> None:
        """TLS to a proxy without a certificate: its settings are to blame, or the url."""
        done = through(service, service.url.replace("http:", "https:"))
        assert (done.code, done.out) == (2, "")
        assert "does not speak TLS: see that its proxy has a certificate" in done.err
        assert START not in done.err


def subject_hash(files: Files) -> int:
    """Return what OpenSSL looks for an authority by, in a directory: of its subject, without case (X509_NAME_hash)."""
    from cryptography import x509

    (part,) = files.authority.certificate.subject.rdns
    assert str(next(iter(part)).value) == "authority"  # small letters, so that it is canonical as it stands
    name = x509.Name([part]).public_bytes()
    return int.from_bytes(hashlib.sha1(name[2:], usedforsecurity=False).digest()[:4], "little")


class TestTheSocket:
    """At the service's own socket."""

    def test_no_such_socket(self, short: Path, service: Up) -> None:
        """What is not there is told as that, with the command that makes it."""
        kept = ClientFile.read(service.home / "client.json")
        environ = clean_environment(STRONGROOM_API_ID=kept.api_id, STRONGROOM_API_KEY=kept.api_key.reveal())
        done = strongroom("--socket", short / "none", "status", environ=environ)
        assert done.code == 2
        assert done.err.startswith(f"strongroom: the service at {short}/none does not listen: there is no such socket;")
        assert START in done.err

    def test_a_socket_of_others(self, service: Up) -> None:
        """Who is kept out is told by which group and mode, or by which directory, and nobody is to be started."""
        kept = ClientFile.read(service.home / "client.json")
        environ = {"STRONGROOM_API_ID": kept.api_id, "STRONGROOM_API_KEY": kept.api_key.reveal()}
        code = (
            "import os, sys; import encodings.idna; from strongroom.deploy.cli import exits, root, status\n"
            "import strongroom.storage_service.client, strongroom.storage_service.reach; exits.exit_of(OSError())\n"
            "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "sys.exit(root.run(sys.argv[1:]))\n"
        )
        socket = service.socket
        if os.geteuid() != 0:
            socket.chmod(0)
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, "--socket", str(socket), "status"],
                env=clean_environment(**environ),
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
        finally:
            socket.chmod(0o660)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "the service cannot be asked: user " in done.stderr
        assert "may not enter " in done.stderr or "may not open " in done.stderr
        assert START not in done.stderr

    def test_a_locked_service(self, short: Path) -> None:
        """Locked is locked: code 3, and the command that opens it."""
        with up(short / "home") as running:
            strongroom("--home", running.home, "secret", "put", "-p", "db/p", stdin=b"x")
            assert strongroom("--home", running.home, "key", "lock").code == 0
            done = strongroom("--home", running.home, "secret", "get", "db/p")
        text = f"the service is locked; unlock it: strongroom --home {running.home} key unlock"
        assert done == Done(3, "", f"strongroom: {text}\n")


class TestTheStore:
    """Behind a service that runs."""

    def test_etcd_without_a_quorum(self, short: Path) -> None:
        """The store does not answer, say every command that needs it and status; nobody says so of the service."""
        (short / "etcd").mkdir()
        with etcd_running(short / "etcd", 3) as store:
            url = f"etcd://{','.join(each.endpoint for each in store.members)}/blame"
            with up(short / "home", "--store", url) as running:
                strongroom("--home", running.home, "secret", "put", "-p", "db/p", stdin=b"x")
                for member in store.members[1:]:
                    member.kill()
                got = finished(spawn("--home", running.home, "secret", "get", "db/p"))
                told = strongroom("--home", running.home, "status", "--json")
                shown = strongroom("--home", running.home, "status", "-o", "raw")
                running.process.kill()  # it would wait for its store
        assert got == Done(2, "", "strongroom: the store does not answer; the log of the service says more\n")
        assert (told.json["store"], told.json["store_fault"]) == ("etcd", "the store does not answer")
        assert "store\tetcd: the store does not answer\n" in shown.out

    def test_a_full_disk(self, short: Path) -> None:
        """A store that may grow no more is full: that is told, as a document where one was asked for."""
        with up(short / "home") as running:
            strongroom("--home", running.home, "secret", "mkdir", "box")
            worker = [pid for pid in running.family() if is_below(pid, running.gunicorn("storage"))]
            for pid in worker:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (256 * 1024, hard))
            for number in range(60):
                done = strongroom("--home", running.home, "-o", "json", "secret", "put", f"box/{number}", stdin=BIG)
                if done.code:
                    break
        assert done.code == 2
        assert '"type": "urn:strongroom:problem:unavailable"' in done.err
        assert "the store is full; the log of the service says more" in done.err or "the store's disk fails" in done.err

    def test_no_room_for_the_answer(self, service: Up) -> None:
        """What cannot be written where it was to go is the fault of that place, in one line."""
        environ = clean_environment()
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "strongroom.deploy.cli", "--home", str(service.home), "status"],
                env=environ,
                cwd=ROOT,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (2, "strongroom: No space left on device\n")


BIG = b"x" * 30_000


def is_below(pid: int, parent: int) -> bool:
    """Whether *pid* was forked by *parent*."""
    return f" {parent} " in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:20]
