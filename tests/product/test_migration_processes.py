"""The migration as whole processes: killed, interrupted, two at once; a service that dies, locks, or has no room."""

import json
import os
import re
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.errors import Unavailable
from tests.deploy.running import (
    PATIENCE,
    ROOT,
    Done,
    Up,
    alive,
    clean_environment,
    descendants,
    eventually,
    spawn,
    strongroom,
    up,
)
from tests.ssh_keys import in_base64, private_key

MANY = 3000  # secrets: some 25 rows of the journal, so that something can happen in the middle


@dataclass
class Moving:
    """An estate of its own for each test, a service, and the command between them."""

    service: Up
    place: Path
    box: str
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What leads the command to the service."""
        return clean_environment(STRONGROOM_HOME=str(self.service.home), COLUMNS="80")

    def write(self, count: int, *more: str, size: int = 200) -> None:
        """Let the estate be *count* secrets of about *size* characters, and *more* lines that follow them."""
        lines = [
            json.dumps({"name": f"secrets/{self.box}/s{each:06}", "value": f"{each:04} " * (size // 5)})
            for each in range(count)
        ]
        self.place.touch(0o600)
        self.place.write_text("".join(f"{line}\n" for line in [*lines, *more]))

    def migrate(self, verb: str, *arguments: object, terminal: bool = False) -> Done:
        """Run a verb on the estate, in this process."""
        return strongroom("migrate", verb, "jsonl", self.place, *arguments, environ=self.environ, terminal=terminal)

    def start(self, verb: str, *arguments: object) -> "subprocess.Popen[str]":
        """Start a verb on the estate, in a process of its own."""
        # Who started the tests may have them ignore what Ctrl-C sends.
        process = spawn(
            "migrate",
            verb,
            "jsonl",
            self.place,
            *arguments,
            environ=self.environ,
            prefix=("env", "--default-signal=INT,TERM,HUP"),
        )
        self.started.append(process)
        return process

    def ask(self, question: str, *values: object) -> int:
        """Return a number from the store, read in its file."""
        store = self.service.home / "data" / "strongroom.db"
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as opened:
            return int(opened.execute(question, values).fetchone()[0])

    def rows(self) -> int:
        """Return how many rows the journals have that tell of something moved."""
        return self.ask("select count(*) from entry where name like 'system/journal/migration/%/applied/%'")

    def moved(self) -> int:
        """Return how many secrets of the estate are in the store."""
        return self.ask("select count(*) from entry where name like ?", f"secrets/{self.box}/s%")

    def in_the_middle(self, *arguments: str, verb: str = "apply", more: int = 1) -> "subprocess.Popen[str]":
        """Start a verb, and return its process when the journal has *more* rows, stopped."""
        before = self.rows()
        process = self.start(verb, *arguments)
        eventually(lambda: self.rows() >= before + more or process.poll() is not None)
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None
        return process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One product for this module, whose store is a file."""
    with up(tmp_path_factory.mktemp("moving") / "home") as running:
        yield running


@pytest.fixture
def moving(service: Up, tmp_path: Path) -> Iterator[Moving]:
    """An estate, none of which has moved, and which is rolled back."""
    yield from _moving(service, tmp_path)


@pytest.fixture
def moving_alone(tmp_path: Path) -> Iterator[Moving]:
    """The same, with a service of its own."""
    with up(tmp_path / "home") as running:
        yield from _moving(running, tmp_path)


def _moving(service: Up, directory: Path) -> Iterator[Moving]:
    made = Moving(service, directory / "estate.jsonl", directory.name.replace("_", "-"))
    made.write(MANY)
    try:
        yield made
    finally:
        for process in made.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def ended(process: "subprocess.Popen[str]", number: signal.Signals | None = None) -> Done:
    """Let a process go on, send it a signal, and return how it ended."""
    if number is not None:
        process.send_signal(number)
    if number is not signal.SIGKILL:
        process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


def counts(done: Done) -> dict[str, int]:
    """Return the counts of a report that says that all is well."""
    assert done.code == 0, done
    found: dict[str, int] = done.json["counts"]
    return found


