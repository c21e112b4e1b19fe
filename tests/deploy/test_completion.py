"""Words that a shell completes: asked from the running service, in time, and in silence."""

import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.shell_completion import BashComplete

from strongroom.deploy.cli import completion
from strongroom.deploy.cli import strongroom as root
from strongroom.deploy.cli.common import Common
from strongroom.models.access import Right, Rule
from strongroom.models.hosts import Host
from strongroom.models.secret import Secret
from strongroom.storage_service.client import StorageClient
from strongroom.storage_service.client.bulk_operations import Remove, Write
from tests.deploy.running import Done, Up, clean_environment


def offered(environ: dict[str, str], *words: str) -> list[str]:
    """Return what is offered for the last of *words*, by the protocol that shells speak."""
    typed = ["strongroom", *words]
    asked = clean_environment(**environ, COMP_WORDS=" ".join(typed), COMP_CWORD=str(len(typed) - 1))
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        for name in [name for name in os.environ if name not in asked]:
            patch.delenv(name)
        for name, value in asked.items():
            patch.setenv(name, value)
        told = BashComplete(root, {"obj": Common()}, "strongroom", "_STRONGROOM_COMPLETE").complete()
    assert said.getvalue() == ""
    return told.splitlines()


@pytest.fixture
def box(service: Up) -> str:
    """A container of this test's own, with a small tree in it."""
    name = f"tab{secrets.token_hex(4)}"
    with StorageClient.from_home(service.home) as client:
        for container in ("", "/db", "/db/main", "/db-x"):
            client.create_container(name + container)
        for key in ("db/main/password", "db/main/user", "db/a+b", "db/zz", "db-x/k", "key"):
            container, _, last = f"{name}/{key}".rpartition("/")
            client.set_secret(container, last, "c4nary")
    return name


@pytest.fixture
def at(service: Up) -> dict[str, str]:
    """An environment that leads to the service."""
    return {"STRONGROOM_HOME": str(service.home)}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("BOX/", ["BOX/db-x/", "BOX/db/", "BOX/key"]),
        ("BOX/db/", ["BOX/db/a+b", "BOX/db/main/", "BOX/db/zz"]),
        ("BOX/db", ["BOX/db-x/", "BOX/db/"]),
        ("BOX/db/z", ["BOX/db/zz"]),
        ("BOX/db/m", ["BOX/db/main/", "BOX/db/main/password", "BOX/db/main/user"]),
        ("BOX/db/a+", ["BOX/db/a+b"]),
        ("BOX/none", []),
        ("BOX/none/", []),
        ("BOX/db/../", []),
    ],
)
def test_secrets(at: dict[str, str], box: str, typed: str, expected: list[str]) -> None:
    """What lies in the container begun with is offered, and of a container that is the only one what it holds."""
    told = offered(at, "secret", "get", typed.replace("BOX", box))
    assert told == [f"plain,{each.replace('BOX', box)}" for each in expected]


def test_containers(at: dict[str, str], box: str) -> None:
    """Where only a container makes sense no secret is offered; from the root, the outermost are."""
    below = [f"plain,{box}/{each}" for each in ("db-x/", "db/")]
    assert offered(at, "secret", "ls", f"{box}/") == below
    assert offered(at, "secret", "rmdir", box[:-1]) == [f"plain,{box}/", *below]
    assert f"plain,{box}/" in offered(at, "secret", "ls", "tab")
    for verb in ("rm", "mv", "cp", "put"):
        assert f"plain,{box}/key" in offered(at, "secret", verb, f"{box}/k")
    assert offered(at, "secret", "mv", f"{box}/key", f"{box}/db-") == [f"plain,{box}/db-x/", f"plain,{box}/db-x/k"]


def test_a_large_container_is_passed_over(at: dict[str, str], box: str, service: Up) -> None:
    """What lies in a container within is skipped by the page."""
    pages: list[tuple[str, str]] = []
    with StorageClient.from_home(service.home) as client:
        for number in range(9):
            client.set_secret(f"{box}/db/main", f"k{number}", "x")

        class Small:
            def list_names(self, container: str = "", after: str = "") -> object:
                pages.append((container, after))
                return client.list_names(container, after, limit=3)

        told = list(completion._children(Small(), f"{box}/db", ""))  # type: ignore[arg-type]

    assert told == ["a+b", "main/", "zz"]
    assert [after for _, after in pages] == ["", "main/~"]


