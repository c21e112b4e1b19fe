"""A running Custodia, read through its own interface on a real socket."""

import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
import trustme

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.retries import Retries
from strongroom.migration.sources import open_source
from strongroom.migration.sources.custodia import server as custodia_server
from strongroom.migration.sources.custodia.server import Custodia
from strongroom.models import HostCreds, Secret
from strongroom.storage_service.errors import ConfigurationError
from tests.etcd_server import LOOPBACK, free_port
from tests.migration.sources import custodia
from tests.migration.sources.custodia import (
    API_ID,
    CUSTODIA,
    POLL,
    READY_WITHIN,
    STORES,
    TABLE,
    CustodiaSocketEstate,
    Server,
)

VALUES: Final[Mapping[str, str | bytes]] = {
    "hosts/10.0.0.7": HostCreds(address="10.0.0.7", ssh_priv_key=Secret("c2VjcmV0")).to_json(),
    "law/text": "Gr\u00fc\u00dfe, \u6771\u4eac, \U0001f511",
    "law/octets": bytes(range(256)),
    "law/sub/d@e+f_g-h": "deep",
}


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustodiaSocketEstate]:
    """A running Custodia that tests share: each uses names of its own."""
    with custodia.estate_socket(tmp_path_factory.mktemp("running")) as made:
        yield made


async def opened(estate: CustodiaSocketEstate, **options: str | Sequence[str]) -> Custodia:
    said = {name: [value] if isinstance(value, str) else value for name, value in options.items()}
    source = open_source("custodia", estate.place, {**estate.options, **said})
    assert isinstance(source, Custodia)
    await source.open(Digest())
    return source


async def items_of(source: Custodia) -> dict[str, Item]:
    return {item.id: item async for item in source.items()}


def unused() -> str:
    return f"t{secrets.token_hex(4)}"


# Reading.


async def test_what_custodia_answers_is_what_moves(estate: CustodiaSocketEstate) -> None:
    """The records hold what Custodia answers, from containers within containers too."""
    for path, value in VALUES.items():
        estate.server.store(path, value)
    answers = {f"secrets/{path}": estate.server.ask("GET", f"/{path}", 200).json()["value"] for path in VALUES}

    source = await opened(estate)
    items = await items_of(source)

    records = {record.name: record.value.reveal() for item in items.values() for record in item.records}
    assert {name: records[name] for name in answers} == answers
    assert await source.count() == len(items)


async def test_only_the_containers_that_are_named_are_read(estate: CustodiaSocketEstate) -> None:
    """A container brings those within it, named or not, each once; what is beside it stays away."""
    box = unused()
    for path in (f"{box}/a", f"{box}/sub/b", f"{box}2/c"):
        estate.server.store(path, "x")

    items = await items_of(await opened(estate, container=[f"{box}/sub/", box]))

    assert list(items) == [f"{box}/a", f"{box}/sub/b"]


async def test_an_empty_container_is_told(estate: CustodiaSocketEstate) -> None:
    """Containers in which nothing is are told, the one that was named and one within another."""
    box, empty = unused(), unused()
    estate.server.make_container(empty)
    estate.server.store(f"{box}/a", "x")
    estate.server.make_container(box, "sub")
    source = await opened(estate, container=[box, empty])

    items = await items_of(source)

    told = [f"{box}/sub/", f"{empty}/"]
    assert sorted(items) == sorted([f"{box}/a", *told])
    assert all("empty container" in str(items[key].notes[0]) and not items[key].records for key in told)
    assert await source.marks(told) == {key: items[key].mark for key in told}


