"""``strongroom host`` where several storage handlers keep hosts."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.running import Done, strongroom, up

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """The command, told where a service with a handler named alt lives, which keeps only what names it."""
    path = Path(tempfile.mkdtemp(prefix="sr"))
    home = path / "home"
    home.mkdir(mode=0o700)
    (home / "strongroom.toml").write_text(
        f"""
storage_handlers = [
    {{type = "sqlite"}},
    {{name = "alt", type = "sqlite", models = [], url = "sqlite:{path}/alt.db"}},
]
"""
    )
    with up(home):
        yield lambda *arguments, **options: strongroom("--home", home, *arguments, **options)
    shutil.rmtree(path)


def test_a_host_of_another_handler_is_reached_by_its_address(run: Run, short: Path) -> None:
    """It is shown, listed and changed where it is, and removed with its credentials."""
    (short / "key").write_text("key")
    assert run("host", "put", "10.3.0.1", "--source", "alt", "--force", "--ssh-key-file", short / "key").code == 0
    run("host", "put", "10.3.0.1", "--cpus", "4")

    host = run("host", "get", "10.3.0.1", "--json").json
    assert (host["source"], host["cpus"]) == ("alt", 4)
    assert [each for each in run("host", "ls", "--json").json["hosts"] if each["address"] == "10.3.0.1"] == [host]
    removed = {"address": "10.3.0.1", "deleted": True, "credentials_deleted": True}
    assert run("host", "rm", "10.3.0.1", "--json").json == removed
    for verb in ("get", "creds", "rm"):
        assert run("host", verb, "10.3.0.1").code == 4


def test_a_host_stays_where_it_is(run: Run) -> None:
    """A put that names another handler than the one that has the host is told so, and changes nothing."""
    run("host", "put", "10.3.0.2", "--cpus", "2")
    moved = run("host", "put", "10.3.0.2", "--source", "alt", "--cpus", "8")

    assert (moved.code, "10.3.0.2" in moved.err) == (5, True)
    assert run("host", "get", "10.3.0.2", "--json").json["cpus"] == 2
    assert len([each for each in run("host", "ls", "--json").json["hosts"] if each["address"] == "10.3.0.2"]) == 1


def test_a_handler_that_is_none_is_told(run: Run) -> None:
    """Nothing is stored under a source that no handler has."""
    done = run("host", "put", "10.3.0.3", "--source", "nowhere")

    assert (done.code, "no handler has the name in source" in done.err) == (2, True)
    assert run("host", "get", "10.3.0.3").code == 4
