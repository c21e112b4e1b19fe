"""Trees of secrets: listed, removed, moved and copied, as transcripts, and what is left wherever that stops."""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from strongroom.deploy.cli.secret import moving
from strongroom.deploy.cli.secret.moving import _Name as Name
from strongroom.storage_service.client import StorageClient, operations
from strongroom.storage_service.client.operations import NamesPage
from strongroom.storage_service.client.retries import Operation
from strongroom.storage_service.errors import Changed, Contradicted, Exists, NotFound, ServiceError, Unavailable
from strongroom.storage_service.wire import etags
from tests.audit_lines import audit_lines
from tests.deploy.running import Done, Up, clean_environment, eventually, strongroom
from tests.deploy.terminal import Terminal

Run = Callable[..., Done]
BYTES = bytes(range(256)) * 2048  # 512 KiB: as base64 longer than a text may be


@pytest.fixture
def run(service: Up) -> Run:
    """``strongroom secret``, told where the service lives."""

    def with_home(*arguments: object, **options: object) -> Done:
        return strongroom("--home", service.home, "secret", *arguments, **options)  # type: ignore[arg-type]

    return with_home


@pytest.fixture
def client(service: Up) -> Iterator[StorageClient]:
    """A client of the service."""
    with StorageClient.from_home(service.home) as client:
        yield client


@pytest.fixture
def box(client: StorageClient) -> str:
    """A container of this test's own, in which there is a small tree; its name is short, for lines of a terminal."""
    name = f"tree{secrets.token_hex(4)}"
    for container in ("", "/db", "/db/main", "/empty"):
        client.create_container(name + container)
    for key, value in (("db/main/user", "u"), ("db/main/password", "p"), ("db-x", "x"), ("db/raw", BYTES)):
        container, _, last = f"{name}/{key}".rpartition("/")
        client.set_secret(container, last, value)
    return name


def held(client: StorageClient, container: str) -> dict[str, str | None]:
    """Return all that *container* holds, with the values of secrets; nothing where there is no such container."""
    try:
        names = client.list_container(container)
    except NotFound:
        return {}
    values = client.get_secrets(f"{container}/{name}" for name in names if not name.endswith("/"))
    return {
        name: None if name.endswith("/") else values[f"{container}/{name}"].reveal()  # type: ignore[union-attr]
        for name in names
    }


TREE = """\
db-x
db/
  main/
    password
    user
  raw
empty/
3 containers and 4 secrets
"""


def test_a_tree_is_shown(run: Run, box: str) -> None:
    """-R shows each name below its container, and in the end how many there are."""
    assert run("ls", "-R", box, terminal=True) == Done(0, TREE, "")
    assert run("ls", "-R", f"{box}/empty", terminal=True) == Done(0, "0 containers and 0 secrets\n", "")
    everything = run("ls", "-R", terminal=True).out
    below = [f"  {line}\n" for line in TREE.splitlines()[:-1]]
    assert f"{box}/\n{''.join(below)}" in everything
    assert re.search(r"^[\d,]+ containers and [\d,]+ secrets\n\Z", everything, re.MULTILINE)


def test_a_tree_is_a_document(run: Run, box: str) -> None:
    """As JSON it is all names, and how many of both kinds."""
    assert run("ls", "-R", "--json", f"{box}/db").json == {
        "container": f"{box}/db",
        "names": ["main/", "main/password", "main/user", "raw"],
        "containers": 1,
        "secrets": 3,
    }


