"""Signals: what was ignored when a command began stays ignored, and Ctrl-C in the middle of long work harms nothing."""

import signal
from pathlib import Path

import pytest

from strongroom.storage_service.client import StorageClient
from tests.deploy.running import Done, eventually, finished, spawn, strongroom, up

IGNORING = ("sh", "-c", 'trap "" HUP INT QUIT; exec "$@"', "sh")  # as a shell starts what goes to the background


@pytest.mark.parametrize(
    ("prefix", "ignored"),
    [(("nohup",), [signal.SIGHUP]), (IGNORING, [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])],
    ids=["nohup", "a shell's background"],
)
def test_what_was_ignored_stays_ignored(home: Path, prefix: tuple[str, ...], ignored: list[signal.Signals]) -> None:
    """The service goes on, and ends with the signal that was not ignored, which its log names."""
    with up(home, prefix=prefix) as running:
        for number in ignored:
            running.process.send_signal(number)
        assert strongroom("--home", home, "status").code == 0
        assert strongroom("--home", home, "status").code == 0
        done = running.end(signal.SIGTERM)
    assert done.code == 0
    assert "SIGTERM" in done.err
    assert not any(number.name in done.err for number in ignored)


def test_a_closed_terminal_ends_it_all_the_same(home: Path) -> None:
    """Where SIGHUP was not ignored it asks for the end."""
    with up(home) as running:
        done = running.end(signal.SIGHUP)
    assert (done.code, "SIGHUP" in done.err) == (0, True)


def test_an_interrupted_reencryption_says_how_far_it_came(home: Path) -> None:
    """It says what is done, that nothing is lost, and the command that goes on, which does."""
    with up(home) as running, StorageClient.from_home(running.home) as client:
        client.create_container("box")
        for number in range(120):
            client.set_secret("box", str(number), "x")
        assert strongroom("--home", home, "key", "rotate", "keyset", "default").code == 0

        process = spawn("--home", home, "key", "reencrypt", "default", "--pace", "0.01")
        eventually(lambda: client.key_usage().generations.get("default.2", 0) > 0)
        process.send_signal(signal.SIGINT)
        done = finished(process)
        left = client.key_usage().generations
        again = strongroom("--home", home, "key", "reencrypt", "default", "--pace", "1")

    assert (done.code, done.out) == (130, "")
    assert left["default.1"] > 0
    start, _, rest = done.err.partition(" records are re-encrypted; ")
    assert start.removeprefix("strongroom: interrupted: at least ").isdecimal()
    assert rest == (
        "nothing is lost, and each opens, as do those that are left; to go on: strongroom --home"
        f" {home} key reencrypt default --pace 0.01\n"
    )
    assert again.code == 0


def test_an_interruption_is_a_document_where_one_was_asked_for(home: Path) -> None:
    """What goes on is a step in it, as it is elsewhere."""
    with up(home) as running, StorageClient.from_home(running.home) as client:
        client.create_container("box")
        for number in range(60):
            client.set_secret("box", str(number), "x")
        process = spawn("--home", home, "--json", "key", "rotate", "keyset", "default", "--reencrypt", "--pace", "0.01")
        eventually(lambda: client.key_usage().generations.get("default.2", 0) > 0)
        process.send_signal(signal.SIGINT)
        done = finished(process)
    told = Done(0, done.err, "").json
    assert (done.code, told["exit_code"], told["type"]) == (130, 130, "urn:strongroom:problem:interrupted")
    assert [(step["verb"], step["options"]["keyset"]) for step in told["next"]] == [("key reencrypt", "default")]
