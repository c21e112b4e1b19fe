"""The source of OpenBao, against a real OpenBao: what is read, what is refused, what scrubbing takes and leaves."""

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from strongroom.migration.digest import Digest
from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import open_source
from strongroom.migration.sources.base import Original
from strongroom.migration.sources.openbao import http
from strongroom.migration.sources.openbao import http as openbao_http
from strongroom.migration.sources.openbao import source as openbao_source
from strongroom.migration.sources.openbao.http import Server, Url
from strongroom.migration.sources.openbao.kv1 import Kv1
from strongroom.migration.sources.openbao.kv2 import Kv2
from strongroom.migration.sources.openbao.source import OpenBao
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_SECRET
from tests.migration.sources.openbao import Bao, BaoEstate, estate_v1, estate_v2, shared

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture(params=[estate_v1, estate_v2], ids=["v1", "v2"])
def bao(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaoEstate]:
    """Give an estate of either version."""
    with request.param(tmp_path) as estate:
        yield estate


@pytest.fixture
def bao1(tmp_path: Path) -> Iterator[BaoEstate]:
    """Give an estate of version 1."""
    with estate_v1(tmp_path) as estate:
        yield estate


@pytest.fixture
def bao2(tmp_path: Path) -> Iterator[BaoEstate]:
    """Give an estate of version 2."""
    with estate_v2(tmp_path) as estate:
        yield estate


@asynccontextmanager
async def opened(estate: BaoEstate, **options: str) -> AsyncIterator[OpenBao]:
    """Give the source of an estate, open; an option that is empty is not said."""
    said: dict[str, Sequence[str]] = {**estate.options, **{name: [value] for name, value in options.items()}}
    source = cast("OpenBao", open_source(estate.kind, estate.place, {k: v for k, v in said.items() if any(v)}))
    try:
        await source.open(Digest())
        yield source
    finally:
        await source.close()


async def read(source: OpenBao) -> dict[str, Item]:
    return {item.id: item async for item in source.items()}


async def original(source: OpenBao, key: str) -> Original:
    return (await source.originals([key]))[key]


def records(item: Item) -> dict[str, str]:
    return {record.name: record.value.reveal() for record in item.records}


def limited(estate: BaoEstate, **rules: str) -> dict[str, str]:
    """Return the options of a token that may do everything in the mount, but what *rules* say of paths in it."""
    name = estate.name
    policy = f'path "{name}/*" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
    for path, capabilities in rules.items():
        policy += f' path "{name}/{path}" {{ capabilities = [{capabilities}] }}'
    return {"token_file": str(estate.token_file(estate.bao.token_of(policy)))}


# Reading.


async def test_what_is_read(bao: BaoEstate) -> None:
    """Paths become records in the order of the listing; counting tells how many there are."""
    wrote = {
        bao.write("apps/db", {"password": "x", "port": 5432}): {
            f"secrets/{bao.name}/db/password": "x",
            f"secrets/{bao.name}/db/port": "5432",
        },
        bao.write("apps/db/inner", {"value": "\u6771\u4eac \U0001f511\n"}): {
            f"secrets/{bao.name}/db/inner": "\u6771\u4eac \U0001f511\n"
        },
        bao.write("other/a/b/c/d/e", {"value": "<&>\u2028"}): {"secrets/other/a/b/c/d/e": "<&>\u2028"},
        bao.write("zz", {"p": "y"}): {"secrets/zz/p": "y"},
    }
    host = bao.write("ssh/10.0.0.7", {"private_key": PEM, "username": "core"})

    async with opened(bao) as source:
        items = await read(source)

        assert await source.count() == len(wrote) + 1
    assert {key: records(items[key]) for key in wrote} == wrote
    assert list(items) == [*list(wrote)[:3], host, list(wrote)[3]]
    (creds,) = records(items[host]).values()
    assert base64.b64encode(PEM.encode()) in base64.b64decode(creds)