async def test_what_custodia_cannot_read_is_told(estate: CustodiaSocketEstate) -> None:
    """A value that Custodia's own key does not open, one that is empty and a name that is none here are faults."""
    box = unused()
    estate.server.store(f"{box}/good", "x")
    estate.server.store(f"{box}/gr\u00fc\u00dfe", "x")
    estate.server.store(f"{box}/a%20b%3F", "x")
    with estate.server.sql() as table:
        table.execute(f"INSERT INTO {TABLE} VALUES (?, 'nonsense')", (f"keys/{box}/broken",))
        table.execute(f"UPDATE {TABLE} SET key = ? WHERE key = ?", (f"keys/{box}/moved", f"keys/{box}/a b?"))

    items = await items_of(await opened(estate, container=box))

    assert items[f"{box}/good"].fault == ""
    assert "Custodia cannot read it itself (HTTP 500)" in items[f"{box}/broken"].fault
    assert "Custodia cannot read it itself (HTTP 500)" in items[f"{box}/moved"].fault
    assert items[f"{box}/gr%C3%BC%C3%9Fe"].fault.startswith("its name has characters")


async def test_what_goes_while_it_is_listed_is_told(estate: CustodiaSocketEstate) -> None:
    """A secret that Custodia lists and then does not have is a fault, and the others are read."""
    box = unused()
    names = [f"s{number:03}" for number in range(100)]
    estate.server.fill({f"{box}/{name}": "x" for name in names})
    source = await opened(estate, container=box)

    items = source.items()
    await anext(items)
    estate.server.ask("DELETE", f"/{box}/s099", 204)
    seen = {item.id: item async for item in items}

    assert "it was removed meanwhile" in seen[f"{box}/s099"].fault
    assert not any(item.fault for key, item in seen.items() if not key.endswith("s099"))


# Who asks.


@pytest.mark.parametrize(
    "options",
    [
        {"api_id": API_ID},
        {"api_id": "", "api_key_file": "", "header": "REMOTE_USER=tests"},
    ],
    ids=["API key", "header"],
)
async def test_custodia_lets_us_in(estate: CustodiaSocketEstate, options: Mapping[str, str]) -> None:
    """An API key from a file opens Custodia, and so does the header where it is configured for that."""
    key = estate.put(1)
    said = {name: [value] if value else [] for name, value in options.items()}
    source = open_source("custodia", f"http+unix://{estate.place.replace('/', '%2F')}", {**estate.options, **said})
    await source.open(Digest())

    assert key in [item.id async for item in source.items()]
    assert estate.server.api_key.read_text() not in f"{source!r} {vars(source)!r} {source.identity}"
    await source.close()
    await source.close()


def wide_open(server: Server) -> str:
    path = server.home / unused()
    path.write_text("x")
    path.chmod(0o644)
    return str(path)


def wrong_key(server: Server) -> str:
    path = server.home / unused()
    path.touch(0o600)
    path.write_text("s3cret")
    return str(path)