def test_killed_at_any_moment(moving: Moving) -> None:
    """Apply and rollback, killed again and again: each is run again at once, goes on, and nothing is left or double."""
    for more in (1, 5, 2):
        assert ended(moving.in_the_middle(more=more), signal.SIGKILL).code == -signal.SIGKILL
    some = moving.moved()
    assert 0 < some < MANY

    applied = counts(moving.migrate("apply", "--json"))
    assert applied["created"] + applied["present"] == applied["items"] == MANY
    assert applied["present"] >= some  # the service may have been at something when its client died
    assert counts(moving.migrate("verify", "--json"))["same"] == MANY
    assert moving.moved() == MANY

    run = moving.migrate("plan", "--json").json["run"]
    process = moving.start("rollback", "--yes")
    eventually(lambda: moving.moved() < MANY or process.poll() is not None)
    assert ended(process, signal.SIGKILL).code == -signal.SIGKILL
    assert 0 < moving.moved() < MANY
    assert moving.migrate("rollback", "--yes").code == 0
    assert moving.moved() == 0
    assert moving.ask("select count(*) from entry where name like ?", f"secrets/{moving.box}/%") == 0
    assert moving.ask("select count(*) from entry where name like ?", f"system/journal/migration/{run}/%/%") == 0


def test_ctrl_c(moving: Moving) -> None:
    """Interrupted it says so in one line and ends with 130; nobody is at it any more, and it can be run again."""
    done = ended(moving.in_the_middle(), signal.SIGINT)

    assert (done.code, done.out, done.err.count("\n")) == (130, "", 1)
    goes_on(moving, done.err)
    assert moving.ask("select count(*) from entry where name = 'system/journal/migration/lock'") == 0
    assert counts(moving.migrate("apply", "--json"))["items"] == MANY
    assert moving.migrate("rollback", "--yes").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_another_end(moving: Moving, number: signal.Signals) -> None:
    """What a service manager sends, or a terminal that closes, ends it as orderly; `status` tells it as half moved."""
    done = ended(moving.in_the_middle(), number)

    assert (done.code, done.out, done.err.count("\n")) == (128 + number, "", 1)
    goes_on(moving, done.err)
    assert moving.ask("select count(*) from entry where name = 'system/journal/migration/lock'") == 0
    half_moved(moving)
    assert moving.migrate("rollback", "--yes").code == 0
    run = told_run(moving)
    assert list(run["stages"]) == ["rolled back"]
    assert run["stages"]["rolled back"]["complete"]


def test_killed_and_half_moved(moving: Moving) -> None:
    """One that was killed could say nothing, and is told as half moved all the same; once it is run again, as whole."""
    ended(moving.in_the_middle(), signal.SIGKILL)

    half_moved(moving)
    assert moving.migrate("apply").code == 0
    run = told_run(moving)
    assert run["stages"]["applied"]["complete"]
    assert moving.migrate("rollback", "--yes").code == 0


def goes_on(moving: Moving, said: str) -> None:
    """An interruption counts what has moved, says that it may be run again, and the command that goes on."""
    far = f"interrupted while moving, after {moving.moved():,} of {MANY:,} items; it is safe to run it again"
    assert far in said
    assert said.rstrip().endswith(f"strongroom migrate apply jsonl {moving.place}")


def half_moved(moving: Moving) -> None:
    """`status` tells what has moved and what is left, in words and in JSON."""
    run = told_run(moving)
    stage = run["stages"]["applied"]
    assert (stage["complete"], stage["counts"]["moved"]) == (False, moving.moved())
    assert stage["counts"]["moved"] + stage["counts"]["left"] == MANY
    shown = " ".join(strongroom("migrate", "status", environ=moving.environ, terminal=True).out.split())
    assert f"applied in part ({moving.moved():,} items moved, {stage['counts']['left']:,} left)" in shown


def told_run(moving: Moving) -> dict[str, Any]:
    """Return what `status` tells of the run."""
    runs = strongroom("migrate", "status", "--json", environ=moving.environ).json["runs"]
    (run,) = [run for run in runs if run["place"] == str(moving.place)]
    return dict(run)


