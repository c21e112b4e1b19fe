"""Custodia's SQLite store, read from its file while the real Custodia goes on serving it."""

import asyncio
import base64
import json
import secrets
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Final

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Original, Place
from strongroom.migration.sources.custodia import table as custodia_table
from strongroom.migration.sources.custodia.sqlite_store import CustodiaSqlite
from strongroom.models import HostCreds, Secret
from strongroom.models.steps import Step
from strongroom.storage_service.backends.memory import MemoryBackend
from strongroom.storage_service.client.bulk_operations import Write
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_SECRET, NEW
from tests.migration.house import house
from tests.migration.sources import custodia
from tests.migration.sources.custodia import TABLE, CustodiaEstate, Server

Maker = Callable[[Path], AbstractContextManager[CustodiaEstate]]

PEM: Final = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
ESTATES: Final[Mapping[str, Maker]] = {
    "pinned": custodia.estate_overlay,
    "unpinned": custodia.estate_unpinned,
    "encrypted store": custodia.estate_encrypted_store,
    "in the clear": custodia.estate_clear,
}
VALUES: Final[Mapping[str, str | bytes]] = {
    "hosts/10.0.0.7": HostCreds(
        address="10.0.0.7", ssh_priv_key=Secret(base64.b64encode(PEM.encode()).decode())
    ).to_json(),
    "hosts/fe80::1": b'{"address": "fe80::1"}',
    "law/text": "Gr\u00fc\u00dfe, \u6771\u4eac, \U0001f511",
    "law/octets": bytes(range(256)),
    "law/largest-text": "x" * MAX_SECRET,
    "law/largest-octets": secrets.token_bytes(MAX_SECRET),
    "a/b/c/d@e+f_g-h": "deep",
}


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustodiaEstate]:
    """A store under EncryptedOverlay that tests share: each uses keys of its own."""
    with custodia.estate_overlay(tmp_path_factory.mktemp("pinned")) as estate:
        yield estate


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustodiaEstate]:
    """A store that nothing encrypts, which tests share."""
    with custodia.estate_clear(tmp_path_factory.mktemp("clear")) as estate:
        yield estate


async def opened(estate: CustodiaEstate) -> CustodiaSqlite:
    source = open_source(estate.kind, estate.place, estate.options)
    assert isinstance(source, CustodiaSqlite)
    await source.open(Digest())
    return source


async def items_of(estate: CustodiaEstate) -> dict[str, Item]:
    return {item.id: item async for item in (await opened(estate)).items()}


def told(item: Item) -> str:
    """Return what an item says instead of a record."""
    return f"fault: {item.fault}" if item.fault else "; ".join(map(str, item.notes))


def unused() -> str:
    return f"t{secrets.token_hex(4)}"


# What moves.


@pytest.mark.parametrize("kind", ESTATES)
async def test_what_custodia_answers_is_what_moves(tmp_path: Path, kind: str) -> None:
    """However a store is encrypted, its records hold what Custodia itself answers for the same names."""
    with ESTATES[kind](tmp_path) as estate:
        for path, value in VALUES.items():
            estate.server.store(path, value)
        answers = {f"secrets/{path}": estate.server.ask("GET", f"/{path}", 200).json()["value"] for path in VALUES}

        items = await items_of(estate)

    records = {record.name: record.value.reveal() for item in items.values() for record in item.records}
    assert records == answers
    assert set(items) == {f"keys/{path}" for path in VALUES}
    unproven = kind in ("unpinned", "encrypted store")
    assert all(
        item.notes == (("it is not pinned: nothing proves that it was written under this key",) if unproven else ())
        for item in items.values()
    )


async def test_a_key_of_256_bits_opens_too(tmp_path: Path) -> None:
    """With master_enctype = A128CBC-HS256 the key is shorter, and values move as well."""
    with custodia.server(tmp_path, "short key") as server:
        estate = CustodiaEstate(server, encrypted=True)
        key = estate.put(1)

        items = await items_of(estate)

    assert items[key].records[0].value.reveal() == estate.secret_of(1)


