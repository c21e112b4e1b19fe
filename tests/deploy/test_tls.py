"""The certificate and key of the proxy: what is taken, what is refused and how it is told, and how they are renewed."""

import asyncio
import datetime
import hashlib
import json
import logging
import os
import random
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from strongroom.deploy import settings
from strongroom.deploy.serving import server, tls
from strongroom.deploy.serving.server import Role
from strongroom.models.secret import Secret
from strongroom.storage_service.config import ProxySettings
from strongroom.storage_service.errors import ConfigurationError
from tests.another_user import user
from tests.deploy.certificates import DAY, NOW, Files, Issued, issue
from tests.deploy.running import ROOT, Done, clean_environment, spawn, strongroom


@pytest.fixture
def files(short: Path) -> Files:
    """A good pair."""
    made = Files.at(short / "tls")
    made.renew()
    return made


def told(files: Files, **more: Any) -> ProxySettings:
    """Return the settings that name *files*."""
    common = ProxySettings(socket=Path("/nowhere"), api_id="i", api_key=Secret("k"))
    return replace(common, tls_certificate=files.certificate, tls_key=files.key, **more)


def encrypted(issued: Issued) -> bytes:
    return issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"c4nary"))


def openssh(issued: Issued) -> bytes:
    return issued.key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def write_weak(files: Files) -> None:
    files.write(
        issue(signer=files.authority, key=rsa.generate_private_key(65537, 1024))
    )  # what OpenSSL calls too small


def write_unordered(files: Files) -> None:
    middle = issue("middle", files.authority, authority=True)
    leaf = issue(signer=middle)
    files.write(leaf)
    files.put(files.certificate, middle.pem + leaf.certificate.public_bytes(Encoding.PEM))


def swap(files: Files) -> None:
    certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
    files.put(files.certificate, key)
    files.put(files.key, certificate)


REFUSED = (ssl.SSLError, ConnectionError)

BAD: dict[str, tuple[Callable[[Files], object], str, str]] = {
    "no certificate": (lambda f: f.certificate.unlink(), "chain.pem", "'tls_certificate' names; put the file there"),
    "no key": (lambda f: f.key.unlink(), "key.pem", "'tls_key' names; put the file there"),
    "empty certificate": (lambda f: f.put(f.certificate, b""), "chain.pem", "no certificate that can be read"),
    "empty key": (lambda f: f.put(f.key, b""), "key.pem", "no private key that can be read; give it in PEM"),
    "garbage certificate": (lambda f: f.put(f.certificate, b"\xff" * 99), "chain.pem", "no certificate that can be re"),
    "garbage key": (lambda f: f.put(f.key, b"\xff" * 99), "key.pem", "no private key that can be read"),
    "huge": (lambda f: f.put(f.certificate, b"x" * 1048577), "chain.pem", "has more than 1048576 bytes"),
    "swapped": (swap, "chain.pem", "no certificate that can be read"),
    "the certificate twice": (lambda f: f.put(f.key, f.certificate.read_bytes()), "key.pem", "no private key"),
    "OpenSSH's format": (lambda f: f.put(f.key, openssh(issue())), "key.pem", "no private key that can be read"),
    "another's key": (lambda f: f.put(f.key, issue().key_pem), "key.pem", "does not fit the certificate in"),
    "half renewed": (
        lambda f: f.put(f.certificate, issue(signer=f.authority).pem),
        "chain.pem",
        "if they are being renewed, try again when both are new",
    ),
    "encrypted": (lambda f: f.put(f.key, encrypted(issue())), "key.pem", "nobody is there to type its passphrase"),
    "open to the world": (lambda f: f.key.chmod(0o604), "key.pem", "is open to others (mode 0604); run: chmod 600"),
    "open to the group": (lambda f: f.key.chmod(0o640), "key.pem", "is open to others (mode 0640); run: chmod 600"),
    "a directory": (lambda f: (f.key.unlink(), f.key.mkdir()), "key.pem", "is not a plain file"),
    "a pipe": (lambda f: (f.key.unlink(), os.mkfifo(f.key, 0o600)), "key.pem", "is not a plain file"),
    "the wrong order": (write_unordered, "chain.pem", "certificate 2 of the file is the one that the key fits"),
    "a weak key": (write_weak, "chain.pem", "ee key too small; have one made with an EC key"),
}