async def test_names_that_no_record_has(bao: BaoEstate) -> None:
    """A path may have any name: it is read, told by an id that is printable, and found again by it."""
    names = ["sp ace", "\u00fcn\u00ef", "q?x#y", "per%cent", "pl+us", 'quo"te', "a;b&c=d", "trail "]
    written = [bao.write(f"apps/{name}", {"value": f"the secret {number}"}) for number, name in enumerate(names)]

    async with opened(bao) as source:
        items = await read(source)
        assert await source.marks(written) == {key: items[key].mark for key in written}
        for number, key in enumerate(written):
            assert key.isascii() and key.isprintable()
            assert f"the secret {number}" in (await original(source, key)).content.reveal()
    assert sum(bool(item.fault) for item in items.values()) == len(names) - 1  # a plus is fine


async def test_a_value_that_is_too_large(bao: BaoEstate) -> None:
    """One value over the limit is a fault of its path; the one at the limit moves."""
    huge = bao.write("apps/huge", {"value": "x" * (MAX_SECRET + 1)})
    fits = bao.write("apps/fits", {"value": "x" * MAX_SECRET})

    async with opened(bao) as source:
        items = await read(source)

    assert "512 KiB" in items[huge].fault
    assert records(items[fits]) == {f"secrets/{bao.name}/fits": "x" * MAX_SECRET}


@pytest.mark.parametrize("page", [1, 2, 3, 7, 8, 1000])
async def test_a_listing_in_pages(bao: BaoEstate, page: int) -> None:
    """However many names come at once, and whether or not the server knows of pages, each comes once, in order."""
    written = [f"apps/s{number}" for number in range(7)] + ["apps/s3/inner"]
    for path in written:
        bao.write(path, {"value": "x"})

    async with opened(bao) as source:
        server = source._server
        assert server is not None
        source._engine = Kv1(server, bao.name, Digest(), page) if bao.version == 1 else Kv2(server, bao.name, page)
        assert list(await read(source)) == [bao.id_of(path) for path in sorted(written)]


async def test_only_below_a_folder(bao: BaoEstate) -> None:
    """With `under` nothing else is read or found, and it is another estate."""
    inner = bao.write("apps/a/x", {"value": "x"})
    bao.write("apps/ab", {"value": "y"})
    bao.write("apps/a", {"p": "z"})

    async with opened(bao) as whole, opened(bao, under="apps/a/") as source:
        assert list(await read(source)) == [inner]
        names = [f"secrets/{bao.name}/{rest}" for rest in ("a/x", "ab", "a/p")]
        assert list(await source.find(names)) == names[:1]
        assert set(await whole.find(names)) == set(names)
        assert source.identity != whole.identity


async def test_an_empty_mount(bao: BaoEstate) -> None:
    """Nothing is there, and that is no error."""
    async with opened(bao) as source:
        assert await read(source) == {}
        assert await source.count() == 0


async def test_versions_are_told(bao2: BaoEstate) -> None:
    """The current version moves; what stays behind is noted: older versions, custom metadata, a deletion to come."""
    for number in range(4):
        many = bao2.write("apps/many", {"value": f"the value {number}"})
    two = bao2.write("apps/two", {"value": "1"})
    bao2.write("apps/two", {"value": "2"})
    bao2.act("destroy", "apps/many", versions=[1])
    bao2.act("delete", "apps/many", versions=[2])
    bao2.act("metadata", "apps/two", custom_metadata={"owner": "the owner"})
    bao2.act("metadata", "apps/late", delete_version_after="9h")
    late = bao2.write("apps/late", {"value": "x"})

    async with opened(bao2) as source:
        items = await read(source)

    assert records(items[many]) == {f"secrets/{bao2.name}/many": "the value 3"}
    assert items[many].notes == ("2 older versions stay behind",)
    assert items[two].notes == ("its custom metadata stays behind", "1 older version stays behind")
    assert "the server deletes it at" in str(items[late].notes[0])
    assert items[late].records
    assert items[two].mark.startswith("2 20")


