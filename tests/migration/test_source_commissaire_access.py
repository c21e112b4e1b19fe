"""Who a source is to etcd: users, passwords in files, roles and certificates, by both interfaces."""

import logging
import urllib.request
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
import trustme

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.sources import open_source
from strongroom.migration.sources.commissaire.source import CommissaireSource
from strongroom.storage_service.errors import ConfigurationError
from tests.etcd_server import Etcd, Tls, running
from tests.migration.sources.commissaire import EstateV2, EstateV3, host

PASSWORD: Final = "correct-horse"
WRONG: Final = "battery-staple"
KEY: Final = "S2V5IG51bWJlciBvbmUsIGxvbmcgZW5vdWdoIHRvIGJlIGZvdW5k"


@asynccontextmanager
async def opened(place: str, **options: str) -> AsyncGenerator[CommissaireSource, None]:
    """Give an opened source."""
    source = open_source("commissaire", place, {"timeout": ["5"], **{name: [text] for name, text in options.items()}})
    assert isinstance(source, CommissaireSource)
    await source.open(Digest())
    try:
        yield source
    finally:
        await source.close()


class Guarded(NamedTuple):
    """An etcd that knows its users, and by interface the place for one of them."""

    store: Etcd
    files: Mapping[str, str]  # by password

    def place(self, scheme: str, user: str) -> str:
        return f"{scheme}://{user + '@' if user else ''}{self.store.endpoints}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Run an etcd with one host in each interface, and users: root, and one who may use Commissaire's keys alone."""
    directory = tmp_path_factory.mktemp("guarded")
    files = {}
    for password in (PASSWORD, WRONG):
        path = directory / password
        path.write_text(password + "\n")
        path.chmod(0o600)
        files[password] = str(path)
    with running(directory, flags=["--enable-v2", "--bcrypt-cost=4"]) as store:
        EstateV3(store).put_value("hosts/h", host("h", KEY))
        EstateV2(store).put_value("hosts/h", host("h", KEY))
        _guard_v2(store)
        with store.admin() as admin:
            admin.enable_auth("commissaire", PASSWORD, "/commissaire/")
        yield Guarded(store, files)


def _guard_v2(store: Etcd) -> None:
    """Switch v2's own users on, which are apart from v3's."""
    root = {"Authorization": "Basic " + b64encode(f"root:{PASSWORD}".encode()).decode()}

    def put(path: str, body: Any, headers: Mapping[str, str]) -> None:
        url = f"http://{store.members[0].endpoint}/v2/auth/{path}"
        content = msgspec.json.encode(body)
        request = urllib.request.Request(url, content, {"Content-Type": "application/json", **headers}, method="PUT")
        urllib.request.urlopen(request, timeout=20).close()

    rights = {"kv": {"read": ["/commissaire", "/commissaire/*"], "write": ["/commissaire", "/commissaire/*"]}}
    put("users/root", {"user": "root", "password": PASSWORD}, {})
    put("enable", None, {})
    put("roles/commissaire", {"role": "commissaire", "permissions": rights}, root)
    put("users/commissaire", {"user": "commissaire", "password": PASSWORD, "roles": ["commissaire"]}, root)
    put("roles/guest", {"role": "guest", "revoke": {"kv": {"read": ["/*"], "write": ["/*"]}}}, root)