def at_the_question(
    moving: Moving, verb: str, answer: Callable[[int, "subprocess.Popen[bytes]"], object]
) -> tuple[int, str]:
    """Run a verb at a terminal until it asks, *answer*, and return how it ended and what it said."""
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "strongroom.deploy.cli", "migrate", verb, "jsonl", str(moving.place)]
    with subprocess.Popen(
        ["env", "--default-signal=INT,TERM", *command],
        env=moving.environ,
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    ) as process:
        os.close(follower)
        overdue = Timer(PATIENCE, process.kill)
        overdue.start()
        said = b""
        while b"[y/N]" not in said:
            said += os.read(leader, 1024)
        eventually(lambda: waits(process.pid))
        answer(leader, process)
        with suppress(OSError):  # the other end is closed
            while piece := os.read(leader, 1024):
                said += piece
    overdue.cancel()
    os.close(leader)
    return process.returncode, said.decode().rstrip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_at_a_question(moving: Moving, number: signal.Signals) -> None:
    """Who is asked whether that is meant, and presses Ctrl-C, has answered; nothing was done, and that is said."""
    moving.write(3)
    counts(moving.migrate("apply", "--json"))
    code, said = at_the_question(moving, "rollback", lambda _, process: process.send_signal(number))

    assert code == 128 + number
    assert "strongroom: interrupted: nothing was put back, and nothing taken out" in said
    assert moving.ask("select count(*) from entry where name = 'system/journal/migration/lock'") == 0
    assert moving.moved() == 3
    assert moving.migrate("rollback", "--yes").code == 0


def test_no_at_a_question(moving: Moving) -> None:
    """Who says no to a scrub is told that nothing was removed, and nothing was."""
    moving.write(3)
    counts(moving.migrate("apply", "--json"))
    counts(moving.migrate("verify", "--json"))
    before = moving.place.read_bytes()
    code, said = at_the_question(moving, "scrub", lambda leader, _: os.write(leader, b"n\n"))

    assert code == 130
    assert said.endswith("strongroom: nothing was removed")
    assert moving.place.read_bytes() == before
    assert moving.migrate("rollback", "--yes").code == 0


def waits(pid: int) -> bool:
    """Whether a process sleeps: it is at the question, and no more on its way there."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_a_plan_that_lists(moving: Moving) -> None:
    """With --list each record is told by its two names and its kind, for programs a line of JSON each, and no value."""
    key = json.dumps({"model": "Host", "address": f"{moving.box}-h", "ssh_priv_key": in_base64("of the host")})
    moving.write(2, key)
    done = moving.migrate("plan", "--list", "--json")
    *lines, report = [json.loads(line) for line in done.out.splitlines()]

    name = moving.place.name
    assert lines == [
        {"item": f"{name}:line 1", "name": f"secrets/{moving.box}/s000000", "kind": "secret", "would": "create"},
        {"item": f"{name}:line 2", "name": f"secrets/{moving.box}/s000001", "kind": "secret", "would": "create"},
        {"item": f"{name}:line 3", "name": f"hosts/{moving.box}-h", "kind": "Host", "would": "create"},
        {"item": f"{name}:line 3", "name": f"secrets/hosts/{moving.box}-h", "kind": "HostCreds", "would": "create"},
    ]
    assert (report["kind"], report["counts"]["create"]) == ("jsonl", 4)
    assert "value" not in lines[0]
    pager = moving.environ | {"PAGER": "cat"}
    shown = strongroom("migrate", "plan", "jsonl", moving.place, "--list", environ=pager, terminal=True).out
    assert f"{name}:line 3  ->  secrets/hosts/{moving.box}-h  (HostCreds, create)" in shown
    assert "4  would be created" in shown


def test_a_plan_tells_of_keys_that_have_no_host(moving: Moving, tmp_path: Path) -> None:
    """Keys whose address no host has are counted and marked, with the command that makes it; once it is there, none."""
    address = f"{moving.box}-alone"
    environ = moving.environ | {"PAGER": "cat"}
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / address).write_text(private_key())
    (keys / address).chmod(0o600)

    def planned(*more: str) -> Done:
        return strongroom("migrate", "plan", "keys", keys, "--list", *more, environ=environ, terminal=not more)

    line, report = [json.loads(each) for each in planned("--json").out.splitlines()]
    assert (line["host"], report["counts"]["no host"], report["complete"]) == ("none", 1, True)
    shown = planned().out
    assert "(HostCreds, create, no host yet)" in shown
    assert "1  is credentials that have no host yet: strongroom host put ADDRESS makes it" in shown

    assert strongroom("host", "put", address, environ=moving.environ).code == 0
    line, report = [json.loads(each) for each in planned("--json").out.splitlines()]
    assert "host" not in line
    assert "no host" not in report["counts"]


def test_a_signature_that_holds(moving: Moving, tmp_path: Path) -> None:
    """A check says that the signature holds, and advises nothing that was to be done when it was made."""
    moving.write(1)
    counts(moving.migrate("apply", "--json"))
    file = tmp_path / "proof.json"
    assert moving.migrate("verify", "--report", file).code == 0
    checked = strongroom("migrate", "check", file, "--json", environ=moving.environ)
    shown = strongroom("migrate", "check", file, environ=moving.environ, terminal=True).out

    assert (checked.code, checked.json["signature"], checked.json["next"]) == (0, "holds", [])
    assert shown.startswith("the signature holds: jsonl-")
    assert "1  item at the source" in shown
    assert "next:" not in shown
    assert moving.migrate("rollback", "--yes").code == 0


def test_two_at_once(moving: Moving) -> None:
    """The second is refused with code 5 and told who is at it; when that one was killed, it is succeeded at once."""
    first = moving.in_the_middle()

    second = moving.migrate("apply")
    assert (second.code, second.out, second.err.count("\n")) == (5, "", 1)
    assert "a migration is under way: apply of jsonl-" in second.err
    assert f"by process {first.pid} on " in second.err
    assert moving.migrate("plan").code == 0
    status = strongroom("migrate", "status", "--json", environ=moving.environ)
    assert status.json["holder"]["pid"] == first.pid
    shown = strongroom("migrate", "status", environ=moving.environ, terminal=True).out
    assert f"is under way: process {first.pid}" in " ".join(shown.split())

    ended(first, signal.SIGKILL)
    assert strongroom("migrate", "status", "--json", environ=moving.environ).json["holder"] is None
    assert counts(moving.migrate("apply", "--json"))["items"] == MANY
    assert moving.migrate("rollback", "--yes").code == 0


def test_locked_in_the_middle(moving: Moving) -> None:
    """A service that is locked under it ends it with code 3; once it is unlocked, it goes on where it was."""
    with StorageClient.from_home(moving.service.home) as client:
        process = moving.in_the_middle()
        client.lock()
        try:
            done = ended(process)
            locked = moving.migrate("plan")
        finally:
            client.unlock()

    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert "locked" in done.err
    assert locked.code == 3
    applied = counts(moving.migrate("apply", "--json"))
    assert applied["present"] > 0
    assert applied["created"] + applied["present"] == MANY
    assert moving.migrate("rollback", "--yes").code == 0


def test_a_worker_of_the_service_dies(moving: Moving) -> None:
    """The service's worker is killed under it: it waits for the next one, and all is moved."""
    process = moving.in_the_middle("--json")
    worker = descendants(moving.service.gunicorn("storage"))[0]
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not alive(worker))

    applied = counts(ended(process))
    assert applied["created"] + applied.get("present", 0) == MANY
    assert counts(moving.migrate("verify", "--json"))["same"] == MANY
    assert moving.migrate("rollback", "--yes").code == 0


