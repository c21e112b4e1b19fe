"""Every long command that is interrupted says how far it came, that it is safe, and the command that goes on."""

import json
import re
import secrets
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from strongroom.deploy.cli import show
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.keyring.ceremonies import offline
from tests.deploy.running import Done, Up, strongroom, up

MANY: Final = 20  # secrets in a tree, or items of a source
ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Interrupt = Callable[[int], None]
"""Lets the next command be interrupted by that signal, in the middle of what it does."""


@pytest.fixture(scope="module")
def long_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service of this file's own, whose keys are rotated meanwhile."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sr") as short, up(Path(short) / "home") as running:
        yield running


@pytest.fixture
def tree(long_work: Up) -> str:
    """A container of many secrets."""
    name = f"tree{secrets.token_hex(4)}"
    with StorageClient.from_home(long_work.home) as client:
        client.create_container(name)
        for number in range(MANY):
            client.set_secret(name, f"k{number:02}", str(number))
    return name


@pytest.fixture(autouse=True)
def _survived() -> Iterator[None]:
    """A signal that a command does not take fails the test, and ends no others."""

    def unheard(number: int, _: object) -> None:
        raise AssertionError(f"nobody took {signal.Signals(number).name}")

    before = {number: signal.signal(number, unheard) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Send a signal, once, as soon as the progress of a command moves."""
    left: list[int] = []
    original = show.progress

    @contextmanager
    def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        with original(what, total) as advance:

            def moving(more: int) -> None:
                advance(more)
                if left:
                    signal.raise_signal(left.pop())

            yield moving

    monkeypatch.setattr(show, "progress", progress)
    return left.append


def told(done: Done, number: int, far: str) -> list[str]:
    """Return the command that goes on, if the line says how *far* it came, and nothing else."""
    assert (done.code, done.out) == (128 + number, ""), done
    found = re.fullmatch(rf"strongroom: interrupted:? {far}; [a-z, ]+: strongroom (.*)\n", done.err)
    assert found, done.err
    return shlex.split(found[1])


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize(
    ("words", "far"),
    [
        (("mv", "-r", "{tree}", "{tree}-new"), f"1 of {MANY} secrets moved; nothing is lost: .*"),
        (
            ("cp", "-r", "{tree}", "{tree}-new"),
            f"1 of {MANY} secrets copied; nothing is lost: .*what is copied is at both",
        ),
        (("rm", "-r", "--yes", "{tree}"), f"1 of {MANY} secrets removed"),
    ],
    ids=["mv", "cp", "rm"],
)
def test_trees(
    long_work: Up, tree: str, interrupt: Interrupt, words: tuple[str, ...], far: str, number: signal.Signals
) -> None:
    """Of a tree it says how many secrets are done, and the same command does the rest."""
    interrupt(number)
    done = strongroom("--home", long_work.home, "secret", *(word.format(tree=tree) for word in words))
    going_on = told(done, number, far)
    assert "--yes" not in going_on
    again = strongroom(*going_on, *(["--yes"] if "rm" in words else []))
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize(
    ("words", "far"),
    [
        (("mv", "-r", "{tree}", "{tree}-new"), "nothing was moved"),
        (("cp", "-r", "{tree}", "{tree}-new"), "nothing was copied"),
        (("rm", "-r", "--yes", "{tree}"), "nothing was removed"),
    ],
    ids=["mv", "cp", "rm"],
)
def test_trees_that_are_only_looked_at(
    long_work: Up,
    tree: str,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    far: str,
    number: signal.Signals,
) -> None:
    """Before anything of a tree is done, it says that nothing was."""
    with monkeypatch.context() as patched:
        patched.setattr(StorageClient, "walk", lambda *_: signal.raise_signal(number))
        done = strongroom("--home", long_work.home, "secret", *(word.format(tree=tree) for word in words))
    again = told(done, number, far)
    assert strongroom(*again, *(["--yes"] if "rm" in again else [])).code == 0


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("verb", ["mv", "cp"])
def test_one_secret(
    long_work: Up, tree: str, monkeypatch: pytest.MonkeyPatch, verb: str, number: signal.Signals
) -> None:
    """Of one secret, too, it says where that is, and the command finishes it."""
    original = StorageClient.set_secret

    def stored(*arguments: Any, **options: Any) -> Any:
        tag = original(*arguments, **options)
        signal.raise_signal(number)
        return tag

    with monkeypatch.context() as patched:
        patched.setattr(StorageClient, "set_secret", stored)
        done = strongroom("--home", long_work.home, "secret", verb, f"{tree}/k00", f"{tree}/new")
    moved = ", or moved" if verb == "mv" else ""
    again = told(done, number, f"nothing is lost: it is where it was, or at both names{moved}")
    assert strongroom(*again).code == 0
    assert strongroom("--home", long_work.home, "secret", "get", f"{tree}/new").out == "0"


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("whole", [True, False], ids=["rotate", "reencrypt"])
def test_reencryption(long_work: Up, interrupt: Interrupt, number: signal.Signals, *, whole: bool) -> None:
    """Of re-encryption it says how many records are done, and that each opens."""
    rotate = ("--home", long_work.home, "key", "rotate", "keyset", "default")
    if not whole:
        assert strongroom(*rotate).code == 0
    interrupt(number)
    done = strongroom(*(rotate if whole else ("--home", long_work.home, "key", "reencrypt")), *_wholly(whole=whole))
    again = told(done, number, "at least [1-9][0-9,]* records are re-encrypted; nothing is lost, and each opens, .*")
    assert again[again.index("--pace") + 1] == "1.0"
    assert strongroom(*again).code == 0


def _wholly(*, whole: bool) -> tuple[str, ...]:
    return ("--reencrypt", "--pace", "1") if whole else ("default", "--pace", "1")


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize(
    ("call", "words", "far"),
    [
        ("scan_key_usage", ("usage", "--scan"), "no record has changed, and what is not counted yet keeps its keys"),
        (
            "retire_generation",
            ("retire", "default.1"),
            "the service may finish it all the same, and destroys nothing .*",
        ),
    ],
    ids=["usage", "retire"],
)
def test_what_the_service_does(
    long_work: Up,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    words: tuple[str, ...],
    far: str,
    number: signal.Signals,
) -> None:
    """Of what the service looks for, for long, it says what is certain, and the command that tells."""
    with monkeypatch.context() as patched:
        patched.setattr(StorageClient, call, lambda *_, **__: signal.raise_signal(number))
        done = strongroom("--home", long_work.home, "key", *words)
    assert strongroom(*told(done, number, far)).code == 0


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("number", ENDINGS)
def test_backups(long_work: Up, interrupt: Interrupt, tmp_path: Path, number: signal.Signals) -> None:
    """A backup, its check and its restore say how many records are done; each goes on with what was said to it."""
    there, new = ("--home", long_work.home), ("--home", tmp_path / "new")
    file, key = tmp_path / "file", long_work.home / "secrets.key"

    interrupt(number)
    label = f"mine-{number}"
    taken = strongroom(*there, "backup", file, "--label", label)
    assert not file.exists()
    again = strongroom(*told(taken, number, "[0-9,]+ records were copied; no file is left, and .*"), "--json")
    assert (again.json["backup"], file.exists()) == (label, True)

    interrupt(number)
    checked = strongroom(*there, "backup", "verify", file, "--key-file", key)
    far = "[0-9,]+ records were read, and nothing was wrong with them"
    assert "secrets in it open" in strongroom(*told(checked, number, far)).out

    interrupt(number)
    restored = strongroom(*new, "restore", file, "--key-file", key)
    assert strongroom(*told(restored, number, "[0-9,]+ records were read, and nothing was written")).code == 0


def test_a_key_import(long_work: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what keyring the store has, and goes on with the same file and key."""
    there, file = ("--home", long_work.home), tmp_path / "keyring"
    assert strongroom(*there, "key", "export", "--file", file).code == 0

    async def late(*_: object, **__: object) -> None:
        import asyncio

        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(60)

    monkeypatch.setattr(offline, "bring_back", late)
    done = strongroom(*there, "key", "import", file, "--key-file", long_work.home / "secrets.key")
    again = told(done, signal.SIGTERM, "the store has the keyring that it had, or all of the one that was brought")
    assert again[-3:] == [str(file), "--key-file", str(long_work.home / "secrets.key")]


@pytest.mark.parametrize("number", ENDINGS)
def test_migrations(long_work: Up, interrupt: Interrupt, tmp_path: Path, number: signal.Signals) -> None:
    """Each verb of a migration says at what it was, and how far; said again, it goes on."""
    box, place = f"box{secrets.token_hex(4)}", tmp_path / "records.jsonl"
    lines = [{"name": f"secrets/{box}/k{each}", "value": f"value {each:06}"} for each in range(30 * MANY)]  # in batches
    place.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for verb, doing in (
        ("plan", "comparing"),
        ("apply", "moving"),
        ("status", "comparing"),
        ("verify", "comparing"),
        ("scrub", "scrubbing"),
        ("rollback", "rolling back"),
    ):
        asked = ["--yes"] if verb in ("scrub", "rollback") else []
        interrupt(number)
        done = strongroom("--home", long_work.home, "migrate", verb, "jsonl", place, *asked)
        far = rf"while {doing}, after [0-9,]+ .*; it is safe to run it again, and so it goes on"
        assert (done.code, done.out) == (128 + number, ""), done
        found = re.fullmatch(rf"strongroom: interrupted {far}: strongroom (.*)\n", done.err)
        assert found, done.err
        assert strongroom(*shlex.split(found[1])).code == 0


def test_a_document_tells_the_signal(long_work: Up, tree: str, interrupt: Interrupt) -> None:
    """As JSON it is an interruption, too, with the code that the command ends with."""
    for words in (("secret", "mv", "-r", tree, f"{tree}-new"), ("migrate", "plan", "jsonl", _source(long_work))):
        interrupt(signal.SIGTERM)
        done = strongroom("--home", long_work.home, "--json", *words)
        document = json.loads(done.err)
        assert (done.code, document["exit_code"], document["type"]) == (143, 143, "urn:strongroom:problem:interrupted")
        assert [step["verb"] for step in document["next"]] == [" ".join(words[:2])]


def _source(running: Up) -> Path:
    path = running.home.parent / "records.jsonl"
    path.write_text("".join(f'{{"name": "secrets/signalled/{each}", "value": "v"}}\n' for each in range(30 * MANY)))
    return path