async def test_what_was_deleted(bao2: BaoEstate) -> None:
    """A path whose current version was deleted or destroyed is no fault: nothing of it moves, and that is noted."""
    fates = {}
    for verb in ("delete", "destroy"):
        fates[verb] = bao2.write(f"apps/{verb}", {"value": "the value"})
        bao2.write(f"apps/{verb}", {"value": "the value"})
        bao2.act(verb, f"apps/{verb}", versions=[2])
    removed = bao2.write("apps/removed", {"value": "x"})
    bao2.remove("apps/removed")

    async with opened(bao2) as source:
        items = await read(source)
        marks = await source.marks([*fates.values(), removed])
        bao2.act("undelete", "apps/delete", versions=[2])
        back = (await read(source))[fates["delete"]]

    assert marks == {key: items[key].mark for key in fates.values()}
    for verb, key in fates.items():
        assert (items[key].fault, items[key].records) == ("", ())
        assert f"was {verb.rstrip('e')}ed" in str(items[key].notes[0])
        assert items[key].notes[1] == "1 older version stays behind"
    assert back.records and back.mark != items[back.id].mark


async def test_finding(bao: BaoEstate) -> None:
    """A record is found by its name, wherever a mapping put it, and what no path becomes is not."""
    keys = [bao.put(number) for number in range(3)]
    bao.write("apps/text", {"value": "alone"})
    async with opened(bao) as source:
        items = await read(source)
        wanted = [record.name for key in keys for record in items[key].records]
        missing = [
            f"secrets/{bao.name}/text/value",
            "secrets/ssh/h000000/private_key",
            "secrets/hosts/none",
            "hosts/h000000",
        ]

        assert list(await source.find([*wanted, *missing])) == sorted(wanted) or len(wanted) == 4
        assert set(await source.find([*wanted, *missing])) == set(wanted)


# Who may, and whether anybody is there.


async def test_a_path_that_the_token_does_not_reach(bao: BaoEstate) -> None:
    """It is a fault of that path, or of that folder; everything else is read. To scrub it is refused."""
    data = "data/" if bao.version == 2 else ""
    listing = "metadata/" if bao.version == 2 else ""
    paths = ["apps/a", "apps/closed", "folder/x", "z/z"]
    written = {path: bao.write(path, {"value": "x"}) for path in paths}
    rules = {f"{data}apps/closed": '"deny"', f"{listing}folder/": '"deny"'}

    async with opened(bao, **limited(bao, **rules)) as source:
        items = await read(source)
        folder = f"{bao.name}/folder/"

        assert list(items) == [written["apps/a"], written["apps/closed"], folder, written["z/z"]]
        assert "the token does not reach" in items[written["apps/closed"]].fault
        assert "the token does not reach" in items[folder].fault
        assert items[written["apps/a"]].records and items[written["z/z"]].records
        assert await source.marks(list(items)) == {key: item.mark for key, item in items.items()}
        assert await source.count() == len(items)
        with pytest.raises(SourceRefused, match="apps/closed"):
            await source.originals([written["apps/closed"]])


async def test_a_token_that_ends_meanwhile(bao: BaoEstate) -> None:
    """A token that is revoked while it is used ends the reading: not every path is at fault."""
    for number in range(40):
        bao.write(f"apps/s{number:02}", {"value": "x"})
    options = limited(bao)
    async with opened(bao, **options) as source:
        items = source.items()
        first = await anext(items)
        token = Path(options["token_file"]).read_text().strip()
        bao.bao.ask("POST", "auth/token/revoke", {"token": token}).raise_for_status()

        with pytest.raises(SourceRefused, match="no longer"):
            [item async for item in items]
        with pytest.raises(SourceRefused):
            await source.marks([first.id])
        with pytest.raises(SourceRefused):
            await source.find([f"secrets/{bao.name}/s00"])


async def test_a_token_without_rights(bao: BaoEstate) -> None:
    """A token that is none, or that may not list the mount, is refused with what to do about it."""
    bao.write("apps/a", {"value": "x"})
    wrong = str(bao.token_file("s.this-is-no-token"))
    nothing = str(bao.token_file(bao.bao.token_of('path "elsewhere/*" { capabilities = ["read"] }')))
    folder = "metadata/" if bao.version == 2 else ""
    unlisted = limited(bao, **{folder: '"deny"'})["token_file"]

    for token_file, version in ((wrong, ""), (wrong, "2"), (nothing, ""), (unlisted, ""), (unlisted, str(bao.version))):
        with pytest.raises(SourceRefused, match="token") as caught:
            async with opened(bao, token_file=token_file, version=version):
                pass
        assert "s.this-is-no-token" not in str(caught.value)