def test_the_whole_service_dies_and_comes_back(moving_alone: Moving) -> None:
    """The whole product is killed and started anew under it: it goes on; without a service it says what to do."""
    process = moving_alone.in_the_middle("--json")
    family = moving_alone.service.family()
    os.kill(family[0], signal.SIGKILL)
    eventually(lambda: not any(map(alive, family)))

    away = moving_alone.migrate("plan")
    assert (away.code, away.out, away.err.count("\n")) == (2, "", 1)
    assert "see that it runs: strongroom " in away.err

    with up(moving_alone.service.home):
        applied = counts(ended(process))
        assert applied["created"] + applied.get("present", 0) == MANY
        assert counts(moving_alone.migrate("verify", "--json"))["same"] == MANY


def test_no_room_on_the_disk_of_the_service(moving_alone: Moving) -> None:
    """While the store's disk is full nothing is lost; with room again it goes on by itself, and all is there."""
    count = 300
    moving_alone.write(count, size=20_000)  # large ones: the store is to be full before the audit log is
    service = descendants(moving_alone.service.gunicorn("storage"))[0]
    before = resource.prlimit(service, resource.RLIMIT_FSIZE)
    resource.prlimit(service, resource.RLIMIT_FSIZE, (1024 * 1024, before[1]))
    process = moving_alone.start("apply", "--json")

    with StorageClient.from_home(moving_alone.service.home, retries=0) as client:
        eventually(lambda: moving_alone.rows() > 0)
        eventually(lambda: is_full(client))
    resource.prlimit(service, resource.RLIMIT_FSIZE, before)

    applied = counts(ended(process))
    assert applied["created"] + applied.get("present", 0) == count
    assert counts(moving_alone.migrate("verify", "--json"))["same"] == count
    assert moving_alone.moved() == count