@pytest.mark.parametrize("scheme", ["etcd", "etcd2"])
async def test_a_user_with_a_password_is_accepted(
    guarded: Guarded, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user reads, scrubs and restores with a password from a file, or from the environment."""
    place = guarded.place(scheme, "commissaire")
    async with opened(place, password_file=guarded.files[PASSWORD]) as source:
        originals = list((await source.originals(["/commissaire/hosts/h"])).values())
        assert await source.scrub(originals) == [True]
        assert await source.restore(originals) == [True]
    monkeypatch.setenv("STRONGROOM_ETCD_PASSWORD", PASSWORD)
    async with opened(place) as source:
        assert await source.count() == 1


class Rejection(NamedTuple):
    """A way of being turned away."""

    title: str
    user: str
    password: str | None
    path: str = ""


@pytest.mark.parametrize("scheme", ["etcd", "etcd2"])
@pytest.mark.parametrize(
    "rejection",
    [
        Rejection("wrong password", "commissaire", WRONG),
        Rejection("unknown user", "nobody", PASSWORD),
        Rejection("no user", "", None),
        Rejection("another prefix", "commissaire", PASSWORD, "/elsewhere"),
    ],
    ids=lambda rejection: rejection.title.replace(" ", "-"),
)
async def test_who_is_not_accepted_is_told(
    guarded: Guarded, scheme: str, rejection: Rejection, caplog: pytest.LogCaptureFixture
) -> None:
    """What etcd does not accept is refused on opening; neither password nor value is in an error or a log."""
    caplog.set_level(logging.DEBUG)
    options = {"password_file": guarded.files[rejection.password]} if rejection.password else {}
    with pytest.raises(SourceRefused) as caught:
        async with opened(guarded.place(scheme, rejection.user) + rejection.path, **options):
            pass

    said = f"{caught.value!r} {caplog.text}"
    assert PASSWORD not in said
    assert WRONG not in said
    assert KEY not in said


@pytest.mark.parametrize("scheme", ["etcd", "etcd2"])
async def test_a_password_lies_in_a_file_of_its_owner_alone(guarded: Guarded, scheme: str, tmp_path: Path) -> None:
    """A file that others can read, that is empty, or that is missing, is a configuration error, and nothing is sent."""
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    path.chmod(0o640)
    place = guarded.place(scheme, "commissaire")
    for says in ("chmod 600", "one line", "missing|cannot be read"):
        with pytest.raises(ConfigurationError, match=says) as caught:
            async with opened(place, password_file=str(path)):
                pass
        assert PASSWORD not in str(caught.value)
        if says == "chmod 600":
            path.chmod(0o600)
            path.write_text("\n")
        else:
            path.unlink(missing_ok=True)


async def test_who_may_not_defragment_is_told(guarded: Guarded) -> None:
    """Without the role root, v3 neither defragments nor streams its database, and says so; with it, it does both."""
    async with opened(guarded.place("etcd", "commissaire"), password_file=guarded.files[PASSWORD]) as source:
        with pytest.raises(SourceRefused, match="role root"):
            await source.purge()
        streamed = (await source.places())[0]
        assert streamed.chunks is None
        assert "role root" in streamed.advice
    async with opened(guarded.place("etcd", "root"), password_file=guarded.files[PASSWORD]) as source:
        assert len(await source.purge()) == 1
        streamed = (await source.places())[0]
        assert streamed.chunks is not None
        assert KEY.encode() in b"".join([chunk async for chunk in streamed.chunks()])


async def test_a_token_that_is_void_is_replaced(guarded: Guarded) -> None:
    """When etcd no longer knows our token, members are asked again with a new one, and their streams begin again."""
    async with opened(guarded.place("etcd", "root"), password_file=guarded.files[PASSWORD]) as source:
        with guarded.store.admin("root", PASSWORD) as admin:
            admin.change_password("root", PASSWORD)
        assert len(await source.purge()) == 1
        streamed = (await source.places())[0]
        assert streamed.chunks is not None
        with guarded.store.admin("root", PASSWORD) as admin:
            admin.change_password("root", PASSWORD)
        assert KEY.encode() in b"".join([chunk async for chunk in streamed.chunks()])


# Certificates.


class Secured(NamedTuple):
    """An etcd with TLS that demands certificates of its clients, and the files to reach it."""

    endpoint: str
    ca: str
    other_ca: str
    cert: str
    key: str


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run it, with no key in it."""
    directory = tmp_path_factory.mktemp("secured")
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(directory / "ca.pem")
    theirs.cert_pem.write_to_path(directory / "other.pem")
    for name, host_name in (("server", "localhost"), ("client", "client")):
        issued = ours.issue_cert(host_name)
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
    tls = Tls(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    with running(directory, tls=tls, flags=["--enable-v2"]) as store:
        files = [str(directory / name) for name in ("ca.pem", "other.pem", "client.pem", "client.key")]
        yield Secured(f"localhost:{store.members[0].client_port}", *files)


@pytest.mark.parametrize("scheme", ["etcd", "etcd2s"])
async def test_certificates_are_shown_and_checked(secured: Secured, scheme: str, tmp_path: Path) -> None:
    """With the right certificates on both sides a source opens; with a wrong one, or a wrong file, it does not."""
    place = f"{scheme}://{secured.endpoint}"
    mutual = {"cert": secured.cert, "key": secured.key}
    async with opened(place, cacert=secured.ca, **mutual) as source:
        assert await source.count() == 0
        assert [place.name for place in await source.places() if place.chunks is None]
    garbage = tmp_path / "garbage"
    garbage.write_text("no certificate")
    for options, error in (
        ({"cacert": secured.other_ca, **mutual}, SourceRefused),
        ({"cacert": secured.ca}, (SourceRefused, SourceUnavailable)),
        ({"cacert": str(garbage)}, ConfigurationError),
        ({"cacert": str(tmp_path / "missing")}, ConfigurationError),
    ):
        with pytest.raises(error):
            async with opened(place, **options):
                pass