def test_a_tree_of_many_pages(run: Run, box: str, client: StorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages a listing takes, it is the same listing."""
    whole = run("ls", "-R", box, terminal=True)
    original = operations.list_names

    def small(container: str = "", after: str = "") -> Operation[NamesPage]:
        return original(container, after, limit=2)

    monkeypatch.setattr(operations, "list_names", small)
    assert list(client.walk(box)) == client.list_container(box)
    assert run("ls", "-R", box, terminal=True) == whole


def test_a_key_sees_the_trees_that_it_reaches(run: Run, box: str, service: Up, client: StorageClient) -> None:
    """Who reaches one container lists that from the root, also over HTTP, and nothing else."""
    key = client.create_apikey(f"narrow-{box}", paths=[f"/secrets/{box}/db"], actions=["list"])
    for place in ({"STRONGROOM_SOCKET": str(service.socket)}, {"STRONGROOM_URL": service.url}):
        environ = {**place, "STRONGROOM_API_ID": key.api_id, "STRONGROOM_API_KEY": key.api_key.reveal()}
        assert as_caller(environ, "ls") == Done(0, f"{box}/db/\n", "")
        tree = f"{box}/db/\n  main/\n    password\n    user\n  raw\n2 containers and 3 secrets\n"
        assert as_caller(environ, "ls", "-R") == Done(0, tree, "")
        assert as_caller(environ, "ls", box).code == 6


def as_caller(environ: dict[str, str], *arguments: str) -> Done:
    """Run ``strongroom secret`` as the caller that *environ* says, at a terminal."""
    return strongroom("secret", *arguments, terminal=True, environ=clean_environment(**environ))


class TestRemoving:
    """``strongroom secret rm -r``."""

    def test_it_asks_and_says_how_much(self, box: str, service: Up, client: StorageClient) -> None:
        """At a terminal it asks, by numbers; who says no keeps all, who says yes is told what went."""
        before = held(client, box)
        question = f"remove 4 containers and 4 secrets with {box}/? [y/N]: "
        with Terminal(service.home, "rm", "-r", box, noun="secret") as terminal:
            terminal.sees(question)
            terminal.types("n")
            terminal.sees("nothing was removed")
            assert terminal.ends() == 130
        assert held(client, box) == before

        with Terminal(service.home, "rm", "-r", f"{box}/", noun="secret") as terminal:
            terminal.sees(question)
            terminal.types("y")
            terminal.sees(f"removed {box}, 4 containers and 4 secrets\n")
            assert terminal.ends() == 0
        assert f"{box}/" not in client.list_containers()

    def test_a_tree_goes_from_its_leaves(self, run: Run, box: str, client: StorageClient, service: Up) -> None:
        """--yes removes without asking, secret by secret, each with a line in the audit log; the rest stays."""
        assert run("rm", "-r", "--yes", "--json", f"{box}/db").json == {
            "container": f"{box}/db",
            "deleted": True,
            "containers": 2,
            "secrets": 3,
        }
        assert held(client, box) == {"db-x": "x", "empty/": None}
        assert [name for action, name in audited(service, f"secrets/{box}/db/") if action == "delete"] == [
            f"secrets/{box}/db/{name}" for name in ("main/password", "main/user", "main/", "raw", "")
        ]

    def test_what_somebody_else_puts_there_stops_it(self, run: Run, box: str, patched: "Patched") -> None:
        """A container into which something comes meanwhile stays; the error says how far it came, and what goes on."""
        patched.after("delete_secret", 2, lambda client: client.set_secret(f"{box}/db/main", "new", "n"))

        done = run("rm", "-r", "--yes", f"{box}/db")

        assert (done.code, done.out) == (5, "")
        assert f"the container {box}/db/main is not empty (secrets/{box}/db/main/" in done.err
        assert "; 2 of 3 secrets removed" in done.err
        assert f" secret rm {box}/db --recursive; " in done.err
        assert run("rm", "-r", "--yes", f"{box}/db").code == 0


class Patched:
    """Does something else after the nth call of a method of the client, as somebody else would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: StorageClient) -> None:
        self._monkeypatch = monkeypatch
        self._client = client

    def after(self, method: str, number: int, act: Callable[[StorageClient], object]) -> None:
        """Let *act* happen right after the call."""
        original = getattr(StorageClient, method)
        calls = 0

        def counting(client: StorageClient, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            result = original(client, *arguments, **options)
            if client is not self._client:
                calls += 1
                if calls == number:
                    act(self._client)
            return result

        self._monkeypatch.setattr(StorageClient, method, counting)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch, client: StorageClient) -> Patched:
    """Somebody else, who comes in between."""
    return Patched(monkeypatch, client)