async def test_credentials_are_read_here(pinned: CustodiaEstate) -> None:
    """What CPD-101's handler stored as octets is, moved, what the service reads as credentials of a host."""
    key = pinned.put(3)
    (record,) = (await items_of(pinned))[key].records

    async with house(MemoryBackend()) as client:
        await client.commit_bulk([Write("secrets/hosts/", Secret(""), NEW), Write(record.name, record.value, NEW)])
        creds = (await client.get(HostCreds, "h000003")).model

    assert creds.ssh_priv_key.reveal() == pinned.secret_of(3)


async def test_what_an_older_form_has_is_left_or_mended(pinned: CustodiaEstate) -> None:
    """A key in the clear is encoded; a field that credentials do not have stays behind, and is told by its name."""
    address = unused()
    old = {"address": address, "ssh_priv_key": PEM, "remote_user": "core", "hidden_thing": "no word of this"}
    pinned.server.store(f"hosts/{address}", json.dumps(old).encode())

    item = (await items_of(pinned))[f"keys/hosts/{address}"]

    creds = HostCreds.from_json(base64.b64decode(item.records[0].value.reveal()))
    assert base64.b64decode(creds.ssh_priv_key.reveal()).decode() == PEM
    assert creds.remote_user == "core"
    assert item.notes == ("fields that stay behind: hidden_thing",)


async def test_keys_of_custodias_own_stay_behind(pinned: CustodiaEstate) -> None:
    """API keys, KEM keys and empty containers are told and do not move; a container that holds something is no item."""
    box, api_key = unused(), secrets.token_urlsafe(32)
    pinned.server.make_container(box, "empty")
    with pinned.server.sql() as table:
        for key in (f"custodiaSAK/{box}", f"custodia_commissaire_api/{box}", f"kemkeys/sig/{box}"):
            table.execute(f"INSERT INTO {TABLE} VALUES (?, ?)", (key, api_key))

    items = await items_of(pinned)

    kept = Step("an API key of Custodia's: it stays behind; make a new one", "apikey create", {"id": box})
    assert items[f"custodiaSAK/{box}"].notes == items[f"custodia_commissaire_api/{box}"].notes == (kept,)
    assert "KEM" in told(items[f"kemkeys/sig/{box}"])
    assert "empty container" in told(items[f"keys/{box}/empty"])
    assert f"keys/{box}" not in items
    assert not any(items[key].records or items[key].fault for key in items if box in key)
    assert api_key not in repr(items)


async def test_names_are_told_in_ascii(clear: CustodiaEstate) -> None:
    """A key that is no name here is a fault, under an id that is ASCII, and found again by it."""
    box = f"keys/{unused()}/"  # a key that is no UTF-8 keeps Custodia itself from listing its container
    ids = {"gr\u00fc\u00dfe": "gr%C3%BC%C3%9Fe", "a\nb": "a%0Ab", "100%": "100%25", "nul\0": "nul%00"}
    with clear.server.sql() as table:
        table.executemany(f"INSERT INTO {TABLE} VALUES (?, 'x')", [(box + name,) for name in ids])
        table.execute(f"INSERT INTO {TABLE} VALUES (CAST(? AS TEXT), 'x')", (box.encode() + b"\xff",))
    source = await opened(clear)

    items = {item.id: item async for item in source.items()}
    marks = await source.marks([box + name for name in (*ids.values(), "%FF")])

    assert len(marks) == 5
    for key, mark in marks.items():
        assert items[key].mark == mark
        assert items[key].fault == "its name has characters that names do not allow, or is too long"


# What cannot move.