async def test_a_version_that_is_said(bao: BaoEstate) -> None:
    """What the operator says of the version is taken, if it is so."""
    key = bao.write("apps/a", {"value": "x"})

    async with opened(bao, version=str(bao.version)) as source:
        assert (await read(source))[key].records


async def test_mounts_that_are_none(bao: BaoEstate) -> None:
    """No such mount, another engine, another version, no such namespace: each is told for what it is."""
    for options, expected in (
        ({"mount": "nowhere"}, "nothing is mounted"),
        ({"mount": f"{bao.name}/apps"}, "nothing is mounted"),
        ({"mount": "cubbyhole"}, "not a KV engine"),
        ({"version": str(3 - bao.version)}, f"is of version {bao.version}"),
        ({"namespace": "nowhere"}, "no such namespace"),
        ({"token_file": "/nowhere/token"}, "/nowhere/token"),
    ):
        with pytest.raises(ConfigurationError, match=expected):
            async with opened(bao, **options):
                pass


async def test_a_namespace(tmp_path: Path) -> None:
    """A mount in a namespace is read there, and is another estate than one of its name outside."""
    bao = shared()
    bao.start()
    name = f"team{tmp_path.name}"
    bao.ask("POST", f"sys/namespaces/{name}").raise_for_status()
    bao.ask("POST", f"{name}/sys/mounts/kv", {"type": "kv"}).raise_for_status()
    bao.ask("POST", f"{name}/kv/a", {"p": "x"}).raise_for_status()
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(bao.token)

    source = open_source("openbao", bao.url, {"mount": ["kv"], "namespace": [name], "token_file": [str(token_file)]})
    await source.open(Digest())
    items = [item async for item in source.items()]
    await source.close()

    assert [records(item) for item in items] == [{"secrets/a/p": "x"}]
    assert f"{name}/kv" in source.identity


