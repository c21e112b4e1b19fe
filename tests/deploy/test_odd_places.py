"""Homes whose paths hold what means something elsewhere, and users who have no home."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from strongroom.deploy import settings
from strongroom.storage_service.backends import open_backend
from strongroom.storage_service.backends.sqlite import SqliteBackend
from strongroom.storage_service.errors import ConfigurationError
from tests.deploy.running import clean_environment, strongroom, up

ODD = (
    "team%20a",
    "no#1",
    "what?",
    "a b",
    "ärger-鍵",
    "50%",
    "a%3Fb#c?d=e",
    "a&b=c;d",
    "soft\N{SOFT HYPHEN}",
    "new\nline",
)
ENVIRON = {"STRONGROOM_API_KEY": "k", "STRONGROOM_API_ID": "i", "STRONGROOM_PROXY_KEY": "p"}


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short, for a socket in it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("name", ODD)
async def test_the_store_lies_where_it_is_said(short: Path, name: str) -> None:
    """The path of an SQLite file is a path: whatever a URL would make of it, the file is that one."""
    for said in ("sqlite", f"sqlite:{short}/{name}/data/strongroom.db"):
        loaded = settings.load(environ=ENVIRON, home=short / name, flags={"store": said})
        assert loaded.directories().count(short / name / "data") == 1
    (short / name / "data").mkdir(parents=True)

    backend = open_backend(loaded.service.store)
    await backend.open()
    await backend.close()

    assert (short / name / "data/strongroom.db").exists()
    assert {path.name for path in short.iterdir()} == {name}
    shown = {each.key: each.value for each in loaded.shown}
    assert shown["store"] == f"sqlite:{short}/{name}/data/strongroom.db"


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A path of bytes that are no UTF-8 is reached, too."""
    home = tmp_path / os.fsdecode(b"caf\xe9")

    loaded = settings.load(environ=ENVIRON, home=home)

    assert home / "data" in loaded.directories()
    open_backend(loaded.service.store)


def test_options_follow_a_path(tmp_path: Path) -> None:
    """What stands behind the last question mark is options of the store, when it is its options; else the name's."""
    options = {"busy_timeout": "7"}
    loaded = settings.load(environ=ENVIRON, home=tmp_path, flags={"store": f"sqlite:a?b.db?{urlencode(options)}"})

    backend = open_backend(loaded.service.store)

    assert isinstance(backend, SqliteBackend)
    assert loaded.service.store == f"sqlite:{tmp_path}/a%3Fb.db?busy_timeout=7"
    assert loaded.directories().count(tmp_path) == 1


def test_up_in_a_home_with_an_odd_name(short: Path) -> None:
    """Both processes and the command work in a home whose path holds all of it."""
    home = short / "a %20#?ü"
    with up(home):
        put = strongroom("--home", home, "secret", "put", "--parents", "db/a", stdin=b"value")
        got = strongroom("--home", home, "secret", "get", "db/a")

    assert (put.code, got.out) == (0, "value")
    assert (home / "data/strongroom.db").stat().st_size > 0
    assert [path.name for path in short.iterdir()] == ["a %20#?ü"]


@pytest.mark.parametrize(
    ("words", "code"), [(("secret", "get", "t/a"), 1), (("up",), 1), (("config", "check"), 2), (("status",), 1)]
)
def test_a_user_without_a_home_directory(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int) -> None:
    """Whom /etc/passwd does not know, with no HOME, is told to say a home; no word of what that is inside."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    environ = {name: value for name, value in clean_environment().items() if name != "HOME"}

    done = strongroom(*words, environ=environ)

    assert done.code == code
    assert "this user has no home directory" in done.err
    assert "STRONGROOM_HOME" in done.err
    assert "unexpected" not in done.err


def test_such_a_user_works_where_a_home_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing else wants a home directory: settings are read, and relative paths lie in the home that was said."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)

    loaded = settings.load(environ=ENVIRON, home=tmp_path)

    assert loaded.service.root_key == tmp_path / "secrets.key"
    with pytest.raises(ConfigurationError, match="no home directory"):
        settings.load(environ=ENVIRON | {"STRONGROOM_ROOT_KEY": "~/secrets.key"}, home=tmp_path)
