"""What a start would refuse of the files around it, told by ``config check`` and by the start in the same words."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from strongroom.deploy.home import Home
from strongroom.deploy.serving.look import look
from strongroom.deploy.serving.server import Role
from strongroom.deploy.settings import load
from strongroom.storage_service.errors import ConfigurationError
from tests.another_user import NOBODY, user
from tests.deploy.running import clean_environment, spawn, strongroom
from tests.forking import in_child

USERS = '[[proxy_authenticators]]\nname = "basic"\nfilepath = "{}/users"\n'


@pytest.fixture
def made(home: Path) -> Path:
    """A home that is made and not in use."""
    Home(home).prepare()
    Home(home).furnish()
    return home


def toml(home: Path, text: str) -> None:
    """Write the settings of a home."""
    (home / "strongroom.toml").write_text(text)


def users(home: Path) -> None:
    """Let people sign in by a file that everybody may write."""
    toml(home, USERS.format(home))
    (home / "users").write_text("{}")
    (home / "users").chmod(0o666)


def elsewhere(home: Path, name: str) -> None:
    """Let a directory of the home be a link to one that everybody may write."""
    (home.parent / "open").mkdir()
    (home.parent / "open").chmod(0o777)
    (home / name).rmdir()
    (home / name).symlink_to("../open")


def of_mode(home: Path, name: str, mode: int) -> None:
    """Give a file of the home that mode."""
    (home / name).touch()
    (home / name).chmod(mode)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an open home": (lambda home: home.chmod(0o755), "is open to others than its owner; run: chmod 700"),
    "open settings": (
        lambda home: of_mode(home, "strongroom.toml", 0o666),
        "toml can be changed by others (mode 0666)",
    ),
    "an open log": (lambda home: of_mode(home, "log/audit.log", 0o666), "audit.log can be changed by others"),
    "a log elsewhere": (lambda home: elsewhere(home, "log"), "/log can be changed by others (mode 0777)"),
    "a store elsewhere": (lambda home: elsewhere(home, "data"), "/data can be changed by others (mode 0777)"),
    "no directory for the log": (
        lambda home: toml(home, 'audit_log = "else/a.log"'),
        "/else does not exist; make it, or say makedirs = true",
    ),
    "no directory for the store": (lambda home: toml(home, 'store = "sqlite:else/s.db"'), "/else does not exist"),
    "a log that is none": (lambda home: (home / "log/audit.log").mkdir(), "audit.log is not a regular file"),
    "an open root key": (lambda home: of_mode(home, "secrets.key", 0o644), "secrets.key is open to others (mode 0644)"),
    "an open machine key": (lambda home: of_mode(home, "machine.key", 0o604), "machine.key is open to others"),
    "open users": (users, "/users can be changed by others (mode 0666)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_check_says_what_the_start_would(made: Path, kind: str) -> None:
    """Both refuse with the same line, and neither has begun anything."""
    spoil, text = REFUSED[kind]
    spoil(made)

    checked = strongroom("--home", made, "config", "check")
    process = spawn("up", "--home", made, "--listen", "127.0.0.1:0")
    _, started = process.communicate(timeout=60)

    assert (checked.code, checked.out, text in checked.err) == (2, "", True), checked
    assert (process.returncode, started) == (2, checked.err)
    assert [*(made / "run").iterdir()] == []


@pytest.mark.parametrize("name", ["storage.conf", "custodia.conf", "password"])
def test_whatever_says_settings_is_the_operators(made: Path, name: str) -> None:
    """The proposal's two files and the files of variables are refused like strongroom.toml where others may write."""
    (made / name).write_text("{}")
    (made / name).chmod(0o622)
    variable = "STRONGROOM_API_KEY_FILE" if name == "password" else f"STRONGROOM_{name.replace('.', '_').upper()}"

    done = strongroom("--home", made, "config", "check", environ=clean_environment(**{variable: str(made / name)}))

    assert (done.code, f"{name} can be changed by others (mode 0622); run: chmod go-w" in done.err) == (2, True)


def test_a_home_that_is_not_there_is_no_fault(home: Path) -> None:
    """Before the first start there is nothing to look at."""
    assert strongroom("--home", home, "config", "check", "--json").json["valid"] is True


def test_settings_of_units_are_checked_as_serve_starts(short: Path) -> None:
    """A directory of settings is everybody's to read; what the units make is noted, what is missing is told."""
    place = short / "etc"
    place.mkdir(mode=0o755)
    (short / "var").mkdir(mode=0o700)
    text = f'socket = "{short}/run/s"\naudit_log = "{short}/var/a.log"\nstore = "sqlite:{short}/var/s.db"\n'
    toml(place, text)
    check = ("config", "check", "--config", place / "strongroom.toml")

    done = strongroom(*check, "--json")
    assert (done.code, done.json["notes"]) == (
        0,
        [f"{short}/run does not exist; the unit of the socket makes it, or you do"],
    )
    (short / "var").rmdir()
    gone = strongroom(*check, "--for", "storage")
    assert (gone.code, f"{short}/var does not exist" in gone.err) == (2, True)
    assert strongroom(*check, "--for", "proxy").code == 0  # which has no business there


def test_where_this_user_may_not_write(short: Path) -> None:
    """A directory that is shut to the user of the service is told, with who may not do what there."""
    short.chmod(0o755)
    (short / "shut").mkdir(mode=0o555)
    toml(short, 'audit_log = "shut/a.log"\nstore = "memory"\n')
    told = load(environ={}, home=short, without_key=True, role="storage")

    def said() -> str:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)  # for good: this child ends
        try:
            look(told, Role.STORAGE, by_up=False)
        except ConfigurationError as error:
            return str(error)
        return ""

    assert f"may make no file in {short}/shut" in in_child(said)
    os.chown(short / "shut", user(), -1)
    (short / "shut").chmod(0o700)
    assert in_child(said) == ""


def test_who_cannot_read_the_users_file_is_told(made: Path) -> None:
    """A users file that is not there lets nobody in; that is noted, and ends nothing."""
    toml(made, USERS.format(made))

    (note,) = strongroom("--home", made, "config", "check", "--json").json["notes"]

    assert note == f"nobody of the users file can sign in: there is no {made}/users"