class TestLoad:
    """What is taken, and what is not."""

    def test_a_good_pair_is_taken(self, files: Files) -> None:
        """It is told by names, times and fingerprint; neither its context nor its key shows."""
        issued = files.renew("strongroom.example")
        pair = tls.load(told(files))

        assert (pair.names, pair.fingerprint) == (("strongroom.example",), issued.fingerprint)
        assert (pair.not_before, pair.not_after) == (NOW - DAY, NOW + 365 * DAY)
        assert pair.fault(NOW) is None and pair.note(NOW) is None
        assert "SSLContext" not in repr(pair) and "PRIVATE" not in repr(pair)

    @pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())])
    @pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
    def test_keys_of_every_usual_kind_are_taken(self, files: Files, key: Any, form: PrivateFormat) -> None:
        """RSA and EC, in either of the two forms of PEM, and in one file with the certificate."""
        issued = issue("a", files.authority, key=key)
        text = key.private_bytes(Encoding.PEM, form, NoEncryption())
        files.put(files.certificate, issued.pem)
        files.put(files.key, text)
        assert tls.load(told(files)).fingerprint == issued.fingerprint

        files.put(files.key, issued.pem + text)
        both = replace(told(files), tls_certificate=files.key)
        assert tls.load(both).fingerprint == issued.fingerprint

    @pytest.mark.parametrize("kind", BAD)
    def test_a_bad_pair_is_refused(self, files: Files, kind: str) -> None:
        """The error names the file, the reason and what to do, and quotes nothing of it."""
        spoil, name, text = BAD[kind]
        spoil(files)

        with pytest.raises(ConfigurationError) as caught:
            tls.load(told(files))

        assert str(files.directory / name) in str(caught.value)
        assert text in str(caught.value)
        assert "c4nary" not in str(caught.value) and "\\xff" not in str(caught.value)

    def test_a_key_that_this_user_cannot_read_is_told(self, files: Files, short: Path) -> None:
        """The error names the user, for it is another one's rights that were forgotten."""
        files.key.chmod(0o600 if os.geteuid() == 0 else 0)
        for path in (short, files.directory, files.certificate):
            path.chmod(0o755)
        code = (
            "import os, sys, pwd; from pathlib import Path; from strongroom.deploy.serving import tls\n"
            "from strongroom.storage_service.config import ProxySettings; from strongroom.models.secret import Secret\n"
            "pwd.getpwuid(os.getuid())\n"  # so that all is imported before the rights are gone
            "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "certificate, key = map(Path, sys.argv[1:])\n"
            "more = {'tls_certificate': certificate, 'tls_key': key}\n"
            "try: tls.load(ProxySettings(socket=key, api_id='i', api_key=Secret('k'), **more))\n"
            "except tls.ConfigurationError as error: print(error)\n"
        )
        command = [sys.executable, "-c", code, str(files.certificate), str(files.key)]

        def told_to() -> str:
            return subprocess.run(
                command, env=clean_environment(), cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout

        said = told_to()
        assert said.startswith(f"{files.key} cannot be read by user ")
        assert f"Permission denied; 'tls_key' names a file that this user can read: chown {user()} {files.key}" in said

        files.certificate.chmod(0o600 if os.geteuid() == 0 else 0)  # public, so that nobody need own it
        said = told_to()
        assert said.startswith(f"{files.certificate} cannot be read by user ")
        assert f"chmod a+r {files.certificate}" in said and "chown" not in said

        files.directory.chmod(0o700 if os.geteuid() == 0 else 0o600)  # what keeps the user out is no file
        try:
            said = told_to()
        finally:
            files.directory.chmod(0o755)
        assert f"that user may not enter {files.directory}: let it in" in said
        assert "chown" not in said and "chmod" not in said

    def test_links_are_followed(self, files: Files, short: Path) -> None:
        """Kubernetes and certbot keep both files behind links."""
        linked = Files(short, files.authority)
        linked.certificate.symlink_to(files.certificate)
        linked.key.symlink_to(files.key)

        assert tls.load(told(linked)).fingerprint == tls.load(told(files)).fingerprint

    @pytest.mark.parametrize("mode", [0o440, 0o444])
    def test_systemds_credentials_are_taken_as_they_are(
        self, files: Files, monkeypatch: pytest.MonkeyPatch, mode: int
    ) -> None:
        """A key below $CREDENTIALS_DIRECTORY is the unit's alone, whatever its mode says; others are not."""
        files.key.chmod(0o444)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(files.directory / "elsewhere"))
        with pytest.raises(ConfigurationError, match="is open to others"):
            tls.load(told(files))

        files.key.chmod(mode)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(files.directory))
        assert tls.load(told(files)).names == ("127.0.0.1",)

    def test_one_without_the_other_is_none(self, files: Files) -> None:
        """Half of a pair never means that there is no TLS."""
        with pytest.raises(ConfigurationError, match="'tls_certificate' needs 'tls_key'"):
            tls.holder(replace(told(files), tls_key=None))
        with pytest.raises(ConfigurationError, match="'tls_key' needs 'tls_certificate'"):
            tls.holder(replace(told(files), tls_certificate=None))
        assert tls.holder(replace(told(files), tls_certificate=None, tls_key=None)) is None

    def test_what_was_checked_is_what_is_served(self, files: Files, short: Path) -> None:
        """While the files are replaced all the time, what OpenSSL shows is what the pair says, or nothing is taken."""
        pairs = [issue(signer=files.authority) for _ in range(2)]
        stop = threading.Event()

        def renew() -> None:
            while not stop.is_set():
                for each in pairs:
                    files.write(each)

        renewing = threading.Thread(target=renew)
        renewing.start()
        shown: list[bool] = []
        refused = 0
        try:
            for _ in range(200):
                try:
                    pair = tls.load(told(files))
                except ConfigurationError as error:
                    shown.append("does not fit" in str(error))
                    refused += 1
                else:
                    shown.append(in_memory(pair, files) == pair.fingerprint)
        finally:
            stop.set()
            renewing.join()
        assert all(shown) and 0 < refused < 200

    def test_whatever_lies_there_is_told(self, files: Files) -> None:
        """Of 400 damaged pairs each is taken or refused with a text of ours; nothing else is raised."""
        chosen = random.Random(8)
        issued = issue(signer=files.authority)
        refused = 0
        for _ in range(400):
            texts = [bytearray(issued.pem), bytearray(issued.key_pem)]
            text = chosen.choice(texts)
            for _ in range(chosen.randint(1, 4)):
                at = chosen.randrange(len(text))
                match chosen.randrange(3):
                    case 0:
                        text[at] = chosen.randrange(256)
                    case 1:
                        del text[at : at + chosen.randrange(1, 40)]
                    case _:
                        text[at:at] = text[: chosen.randrange(1, 200)]
            files.put(files.certificate, bytes(texts[0]))
            files.put(files.key, bytes(texts[1]))
            try:
                tls.load(told(files))
            except ConfigurationError:
                refused += 1
        assert refused > 200