def token(key: JWK, name: str, value: bytes, **header: str) -> str:
    """Return a JWE as Custodia writes it, or with another *header*."""
    protected = {"alg": "dir", "enc": "A256CBC-HS512", "custodia.key": name} | header
    jwe = JWE(value, json.dumps({field: said for field, said in protected.items() if said}))
    jwe.add_recipient(key)
    return str(jwe.serialize(compact=True))


def edited(token: str) -> str:
    """Return *token* with another first letter of its ciphertext."""
    *head, ciphertext, tag = token.split(".")
    return ".".join([*head, ("A" if ciphertext[0] != "A" else "B") + ciphertext[1:], tag])


FAULTS: Final[Mapping[str, tuple[str, Callable[[JWK, str], str | bytes | int | None], str]]] = {
    "no token": ("law/", lambda key, name: "plain words", "not a JWE in compact form"),
    "no header": ("law/", lambda key, name: "....", "not a JWE in compact form"),
    "octets": ("law/", lambda key, name: b"\xff\xfe.\x00", "not a JWE in compact form"),
    "a number": ("law/", lambda key, name: 7, "not one that Custodia writes"),
    "moved here": ("law/", lambda key, name: token(key, "keys/law/other", b"x"), "pinned to another key"),
    "edited": ("law/", lambda key, name: edited(token(key, name, b"x")), "does not open it"),
    "another key's": ("law/", lambda key, name: token(JWK(generate="oct", size=512), name, b"x"), "does not open it"),
    "compressed": ("law/", lambda key, name: token(key, name, b"x" * 999, zip="DEF"), "not one that Custodia writes"),
    "another cipher": (
        "law/",
        lambda key, name: token(JWK(generate="oct", size=256), name, b"x", enc="A256GCM"),
        "not one that Custodia writes",
    ),
    "a shorter key": (
        "law/",
        lambda key, name: token(JWK(generate="oct", size=256), name, b"x", enc="A128CBC-HS256"),
        "an algorithm that the master key is not for",
    ),
    "a wrapped key": (
        "law/",
        lambda key, name: token(JWK(generate="oct", size=256), name, b"x", alg="A256KW"),
        "not a JWE in compact form",
    ),
    "nothing": ("law/", lambda key, name: token(key, name, b""), "empty"),
    "no text": ("law/", lambda key, name: token(key, name, b"\xff"), "not UTF-8 text"),
    "too large": ("law/", lambda key, name: token(key, name, b"x" * (MAX_SECRET + 1)), "over"),
    "far too large": ("law/", lambda key, name: token(key, name, b"x" * (4 * MAX_SECRET)), "over"),
    "no container": ("", lambda key, name: token(key, name, b"x"), "lies in no container"),
    "no host": ("hosts/", lambda key, name: token(key, name, b"just a word"), "HostCreds"),
    "another host": (
        "hosts/",
        lambda key, name: token(key, name, base64.b64encode(b'{"address": "else"}')),
        "HostCreds",
    ),
    "a bad key": (
        "hosts/",
        lambda key, name: token(key, name, base64.b64encode(b'{"address": "a", "ssh_priv_key": "no base64!"}')),
        "neither PEM nor base64",
    ),
}


@pytest.fixture(scope="module")
def malformed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Item], list[str]]:
    """The items of a store with everything of `FAULTS`, by the words for it, and all values that were put in."""
    with custodia.estate_overlay(tmp_path_factory.mktemp("malformed")) as estate:
        good = [estate.put(number) for number in (1, 2)]
        key = JWK(**json.loads(estate.server.key.read_text()))
        keys, values = {}, []
        with estate.server.sql() as table:
            for number, (what, (container, make, _)) in enumerate(FAULTS.items()):
                name = f"keys/{container}f{number:02}"
                keys[name] = what
                values.append(make(key, name))
                table.execute(f"INSERT INTO {TABLE} VALUES (?, ?)", (name, values[-1]))
        items = asyncio.run(items_of(estate))
        for name in good:
            assert items[name].fault == ""
        return {what: items[name] for name, what in keys.items()}, [str(value) for value in values]


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_malformed_is_told(malformed: tuple[dict[str, Item], list[str]], what: str) -> None:
    """A value that cannot move is a fault that says why, beside others that move."""
    item = malformed[0][what]

    assert FAULTS[what][2] in item.fault
    assert item.records == ()


