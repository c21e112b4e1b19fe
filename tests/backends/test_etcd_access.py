"""Who a backend is to etcd, and etcd to it: passwords, tokens that go stale, permissions, certificates."""

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.base import Backend, Put
from strongroom.storage_service.errors import ConfigurationError, Fate, StrongroomError, Unavailable
from tests.etcd_server import Etcd, Tls, running

PASSWORD: Final = "correct-horse"
WRONG: Final = "battery-staple"
CHEAP: Final = "--bcrypt-cost=4"  # only for testing
TOKEN_TTL: Final = 1  # seconds


@asynccontextmanager
async def opened(url: str, **options: str) -> AsyncGenerator[Backend, None]:
    """Give an opened backend."""
    backend = open_backend(url, **options)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd with users and etcd's simple tokens, which a new password makes void, were it the same."""
    with running(tmp_path_factory.mktemp("simple"), flags=[CHEAP]) as store:
        with store.admin() as admin:
            admin.enable_auth("strongroom", PASSWORD, "/strongroom/")
        yield store


@pytest.fixture(scope="module")
def jwt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Run an etcd with users and JWTs, which expire after a second and age with every change of the users."""
    directory = tmp_path_factory.mktemp("jwt")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = directory / "jwt.key", directory / "jwt.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    token = f"--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={TOKEN_TTL}s"
    with running(directory, flags=[CHEAP, token]) as store:
        with store.admin() as admin:
            admin.enable_auth("strongroom", PASSWORD, "/strongroom/")
        yield store


# Passwords and permissions.


class Rejection(NamedTuple):
    """A way of being turned away, and what the operator is told."""

    story: str
    url: Callable[[Etcd], str]
    password: str | None
    says: str


@pytest.mark.parametrize(
    "rejection",
    [
        Rejection("wrong password", lambda store: store.url(user="strongroom"), WRONG, "user and the password"),
        Rejection("unknown user", lambda store: store.url(user="nobody"), WRONG, "user and the password"),
        Rejection("no user", lambda store: store.url(), None, "wants a user"),
        Rejection("another prefix", lambda store: store.url("other", "strongroom"), PASSWORD, "under the prefix"),
        Rejection("a part only", lambda store: store.url("strong", "strongroom"), PASSWORD, "under the prefix"),
    ],
    ids=lambda rejection: rejection.story.replace(" ", "-"),
)
async def test_who_is_not_accepted_is_told_once(simple: Etcd, rejection: Rejection) -> None:
    """What etcd will not accept is a configuration error on opening, asked for once and never tried again."""
    options = {} if rejection.password is None else {"password": rejection.password}
    backend = open_backend(rejection.url(simple), **options)
    before = simple.logins()
    with pytest.raises(ConfigurationError, match=rejection.says):
        await backend.open()

    assert simple.logins() - before == len(options)
    with pytest.raises(Unavailable):
        await backend.get("a")


async def test_a_user_where_there_are_none_is_told(etcd: Etcd) -> None:
    """A user for an etcd that checks nobody is a configuration error: its operator believes in a lock that is open."""
    with pytest.raises(ConfigurationError, match="authentication is off"):
        await open_backend(etcd.url(user="strongroom"), password=PASSWORD).open()


async def test_the_password_may_stand_in_a_file(simple: Etcd, tmp_path: Path) -> None:
    """A password is read from a file, its newline left out; an empty or missing file is a configuration error."""
    path = tmp_path / "password"
    url = simple.url(user="strongroom")
    path.write_text(PASSWORD + "\n")
    async with opened(url, password_file=str(path)) as backend:
        assert await backend.get("never") is None
    path.write_text("\n")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="password"):
            await open_backend(url, password_file=str(wrong)).open()


async def test_a_changed_password_is_unavailable_and_not_hammered(simple: Etcd) -> None:
    """When the password no longer fits, operations are Unavailable, not applied, and etcd is not asked each time."""
    with simple.admin("root", PASSWORD) as admin:
        async with opened(simple.url(user="strongroom"), password=PASSWORD) as backend:
            admin.change_password("strongroom", WRONG)
            before = simple.logins()
            for _ in range(3):
                answers = await asyncio.gather(
                    *(backend.commit([Put(f"p/{number}", b"")]) for number in range(4)), return_exceptions=True
                )
                assert {isinstance(a, Unavailable) and a.fate for a in answers} == {Fate.NOT_APPLIED}
            assert simple.logins() - before == 1
        admin.change_password("strongroom", PASSWORD)


# Tokens.


async def test_void_tokens_go_unseen(simple: Etcd) -> None:
    """When etcd no longer knows our token, many operations at once share one login and show no error."""
    async with opened(simple.url(user="strongroom"), password=PASSWORD) as backend:
        await backend.commit([Put("a", b"one")])
        with simple.admin("root", PASSWORD) as admin:
            admin.change_password("strongroom", PASSWORD)
        before = simple.logins()
        await asyncio.gather(
            *(backend.get("a") for _ in range(20)), *(backend.commit([Put(f"b/{n}", b"")]) for n in range(20))
        )

        assert simple.logins() - before == 1
        assert len((await backend.list("b/")).names) == 20


async def test_tokens_that_age_under_load_go_unseen(jwt: Etcd) -> None:
    """While tokens expire and the users of etcd change, readers and writers see no error and lose no write."""
    async with opened(jwt.url(user="strongroom"), password=PASSWORD) as backend:
        over = asyncio.Event()
        before = jwt.logins()

        async def write(writer: int) -> int:
            number = 0
            while not over.is_set():
                await backend.commit([Put(f"load/{writer}/{number:04}", b"")])
                assert await backend.get(f"load/{writer}/{number:04}") is not None
                number += 1
            return number

        writers = [asyncio.create_task(write(number)) for number in range(4)]
        for number in range(4):
            with jwt.admin("root", PASSWORD) as admin:
                admin.touch_auth(f"aged-{number}")
            await asyncio.sleep(TOKEN_TTL / 2)  # so that some go stale by time, and others by the change
        over.set()
        written = await asyncio.gather(*writers)

        listed: list[str] = []
        while (page := await backend.list("load/", listed[-1] if listed else None)).names:
            listed += page.names
        assert len(listed) == sum(written)
        assert jwt.logins() - before > 4


# What must not be seen.


async def test_no_password_token_or_value_is_shown(simple: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    """Neither password nor token nor value is in a repr, a log, or an error with all its causes."""
    caplog.set_level(logging.DEBUG)
    value = b"a planted secret"
    shown = []
    url = simple.url(user=f"strongroom:{WRONG}")
    with pytest.raises(ConfigurationError) as refused:
        await open_backend(url).open()
    shown.append("".join(traceback.format_exception(refused.value)))
    backend = open_backend(simple.url(user=f"strongroom:{PASSWORD}"), timeout="1.0")
    await backend.open()
    await backend.commit([Put("a", value)])
    token = dict(vars(backend)["_cluster"]._token)["token"]
    simple.members[0].kill()
    for operation in (backend.get("a"), backend.commit([Put("a", value)])):
        with pytest.raises(StrongroomError) as failed:
            await operation
        shown.append("".join(traceback.format_exception(failed.value)))
    simple.members[0].restart()
    shown += [repr(backend), repr(vars(backend)), caplog.text]
    await backend.close()

    for secret in (PASSWORD, WRONG, token, value.decode()):
        assert not any(secret in text for text in shown)


# Certificates.


class Files(NamedTuple):
    """Where certificates lie."""

    ca: Path
    other_ca: Path
    server: Tls
    client: dict[str, str]
    stranger: dict[str, str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make two CAs, a server's certificate for ``localhost``, a client's, and a stranger's."""
    directory = tmp_path_factory.mktemp("tls")

    def issue(ca: trustme.CA, name: str, host: str) -> tuple[Path, Path]:
        certificate = ca.issue_cert(host)
        cert, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.cert_chain_pems[0].write_to_path(cert)
        certificate.private_key_pem.write_to_path(key)
        return cert, key

    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    theirs.cert_pem.write_to_path(directory / "other.pem")
    server = Tls(*issue(ours, "server", "localhost"))
    client = dict(zip(("cert", "key"), map(str, issue(ours, "client", "client")), strict=True))
    stranger = dict(zip(("cert", "key"), map(str, issue(theirs, "stranger", "client")), strict=True))
    return Files(directory / "ca.pem", directory / "other.pem", server, client, stranger)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[int]:
    """Run an etcd with TLS, and give its port."""
    with running(tmp_path_factory.mktemp("server"), tls=files.server) as store:
        yield store.members[0].client_port


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[int]:
    """Run an etcd that demands certificates of its clients, and give its port."""
    demanding = replace(files.server, client_ca=files.ca)
    with running(tmp_path_factory.mktemp("mutual"), tls=demanding) as store:
        yield store.members[0].client_port