REFUSALS: Final[Mapping[str, tuple[Callable[[Server], Mapping[str, str]], type[Exception], str]]] = {
    "no credentials": (lambda server: {"api_id": "", "api_key_file": ""}, SourceRefused, "say -o api_id="),
    "a wrong key": (lambda server: {"api_key_file": wrong_key(server)}, SourceRefused, "(HTTP 403)"),
    "a wrong header": (lambda server: {"key_header": "CUSTODIA_KEY_ID"}, SourceRefused, "(HTTP 403)"),
    "an id alone": (lambda server: {"api_key_file": ""}, ConfigurationError, "go together"),
    "a key open to others": (lambda server: {"api_key_file": wide_open(server)}, ConfigurationError, "chmod 600"),
    "no key in the file": (lambda server: {"api_key_file": str(server.db)}, ConfigurationError, "no API key"),
    "no container": (lambda server: {"container": ""}, ConfigurationError, "Custodia does not list them"),
    "the root": (lambda server: {"container": "/"}, ConfigurationError, "does not list its root"),
    "no such container": (lambda server: {"container": "nowhere"}, ConfigurationError, "has no container 'nowhere/'"),
    "a path that is closed": (lambda server: {"urlpath": "/elsewhere"}, SourceRefused, "/elsewhere/hosts/"),
    "a credential in sight": (
        lambda server: {"header": "CUSTODIA_AUTH_KEY=s3cret"},
        ConfigurationError,
        "would be a credential in sight",
    ),
    "no header": (lambda server: {"header": "REMOTE USER"}, ConfigurationError, "NAME=VALUE"),
    "a password in the place": (
        lambda server: {"place": "http://me:s3cret@x"},
        ConfigurationError,
        "a password does not belong in the place",
    ),
    "a path in the place": (lambda server: {"place": "http://x/secrets"}, ConfigurationError, "-o urlpath="),
    "another scheme": (lambda server: {"place": "ftp://x"}, ConfigurationError, "http(s)://HOST:PORT"),
    "nobody": (lambda server: {"place": str(server.home / "nobody")}, SourceUnavailable, "see that Custodia runs"),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_is_no_estate_is_refused(estate: CustodiaSocketEstate, what: str) -> None:
    """What cannot be read ends with what to do about it, and repeats no credential."""
    make, error, text = REFUSALS[what]
    said = {name: [value] if value else [] for name, value in make(estate.server).items()}
    place = said.pop("place", [estate.place])[0]

    with pytest.raises(error) as caught:
        await open_source("custodia", place, {**estate.options, **said}).open(Digest())

    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


TLS: Final = """
[global]
server_url = https://{address}
tls_certfile = ${{configdir}}/server.pem
tls_cafile = ${{configdir}}/ca.pem
tls_verify_client = true
auditlog = ${{configdir}}/tls-audit.log
[auth:certificate]
handler = SimpleClientCertAuth
[authz:paths]
handler = SimplePathAuthz
paths = /secrets
[/secrets]
handler = Secrets
store = served
"""


@contextmanager
def over_tls(server: Server) -> Iterator[str]:
    """Run a second Custodia over the same store, for who has a certificate; give its URL."""
    address = f"{LOOPBACK}:{free_port()}"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(server.home / "ca.pem")
    ca.issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(server.home / "server.pem")
    mine = server.home / "mine.pem"
    mine.touch(0o600)
    ca.issue_cert(common_name="mover").private_key_and_cert_chain_pem.write_to_path(mine)
    conf = server.home / "tls.conf"
    conf.write_text(TLS.format(address=address) + STORES["pinned"])
    with (server.home / "tls-output").open("ab") as output:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", CUSTODIA, conf], stdout=output, stderr=output)
    try:
        until = time.monotonic() + READY_WITHIN
        while not _listens(address):
            assert process.poll() is None and time.monotonic() < until, (server.home / "tls-output").read_text()
            time.sleep(POLL)
        yield f"https://{address}"
    finally:
        process.terminate()
        process.wait(READY_WITHIN)


def _listens(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, int(address.rpartition(":")[2]))) == 0


async def test_custodia_lets_us_in_over_tls(estate: CustodiaSocketEstate) -> None:
    """Over TLS our certificate opens Custodia; an authority that is not told of is not trusted."""
    key = estate.put(2)
    home = estate.server.home
    said = {"container": ["law"], "header": ["CUSTODIA_CERT_AUTH=true"], "cert_file": [str(home / "mine.pem")]}
    with over_tls(estate.server) as url:
        source = open_source("custodia", url, said | {"ca_file": [str(home / "ca.pem")]})
        await source.open(Digest())
        read = [item.id async for item in source.items()]
        await source.close()
        with pytest.raises(SourceUnavailable, match="ca_file"):
            await open_source("custodia", url, said).open(Digest())

    assert key in read


# Scrubbing.


async def test_scrubbed_and_restored(estate: CustodiaSocketEstate) -> None:
    """What was scrubbed is gone, containers and all if somebody removes them, and comes back as it was stored."""
    box = unused()
    values: dict[str, str | bytes] = {f"{box}/sub/octets": bytes(range(256)), f"{box}/sub/text": "\u6771\u4eac"}
    for path, value in values.items():
        estate.server.store(path, value)
    source = await opened(estate, container=box)
    originals = list((await source.originals(list(values))).values())

    assert await source.scrub(originals) == [True, True]
    for path in (f"/{box}/sub/", f"/{box}/"):
        estate.server.ask("DELETE", path, 204)
    assert await source.scrub(originals) == [True, True]
    assert await source.restore(originals) == [True, True]

    octets = estate.server.ask("GET", f"/{box}/sub/octets", 200, headers={"Accept": "application/octet-stream"})
    assert octets.content == values[f"{box}/sub/octets"]
    assert estate.server.ask("GET", f"/{box}/sub/text", 200).json()["value"] == values[f"{box}/sub/text"]