def test_no_fault_repeats_a_value(malformed: tuple[dict[str, Item], list[str]]) -> None:
    """What is said of malformed values holds none of them."""
    said = repr([(item.fault, item.notes, item.mark) for item in malformed[0].values()])

    assert not any(len(value) > 3 and value in said for value in malformed[1])


# What is no estate.


def as_conf(server: Server, text: str) -> dict[str, object]:
    path = server.home / f"{unused()}.conf"
    path.write_text(text)
    return {"place": str(path)}


def wide_open(server: Server) -> Mapping[str, object]:
    path = server.home / unused()
    shutil.copy(server.key, path)
    path.chmod(0o640)
    return {"key": str(path)}


def holding(server: Server, text: str) -> str:
    path = server.home / unused()
    path.touch(0o600)
    path.write_text(text)
    return str(path)


OTHER_KEY: Final = json.dumps({"kty": "oct", "k": base64.urlsafe_b64encode(bytes(64)).decode().rstrip("=")})
REFUSALS: Final[Mapping[str, tuple[Callable[[Server], Mapping[str, object]], type[Exception], str]]] = {
    "no file": (lambda server: {"place": "/nowhere/at.db"}, ConfigurationError, "there is no file /nowhere/at.db"),
    "a URL": (lambda server: {"place": "http://x"}, ConfigurationError, "the source 'custodia'"),
    "no database": (
        lambda server: {"place": holding(server, "x" * 5000)},
        ConfigurationError,
        "not an SQLite database",
    ),
    "no table": (lambda server: {"table": 'no"table'}, ConfigurationError, "no table 'no\"table' of Custodia's"),
    "no key": (lambda server: {"key": None}, ConfigurationError, "is encrypted: say -o key=FILE"),
    "a key that is missing": (lambda server: {"key": "/nowhere"}, ConfigurationError, "is missing"),
    "a key open to others": (wide_open, ConfigurationError, "run: chmod 600"),
    "what is no key": (
        lambda server: {"key": holding(server, '{"kty":"oct","k":"AAAA"}')},
        ConfigurationError,
        "512 or 256",
    ),
    "an RSA key": (
        lambda server: {"key": holding(server, '{"kty":"RSA","n":"AAAA"}')},
        ConfigurationError,
        "512 or 256",
    ),
    "no JSON": (lambda server: {"key": holding(server, "k")}, ConfigurationError, "512 or 256"),
    "another store's key": (lambda server: {"key": holding(server, OTHER_KEY)}, SourceRefused, "opens nothing"),
    "store without .conf": (lambda server: {"store": "served"}, ConfigurationError, "store goes with a configuration"),
    "key with .conf": (lambda server: {"place": str(server.conf)}, ConfigurationError, "key goes with the file"),
    "etcd": (
        lambda server: (
            as_conf(server, "[store:s]\nhandler = EtcdStore\n[/secrets]\nhandler = Secrets\nstore = s\n")
            | {"key": None}
        ),
        ConfigurationError,
        "is not a SqliteStore: read what it keeps from the running Custodia",
    ),
    "a conf without secrets": (
        lambda server: as_conf(server, "[store:a]\nhandler = SqliteStore\n") | {"key": None},
        ConfigurationError,
        "with -o store=NAME; there are: a",
    ),
    "a conf that is none": (
        lambda server: as_conf(server, "a line with s3cret") | {"key": None},
        ConfigurationError,
        "is not INI",
    ),
    "no such store": (
        lambda server: {"place": str(server.conf), "key": None, "store": "gone"},
        ConfigurationError,
        "has no section [store:gone]",
    ),
    "a relative path": (
        lambda server: (
            as_conf(server, "[store:a]\nhandler = SqliteStore\ndburi = here.db\n") | {"key": None, "store": "a"}
        ),
        ConfigurationError,
        "[store:a] dburi: is relative",
    ),
    "an open reference": (
        lambda server: (
            as_conf(server, "[store:a]\nhandler = SqliteStore\ndburi = ${s3cret}\n") | {"key": None, "store": "a"}
        ),
        ConfigurationError,
        "[store:a] dburi: a ${…} in it names nothing",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_is_no_estate_is_refused(pinned: CustodiaEstate, what: str) -> None:
    """What cannot be read ends with what to do about it, and with nothing of what was looked at."""
    pinned.put(1)
    make, error, text = REFUSALS[what]
    said = {"place": pinned.place, "key": str(pinned.server.key), **make(pinned.server)}
    place = str(said.pop("place"))

    async def read() -> None:
        source = open_source("custodia-sqlite", place, {name: [str(value)] for name, value in said.items() if value})
        await source.open(Digest())
        await anext(source.items())

    with pytest.raises(error) as caught:
        await read()

    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value).replace("${…}", "")
    assert "AAAA" not in str(caught.value)


async def test_a_table_with_other_keys_is_none(tmp_path: Path) -> None:
    """A key that is no text was never Custodia's, and is not passed over."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE {TABLE} (key PRIMARY KEY UNIQUE, value)")
        connection.execute(f"INSERT INTO {TABLE} VALUES (?, 'x')", (b"keys/a/b",))

    with pytest.raises(ConfigurationError, match="is not text"):
        await open_source("custodia-sqlite", str(path), {}).open(Digest())


async def test_an_empty_store_is_an_estate(tmp_path: Path) -> None:
    """A store in which nothing is opens, and has no items."""
    with custodia.estate_overlay(tmp_path) as estate:
        source = await opened(estate)

        assert await source.count() == 0
        assert [item async for item in source.items()] == []


async def test_the_configuration_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration alone leads to the store and its key; a file of its conf.d may say otherwise."""
    with custodia.estate_overlay(tmp_path) as estate:
        key = estate.put(1)
        more = tmp_path / "custodia.conf.d"
        more.mkdir()
        (more / "10-more.conf").write_text(
            "[store:again]\nhandler = custodia.store.encgen.EncryptedOverlay\n"
            "backing_store = sqlite\nmaster_key = ${ENV:HERE}/${instance}.key\n"
        )
        shutil.copy(estate.server.key, tmp_path / "prod.key")

        served = open_source("custodia-sqlite", str(estate.server.conf), {})
        await served.open(Digest())
        monkeypatch.setenv("HERE", str(tmp_path))
        again = open_source("custodia-sqlite", str(estate.server.conf), {"store": ["again"], "instance": ["prod"]})
        await again.open(Digest())

        assert [item.id async for item in served.items()] == [item.id async for item in again.items()] == [key]
        assert served.identity == f"custodia-sqlite:{estate.server.conf}"
        assert again.identity == f"custodia-sqlite:{estate.server.conf} store again"


# A Custodia that runs.


async def test_custodia_writes_while_we_read(clear: CustodiaEstate) -> None:
    """Between two pages no lock is held: Custodia stores and removes; what was there all along is read, in order."""
    box = unused()
    clear.server.fill({f"{box}/s{number:04}": f"{number}" for number in range(0, 1200, 2)})
    items = (await opened(clear)).items()
    seen = [item.id async for item in _until(items, f"keys/{box}/s0100") if box in item.id]

    clear.server.store(f"{box}/s0101", "came")
    clear.server.ask("DELETE", f"/{box}/s1190", 204)
    seen += [item.id async for item in items if box in item.id]

    kept = [f"keys/{box}/s{number:04}" for number in range(0, 1200, 2) if number != 1190]
    assert [key for key in seen if key not in (f"keys/{box}/s0101", f"keys/{box}/s1190")] == kept
    assert seen == sorted(set(seen))


async def _until(items: AsyncIterator[Item], last: str) -> AsyncIterator[Item]:
    async for item in items:
        yield item
        if item.id == last:
            return


async def test_a_page_is_bounded_in_bytes(clear: CustodiaEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large values make short pages, and none is left out."""
    monkeypatch.setattr(custodia_table, "_PAGE_SIZE", 100)
    box = unused()
    clear.server.fill({f"{box}/{number}": "x" * 60 for number in range(9)})

    assert len([key for key in await items_of(clear) if key.startswith(f"keys/{box}/")]) == 9


async def test_a_store_that_is_held_is_unavailable(clear: CustodiaEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process keeps everybody out, the store is unavailable, and nothing was done."""
    key = clear.put(1)
    source = await opened(clear)
    originals = list((await source.originals([key])).values())
    monkeypatch.setattr(custodia_table, "_BUSY", 0.01)
    with closing(sqlite3.connect(clear.place, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for act in (source.count(), source.marks([key]), source.scrub(originals), source.purge()):
            with pytest.raises(SourceUnavailable, match="others hold"):
                await act

    assert await source.marks([key]) == {key: originals[0].mark}


async def test_an_unfinished_write_is_told(tmp_path: Path) -> None:
    """What a dead Custodia left half written is not read until that is undone, and reading does not undo it."""
    whole, torn = tmp_path / "whole.db", tmp_path / "torn.db"
    with closing(sqlite3.connect(whole, isolation_level=None)) as writer:
        writer.execute(f"CREATE TABLE {TABLE} (key PRIMARY KEY UNIQUE, value)")
        writer.execute(f"INSERT INTO {TABLE} VALUES ('keys/a/b', 'before')")
        writer.execute("PRAGMA cache_size = 2")
        writer.execute("BEGIN")
        writer.executemany(
            f"INSERT INTO {TABLE} VALUES (?, ?)", [(f"keys/a/{number}", "x" * 3000) for number in range(50)]
        )
        shutil.copy(whole, torn)
        shutil.copy(f"{whole}-journal", f"{torn}-journal")
        writer.execute("ROLLBACK")
    before = torn.read_bytes()

    with pytest.raises(SourceUnavailable, match="left in the middle of a write: start Custodia"):
        await open_source("custodia-sqlite", str(torn), {}).open(Digest())
    assert torn.read_bytes() == before


# Scrubbing.


async def test_scrubbed_and_restored(pinned: CustodiaEstate) -> None:
    """Custodia has no more of what was scrubbed, and again what was restored, as it was stored; others are left."""
    keys = [pinned.put(number) for number in (11, 12, 13)]
    source = await opened(pinned)
    before = pinned.server.rows()
    originals = list((await source.originals(keys[:2])).values())

    assert await source.scrub(originals) == [True, True]
    gone = [pinned.server.client.get(f"/{key.removeprefix('keys/')}").status_code for key in keys]
    assert await source.scrub(originals) == [True, True]
    assert await source.restore(originals) == [True, True]
    again = [pinned.server.client.get(f"/{key.removeprefix('keys/')}").status_code for key in keys]

    assert (gone, again) == ([404, 404, 200], [200, 200, 200])
    assert pinned.server.rows() == before


async def test_what_somebody_changed_is_left(pinned: CustodiaEstate) -> None:
    """Neither scrubbing nor restoring touches what Custodia has stored since."""
    keys = [pinned.put(number) for number in (14, 16)]
    source = await opened(pinned)
    originals = list((await source.originals(keys)).values())
    pinned.change(keys[0])
    changed = pinned.server.rows()[keys[0]]

    assert await source.scrub(originals) == [False, True]
    assert await source.restore(originals) == [False, True]
    assert pinned.server.rows()[keys[0]] == changed


SIZES: Final = (20, 300, 3000, 3990, 4030, 4100, 9000, 50_000)  # bytes; a page of the file is 4,096


@pytest.mark.parametrize("kind", ["pinned", "in the clear"])
async def test_after_a_purge_nothing_is_found(tmp_path: Path, kind: str) -> None:
    """Values of all sizes are found in the file by their patterns, also where pages cut them, until it is purged."""
    with ESTATES[kind](tmp_path) as estate:
        paths = {f"law/s{size}": secrets.token_hex(size)[:size] for size in SIZES}
        for path, text in paths.items():
            estate.server.store(path, text)
        source = await opened(estate)
        originals = list((await source.originals([f"keys/{path}" for path in paths])).values())
        patterns = {original.id: source.search_patterns(original) for original in originals}
        before = {key: _holds_any(estate, each) for key, each in patterns.items()}

        await source.scrub(originals)
        done = await source.purge()
        after = {key: _holds_any(estate, each) for key, each in patterns.items()}

        assert all(before.values()), before
        assert not any(after.values())
        assert "VACUUM" in done[0]
        assert estate.server.client.get("/law/").json() == []


def _holds_any(estate: CustodiaEstate, patterns: Sequence[bytes]) -> bool:
    assert patterns
    return any(pattern in part for part in estate.raw() for pattern in patterns)


async def test_every_place_is_named(clear: CustodiaEstate) -> None:
    """The file, its log and copies beside it can be searched; backups and freed blocks are told, with what to do."""
    copy, log = (clear.server.home / f"custodia.db{suffix}" for suffix in (".bak", "-wal"))
    copy.write_bytes(b"an old copy")
    log.write_bytes(b"")
    try:
        places = await (await opened(clear)).places()
        named = {place.name: place for place in places}

        assert [str(log), str(copy), clear.place] == [
            name for name in (str(log), str(copy), clear.place) if named[name].chunks is not None
        ]
        assert b"".join([part async for part in _parts(named[clear.place])]) == Path(clear.place).read_bytes()
        unreachable = [place.name for place in places if place.chunks is None]
        assert any("backups" in name for name in unreachable)
        assert any("freed blocks" in name for name in unreachable)
        assert all(place.advice for place in places)
    finally:
        copy.unlink()
        log.unlink()


def _parts(place: Place) -> AsyncIterator[bytes]:
    assert place.chunks is not None
    return place.chunks()


async def test_a_log_is_purged_too(tmp_path: Path) -> None:
    """Where an operator had SQLite keep a write-ahead log, what was scrubbed goes from that as well."""
    path, text = tmp_path / "custodia.db", secrets.token_hex(100)
    with closing(sqlite3.connect(path, isolation_level=None)) as keeper:  # keeps the log there
        keeper.execute("PRAGMA journal_mode = WAL")
        keeper.execute(f"CREATE TABLE {TABLE} (key PRIMARY KEY UNIQUE, value)")
        keeper.execute(f"INSERT INTO {TABLE} VALUES ('keys/a/b', ?)", (text,))
        source = open_source("custodia-sqlite", str(path), {})
        assert isinstance(source, CustodiaSqlite)
        await source.open(Digest())
        originals = list((await source.originals(["keys/a/b"])).values())
        log = path.with_name("custodia.db-wal")
        assert text.encode() in log.read_bytes()

        assert await source.scrub(originals) == [True]
        await source.purge()

        assert text.encode() not in path.read_bytes() + log.read_bytes()


async def test_nothing_shows_a_secret(pinned: CustodiaEstate) -> None:
    """Neither the source nor what it hands out shows a value, or a key, where it is printed."""
    key = pinned.put(17)
    source = await opened(pinned)
    original: Original = (await source.originals([key]))[key]
    shown = f"{source!r} {vars(source)!r} {original!r} {source.identity} {source._key!r}"

    master = json.loads(pinned.server.key.read_text())["k"]
    for secret in (pinned.secret_of(17), pinned.server.rows()[key], master):
        assert secret not in shown