async def test_sealed_and_stopped(bao: BaoEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is sealed or gone is unavailable, before and in the middle; once it is back all goes on."""
    for module in (openbao_source, openbao_http):
        monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    key = bao.write("apps/a", {"value": "x"})
    async with opened(bao) as source:
        taken = await original(source, key)
        for out, words, back in (
            (bao.bao.seal, "is sealed: unseal it", bao.bao.unseal),
            (bao.bao.stop, "does not answer", bao.bao.start),
        ):
            await asyncio.to_thread(out)
            try:
                for attempt in (read(source), source.marks([key]), source.scrub([taken])):
                    with pytest.raises(SourceUnavailable, match=words):
                        await attempt
                with pytest.raises(SourceUnavailable, match=words):
                    async with opened(bao):
                        pass
            finally:
                await asyncio.to_thread(back)
            assert (await read(source))[key].records


async def test_tls(tmp_path: Path) -> None:
    """A certificate is believed if the system, or the file that was named, knows who signed it; nothing else is."""
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    for name, blob in (("cert", cert.cert_chain_pems[0]), ("key", cert.private_key_pem), ("ca", ca.cert_pem)):
        blob.write_to_path(tmp_path / name)
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s.token")
    bao = Bao(tmp_path, (tmp_path / "cert", tmp_path / "key"))
    bao.start_sealed()
    try:
        for url, cacert, words in (
            (bao.url, None, "cacert"),
            (bao.url, tmp_path / "ca", "never initialized"),
            (bao.url.replace("https", "http"), None, "neither OpenBao nor Vault"),
            (bao.url, tmp_path / "token", "no certificates"),
        ):
            options = {"token_file": [str(token)]} | ({"cacert": [str(cacert)]} if cacert else {})
            source = open_source("openbao", url, options)
            with pytest.raises((SourceUnavailable, ConfigurationError), match=words):
                await source.open(Digest())
            await source.close()
    finally:
        bao.stop()


async def test_nothing_is_logged(
    bao: BaoEstate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the token nor a secret is in any log, at any level, and no proxy of the environment is asked."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    caplog.set_level(logging.DEBUG)
    key = bao.write("apps/a", {"value": "the secret of a log"})

    async with opened(bao) as source:
        taken = await original(source, key)
        await source.scrub([taken])
        await source.restore([taken])
        assert (await read(source))[key].records
        said = f"{caplog.text} {source!r} {source._server!r} {taken!r} {vars(source)}"

    assert bao.bao.token not in said
    assert "the secret of a log" not in said


# Scrubbing.


async def test_scrubbing_destroys_what_moved_and_no_more(bao2: BaoEstate) -> None:
    """Older versions stay, and it is told that they do; once an operator removes them nothing is left to tell."""
    key = bao2.write("apps/a", {"value": "older"})
    bao2.write("apps/a", {"value": "moved"})
    other = bao2.write("apps/b", {"value": "never moved"})
    gone = bao2.write("apps/c", {"value": "deleted"})
    bao2.act("delete", "apps/c", versions=[1])

    async with opened(bao2) as source:
        assert list(await source.scrub([await original(source, key)])) == [True]
        versions = bao2.about("apps/a")["versions"]
        assert [versions[number]["destroyed"] for number in "12"] == [False, True]
        assert bao2.read("apps/b") == {"value": "never moved"}
        told = [place for place in await source.places() if "versions of" in place.name]
        assert [(place.name, place.chunks) for place in told] == [
            (f"older or deleted versions of 2 paths, the first {key}", None)
        ]
        assert f"bao kv metadata delete -mount={bao2.name}" in told[0].advice

        for each in (key, gone):
            bao2.remove(each.removeprefix(f"{bao2.name}/"))
        assert not [place for place in await source.places() if "versions of" in place.name]
        assert list(await read(source)) == [other]


async def test_versions_that_the_token_may_not_ask_about(bao2: BaoEstate) -> None:
    """Where it is not known whether older versions remain, that is what is told."""
    key = bao2.write("apps/a", {"value": "older"})
    bao2.write("apps/a", {"value": "moved"})

    async with opened(bao2, **limited(bao2, **{"metadata/apps/a": '"list"'})) as source:
        assert "is not known" in str((await read(source))[key].notes[0])
        told = [place for place in await source.places() if "versions of" in place.name]
    assert "1 path that the token may not ask about" in told[0].name


async def test_fields_that_did_not_move_stay(bao: BaoEstate) -> None:
    """What a path holds besides what moved is there after scrubbing, and the whole after rolling back."""
    fields = {"private_key": PEM, "username": "core", "comment": "rack 7", "numbers": [1, 2.5, {"a": None}]}
    key = bao.write("ssh/h", fields)
    rest = {name: fields[name] for name in ("comment", "numbers")}

    async with opened(bao) as source:
        taken = await original(source, key)
        for _ in range(2):
            assert list(await source.scrub([taken])) == [True]
            assert bao.read("ssh/h") == rest
        if bao.version == 2:
            versions = bao.about("ssh/h")["versions"]
            assert [versions[number]["destroyed"] for number in "12"] == [True, False]
        for _ in range(2):
            assert list(await source.restore([taken])) == [True]
            assert bao.read("ssh/h") == fields


async def test_a_path_that_cannot_move_is_not_scrubbed(bao: BaoEstate) -> None:
    """Nothing of it moved, so nothing of it is taken."""
    key = bao.break_one()
    path = bao.paths()

    async with opened(bao) as source:
        taken = await original(source, key)
        assert list(await source.scrub([taken])) == [False]
        assert list(await source.restore([taken])) == [True]
        assert source.search_patterns(taken) == ()
    assert "the secret of a broken one" in bao.read(next(path)).values()


async def test_what_was_written_again_is_taken_with_it(bao2: BaoEstate) -> None:
    """A version that holds the same as the one that moved is destroyed as well; a later one that differs is not."""
    same = bao2.write("apps/same", {"value": "moved"})
    differs = bao2.write("apps/differs", {"value": "moved"})
    async with opened(bao2) as source:
        taken = [await original(source, key) for key in (same, differs)]
        bao2.write("apps/same", {"value": "moved"})
        bao2.write("apps/differs", {"value": "new"})

        assert list(await source.scrub(taken)) == [True, False]
    assert all(version["destroyed"] for version in bao2.about("apps/same")["versions"].values())
    assert not any(version["destroyed"] for version in bao2.about("apps/differs")["versions"].values())
    assert bao2.read("apps/differs") == {"value": "new"}


async def test_what_somebody_deleted_is_left(bao2: BaoEstate) -> None:
    """A version that was deleted since can be undeleted, so it is not scrubbed, nor overwritten."""
    key = bao2.write("apps/a", {"value": "moved"})
    async with opened(bao2) as source:
        taken = await original(source, key)
        bao2.act("delete", "apps/a", versions=[1])

        assert list(await source.scrub([taken])) == [False]
        assert list(await source.restore([taken])) == [False]
    assert not bao2.about("apps/a")["versions"]["1"]["destroyed"]


async def test_a_path_that_was_removed_is_restored(bao: BaoEstate) -> None:
    """Where an operator removed a scrubbed path with all that it held, rolling back makes it anew."""
    key = bao.write("apps/a", {"value": "moved", "number": 7})
    async with opened(bao) as source:
        taken = await original(source, key)
        await source.scrub([taken])
        bao.remove("apps/a")

        assert list(await source.scrub([taken])) == [True]
        assert list(await source.restore([taken])) == [True]
    assert bao.read("apps/a") == {"value": "moved", "number": 7}


async def test_patterns(bao: BaoEstate) -> None:
    """What must not be found is each value that moved, as text and as it stands in JSON; not what stays."""
    key = bao.write("ssh/h", {"private_key": PEM, "comment": "rack 7"})
    async with opened(bao) as source:
        patterns = source.search_patterns(await original(source, key))

    assert patterns == (PEM.encode(), PEM.encode().replace(b"\n", b"\\n"))


class Meddling(Server):
    """A server that does something else right before, or right after, it is asked to write."""

    before: Any = None
    after: Any = None

    async def write(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        before, self.before = self.before, None
        if before is not None:
            await asyncio.to_thread(before)
        await super().write(method, path, body)
        after, self.after = self.after, None
        if after is not None:
            raise after


@asynccontextmanager
async def meddled(estate: BaoEstate) -> AsyncIterator[tuple[OpenBao, Meddling]]:
    """Give the source of an estate, whose server is a meddling one."""
    async with opened(estate) as source:
        server = Meddling(Url.of(estate.place), Secret(estate.bao.token), "", None, 10)
        source._engine = Kv1(server, estate.name, Digest()) if estate.version == 1 else Kv2(server, estate.name)
        yield source, server
        await server.close()


async def test_a_write_in_the_very_moment(bao2: BaoEstate) -> None:
    """What somebody writes between reading and writing is never lost, and it is told that nothing is scrubbed."""
    alone = bao2.write("apps/a", {"value": "moved"})
    kept = bao2.write("ssh/h", {"private_key": PEM, "comment": "x"})
    async with meddled(bao2) as (source, server):
        for key, path in ((alone, "apps/a"), (kept, "ssh/h")):
            taken = await original(source, key)
            server.before = lambda path=path: bao2.write(path, {"value": "written meanwhile"})

            assert list(await source.scrub([taken])) == [False]
            assert bao2.read(path) == {"value": "written meanwhile"}

        again = await original(source, alone)
        assert list(await source.scrub([again])) == [True]
        server.before = lambda: bao2.write("apps/a", {"value": "written meanwhile"})
        assert list(await source.restore([again])) == [True]  # what was written is what was to be put back
        taken = await original(source, alone)
        assert list(await source.scrub([taken])) == [True]
        server.before = lambda: bao2.write("apps/a", {"value": "something else"})
        assert list(await source.restore([taken])) == [False]
        assert bao2.read("apps/a") == {"value": "something else"}


async def test_answers_that_get_lost(bao: BaoEstate) -> None:
    """A write whose answer is lost is looked at again, and what is told is so."""
    for path, fields in (("apps/a", {"value": "moved"}), ("ssh/h", {"private_key": PEM, "comment": "x"})):
        key = bao.write(path, fields)
        async with meddled(bao) as (source, server):
            taken = await original(source, key)
            server.after = SourceUnavailable("the answer got lost")
            assert list(await source.scrub([taken])) == [True]
            assert not any(record for record in (await read(source)).get(key, Item("", "")).records)
            server.after = SourceUnavailable("the answer got lost")
            assert list(await source.restore([taken])) == [True]
            assert bao.read(path) == fields


async def test_a_token_that_may_only_read(bao: BaoEstate) -> None:
    """Scrubbing with a token that may not is refused, and nothing is changed."""
    key = bao.write("apps/a", {"value": "moved"})
    policy = f'path "{bao.name}/*" {{ capabilities = ["read", "list"] }}'
    token_file = str(bao.token_file(bao.bao.token_of(policy)))
    async with opened(bao, token_file=token_file) as source:
        with pytest.raises(SourceRefused, match="its policy must allow that"):
            await source.scrub([await original(source, key)])
    assert bao.read("apps/a") == {"value": "moved"}


# Answers that a real server gives rarely.


class Scripted:
    """Something that answers HTTP, each time with the next of what it was told to, and the last for ever."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self._answers = list(answers)
        self._talking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Server:
        self._listener = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self._server = Server(Url.of(f"http://127.0.0.1:{port}"), Secret("s.token"), "", None, 0.5)
        return self._server

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()  # which ends every conversation
        await asyncio.gather(*self._talking)
        self._listener.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking = asyncio.current_task()
        assert talking is not None
        self._talking.add(talking)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                status, body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if status:  # 0: no answer at all
                    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


ANSWERS: dict[str, tuple[list[tuple[int, str]], type[Exception] | None, str]] = {
    "over a quota, for a while": ([(429, ""), (429, ""), (200, "{}")], None, ""),
    "failing, for a while": ([(500, ""), (502, ""), (503, ""), (200, "{}")], None, ""),
    "over a quota": ([(429, "")], SourceUnavailable, "answers 429"),
    "nobody behind it": ([(502, "<html>")], SourceUnavailable, "answers 502"),
    "standing by": ([(307, "")], SourceUnavailable, "stands by"),
    "sealed": ([(503, '{"errors":["Vault is sealed"]}')], SourceUnavailable, "unseal"),
    "failing at one path": ([*[(500, "")] * 4, (200, "")], http.PathFailed, "answers 500"),
    "failing at all": ([(500, "")], SourceUnavailable, "answers 500 about|answers 500: see"),
    "not answering": ([(0, "")], SourceUnavailable, "within 0.5 s"),
    "refusing": ([(403, "")], http.PathRefused, "does not reach"),
}


@pytest.mark.parametrize("story", ANSWERS)
async def test_what_an_answer_means(story: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is asked again; what does not is told for what it is, with what to do."""
    monkeypatch.setattr(openbao_http, "PAUSES", (0.0, 0.0, 0.0))
    answers, error, words = ANSWERS[story]
    async with Scripted(*answers) as server:
        if error is None:
            assert (await server.get("secret/a")).found
        else:
            with pytest.raises(error, match=words) as caught:
                await server.get("secret/a")
            assert type(caught.value) is error
            assert "s.token" not in str(caught.value)


@pytest.mark.parametrize("body", ["<html>a page of something else</html>", "{}", "[]", '{"sealed": "no"}'])
async def test_something_else_that_answers(body: str) -> None:
    """What is no OpenBao is told to be none, whatever it says."""
    async with Scripted((200, body)) as server:
        with pytest.raises(ConfigurationError, match="neither OpenBao nor Vault") as caught:
            await server.check()
    assert "something else" not in str(caught.value)


async def test_reads_are_under_way_together(bao: BaoEstate) -> None:
    """No more requests are under way than there are connections, and there is more than one."""
    bao.put_many(range(60))
    async with opened(bao) as source:
        server = source._server
        assert server is not None
        fewest = http.IN_FLIGHT
        reading = asyncio.create_task(read(source))
        until = time.monotonic() + 60
        while not reading.done() and time.monotonic() < until:
            fewest = min(fewest, server._free.qsize())
            await asyncio.sleep(0)
        assert len(await reading) == 60
    assert fewest < http.IN_FLIGHT - 1