def is_full(client: StorageClient) -> bool:
    """Whether the service can keep nothing more."""
    try:
        client.create_container("filling")
        client.set_secret("filling", f"s{os.urandom(8).hex()}", "x" * 30_000)
    except Unavailable:
        return True
    return False


def test_many_malformed_rows(moving: Moving) -> None:
    """Of an estate that is full of them nothing moves unless it is said; what is good moves then, and all is told."""
    moving.write(20, *['{"name": "secrets/box/broken", "value": "not closed'] * 700)

    stopped = moving.migrate("apply")
    assert stopped.code == 2
    assert "\nnot complete: nothing was moved\n" in stopped.out
    assert moving.moved() == 0
    skipped = moving.migrate("apply", "--skip-bad", "--json")
    assert counts(skipped) == {"items": 720, "bad": 700, "created": 20}
    assert len([each for each in skipped.json["problems"] if each["kind"] == "bad"]) == 700
    shown = moving.migrate("plan", terminal=True).out
    assert "700  cannot move" in shown
    assert "and 660 more; --json has all of them" in shown
    assert shown.count("\n") < 60
    assert moving.migrate("verify").code == 0  # what the apply was told to leave behind is left behind
    assert moving.migrate("rollback", "--yes").code == 0


COMMANDS: dict[str, tuple[str, int, str]] = {
    "no estate": ("apply", 1, "say what is to be moved: SOURCE PLACE, or the name of a RUN"),
    "too many words": ("apply jsonl {place} more", 1, "SOURCE PLACE, or the name of a RUN"),
    "a source without its place": ("plan jsonl", 1, "say where the source is: jsonl FILE"),
    "an unknown verb": ("move jsonl {place}", 1, "there is no such command (strongroom migrate --help)"),
    "an unknown source": ("apply floppy {place}", 1, "there is no source 'floppy'; the sources are: commissaire, "),
    "an option without a value": ("apply csv {place} -o hunter2", 1, "say -o NAME=VALUE; "),
    "an unknown option": ("apply csv {place} -o colour=red", 1, "csv has no option 'colour'; its options are: "),
    "one of a source with none": ("apply jsonl {place} -o colour=red", 1, "its options are: none"),
    "an option said twice": ("plan csv {place} -o encoding=a -o encoding=b", 1, "'encoding' can be given only once"),
    "an option that is missing": ("plan custodia /run/custodia.sock", 1, "custodia needs -o container="),
    "a password in the place": ("plan commissaire etcd://root:hunter2@127.0.0.1:1", 1, "password"),
    "an unknown policy": ("apply jsonl {place} --on-conflict guess", 1, "'--on-conflict': is one of stop, keep, "),
    "an unknown run": ("status jsonl-0123456789", 4, "there is no such run"),
    "no run's name": ("apply ../../etc", 4, "that is not the name of a run"),
    "a run that is not forgotten twice": ("forget jsonl-0123456789 --yes", 4, "there is no such run"),
    "an estate that never moved": ("verify jsonl {place}", 4, "there is no such run"),
    "nor can be scrubbed": ("scrub jsonl {place} --yes", 4, "there is no such run"),
    "nor rolled back": ("rollback jsonl {place} --yes", 4, "there is no such run"),
    "a file that is not there": ("apply jsonl {place}.not", 2, "estate.jsonl.not"),
    "a source that does not answer": ("plan commissaire etcd://127.0.0.1:1 -o timeout=1", 2, "etcd"),
    "a report to nowhere": ("verify jsonl {place} --report {place}/x", 1, "cannot be written: Not a directory"),
    "a plan to nowhere": ("plan jsonl {place} --out {place}/x", 1, "cannot be written: Not a directory"),
    "a plan that is none": ("apply jsonl {place} --plan {place}", 2, "is not a plan"),
    "a report that is none": ("check {place}", 2, "this is not a signed report"),
    "a report that is not there": ("check {place}.not", 1, "names no file that this user can read"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_is_said_wrongly(moving: Moving, case: str) -> None:
    """Each mistake has its exit code and one line that says what to do; the line shows no word that may be a secret."""
    arguments, code, words = COMMANDS[case]
    moving.write(1)
    done = strongroom("migrate", *arguments.format(place=moving.place).split(), environ=moving.environ)

    assert (done.code, done.out) == (code, ""), done
    assert words in done.err
    assert done.err.startswith("strongroom: ")
    assert done.err.count("\n") == 1
    assert "hunter2" not in done.err
    assert moving.moved() == 0


def test_an_empty_estate(moving: Moving) -> None:
    """Nothing at the source is no success of any verb, and says so."""
    moving.write(0)
    for verb in ("plan", "apply", "verify"):
        done = moving.migrate(verb, "--json")
        assert (done.code, done.json["complete"], done.json["counts"].get("items", 0)) == (4, False, 0)
        (step,) = done.json["next"]
        assert ("see that " in step["reason"], step["verb"], step["options"]) == (True, None, {})
    shown = moving.migrate("plan", terminal=True)
    assert (shown.code, "0  items at the source" in shown.out) == (4, True)
    assert moving.migrate("rollback", "--yes").code == 0


@pytest.mark.parametrize(
    "verb", ["", "plan", "apply", "verify", "check", "scrub", "rollback", "status", "forget", "sources"]
)
def test_help(verb: str) -> None:
    """Each verb says what it does, in lines that a terminal holds, and none of them is cut short."""
    done = strongroom("migrate", *verb.split(), "--help", environ=clean_environment(COLUMNS="80"))

    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert "..." not in done.out.partition("Commands:")[2]
    assert "\\b" not in done.out
    assert f"strongroom migrate {verb}".strip() in done.out


def seen(done: Done) -> str:
    """Return what a terminal shows, without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", done.out)


def commands(done: Done) -> list[list[str]]:
    """Return the commands that are advised, as a shell would take them."""
    found = re.findall(r"^    strongroom (.*)$", seen(done).partition("next: ")[2], re.MULTILINE)
    return [shlex.split(each) for each in found]


def test_what_comes_next_works_as_typed(moving: Moving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first plan on, whatever command is advised is run as it stands, from anywhere: it leads to the end."""
    odd = tmp_path / "an estate; of ours"
    odd.mkdir()
    moving.write(3)
    moving.place = moving.place.rename(odd / "its secrets.jsonl")
    monkeypatch.chdir(odd)
    environ = clean_environment(COLUMNS="80")
    # Neither the place nor the plan is said from the root, and the service is said by a flag.
    said = ["--home", str(moving.service.home), "migrate", "jsonl", "its secrets.jsonl", "--out", "the plan"]
    verbs = []
    while said:
        done = strongroom(*said, environ=environ, terminal=True)
        verbs.append(said[3 if said[0] == "--home" else 1])
        assert done.code == 0, done
        following = commands(done)
        monkeypatch.chdir(tmp_path)
        if len(verbs) > 6 or not following:
            break
        said = following[0]
        if "scrub" in said or "forget" in said:
            said.append("--yes")

    assert verbs[:3] == ["jsonl", "apply", "verify"], verbs
    assert moving.moved() == 3
    runs = strongroom("migrate", "status", "--json", environ=moving.environ).json["runs"]
    (run,) = [each["run"] for each in runs if each["place"] == str(moving.place)]
    assert strongroom("migrate", "rollback", run, "--yes", environ=moving.environ).code == 0
    assert moving.moved() == 0


@pytest.mark.parametrize("columns", [80, 120])
def test_what_people_see_fits_their_terminal(moving: Moving, columns: int) -> None:
    """However long names and reasons are, no line is wider than the terminal but for what must not be broken."""
    long = "/".join(f"container-{each}-with-a-long-name" for each in range(4))
    moving.write(
        2,
        *[json.dumps({"name": f"secrets/{long}/{each}", "value": each}) for each in ("a", "")],
        json.dumps({"name": f"secrets/{moving.box}/s000000", "value": "another"}),
        json.dumps({"name": "secrets/no good/name", "value": "x"}),
    )
    environ: dict[str, Any] = moving.environ | {"COLUMNS": str(columns)}
    estate = ("jsonl", moving.place)
    for verb, *more in (["plan"], ["apply", "--skip-bad"], ["verify"], ["status"], ["rollback", "--yes"]):
        plain = seen(strongroom("migrate", verb, *estate, *more, environ=environ, terminal=True))
        wide = [line for line in plain.splitlines() if len(line.rstrip()) > columns]
        assert all(" " not in line.strip() or line.startswith("    strongroom ") for line in wide), wide
        assert "…" not in plain
