"""OpenBao's rules without a server: where paths go, what a place may be, and where the token comes from."""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from strongroom.migration.errors import SourceUnavailable
from strongroom.migration.sources import open_source
from strongroom.migration.sources.openbao.http import Answer, Url, shown
from strongroom.migration.sources.openbao.kv import Held
from strongroom.migration.sources.openbao.records import Layout, Moved
from strongroom.migration.sources.openbao.token import read_token
from strongroom.migration.sources.openbao.walk import Branch, Leaf, in_order
from strongroom.models import ContainerManagerCreds, HostCreds
from strongroom.storage_service.errors import ConfigurationError
from strongroom.storage_service.wire import MAX_SECRET

PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
IN_BASE64 = base64.b64encode(PEM.encode()).decode()


def moved(path: str, fields: Mapping[str, Any], maps: Sequence[str] = ()) -> Moved:
    """Return what a path becomes."""
    return Layout(maps).records(path, {name: json.dumps(value).encode() for name, value in fields.items()})


def texts(found: Moved) -> dict[str, str]:
    return {record.name: record.value.reveal() for record in found.records}


PLACED: dict[str, tuple[str, dict[str, Any], list[str], dict[str, str]]] = {
    "fields": ("apps/db", {"p": "x", "u": "y"}, [], {"secrets/apps/db/p": "x", "secrets/apps/db/u": "y"}),
    "a value alone": ("apps/db", {"value": "x"}, [], {"secrets/apps/db": "x"}),
    "a value and more": ("a/b", {"value": "x", "u": "y"}, [], {"secrets/a/b/value": "x", "secrets/a/b/u": "y"}),
    "another field alone": ("a/b", {"c": "x"}, [], {"secrets/a/b/c": "x"}),
    "at the top": ("db", {"p": "x"}, [], {"secrets/db/p": "x"}),
    "a mapped folder": ("apps/a/db", {"value": "x"}, ["apps=old/apps"], {"secrets/old/apps/a/db": "x"}),
    "the longest folder counts": ("a/b/c", {"value": "x"}, ["a=one", "a/b=two", "/=all"], {"secrets/two/c": "x"}),
    "a folder, not what begins like it": ("apps2/db", {"value": "x"}, ["apps=old"], {"secrets/apps2/db": "x"}),
    "a path of a mapped folder's name": ("apps", {"p": "x"}, ["apps=old"], {"secrets/apps/p": "x"}),
    "everything": ("db", {"value": "x"}, ["/=legacy"], {"secrets/legacy/db": "x"}),
    "JSON": (
        "a/b",
        {"n": 15, "l": [1, "x"], "t": True},
        [],
        {f"secrets/a/b/{n}": t for n, t in zip("nlt", ["15", '[1, "x"]', "true"], strict=True)},
    ),
    "unicode": ("a/b", {"value": "\u6771\U0001f511\0\n"}, [], {"secrets/a/b": "\u6771\U0001f511\0\n"}),
    "empty": ("a/b", {"p": "x", "e": "", "z": None}, [], {"secrets/a/b/p": "x"}),
    "nothing": ("a/b", {}, [], {}),
    "nothing but emptiness": ("a/b", {"value": ""}, [], {}),
}


@pytest.mark.parametrize("story", PLACED)
def test_where_a_path_goes(story: str) -> None:
    """Folders are containers unless a mapping says otherwise; values are texts, or JSON."""
    path, fields, maps, expected = PLACED[story]

    found = moved(path, fields, maps)

    assert found.fault == ""
    assert texts(found) == expected


def test_what_stays_behind_is_told() -> None:
    """What is empty stays behind and what is no text moves as JSON; both are noted, and nothing else."""
    found = moved("a/b", {"text": "x", "empty": "", "null": None, "number": 1})

    assert found.fields == {"text", "number"}
    assert found.notes == (
        "its field empty is empty, and stays behind",
        "its field null is empty, and stays behind",
        "its field number is not text: its JSON moves",
    )
    assert moved("a/b", {}).notes == ("it holds nothing that could move",)