def in_memory(pair: tls.Pair, files: Files) -> str:
    """Return the fingerprint of the certificate that a client is shown."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = pair.context.wrap_bio(up, down, server_side=True)
    theirs = files.trusting().wrap_bio(down, up, server_hostname="127.0.0.1")
    for _ in range(3):
        for side in (theirs, ours):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    shown = theirs.getpeercert(binary_form=True)
    assert shown is not None
    return hashlib.sha256(shown).hexdigest()


class TestTime:
    """When a certificate is valid."""

    @pytest.mark.parametrize(
        ("at", "fault", "note"),
        [
            (-2 * DAY, "is not valid before", None),
            (0 * DAY, None, None),
            (350 * DAY, None, None),
            (352 * DAY, None, "expires on"),
            (366 * DAY, "expired on", None),
        ],
    )
    def test_it_is_told_at_its_time(
        self, files: Files, at: datetime.timedelta, fault: str | None, note: str | None
    ) -> None:
        """Before and after its time that is a fault, and for the last 14 days a note."""
        pair = tls.load(told(files))
        faults, notes = pair.fault(NOW + at), pair.note(NOW + at)

        assert (fault or "") in (faults or "") and (faults is None) == (fault is None)
        assert (note or "") in (notes or "") and (notes is None) == (note is None)

    def test_a_chain_is_as_good_as_its_worst(self, files: Files) -> None:
        """An intermediate that has expired counts as the certificate's own end; a root that is sent along does not."""
        middle = issue("middle", files.authority, authority=True, not_after=NOW - DAY / 2)
        files.write(issue(signer=middle))
        assert "expired on" in str(tls.load(told(files)).fault(NOW))

        root = issue("root", authority=True, not_after=NOW - DAY / 2)
        issued = files.renew()
        files.put(files.certificate, issued.pem + root.pem)
        assert tls.load(told(files)).fault(NOW) is None


