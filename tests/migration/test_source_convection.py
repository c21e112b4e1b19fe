"""Convection as a source, against its own server and its own code."""

import datetime
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.migration.errors import SourceRefused, SourceUnavailable
from strongroom.migration.records import Item
from strongroom.migration.sources import files, open_source
from strongroom.migration.sources.convection import directory, toml
from strongroom.migration.sources.convection.directory import Directory
from strongroom.migration.sources.convection.source import ENVIRONMENT
from strongroom.models.secret import Secret
from strongroom.storage_service.errors import ConfigurationError, StrongroomError
from strongroom.storage_service.wire import MAX_SECRET
from tests.laws.sources import Reader, reading
from tests.migration.sources.convection import ConvectionEstate, convection, rest
from tests.migration.sources.convection_server import Server

STORE: Final = "words"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConvectionEstate]:
    """One directory, with a store of three secrets, which no test changes."""
    with convection(tmp_path_factory.mktemp("convection")) as made:
        _fill(made)
        yield made


@pytest.fixture
def estate(shared: ConvectionEstate, tmp_path: Path) -> "Copied":
    """A copy of it, for this test alone."""
    shutil.copytree(shared.directory, tmp_path / "secrets")
    return Copied(
        tmp_path / "secrets", dict(shared.options) | {"socket": [str(tmp_path / "socket")]}, shared.unlock_keys
    )


class Copied:
    """A storage directory, and what opens it."""

    kind: Final = "convection"

    def __init__(self, directory: Path, options: Any, unlock_keys: list[str]) -> None:
        self.directory = directory
        self.options = options
        self.unlock_keys = unlock_keys
        self.file = directory / "secrets" / STORE

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.directory)

    def opened(self) -> Directory:
        """Return it as the source has it."""
        return Directory(self.directory, Fernet(self.unlock_keys[0]))

    def root(self) -> Fernet:
        """Return its root key."""
        first, *_ = (self.directory / "root.key").read_bytes().splitlines()
        return Fernet(Fernet(self.unlock_keys[0]).decrypt(first))

    def write(self, secrets: dict[str, object]) -> None:
        """Give the store other secrets."""
        opened = self.opened()
        opened.write(STORE, opened.read(STORE), secrets)


def _fill(estate: ConvectionEstate) -> None:
    for name in ("a", "b", "c"):
        estate.ask("set", estate.store(STORE), name, f"the secret {name}")


def _reading(estate: Any, **options: list[str]) -> Any:
    """Give the source of an estate, with other options."""
    said = type("Said", (), {"kind": estate.kind, "place": estate.place, "options": estate.options | options})
    return reading(said())


def _records(item: Item) -> dict[str, str]:
    return {record.name: record.value.reveal() for record in item.records}


# The server.


def test_what_a_server_keeps_moves_out_and_comes_back(tmp_path: Path) -> None:
    """A server's stores are read while it runs, scrubbed once it is stopped, and it serves what is there then."""
    server = Server(tmp_path)
    server.start()
    try:
        keys = server.initialize(unlock_keys=2)
        server.unlock(keys[0])
        server.ask("create_keyset", keyset_name="vault")
        stores: dict[str, dict[str, object]] = {
            "words": {"one": "first", "two": "second"},
            "apps/web": {"limits": {"a": [1, True]}},
        }
        for store, secrets in stores.items():
            server.ask("create_store", store_name=store, keyset_name="vault", store_type="generic", store_args={})
            for name, value in secrets.items():
                server.ask("create_secret", store_name=store, store_args={"secret_name": name, "secret_value": value})
        (tmp_path / "key").touch(0o600)
        (tmp_path / "key").write_text(keys[1])
        options = {"unlock_key_file": [str(tmp_path / "key")], "socket": [str(server.socket)]}
        reader = Reader(open_source("convection", str(server.storage), options))
        reader.open()
        items = reader.by_id()

        assert {key: _records(item) for key, item in items.items()} == {
            "apps/web:limits": {"secrets/apps/web/limits": '{"a":[1,true]}'},
            "authdb": {},
            "words:one": {"secrets/words/one": "first"},
            "words:two": {"secrets/words/two": "second"},
        }
        assert items["authdb"].fault == ""
        assert "make them anew" in str(items["authdb"].notes[0])
        assert items["apps/web:limits"].notes == ("its value is not text, and moves as JSON",)

        originals = reader.originals(["words:one", "apps/web:limits"])
        with pytest.raises(SourceUnavailable, match="stop it first"):
            reader.scrub(originals)
        server.lock()
        server.stop()
        with pytest.raises(SourceUnavailable, match="seconds ago"):
            reader.scrub(originals)
        rest(server.storage)
        assert reader.scrub(originals) == [True, True]

        server.start()
        server.unlock(keys[0])
        assert server.ask("list_secrets", store_name="words", store_args={})["secrets"] == ["two"]
        assert server.ask("list_secrets", store_name="apps/web", store_args={})["secrets"] == []
        assert _ask(server, "words", "two") == "second"
        server.ask("update_secret", store_name="words", store_args={"secret_name": "two", "secret_value": "2nd"})
        server.lock()
        server.stop()
        rest(server.storage)
        assert reader.restore(originals) == [True, True]
        reader.close()

        server.start()
        server.unlock(keys[1])
        assert [_ask(server, "words", name) for name in ("one", "two")] == ["first", "2nd"]
        assert _ask(server, "apps/web", "limits") == {"a": [1, True]}
        server.lock()
    finally:
        server.stop()