def test_a_narrow_key_is_offered_what_it_reaches(box: str, service: Up, at: dict[str, str]) -> None:
    """Who reaches an inner container alone is led there from the root."""
    with StorageClient.from_home(service.home) as client:
        key = client.create_apikey(f"tab-{box}", paths=[f"/secrets/{box}/db/main"], actions=["list"])
    environ = {
        "STRONGROOM_SOCKET": str(service.socket),
        "STRONGROOM_API_ID": key.api_id,
        "STRONGROOM_API_KEY": key.api_key.reveal(),
    }
    inside = [f"plain,{box}/db/main/", f"plain,{box}/db/main/password", f"plain,{box}/db/main/user"]
    for typed in ("", box, f"{box}/", f"{box}/d"):
        assert offered(environ, "secret", "get", typed) == inside


def test_hosts_and_api_ids(at: dict[str, str], service: Up) -> None:
    """Addresses of hosts, and ids of API keys."""
    with StorageClient.from_home(service.home) as client:
        for address in ("tab1.example", "tab2.example"):
            client.save(Host.new(address=address))
        client.create_apikey("tab-a")
    for verb in ("get", "rm", "creds", "put"):
        assert offered(at, "host", verb, "tab") == ["plain,tab1.example", "plain,tab2.example"]
    assert offered(at, "apikey", "revoke", "tab-a") == ["plain,tab-a"]
    assert offered(at, "apikey", "create", "tab-a") == []


def test_keysets_and_what_they_have(at: dict[str, str], service: Up) -> None:
    """Names of keysets, generations that are not active, and labels of backups; nothing where a new one is named."""
    with StorageClient.from_home(service.home) as client:
        client.create_keyset("tab-keys")
        client.rotate_keyset("tab-keys")
        client.register_backup("tab-backup")
        for words in (("keyset", "show"), ("keyset", "remove"), ("rotate", "keyset"), ("reencrypt",)):
            assert offered(at, "key", *words, "tab-") == ["plain,tab-keys"]
        assert offered(at, "key", "keyset", "assign", "tab", "tab-") == ["plain,tab-keys"]
        assert offered(at, "key", "retire", "tab-") == ["plain,tab-keys.1"]
        assert offered(at, "key", "backup", "forget", "tab-") == ["plain,tab-backup"]
        assert offered(at, "key", "keyset", "create", "tab-") == []
        assert offered(at, "key", "backup", "register", "tab-") == []
        client.forget_backup("tab-backup")
        client.retire_generation("tab-keys.1")
        client.remove_keyset("tab-keys")


def test_paths_of_api_keys(at: dict[str, str], box: str) -> None:
    """Containers by the paths that reach them, and no secret."""
    create = ("apikey", "create", "tab-new", "--path")
    assert offered(at, *create, "") == offered(at, *create, "/sec") == ["plain,/secrets"]
    assert offered(at, *create, f"/secrets/{box}/") == [f"plain,/secrets/{box}/db-x", f"plain,/secrets/{box}/db"]
    assert offered(at, *create, f"/secrets/{box}/db/") == [f"plain,/secrets/{box}/db/main"]
    assert offered(at, *create, "/hosts") == []