class TestHolder:
    """What is served, over renewals."""

    def test_a_good_pair_becomes_current(self, files: Files, caplog: pytest.LogCaptureFixture) -> None:
        """The new pair is served from then on, and the log tells which it is."""
        held = tls.Holder(told(files))
        issued = files.renew()
        with caplog.at_level(logging.INFO):
            held.renew()

        assert (held.current.fingerprint, held.trouble, held.notes()) == (issued.fingerprint, None, [])
        assert issued.fingerprint in caplog.text

    @pytest.mark.parametrize("kind", BAD)
    def test_a_bad_pair_leaves_the_old_one(self, files: Files, caplog: pytest.LogCaptureFixture, kind: str) -> None:
        """An error in the log says what is wrong and how long the old one goes on; readiness warns, too."""
        held = tls.Holder(told(files))
        before = held.current
        spoil, _, text = BAD[kind]
        spoil(files)
        held.renew()

        assert held.current is before
        assert text in str(held.trouble)
        (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
        assert text in record.getMessage()
        assert f"the old one of 127.0.0.1 goes on until {NOW + 365 * DAY:%Y-%m-%d}" in record.getMessage()
        assert held.notes() == ["the last renewal of the TLS certificate failed; the log says why"]

        if files.key.is_dir():
            files.key.rmdir()
        issued = files.renew()
        held.renew()
        assert (held.current.fingerprint, held.trouble, held.notes()) == (issued.fingerprint, None, [])

    def test_what_nobody_foresaw_leaves_it_too(
        self, files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reload does not end a server that works; such an error's text may hold anything, so its kind is told."""
        held = tls.Holder(told(files))

        def broken(_: object) -> None:
            raise LookupError("c4nary")

        monkeypatch.setattr(tls, "load", broken)
        held.renew()

        assert held.trouble == "unexpected LookupError"
        assert "c4nary" not in caplog.text

    def test_a_valid_pair_is_not_given_up_for_an_expired_one(self, files: Files) -> None:
        """At a reload there is a better one; where the old one has expired, too, the new one is as good."""
        held = tls.Holder(told(files))
        valid = held.current
        expired = files.renew(not_before=NOW - 9 * DAY, not_after=NOW - DAY)
        held.renew()
        assert held.current is valid and "expired on" in str(held.trouble)

        held = tls.Holder(told(files))
        assert held.current.fingerprint == expired.fingerprint
        later = files.renew(not_before=NOW - 9 * DAY, not_after=NOW - DAY / 2)
        held.renew()
        assert (held.current.fingerprint, held.trouble) == (later.fingerprint, None)

    @pytest.mark.parametrize(
        ("more", "level", "text"),
        [
            ({"not_after": NOW - DAY / 2}, logging.ERROR, "expired on"),
            ({"not_before": NOW + DAY}, logging.ERROR, "is not valid before"),
            ({"not_after": NOW + DAY}, logging.WARNING, "expires on"),
        ],
    )
    def test_a_start_tells_loudly(
        self, files: Files, caplog: pytest.LogCaptureFixture, more: dict[str, Any], level: int, text: str
    ) -> None:
        """What is wrong with the time is logged with the file's name, and told by readiness without it."""
        files.renew(**more)
        held = tls.Holder(told(files))
        held.announce()

        (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
        assert record.levelno == level
        assert str(files.certificate) in record.getMessage() and text in record.getMessage()
        (warning,) = held.warnings(NOW)
        assert text in warning and str(files.directory) not in warning

    def test_without_one_there_is_no_server(self, files: Files, home: Path) -> None:
        """Settings for gunicorn are not even made where TLS is configured and nothing was loaded."""
        environ = {"STRONGROOM_API_KEY": "k", "STRONGROOM_API_ID": "i", "STRONGROOM_PROXY_KEY": "p"} | files.environ
        loaded = settings.load(environ=environ, home=home)
        with pytest.raises(RuntimeError, match="no certificate was loaded"):
            server.options(Role.PROXY, loaded)
        assert server.options(Role.PROXY, loaded, tls=tls.holder(loaded.proxy))


async def ask(pair: tls.Pair, client: ssl.SSLContext) -> ssl.SSLObject:
    """Return the client's end of a connection over which a line went to an asyncio server, and came back.

    Raises:
        OSError: it did not; ssl.SSLError is one.
    """

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    serving = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=pair.context)
    port = serving.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            writer.write(b"line\n")
            if await reader.readline() != b"line\n":
                raise ConnectionResetError
            found: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return found
        finally:
            writer.transport.abort()
    finally:
        serving.close()


class TestHandshake:
    """What the context does with a real client."""

    @pytest.mark.parametrize(
        ("minimum", "client", "works"),
        [("1.3", "TLSv1_3", True), ("1.3", "TLSv1_2", False), ("1.2", "TLSv1_3", True), ("1.2", "TLSv1_2", True)],
    )
    async def test_the_oldest_version_is_as_configured(
        self, files: Files, minimum: str, client: str, works: bool
    ) -> None:
        """A client that has nothing newer than 1.2 gets in only where the settings say so."""
        pair = tls.load(told(files, tls_minimum=minimum))
        context = files.trusting()
        context.minimum_version = context.maximum_version = ssl.TLSVersion[client]

        if works:
            assert (await ask(pair, context)).version() == client.replace("_", ".")
        else:
            with pytest.raises(REFUSED):
                await ask(pair, context)

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
    async def test_what_is_older_than_1_2_gets_in_nowhere(self, files: Files) -> None:
        """No setting lets TLS 1.1 in, also for a client that lowers its own demands."""
        context = files.trusting()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

        with pytest.raises(REFUSED):
            await ask(tls.load(told(files)), context)

    @pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "AECDH-AES128-SHA"])
    async def test_ciphers_are_forward_secret_and_authenticated(self, files: Files, ciphers: str) -> None:
        """In TLS 1.2 a client that offers CBC, RSA's key exchange or nobody's certificate is refused."""
        files.write(issue(signer=files.authority, key=rsa.generate_private_key(65537, 2048)))
        context = files.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")

        with pytest.raises(REFUSED):
            await ask(tls.load(told(files)), context)
        context.set_ciphers("ECDHE+AESGCM")
        assert await ask(tls.load(told(files)), context)

    async def test_http_is_agreed_on_and_nothing_is_compressed(self, files: Files) -> None:
        """A client that offers HTTP/2 and HTTP/1.1 is told the latter."""
        context = files.trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        found = await ask(tls.load(told(files)), context)

        assert (found.selected_alpn_protocol(), found.compression()) == ("http/1.1", None)

    async def test_no_ticket_outlives_a_connection(self, files: Files) -> None:
        """A client is given nothing to resume with, in either version: what opens tickets would open the past."""
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = files.trusting()
            context.minimum_version = context.maximum_version = version
            session = (await ask(tls.load(told(files)), context)).session
            assert session is None or not session.has_ticket

    async def test_no_keys_are_logged(self, files: Files, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """SSLKEYLOGFILE, which Python's default context obeys, has no say here."""
        monkeypatch.setenv("SSLKEYLOGFILE", str(short / "keys"))
        await ask(tls.load(told(files)), files.trusting())

        assert not (short / "keys").exists()

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    @pytest.mark.parametrize(
        ("asked", "shown", "works"),
        [
            ("off", "nothing", True),
            ("off", "a stranger's", True),
            ("optional", "nothing", True),
            ("optional", "a friend's", True),
            ("optional", "a stranger's", False),
            ("required", "nothing", False),
            ("required", "a friend's", True),
            ("required", "a stranger's", False),
        ],
    )
    async def test_clients_are_asked_as_configured(
        self, files: Files, version: str, asked: str, shown: str, works: bool
    ) -> None:
        """A certificate that is shown must be one of the configured authority, and under "required" one must be."""
        friends, strangers = (issue(name, authority=True) for name in ("friends", "strangers"))
        authorities = files.directory / "authorities.pem"
        authorities.write_bytes(friends.pem)
        pair = tls.load(told(files, tls_client_certificates=asked, tls_client_ca=authorities))
        signer = {"a friend's": friends, "a stranger's": strangers}.get(shown)
        context = files.trusting(issue("client", signer) if signer else None)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

        if works:
            assert await ask(pair, context)
        else:
            with pytest.raises(REFUSED):
                await ask(pair, context)

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (Path.unlink, "which 'tls_client_ca' names; put the file there"),
            (lambda path: path.write_bytes(b"no PEM"), "holds no certificate that can be read"),
            (lambda path: path.chmod(0o646), "- who changes it could add an authority of their own"),
        ],
    )
    def test_a_bad_authority_is_refused(self, files: Files, spoil: Callable[[Path], object], text: str) -> None:
        """Who cannot be told whom to trust does not begin, rather than to trust everybody or nobody."""
        authorities = files.directory / "authorities.pem"
        authorities.write_bytes(files.authority.pem)
        spoil(authorities)

        with pytest.raises(ConfigurationError) as caught:
            tls.load(told(files, tls_client_certificates="required", tls_client_ca=authorities))
        assert str(authorities) in str(caught.value) and text in str(caught.value)