def _ask(server: Server, store: str, name: str) -> object:
    return server.ask("get_secret", store_name=store, store_args={"secret_name": name})["secret"]


# Values and names.

VALUES: Final[dict[str, tuple[object, str, str]]] = {
    "a text": ("text", "text", ""),
    "a number": (7, "7", ""),
    "a fraction": (1.5, "1.5", ""),
    "a list": ([1, "two", [False]], '[1,"two",[false]]', ""),
    "a table, by its names": ({"b": "ü", "a": {}}, '{"a":{},"b":"ü"}', ""),
    "tables in a list": ([{"x": 1}, {"y": 2}], '[{"x":1},{"y":2}]', ""),
    "the largest text": ("x" * MAX_SECRET, "x" * MAX_SECRET, ""),
    "a larger text": ("x" * (MAX_SECRET + 1), "", "512 KiB"),
    "no text": ("", "", "empty"),
    "no number": (float("nan"), "", "JSON"),
}


@pytest.mark.parametrize(("value", "text", "fault"), VALUES.values(), ids=VALUES)
def test_values(estate: Copied, value: object, text: str, fault: str) -> None:
    """What is no text becomes JSON; what cannot be kept is a fault that does not repeat it."""
    estate.write({"it": value})
    with reading(estate) as reader:
        item = reader.by_id()["words:it"]

    assert fault in item.fault
    assert bool(item.fault) == bool(fault)
    assert _records(item) == ({} if fault else {"secrets/words/it": text})
    assert bool(item.notes) == (not fault and not isinstance(value, str))


NAMES: Final[dict[str, tuple[str, str, bool]]] = {
    "plain": ("db.password", "words:db.password", True),
    "a path": ("apps/web/token", "words:apps/web/token", True),
    "a colon": ("a:b", "words:a:b", True),
    "a blank": ("two words", "words:two%20words", False),
    "unicode": ("schlüssel", "words:schl%C3%BCssel", False),
    "a percent sign": ("100%", "words:100%25", False),
    "a line break": ("a\nb", "words:a%0Ab", False),
    "climbing out": ("../hosts/h1", "words:../hosts/h1", False),
    "a container's": ("sub/", "words:sub/", False),
    "none": ("", "words:", False),
    "as long as can be": ("n" * (512 - len("secrets/words/")), "words:" + "n" * 498, True),
    "longer": ("n" * 499, "words:" + "n" * 499, False),
}


@pytest.mark.parametrize(("name", "key", "good"), NAMES.values(), ids=NAMES)
def test_names(estate: Copied, name: str, key: str, good: bool) -> None:
    """A name that no record can have is a fault; by its id in printable ASCII, it has a mark and an original."""
    estate.write({name: "a secret", "another": "secret"})
    with reading(estate) as reader:
        found = reader.by_id()
        marks = reader.marks(["words", key])
        (original,) = reader.originals([key])

    assert {each for each in found if each.startswith("words:")} == {key, "words:another"}
    assert _records(found[key]) == ({f"secrets/words/{name}": "a secret"} if good else {})
    assert bool(found[key].fault) is not good
    assert marks == {key: found[key].mark}
    assert original.mark == found[key].mark