async def _works(url: str, **options: str) -> bool:
    async with opened(url, **options) as backend:
        revision = await backend.commit([Put("tls", b"one")])
        entry = await backend.get("tls")
        return entry is not None and entry.revision == revision


async def test_tls_with_the_right_ca_works(tls: int, files: Files) -> None:
    """A backend that trusts the CA of etcd's certificate works, whether the file is named in the URL or beside it."""
    assert await _works(f"etcd://localhost:{tls}", cacert=str(files.ca))
    assert await _works(f"etcd://localhost:{tls}?cacert={files.ca}")


async def test_mutual_tls_works(mutual: int, files: Files) -> None:
    """A client certificate of the CA that etcd names is accepted."""
    assert await _works(f"etcd://localhost:{mutual}", cacert=str(files.ca), **files.client)


async def test_what_tls_does_not_trust_is_told(tls: int, mutual: int, files: Files, tmp_path: Path) -> None:
    """Certificates that do not fit, on either side, and files that are none, are configuration errors."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    ca = {"cacert": str(files.ca)}
    mixed = {"cert": files.client["cert"], "key": files.stranger["key"]}
    for story, url, options, says in (
        ("another CA", f"etcd://localhost:{tls}", {"cacert": str(files.other_ca)}, "not from the CA"),
        ("another host", f"etcd://127.0.0.1:{tls}", ca, "another host"),
        ("no client certificate", f"etcd://localhost:{mutual}", ca, "client certificate"),
        ("a stranger's certificate", f"etcd://localhost:{mutual}", {**ca, **files.stranger}, "client certificate"),
        ("cert and key of two", f"etcd://localhost:{mutual}", {**ca, **mixed}, "belong together"),
        ("garbage", f"etcd://localhost:{tls}", {"cacert": str(garbage)}, "PEM"),
        ("no file", f"etcd://localhost:{tls}", {"cacert": str(tmp_path / "missing")}, "cannot be read: No such file"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            await open_backend(url, **options).open()
        assert story


async def test_tls_against_clear_text_is_unavailable(tls: int, etcd: Etcd, files: Files) -> None:
    """Where one side speaks TLS and the other does not, no connection stands, and nothing is sent in the clear."""
    for url, options in (
        (f"etcd://localhost:{tls}", {}),
        (etcd.url(), {"cacert": str(files.ca)}),
    ):
        with pytest.raises(Unavailable):
            await open_backend(url, timeout="0.3", **options).open()


async def test_a_member_that_is_not_trusted_is_passed_over(tls: int, files: Files) -> None:
    """Of two members of which one shows a certificate for another host, the other is used."""
    assert await _works(f"etcd://127.0.0.1:{tls},localhost:{tls}", cacert=str(files.ca))