FAULTS: dict[str, tuple[str, dict[str, Any], list[str], str]] = {
    "a name with a space": ("a b/c", {"value": "x"}, [], "characters that names do not allow"),
    "a field with a space": ("a/b", {"api key": "x"}, [], "of its field api%20key"),
    "a field with a slash": ("a/b", {"c/d": "x"}, [], "of its field c/d"),
    "a field without a name": ("a/b", {"": "x"}, [], "of its field "),
    "one good field, one bad": ("a/b", {"good": "x", "b\u00e4d": "y"}, [], "of its field b%C3%A4d"),
    "a value at the top": ("db", {"value": "x"}, [], "-o map=/=CONTAINER"),
    "huge": ("a/b", {"value": "x" * (MAX_SECRET + 1)}, [], "over 512 KiB"),
    "huge in bytes": ("a/b", {"p": "\u00e9" * (MAX_SECRET // 2 + 1)}, [], "of its field p"),
    "a long name": ("a/" * 300 + "b", {"value": "x"}, [], "too long"),
    "among credentials": ("hosts", {"10.0.0.7": "x"}, [], "HostCreds"),
    "a folder of credentials": ("ssh/dc1/h", {"private_key": PEM}, ["ssh=hosts"], "-o map=ssh/dc1=CONTAINER"),
    "credentials without a key": ("hosts/h", {"username": "x"}, [], "private_key or ssh_priv_key is expected"),
    "credentials with an empty key": ("hosts/h", {"private_key": ""}, [], "none of its fields opens anything"),
    "two keys": ("hosts/h", {"private_key": PEM, "ssh_priv_key": PEM}, [], "two of its fields"),
    "a key that is none": ("hosts/h", {"private_key": "not a key"}, [], "neither PEM nor base64"),
    "a key that is no text": ("hosts/h", {"private_key": 7}, [], "not text"),
    "credentials with a bad name": ("hosts/a b", {"private_key": PEM}, [], "address"),
}


@pytest.mark.parametrize("story", FAULTS)
def test_what_cannot_move(story: str) -> None:
    """A fault says what is wrong and what to do, holds no value, and nothing of the path moves."""
    path, fields, maps, expected = FAULTS[story]

    found = moved(path, fields, maps)

    assert expected in found.fault
    assert (found.records, found.fields) == ((), frozenset())
    assert not any(isinstance(value, str) and len(value) > 1 and value in found.fault for value in fields.values())


@pytest.mark.parametrize(
    "key", [PEM, IN_BASE64, base64.encodebytes(PEM.encode()).decode()], ids=["PEM", "base64", "lines"]
)
@pytest.mark.parametrize("names", [("ssh_priv_key", "remote_user"), ("private_key", "username")])
def test_credentials_of_a_host(key: str, names: tuple[str, str]) -> None:
    """In the container hosts a path is the credentials of the host that its last segment names."""
    of_key, of_user = names

    found = moved("ssh/10.0.0.7", {of_key: key, of_user: "core", "comment": "x"}, ["ssh=hosts"])

    (record,) = found.records
    creds = HostCreds.from_json(base64.b64decode(record.value.reveal()))
    assert record.name == "secrets/hosts/10.0.0.7" == creds.record_name
    assert (creds.ssh_priv_key.reveal(), creds.remote_user) == (IN_BASE64, "core")
    assert found.fields == {of_key, of_user}
    assert found.notes == ("fields that stay behind: comment",)


def test_credentials_of_a_container_manager() -> None:
    """In the container container_managers a path is the credentials of one; its name, if said, must agree."""
    fields = {"token": "t", "username": "u", "certificate": PEM, "name": "cluster"}

    (record,) = moved("container_managers/cluster", fields).records
    creds = ContainerManagerCreds.from_json(base64.b64decode(record.value.reveal()))
    assert (creds.name, creds.token.reveal(), creds.username) == ("cluster", "t", "u")
    assert creds.certificate.reveal() == PEM
    assert moved("container_managers/other", fields).notes == ("fields that stay behind: name",)


@pytest.mark.parametrize("path", ["a/b", "a/b/c", "db", "ssh/h", "apps/x/y"])
@pytest.mark.parametrize("fields", [{"value": "x"}, {"p": "x", "u": "y"}, {"private_key": PEM}])
def test_a_record_leads_back_to_its_path(path: str, fields: dict[str, Any]) -> None:
    """Among the paths that a record can come from is the one that it came from."""
    maps = ["ssh=hosts", "apps=a", "apps/x=old/x"]

    for record in moved(path, fields, maps).records:
        assert path in Layout(maps).paths(record.name)


def test_two_paths_can_meet_in_one_name() -> None:
    """Both are told of: a field of one path, and the value of a path below it."""
    assert texts(moved("a/b", {"c": "x"})).keys() == texts(moved("a/b/c", {"value": "y"})).keys()


@pytest.mark.parametrize("maps", [["ssh"], ["=hosts"], ["ssh="], ["ssh=ho sts"], ["ssh=../x"], ["a=b", "a/=c"]])
def test_mappings_that_are_none(maps: list[str]) -> None:
    """A mapping that is not understood is refused when it is said."""
    with pytest.raises(ConfigurationError, match="map"):
        Layout(maps)


REFUSED = {
    "a name alone": "bao.example:8200",
    "another scheme": "ftp://bao.example",
    "no host": "https://:8200",
    "a port that is none": "https://bao.example:port",
    "a password": "https://user:the-password@bao.example",
    "a path": "https://bao.example/v1/secret",
    "a query": "https://bao.example?token=the-password",
    "http over the network": "http://10.0.0.7:8200",
    "http to a name": "http://localhost.example:8200",
}


@pytest.mark.parametrize("place", REFUSED.values(), ids=REFUSED)
def test_places_that_are_refused(place: str) -> None:
    """A place is a URL without credentials, and over http this machine; what is wrong is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        open_source("openbao", place, {})

    assert "the-password" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://bao.example/", "https://bao.example:443"),
        ("http://127.0.0.1:8200", "http://127.0.0.1:8200"),
        ("http://localhost", "http://localhost:80"),
        ("http://[::1]:8200", "http://[::1]:8200"),
    ],
)
def test_places_that_are_taken(place: str, expected: str) -> None:
    """One server has one spelling, whatever it was called."""
    assert str(Url.of(place)) == expected


OPTIONS = {
    "a version that is none": {"version": ["3"]},
    "no mount": {"mount": ["/"]},
    "a namespace that no header carries": {"namespace": ["a\nb"]},
    "a timeout that is none": {"timeout": ["soon"]},
    "no time": {"timeout": ["0"]},
    "no end": {"timeout": ["inf"]},
    "not a number": {"timeout": ["nan"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_that_are_refused(options: dict[str, list[str]]) -> None:
    """What an option may be is said where it is refused."""
    with pytest.raises(ConfigurationError):
        open_source("openbao", "https://bao.example", options)


def test_identity() -> None:
    """The identity names the server, the namespace, the mount and the folder."""
    options = {"namespace": ["team/"], "mount": ["/kv"], "under": ["a/b"]}

    assert open_source("openbao", "https://bao.example", options).identity == "https://bao.example:443/team/kv/a/b/"
    assert open_source("openbao", "https://bao.example", {}).identity == "https://bao.example:443/secret"


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    """The file that was named comes first, then the environment, then what `bao login` left."""
    named = private(tmp_path / "named", "s.named\n")
    private(tmp_path / ".vault-token", "s.kept")
    both = {"BAO_TOKEN": "s.bao", "VAULT_TOKEN": "s.vault"}

    assert read_token(named, both, tmp_path).reveal() == "s.named"
    assert read_token(None, both, tmp_path).reveal() == "s.bao"
    assert read_token(None, {"BAO_TOKEN": "", "VAULT_TOKEN": "s.vault"}, tmp_path).reveal() == "s.vault"
    assert read_token(None, {}, tmp_path).reveal() == "s.kept"
    with pytest.raises(ConfigurationError, match="token_file"):
        read_token(None, {}, tmp_path / "elsewhere")


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\nb", "t\u00f6ken", "x" * 100_000])
def test_tokens_that_are_none(tmp_path: Path, content: str) -> None:
    """What no header carries is no token, and is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        read_token(private(tmp_path / "token", content), {}, tmp_path)

    assert not content.strip() or content not in str(caught.value)


def test_a_token_that_others_can_read(tmp_path: Path) -> None:
    """A file that others than its owner can read is refused, wherever it is."""
    named = private(tmp_path / ".vault-token", "s.secret")
    named.chmod(0o640)

    for file in (named, None):
        with pytest.raises(ConfigurationError, match="chmod 600"):
            read_token(file, {}, tmp_path)


def test_what_is_held_shows_nothing() -> None:
    """What lies at a path is not in its repr, and its content makes it again."""
    held = Held("1", {"p": b'"the secret"', "n": b"1.50"})

    again = Held.of_content("1", held.content())
    assert again.fields == held.fields
    assert "the secret" not in f"{held!r} {held.content()!r}"
    assert Held.of_content("2 deleted", Held("2 deleted", None).content()).fields is None


def test_an_answer_that_is_none_is_not_quoted() -> None:
    """An answer of something else is an error that repeats nothing of it, and remembers nothing of it."""
    with pytest.raises(SourceUnavailable) as caught:
        Answer(200, b'{"data": "the secret"}').read(dict[str, int])

    assert caught.value.__context__ is None
    assert "the secret" not in str(caught.value)


def test_ids_tell_paths_apart() -> None:
    """What prints stays as it is; what does not, and what would undo that, is escaped."""
    assert shown("a/b c/\u00e4%20\n") == "a/b%20c/%C3%A4%2520%0A"


# The walk.


async def test_the_order_of_a_walk() -> None:
    """Depth first and in order, whichever answer comes first; and no more under way than was said, but what is due."""
    tree = {"": ["a", "b/", "c"], "b/": ["b/1", "b/2/", "b/3"], "b/2/": [], "c": None}
    under_way = most = 0

    async def visit(node: str) -> Leaf[str] | Branch[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(len(node) * 7 % 5):
            await asyncio.sleep(0)
        under_way -= 1
        return Branch(tuple(tree[node] or ())) if node in tree and tree[node] is not None else Leaf(node)

    assert [leaf async for leaf in in_order([""], visit, 3)] == ["a", "b/1", "b/3", "c"]
    assert most <= 3 + 2


async def test_a_walk_that_is_left_leaves_nothing_behind() -> None:
    """Whoever stops in the middle, or meets an error, leaves no task running."""
    ended = []

    async def visit(node: int) -> Leaf[int] | Branch[int]:
        if node == 2:
            raise SourceUnavailable("gone")
        try:
            return Leaf(node)
        finally:
            ended.append(node)

    walk = in_order(range(100), visit, 4)
    assert [await anext(walk), await anext(walk)] == [0, 1]
    with pytest.raises(SourceUnavailable):
        await anext(walk)
    assert len(ended) <= 6


def private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path