def test_only_plain_names_reach_a_shell(at: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell would read as more than a word is passed over, wherever it stands; so is what begins otherwise."""
    odd = [
        f"a{character}b" for character in map(chr, range(128)) if not (character.isalnum() or character in "._@:+/-")
    ]
    assert offered(at, "apikey", "revoke", "-a") == []
    names = ["ab", "-a", *odd, "a$(touch x)", "a\n", "aé", "other", "a/b-c.d_e@f:g+h"]
    monkeypatch.setattr(StorageClient, "list_apikeys", lambda _: [SimpleNamespace(id=name) for name in names])
    assert offered(at, "apikey", "revoke", "a") == ["plain,ab", "plain,a/b-c.d_e@f:g+h"]


def test_no_more_is_offered_than_people_read(at: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many names the first are offered, and no others are asked for."""
    asked: list[int] = []

    def many(_: StorageClient) -> Iterator[SimpleNamespace]:
        for number in range(10 * completion.MOST):
            asked.append(number)
            yield SimpleNamespace(id=f"a{number}")

    monkeypatch.setattr(StorageClient, "list_apikeys", many)
    assert len(offered(at, "apikey", "revoke", "a")) == len(asked) == completion.MOST


def test_people_programs_and_groups(at: dict[str, str], service: Up, box: str) -> None:
    """Users and services each below their noun, groups, and members by their kinds; no name of who is to be new."""
    with StorageClient.from_home(service.home) as client:
        for principal in (f"user:{box}-u", f"service:{box}-s"):
            client.add_principal(principal)
        client.add_group(f"{box}-g")
    for verb in (("show",), ("rm",), ("disable",), ("key", "add"), ("key", "ls")):
        assert offered(at, "user", *verb, box) == [f"plain,{box}-u"]
        assert offered(at, "service", *verb, box) == [f"plain,{box}-s"]
    assert offered(at, "user", "add", box) == []
    assert offered(at, "group", "rm", box) == [f"plain,{box}-g"]
    assert offered(at, "group", "member", "add", f"{box}-g", f"service:{box}") == [f"plain,service:{box}-s"]


def test_rules(at: dict[str, str], service: Up) -> None:
    """Names of rules, where one is wanted that is there."""
    with StorageClient.from_home(service.home) as client:
        for name in ("tab-r1", "tab-r2"):
            client.put_rule(name, Rule(effect="deny", subjects=("user:tab",), actions=(Right.READ,), names=("tab",)))
        for verb in ("show", "rm"):
            assert offered(at, "rule", verb, "tab-r") == ["plain,tab-r1", "plain,tab-r2"]
        assert offered(at, "rule", "add", "tab-r") == []
        for name in ("tab-r1", "tab-r2"):
            client.remove_rule(name)


def test_sources_and_runs(at: dict[str, str], service: Up, short: Path) -> None:
    """Sources by their names, files for their places, and runs that there are."""
    estate = short / "estate.csv"
    estate.write_text("address,password\n")
    assert offered(at, "migrate", "plan", "c") == [
        f"plain,{kind}" for kind in ("commissaire", "custodia-sqlite", "custodia", "convection", "csv")
    ]
    assert offered(at, "migrate", "plan", "csv", str(estate)[:-2]) == [f"file,{str(estate)[:-2]}"]
    with StorageClient.from_home(service.home) as client:
        runs = ["tab-run", "tab-run2", "tab.run"]
        rows = [f"system/journal/migration/{run}/{row}" for run in runs for row in ("applied/1", "former/1", "run")]
        client.commit_bulk([Write(name, Secret("{}")) for name in rows])
        try:
            for verb in ("apply", "status", "forget"):
                assert offered(at, "migrate", verb, "tab") == [f"plain,{run}" for run in runs]
            assert offered(at, "migrate", "forget", "tab-run2") == ["plain,tab-run2"]
        finally:
            client.commit_bulk([Remove(name) for name in rows])


def test_no_secret_is_asked_for(at: dict[str, str], box: str, service: Up) -> None:
    """Of all that completing asks, the audit log has listings alone, and no value is offered."""
    log = Path(service.said["audit_log"])
    told = [*offered(at, "secret", "get", f"{box}/"), *offered(at, "secret", "mv", f"{box}/db/main/")]
    lines = [line for line in log.read_text().splitlines() if f"secrets/{box}/" in line]
    assert all('"action":"list"' in line for line in lines if '"action":"put"' not in line)
    assert "c4nary" not in "".join(told)


@pytest.mark.parametrize("words", [("secret", "get", "x"), ("host", "get", "x"), ("apikey", "revoke", "x")])
def test_a_failure_is_silent(words: Sequence[str], home: Path) -> None:
    """Where there is no service, or none is said, nothing is offered, and nothing is said."""
    assert offered({"STRONGROOM_HOME": str(home)}, *words) == []
    assert offered({}, *words) == []
    url = {"STRONGROOM_URL": "http://127.0.0.1:9", "STRONGROOM_API_ID": "a", "STRONGROOM_API_KEY": "b"}
    assert offered(url, *words) == []


def test_a_service_that_hangs_is_left_alone(short: Path) -> None:
    """Who listens and does not answer costs a second, and no more."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(short / "s"))
        listening.listen()
        environ = {"STRONGROOM_SOCKET": str(short / "s"), "STRONGROOM_API_ID": "a", "STRONGROOM_API_KEY": "b"}
        began = time.monotonic()
        assert offered(environ, "secret", "get", "x") == []
        assert time.monotonic() - began < 20 * completion.DEADLINE  # of a machine with much to do


def test_bash_completes(at: dict[str, str], box: str, short: Path) -> None:
    """A real bash, told as the page says, completes a secret's name."""
    bash = shutil.which("bash")
    assert bash, "this test needs bash"
    program = short / "strongroom"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m strongroom.deploy.cli "$@"\n')
    program.chmod(0o755)
    script = f"""
        eval "$(_STRONGROOM_COMPLETE=bash_source strongroom)"
        COMP_WORDS=(strongroom secret get {box}/db/) COMP_CWORD=3
        $(complete -p strongroom | sed 's/.*-F \\([^ ]*\\).*/\\1/') strongroom
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ran = subprocess.run(
        [bash, "--norc", "-c", script],
        env=clean_environment(**at, PATH=f"{short}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert Done(ran.returncode, ran.stdout, ran.stderr) == Done(0, f"{box}/db/a+b\n{box}/db/main/\n{box}/db/zz\n", "")