def test_the_credentials_of_hosts_are_no_generic_secrets(estate: Copied) -> None:
    """A store that would lie among the credentials of hosts is a fault, until it is sent elsewhere."""
    with _reading(estate, map=["words=hosts"]) as reader:
        assert "HostCreds" in reader.by_id()["words:a"].fault
    with _reading(estate, map=["words=elsewhere/deep"]) as reader:
        assert _records(reader.by_id()["words:a"]) == {"secrets/elsewhere/deep/a": "the secret a"}


def test_only_the_stores_that_are_named_are_read(shared: ConvectionEstate) -> None:
    """Of several stores those that are named move, and nothing is told of the users."""
    shared.ask("set", shared.store("more"), "x", "y")
    with _reading(shared, store=["words"]) as reader:
        assert list(reader.by_id()) == ["words:a", "words:b", "words:c"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"store": ["nowhere"]}, "there are: .*'words'"),
        ({"store": ["authdb"]}, "no generic store 'authdb'"),
        ({"map": ["nowhere=words"]}, "no generic store"),
        ({"map": ["words"]}, "STORE=CONTAINER"),
        ({"map": ["=words"]}, "STORE=CONTAINER"),
        ({"map": ["words=two words"]}, "names no container"),
        ({"map": ["words="]}, "names no container"),
    ],
)
def test_options_that_mean_nothing(shared: ConvectionEstate, options: dict[str, list[str]], match: str) -> None:
    """An option that names no store, or no container, is refused before anything is read."""
    with pytest.raises(ConfigurationError, match=match), _reading(shared, **options):
        pass


def test_a_store_of_another_type_is_a_fault(estate: Copied) -> None:
    """What other plugins keep does not move, and is not passed over in silence."""
    keymap = estate.directory / "keymap.db"
    document = tomllib.loads(estate.root().decrypt(keymap.read_bytes()).decode())
    document["keymap"]["passwords"] = {"keyset": "vault", "store_type": "passdb"}
    keymap.write_bytes(estate.root().encrypt(toml.dumps(document).encode()))
    with reading(estate) as reader:
        item = reader.by_id()["passwords"]
        assert reader.marks(["passwords"]) == {"passwords": item.mark}

    assert "'passdb'" in item.fault
    assert "-o store=" in item.fault


# Keys.