async def test_what_somebody_changed_is_left(estate: CustodiaSocketEstate) -> None:
    """Neither scrubbing nor restoring touches what was stored since."""
    keys = [estate.put(number) for number in (21, 22)]
    source = await opened(estate)
    originals = list((await source.originals(keys)).values())
    estate.change(keys[0])
    changed = estate.server.ask("GET", f"/{keys[0]}", 200).json()

    assert await source.scrub(originals) == [False, True]
    assert await source.restore(originals) == [False, True]
    assert estate.server.ask("GET", f"/{keys[0]}", 200).json() == changed


async def test_custodia_is_not_purged(estate: CustodiaSocketEstate) -> None:
    """Nothing is purged through Custodia, and its store is the one place, which cannot be looked into."""
    source = await opened(estate)

    assert await source.purge() == []
    (place,) = await source.places()
    assert place.chunks is None
    assert "vacuum" in place.advice


# A Custodia that answers badly, where the real one cannot be made to.


@contextmanager
def scripted(directory: Path, answer: Callable[[str], bytes]) -> Iterator[Path]:
    """Answer every request on a socket with the bytes for its first line, and close, as HTTP/1.0 does."""
    path = directory / "scripted.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        request = b""
                        while b"\r\n\r\n" not in request:
                            request += connection.recv(65536)
                        connection.sendall(answer(request.split(b"\r\n")[0].decode()))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def said(status: int, body: object) -> bytes:
    return f"HTTP/1.0 {status} X\r\nContent-Type: application/json\r\n\r\n".encode() + json.dumps(body).encode()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("s")


LIST: Final = "GET /secrets/box/ HTTP/1.1"
BAD: Final[Mapping[str, tuple[Callable[[str], bytes], str]]] = {
    "cut short": (lambda line: said(200, {"type": "simple", "value": "s3cret"})[:-4], "or not to the end"),
    "another type": (lambda line: said(200, {"type": "simple", "value": 7}), "does not answer as Custodia does"),
    "its store is away": (lambda line: said(500, {}), "(HTTP 500): its log says why"),
    "no answer": (lambda line: b"", "see that Custodia runs"),
    "no HTTP": (lambda line: b"s3cret\r\n\r\n", "see that Custodia runs"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_answer_ends_the_reading(short: Path, what: str) -> None:
    """An answer that tells nothing of a secret is no fault of it: reading ends, and repeats nothing of the answer."""
    answer, text = BAD[what]
    with scripted(short, lambda line: said(200, ["a"]) if line == LIST else answer(line)) as path:
        source = custodia_server.make(str(path), {"container": ["box"]}, Retries(first=0.0))
        await source.open(Digest())
        with pytest.raises(SourceUnavailable) as caught:
            _ = [item async for item in source.items()]
        await source.close()

    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_lost_answer_to_a_write_is_settled(short: Path) -> None:
    """Where the answer to a deletion or a store is lost, Custodia is asked what became of it."""
    kept = {"/secrets/box/a": "the value"}

    def answer(line: str) -> bytes:
        method, path, _ = line.split(" ")
        if method == "DELETE":
            del kept[path]
            return b""
        if method == "PUT":
            kept[path] = "the value"
            return b""
        if path.endswith("/"):
            return said(200, ["a"])
        return said(200, {"type": "simple", "value": kept[path]}) if path in kept else said(404, {})

    with scripted(short, answer) as path:
        source = custodia_server.make(str(path), {"container": ["box"]}, Retries(first=0.0))
        await source.open(Digest())
        originals = list((await source.originals(["box/a"])).values())
        assert await source.scrub(originals) == [True]
        assert kept == {}
        assert await source.restore(originals) == [True]
        await source.close()

    assert kept == {"/secrets/box/a": "the value"}