def audited(service: Up, below: str) -> list[tuple[str, str]]:
    """Return the actions and names of the audit log that concern what lies in *below*, in order."""
    lines = audit_lines(Path(service.said["audit_log"]))
    return [(line["action"], line["name"]) for line in lines if line["name"].startswith(below)]


class TestOneSecret:
    """``mv`` and ``cp`` of a secret."""

    def test_a_secret_is_copied(self, run: Run, box: str, client: StorageClient) -> None:
        """It is at both names then; to a container with its slash under the same key."""
        assert run("cp", f"{box}/db-x", f"{box}/copy", terminal=True) == Done(
            0, f"copied {box}/db-x to {box}/copy\n", ""
        )
        told = run("cp", "--json", f"{box}/db-x", f"{box}/empty/").json
        assert told == {"from": f"{box}/db-x", "to": f"{box}/empty/db-x", "copied": True}
        assert [client.get_secret(box, "copy").reveal(), client.get_secret(f"{box}/empty", "db-x").reveal()] == [
            "x"
        ] * 2
        assert client.get_secret(box, "db-x").reveal() == "x"

    def test_a_secret_is_moved(self, run: Run, box: str, client: StorageClient, service: Up) -> None:
        """It is read, stored, compared, and only then removed; the log has each, under both names."""
        moved = run("mv", "-p", f"{box}/db/raw", f"{box}/new/er/raw", terminal=True)
        assert moved == Done(0, f"moved {box}/db/raw to {box}/new/er/raw\n", "")
        named = [each for each in audited(service, f"secrets/{box}/") if each[1].endswith("/raw")]
        here, there = f"secrets/{box}/db/raw", f"secrets/{box}/new/er/raw"
        assert named[1:] == [("get", here), ("put", there), ("get", there), ("delete", here)]
        assert client.get_secret(f"{box}/new/er", "raw").reveal_bytes() == BYTES
        with pytest.raises(NotFound):
            client.get_secret(f"{box}/db", "raw")

    @pytest.mark.parametrize("verb", ["mv", "cp"])
    def test_another_value_is_not_replaced(self, run: Run, box: str, client: StorageClient, verb: str) -> None:
        """What is there stays unless --replace is said; the same value is not in the way."""
        user, password = f"{box}/db/main/user", f"{box}/db/main/password"
        refused = run(verb, user, password)
        assert refused == Done(5, "", f"strongroom: {password} exists already; say --replace to replace it\n")
        assert client.get_secret(f"{box}/db/main", "password").reveal() == "p"

        assert run(verb, "--replace", user, password).code == 0
        assert client.get_secret(f"{box}/db/main", "password").reveal() == "u"
        client.set_secret(f"{box}/db/main", "user", "u", etag="*" if verb == "cp" else None)
        assert run(verb, user, password).code == 0

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (("mv", "BOX/none", "BOX/x"), 4, "strongroom: there is no such secret: BOX/none\n"),
            (
                ("cp", "BOX/db-x", "BOX/none/x"),
                4,
                "strongroom: there is no container BOX/none; make it first: strongroom",
            ),
            (("mv", "BOX/db-x", "BOX/db-x"), 1, "strongroom: FROM and TO are the same name"),
            (("mv", "BOX/db-x", "BOX/"), 1, "strongroom: FROM and TO are the same name"),
            (("cp", "BOX/db/", "BOX/x"), 1, "strongroom: FROM is a container: say -r for it and all that it holds"),
            (("cp", "BOX", "BOX/x"), 1, "strongroom: a secret's name is CONTAINER/KEY"),
            (("mv", "BOX/db-x", "BOX//x"), 1, "strongroom: a part of a name is empty"),
            (("mv", "-r", "BOX/db", "BOX/db/inner"), 1, "strongroom: FROM and TO lie in each other"),
            (("mv", "-r", "BOX/db/main", "BOX/db"), 1, "strongroom: FROM and TO lie in each other"),
            (("cp", "-r", "BOX/db", "BOX/db/"), 1, "strongroom: FROM and TO lie in each other"),
            (("cp", "-r", "BOX/none", "BOX/x"), 4, "strongroom: there is no container BOX/none\n"),
            (
                ("mv", "-r", "BOX/db", "BOX/none/x"),
                4,
                "strongroom: there is no container BOX/none (secrets/BOX/none/x/",
            ),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, run: Run, box: str, client: StorageClient, arguments: tuple[str, ...], code: int, text: str
    ) -> None:
        """Nothing has happened then, and a line says what was wrong, by name."""
        before = held(client, box)
        done = run(*(each.replace("BOX", box) for each in arguments))
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
        assert done.err.startswith(text.replace("BOX", box))
        assert held(client, box) == before