def test_every_unlock_key_opens(shared: ConvectionEstate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of the unlock keys does, from a file or from the environment."""
    for key in shared.unlock_keys:
        monkeypatch.setenv(ENVIRONMENT, key)
        with _reading(shared, unlock_key_file=[]) as reader:
            assert "words:a" in reader.by_id()


KEYS: Final[dict[str, tuple[str, int, type[StrongroomError], str]]] = {
    "another": (Fernet.generate_key().decode(), 0o600, SourceRefused, "opens none of the root keys"),
    "none": ("a password", 0o600, ConfigurationError, "does not hold an unlock key"),
    "shared": (Fernet.generate_key().decode(), 0o640, ConfigurationError, "chmod 600"),
}


@pytest.mark.parametrize(("key", "mode", "error", "match"), KEYS.values(), ids=KEYS)
def test_keys_that_do_not_open(
    shared: ConvectionEstate, tmp_path: Path, key: str, mode: int, error: type[StrongroomError], match: str
) -> None:
    """A wrong key, no key, and a file that others can read end in the error that says so, and not in the key."""
    file = tmp_path / "key"
    file.write_text(key)
    file.chmod(mode)
    with pytest.raises(error, match=match) as caught, _reading(shared, unlock_key_file=[str(file)]):
        pass

    assert key not in f"{caught.value!r} {caught.value.__context__!r}"


@pytest.mark.parametrize("files_said", [[], ["/nowhere/key"]])
def test_no_unlock_key(shared: ConvectionEstate, monkeypatch: pytest.MonkeyPatch, files_said: list[str]) -> None:
    """Without a key, what is missing is said."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigurationError, match="key"), _reading(shared, unlock_key_file=files_said):
        pass


def test_what_is_no_storage_directory(shared: ConvectionEstate, tmp_path: Path) -> None:
    """A directory without a root key is no storage directory, and one that is missing is unavailable."""
    for path, error in ((tmp_path, ConfigurationError), (tmp_path / "nowhere", SourceUnavailable)):
        with pytest.raises(error), reading(Copied(path, shared.options, [])):
            pass


# Damage.


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def _become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _lead_out(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


DAMAGE: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "emptied": (lambda path: path.write_bytes(b""), "does not open"),  # as Convection leaves a store it cannot write
    "cut": (_cut, "does not open"),
    "a bit": (_flip, "does not open"),
    "missing": (Path.unlink, "is missing"),
    "a directory": (_become_a_directory, "not a regular file"),
    "a pipe": (_become_a_pipe, "not a regular file"),
    "a link that leads out": (_lead_out, "outside"),
    "huge": (lambda path: os.truncate(path, directory.MAX_FILE + 1), "is over"),
}


@pytest.mark.parametrize(("damage", "match"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_store_is_a_fault(
    shared: ConvectionEstate, tmp_path: Path, damage: Callable[[Path], object], match: str
) -> None:
    """A store that cannot be used is one item with a fault, and hides no other store; it is not written to."""
    shutil.copytree(shared.directory, tmp_path / "secrets")
    estate = Copied(tmp_path / "secrets", shared.options, shared.unlock_keys)
    shutil.copy(estate.file, estate.file.with_name("spare"))
    keymap = estate.directory / "keymap.db"
    document = tomllib.loads(estate.root().decrypt(keymap.read_bytes()).decode())
    document["keymap"]["spare"] = document["keymap"][STORE]
    keymap.write_bytes(estate.root().encrypt(toml.dumps(document).encode()))
    with reading(estate) as reader:
        originals = reader.originals(["words:a"])
        damage(estate.file)
        found = reader.by_id()
        with pytest.raises(SourceUnavailable, match="words"):
            reader.scrub(originals)
        marks = reader.marks(["words", "words:a", "spare:a"])

    assert match in found["words"].fault
    assert "spare:a" in found
    assert "words:a" not in found
    assert marks.keys() == {"words", "spare:a"}


def test_a_damaged_keyset_is_a_fault(estate: Copied) -> None:
    """A keyset that does not open costs the stores that use it."""
    _cut(estate.directory / "vault.key")
    with reading(estate) as reader:
        assert "keyset 'vault'" in reader.by_id()["words"].fault


@pytest.mark.parametrize("content", [b"keymap = 3\nkeysets = []\n", b"not TOML", b"[keymap.a]\nkeyset = 1\n"])
def test_a_damaged_keymap_ends_it(estate: Copied, content: bytes) -> None:
    """Without a keymap nobody knows what there is, so that is said and nothing read."""
    (estate.directory / "keymap.db").write_bytes(estate.root().encrypt(content))
    with pytest.raises(SourceUnavailable, match=r"keymap\.db is damaged"), reading(estate):
        pass


def test_a_store_that_is_being_written_is_read_again(estate: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convection empties a file before it fills it, and a reader that comes between waits for the rest."""
    content = estate.file.read_bytes()
    estate.file.write_bytes(b"")
    monkeypatch.setattr(time, "sleep", lambda _: estate.file.write_bytes(content))
    with reading(estate) as reader:
        assert "words:a" in reader.by_id()


# Scrubbing.


def test_a_scrubbed_file_keeps_its_mode_and_the_rest_of_the_store(estate: Copied) -> None:
    """Only the secrets change: mode, metadata, configuration and counts are as they were."""
    estate.file.chmod(0o640)
    before = estate.opened().read(STORE)
    with reading(estate) as reader:
        assert reader.scrub(reader.originals(["words:a", "words:c"])) == [True, True]
    after = estate.opened().read(STORE)

    assert estate.file.stat().st_mode & 0o777 == 0o640
    assert before.secrets.keys() - after.secrets.keys() == {"a", "c"}
    assert {**after.document, "store": before.secrets} == before.document
    assert not list(estate.file.parent.glob(".*"))


def test_a_store_that_was_written_meanwhile_is_left(estate: Copied) -> None:
    """What was read is not replaced if it is another file by then."""
    opened = estate.opened()
    was = opened.read(STORE)
    estate.write({"a": "another"})
    now = estate.file.read_bytes()
    with pytest.raises(SourceUnavailable, match="changed meanwhile"):
        opened.write(STORE, was, {})

    assert estate.file.read_bytes() == now
    assert not list(estate.file.parent.glob(".*"))


def test_a_copy_is_found_wherever_it_lies(estate: Copied) -> None:
    """A copy under another token, or inside another file, shows by the marks of what it opens to; nobody removes it."""
    spare = estate.file.with_name("words.bak")
    estate.write({"a": "the secret a", "b": "the secret b"})  # the same secrets in a token of another time
    shutil.copy(estate.file, spare)
    archive = estate.directory / "archive.tar"
    archive.write_bytes(b"\0" * 1_048_570 + spare.read_bytes() + b"\0 and more")
    estate.write({"a": "the secret a", "b": "the secret b"})
    with reading(estate) as reader:
        originals = reader.originals(["words:a"])
        (pattern,) = reader.scrubbable.search_patterns(originals[0])
        assert _found(reader, pattern) == {str(path) for path in (estate.file, spare, archive)}

        reader.scrub(originals)
        reader.purge()
        assert _found(reader, pattern) == {str(spare), str(archive)}
    assert spare.exists()


def _found(reader: Reader, pattern: bytes) -> set[str]:
    return {place.name for place in reader.places() if place.chunks is not None and reader.holds(place, [pattern])[0]}


def test_what_a_killed_scrub_left_is_purged(estate: Copied) -> None:
    """A file that was being written when the process died goes; it never had the name of a store."""
    unfinished = files.unfinished_of(estate.file)
    unfinished.write_bytes(estate.file.read_bytes())
    with reading(estate) as reader:
        assert reader.purge() == ["removed unfinished files: 1"]
        assert reader.purge() == []

    assert not unfinished.exists()


def test_a_socket_that_cannot_be_asked_stops_a_scrub(estate: Copied, tmp_path: Path) -> None:
    """Where it cannot be known whether the server runs, nothing is changed."""
    (tmp_path / "file").touch()
    with _reading(estate, socket=[str(tmp_path / "file/socket")]) as reader:
        originals = reader.originals(["words:a"])
        with pytest.raises(SourceUnavailable, match="cannot be asked"):
            reader.scrub(originals)
        assert "words:a" in reader.by_id()


def test_a_store_that_is_gone_holds_no_secret(estate: Copied) -> None:
    """Of a store that was removed from the keymap, secrets count as scrubbed, and cannot be restored."""
    keymap = estate.directory / "keymap.db"
    with reading(estate) as reader:
        originals = reader.originals(["words:a"])
    document = tomllib.loads(estate.root().decrypt(keymap.read_bytes()).decode())
    del document["keymap"][STORE]
    keymap.write_bytes(estate.root().encrypt(toml.dumps(document).encode()))
    with reading(estate, reader.digest) as reader:
        assert reader.scrub(originals) == [True]
        assert reader.restore(originals) == [False]


def test_an_original_shows_nothing(estate: Copied) -> None:
    """Neither an original's repr nor what is kept of the store that was read last shows a secret."""
    with reading(estate) as reader:
        originals = reader.originals(["words:a"])
        assert isinstance(originals[0].content, Secret)
        assert "the secret" not in f"{originals!r} {estate.opened().read(STORE)!r} {estate.opened()!r}"


# TOML.

_SCALARS: Final = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.datetimes(timezones=st.sampled_from([datetime.UTC, None])),
    st.dates(),
    st.times(),
)
_NAMES_OF: Final = st.text(st.characters(exclude_categories=["Cs"]))
_TREES: Final = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES_OF, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(_NAMES_OF, _TREES, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_is_written_reads_back(document: dict[str, object]) -> None:
    """Whatever TOML can hold is read as it was written."""
    assert tomllib.loads(toml.dumps(document)) == document


def test_convection_reads_what_is_written(shared: ConvectionEstate) -> None:
    """Convection itself reads a store that was written here, whatever is in it, and goes on writing it."""
    values: dict[str, object] = {
        "": "",
        "a.b": "\x00\x7f\x85\u2028\\\"'\r\n\t",
        "l": [1, [2.5, {"x": {}}]],
        "t": {"k\n": -1e300},
    }
    shared.ask("set", shared.store("odd"), "before", "x")
    opened = Directory(shared.directory, Fernet(shared.unlock_keys[0]))
    opened.write("odd", opened.read("odd"), values)

    assert {name: shared.ask("get", "odd", name) for name in shared.ask("list", "odd")} == values
    shared.ask("set", "odd", "after", "y")
    assert dict(opened.read("odd").secrets) == values | {"after": "y"}