def check(home: Path, files: Files, *arguments: str) -> Done:
    """Run ``strongroom config check`` in this process."""
    environ = clean_environment(**files.environ)
    return strongroom("--home", home, "config", "check", *arguments, environ=environ)


class TestConfigCheck:
    """``strongroom config check``."""

    def test_it_tells_what_would_be_shown(self, files: Files, home: Path) -> None:
        """People read whom the certificate is for and until when; the document has the fingerprint, too."""
        issued = files.renew("strongroom.example")
        done = check(home, files, "--json")
        assert (done.code, done.json["valid"], done.json["notes"]) == (0, True, [])
        assert done.json["tls"]["names"] == ["strongroom.example"]
        assert done.json["tls"]["fingerprint"] == issued.fingerprint
        assert done.json["tls"]["not_after"] == f"{NOW + 365 * DAY:%Y-%m-%dT%H:%M:%S}Z"

        environ = clean_environment(**files.environ)
        said = strongroom("--home", home, "config", "check", terminal=True, environ=environ).out
        assert f"the proxy's certificate is for strongroom.example, until {NOW + 365 * DAY:%Y-%m-%d}" in said

    def test_without_tls_there_is_none(self, home: Path) -> None:
        """The member is there, and null."""
        done = strongroom("--home", home, "config", "check", "--json")
        assert (done.code, done.json["tls"]) == (0, None)

    @pytest.mark.parametrize("kind", BAD)
    def test_what_would_end_the_start_is_found(self, files: Files, home: Path, kind: str) -> None:
        """Every bad pair is code 2, with one line that tells it."""
        spoil, name, text = BAD[kind]
        spoil(files)
        done = check(home, files)

        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert name in done.err and text in done.err

    @pytest.mark.parametrize(
        ("more", "text"),
        [({"not_after": NOW - DAY / 2}, "expired on"), ({"not_before": NOW + DAY}, "is not valid before")],
    )
    def test_what_clients_would_refuse_is_found(
        self, files: Files, home: Path, more: dict[str, Any], text: str
    ) -> None:
        """A certificate that is out of its time would be served, and is no valid setting."""
        files.renew(**more)
        done = check(home, files)
        assert (done.code, done.out) == (2, "")
        assert str(files.certificate) in done.err and text in done.err

    def test_what_expires_soon_is_noted(self, files: Files, home: Path) -> None:
        """For 14 days the settings are valid, and somebody should see to it."""
        files.renew(not_after=NOW + 2 * DAY)
        done = check(home, files, "--json")
        (note,) = done.json["notes"]
        assert (done.code, "expires on" in note) == (0, True)

    def test_as_a_process_it_ends_with_the_same(self, files: Files, home: Path) -> None:
        """The whole command, started as people start it, says what this one did, and shows no traceback."""
        environ = clean_environment(**files.environ)
        process = spawn("--home", home, "config", "check", "--json", environ=environ)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out)["valid"], err) == (0, True, "")

        files.put(files.key, issue().key_pem)
        process = spawn("--home", home, "config", "check", environ=environ)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert err.startswith(f"strongroom: the key in {files.key} does not fit the certificate in {files.certificate}")