class TestCarrying:
    """One secret on its way, while others change both ends."""

    def carried(self, client: StorageClient, box: str, *, replace: bool = False) -> None:
        moving.carry(client, Name(box, "db-x"), Name(f"{box}/empty", "y"), replace=replace, remove=True)

    @pytest.fixture
    def mine(self, service: Up) -> Iterator[StorageClient]:
        """The client that carries; the other one is somebody else."""
        with StorageClient.from_home(service.home) as client:
            yield client

    def test_a_value_that_changes_meanwhile_is_the_one_that_moves(
        self, mine: StorageClient, client: StorageClient, box: str, patched: Patched
    ) -> None:
        """Somebody stores a new value after the old one was read: that one arrives."""
        patched.after("set_secret", 1, lambda other: other.set_secret(box, "db-x", "newer", etag="*"))
        self.carried(mine, box)
        assert held(client, f"{box}/empty") == {"y": "newer"}
        assert "db-x" not in held(client, box)

    def test_a_value_that_keeps_changing_stays(
        self, mine: StorageClient, client: StorageClient, box: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a few attempts it is left where it was, whole."""
        original = StorageClient.get_secret

        def restless(me: StorageClient, container: str, key: str) -> Any:
            found = original(me, container, key)
            if key == "db-x":
                client.set_secret(box, "db-x", found.reveal() + "!", etag="*")
            return found

        monkeypatch.setattr(StorageClient, "get_secret", restless)
        with pytest.raises(Changed, match=f"somebody else keeps changing {box}/db-x: it is where it was"):
            self.carried(mine, box)
        monkeypatch.undo()
        assert client.get_secret(box, "db-x").reveal() == "x!!!"
        assert client.get_secret(f"{box}/empty", "y").reveal() == "x!!"

    def test_a_copy_that_is_not_the_same_removes_nothing(
        self, mine: StorageClient, client: StorageClient, box: str, patched: Patched
    ) -> None:
        """Somebody overwrites the copy before it is compared: the secret stays where it was."""
        patched.after("set_secret", 1, lambda other: other.set_secret(f"{box}/empty", "y", "theirs", etag="*"))
        with pytest.raises(Changed, match=f"somebody else changed {box}/empty/y meanwhile"):
            self.carried(mine, box)
        assert client.get_secret(box, "db-x").reveal() == "x"
        assert client.get_secret(f"{box}/empty", "y").reveal() == "theirs"

    def test_what_was_removed_meanwhile_is_told(
        self, mine: StorageClient, client: StorageClient, box: str, patched: Patched
    ) -> None:
        """Somebody removes the secret while it moves, or moves it, too: the copy, perhaps the last one, stays."""
        patched.after("set_secret", 1, lambda other: other.delete_secret(box, "db-x"))
        with pytest.raises(
            NotFound, match=f"somebody else removed {box}/db-x meanwhile; its copy stays: {box}/empty/y"
        ):
            self.carried(mine, box)
        assert held(client, f"{box}/empty") == {"y": "x"}

    def test_what_has_not_moved_into_the_store_is_not_moved_in_it(
        self, mine: StorageClient, client: StorageClient, box: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A secret that is read through has no revision by which it could be removed: it is left alone."""
        original = StorageClient.get_secret
        monkeypatch.setattr(
            StorageClient, "get_secret", lambda *arguments: original(*arguments)._replace(etag=etags.NEW)
        )
        with pytest.raises(Contradicted, match=f"{box}/db-x still lies where it has not moved from"):
            self.carried(mine, box)
        assert held(client, f"{box}/empty") == {}

    def test_a_value_of_others_is_not_taken_for_a_copy(
        self, mine: StorageClient, client: StorageClient, box: str, patched: Patched
    ) -> None:
        """The same value was there before, and the secret changes meanwhile: theirs is not replaced unasked."""
        client.set_secret(f"{box}/empty", "y", "x")
        patched.after("get_secret", 2, lambda other: other.set_secret(box, "db-x", "newer", etag="*"))
        with pytest.raises(Exists):
            self.carried(mine, box)
        assert client.get_secret(f"{box}/empty", "y").reveal() == "x"
        assert client.get_secret(box, "db-x").reveal() == "newer"


class TestTrees:
    """``mv -r`` and ``cp -r``."""

    @pytest.mark.parametrize("verb", ["mv", "cp"])
    def test_a_tree_arrives_whole(self, run: Run, box: str, client: StorageClient, verb: str) -> None:
        """All that a container holds is in the other then, empty containers too; a move leaves nothing behind."""
        before = held(client, box)
        word = {"mv": "moved", "cp": "copied"}[verb]

        done = run(verb, "-r", "-p", box, f"{box}-new/inner", terminal=True)

        assert (done.code, done.out) == (0, f"{word} 4 secrets from {box}/ to {box}-new/inner/\n")
        assert held(client, f"{box}-new/inner") == before
        assert held(client, box) == ({} if verb == "mv" else before)
        assert (f"{box}/" in client.list_containers()) is (verb == "cp")

    def test_a_document_says_how_many(self, run: Run, box: str) -> None:
        """As JSON: from where, to where, and how many secrets."""
        told = run("mv", "-r", "--json", f"{box}/db/", f"{box}/empty/").json
        assert told == {"from": f"{box}/db", "to": f"{box}/empty", "moved": True, "secrets": 3}

    def test_other_values_are_found_before_anything_is_done(self, run: Run, box: str, client: StorageClient) -> None:
        """Where one secret would replace another, none moves; the same value is not in the way."""
        for key, value in (("a", "theirs"), ("password", "p"), ("user", "theirs"), ("zz", "theirs")):
            client.set_secret(f"{box}/empty", key, value)
        before = held(client, box)

        refused = run("mv", "-r", f"{box}/db/main", f"{box}/empty")

        assert (refused.code, refused.out) == (5, "")
        assert f"other values already under 1 of the 2 secrets, the first is {box}/empty/user; nothing" in refused.err
        assert held(client, box) == before
        assert run("mv", "-r", "--replace", f"{box}/db/main", f"{box}/empty").code == 0
        kept = {"a": "theirs", "password": "p", "user": "u", "zz": "theirs"}
        assert held(client, f"{box}/empty") == kept

    @pytest.mark.parametrize("verb", ["mv", "cp"])
    @pytest.mark.parametrize("method", ["get_secret", "set_secret", "create_container", "delete_secret"])
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_wherever_it_stops_nothing_is_lost(
        self, run: Run, box: str, client: StorageClient, patched: Patched, verb: str, method: str, number: int
    ) -> None:
        """Interrupted after any of its steps, each secret is at one name or both; the command that it says goes on."""
        before = held(client, box)

        def interrupt(_: StorageClient) -> None:
            raise KeyboardInterrupt

        patched.after(method, number, interrupt)
        stopped = run(verb, "-r", box, f"{box}-new")

        if verb == "cp" and method == "delete_secret":
            assert stopped.code == 0
            return
        assert (stopped.code, stopped.out) == (130, "")
        told = (
            r"strongroom: interrupted: \d of 4 secrets (moved|copied); nothing is lost: .*; to go on: strongroom (.*)\n"
        )
        found = re.fullmatch(told, stopped.err.lstrip("\n"))
        assert found, stopped.err
        assert before.items() <= {**held(client, f"{box}-new"), **held(client, box)}.items()
        both = held(client, f"{box}-new").keys() & held(client, box).keys()
        assert verb == "cp" or sum(not name.endswith("/") for name in both) <= 1
        words = found[2].split()
        assert words[:1] == ["--home"]
        assert strongroom(*words).code == 0
        assert held(client, f"{box}-new") == before
        assert held(client, box) == ({} if verb == "mv" else before)

    def test_an_error_says_how_far_it_came(self, run: Run, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service that stops answering stops it; the line says what is done and what goes on."""
        original = moving.carry

        def failing(client: StorageClient, source: Name, *arguments: Any, **options: Any) -> None:
            if source.key == "user":
                raise Unavailable("the store does not answer")
            original(client, source, *arguments, **options)

        monkeypatch.setattr(moving, "carry", failing)
        done = run("mv", "-r", f"{box}/db", f"{box}/empty")

        assert done.code == 2
        assert "the store does not answer; 1 of 3 secrets moved; nothing is lost" in done.err
        assert "to go on: strongroom --home" in done.err
        assert done.err.endswith(f" secret mv {box}/db {box}/empty --recursive\n")

    def test_ctrl_c_says_how_far_it_came(self, box: str, service: Up, client: StorageClient) -> None:
        """A real Ctrl-C in a real terminal ends with 130, and each of many secrets is at one name or both."""
        expected = {f"k{number:03}": str(number) for number in range(150)}
        for key, value in expected.items():
            client.set_secret(f"{box}/empty", key, value)
        with Terminal(service.home, "mv", "-r", f"{box}/empty", f"{box}/moved", noun="secret") as terminal:
            eventually(lambda: held(client, f"{box}/moved"))
            terminal.interrupts()
            terminal.sees("interrupted: ")
            terminal.sees("of 150 secrets moved; nothing is lost")
            assert terminal.ends() == 130
        here, there = held(client, f"{box}/empty"), held(client, f"{box}/moved")
        assert {**here, **there} == expected
        assert here
        assert len(here.keys() & there.keys()) <= 1


class Crossed:
    """A client before whose first call of a kind somebody else moves the secret the other way, if he can."""

    def __init__(self, client: StorageClient, before: str, source: Name, target: Name) -> None:
        self._client = client
        self._before = before
        self._way = source, target

    def __getattr__(self, call: str) -> Any:
        if call == self._before:
            self._before = ""
            with suppress(ServiceError):
                moving.carry(self._client, *self._way, replace=False, remove=True)
        return getattr(self._client, call)


@pytest.mark.parametrize("before", ["get_secret", "set_secret", "delete_secret"])
@pytest.mark.parametrize("both", [True, False])
def test_two_who_move_it_both_ways_lose_nothing(client: StorageClient, box: str, before: str, *, both: bool) -> None:
    """Whoever finds the other's copy takes it for no copy of its own: the value is at one name at least."""
    one, other = Name(f"{box}/db", "one"), Name(f"{box}/db", "other")
    client.set_secret(*one, "same")
    if both:  # as an interruption leaves it
        client.set_secret(*other, "same")

    with suppress(ServiceError):
        moving.carry(Crossed(client, before, other, one), one, other, replace=False, remove=True)  # type: ignore[arg-type]

    found = client.get_secrets([str(one), str(other)])
    assert "same" in [value and value.reveal() for value in found.values()]
