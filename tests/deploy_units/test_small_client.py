"""What an installation brings is what it is for: a program that reads secrets gets a client, and no server.

The wheel of this tree, in environments that have what it says that it needs, and nothing else.
"""

import functools
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from strongroom.deploy.extras import LIBRARIES
from strongroom.deploy.pytest_plugin import Server
from tests.deploy.running import up
from tests.deploy.terminal import Terminal
from tests.deploy_units.installing import ROOT, Installed, copy_tree, empty, install, make_wheel

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE = {"strongroom", "httptools", "msgspec"}
CLI = BASE | {"cffi", "click", "cryptography", "markdown-it-py", "mdurl", "pycparser", "pygments", "rich"}
CLI |= {"shamir-mnemonic"}
SERVER_ALONE = {
    "ahocorasick-rs",
    "anyio",
    "argon2-cffi",
    "argon2-cffi-bindings",
    "bcrypt",
    "certifi",
    "falcon",
    "grpcio",
    "gunicorn",
    "h11",
    "httpcore",
    "httpx",
    "idna",
    "jwcrypto",
    "prometheus-client",
    "protobuf",
    "pyyaml",
    "sniffio",
    "typing-extensions",
    "uvloop",
}
EXTRAS = {"": BASE, "cli": CLI, "server": CLI | SERVER_ALONE}
PROGRAM = """
import asyncio
import sys
from pathlib import Path

from strongroom import AsyncStorageClient, StorageClient

with StorageClient.from_home(sys.argv[1]) as client:
    said = [client.get_secret("small", "password").reveal()]


async def again() -> None:
    async with AsyncStorageClient.from_home(sys.argv[1]) as client:
        said.append((await client.get_secret("small", "password")).reveal())


asyncio.run(again())
site = Path(sys.argv[2])
loaded = {Path(module.__file__).relative_to(site).parts[0] for module in list(sys.modules.values())
          if getattr(module, "__file__", None) and Path(module.__file__).is_relative_to(site)}
print(*said, *sorted(loaded))
"""
TEST = """
def test_of_somebody():
    assert True

def test_that_reads(strongroom):
    assert False, "never reached"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this tree."""
    return make_wheel(copy_tree(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installed]:
    """Return what gives the environment of an extra, made once; "" for the base."""

    @functools.cache
    def give(extra: str) -> Installed:
        there = empty(tmp_path_factory.mktemp(extra or "base"), wheel)
        install(there, wheel, extra)
        return there

    return give


@pytest.fixture
def stored(strongroom_server: Server) -> Path:
    """Return the home of a service that has a secret, small/password."""
    from strongroom import Exists, StorageClient

    with StorageClient.from_home(strongroom_server.home) as client:
        try:
            client.create_container("small")
            client.set_secret("small", "password", "hunter2")
        except Exists:
            pass
    return strongroom_server.home


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_installation_is_what_it_is_said_to_be(
    installed: Callable[[str], Installed], tmp_path: Path, extra: str
) -> None:
    """The base is three distributions, and each extra brings those that are said."""
    code = "import importlib.metadata as it; print(*(each.name for each in it.distributions()))"

    listed = installed(extra).run("-c", code, cwd=tmp_path).split()

    assert {name.lower().replace("_", "-") for name in listed} == EXTRAS[extra]


def test_the_base_reads_a_secret(installed: Callable[[str], Installed], stored: Path, tmp_path: Path) -> None:
    """Both clients read it over the socket of a real service, and nothing else is loaded than the base."""
    there = installed("")
    (tmp_path / "program.py").write_text(PROGRAM)

    said = there.run("program.py", stored, there.site, cwd=tmp_path).split()

    assert said == ["hunter2", "hunter2", "httptools", "msgspec", "strongroom"]


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("", "; where a service is to run: '.[server]'"),
        ("strongroom.deploy.cli", "; where a service is to run: '.[server]'"),
        ("strongroom.deploy.first_start", ""),
    ],
)
def test_the_base_says_what_the_command_needs(
    installed: Callable[[str], Installed], tmp_path: Path, program: str, more: str
) -> None:
    """With the library alone, the command ends with 2, names the extra, and does nothing, however it is started."""
    there = installed("")
    start = (there.python, "-m", program) if program else (there.strongroom,)
    words = ("keys", tmp_path / "home") if program.endswith("first_start") else ("up", "--home", tmp_path / "home")

    done = there.ended(*start, *words, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"strongroom: this needs click, which is not installed; in Strongroom's own tree: pip install '.[cli]'{more}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_pytest_starts_with_the_base_alone(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Our plugin disturbs nobody's tests there; one that wants a service is told what to install."""
    there = empty(tmp_path_factory.mktemp("tested"), wheel)
    install(there, wheel, also=("pytest",))
    (tmp_path / "test_theirs.py").write_text(TEST)

    done = there.ended(there.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)

    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert re.search(r"starts a service; this needs \w+, which is not .* pip install '\.\[server\]'", done.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("secret", "put", "--parents", "cli/password"),
        ("secret", "get", "small/password"),
        ("host", "get", "10.9.9.9"),
        ("apikey", "list"),
        ("key", "status"),
        ("key", "export"),
        ("key", "unlock", "--file", "-"),
        ("config", "show"),
    ],
    ids=" ".join,
)
def test_the_command_line_works_beside_a_service(
    installed: Callable[[str], Installed], stored: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Whatever asks a service alone needs no server here: the answer is the service's."""
    there = installed("cli")

    done = there.ended(there.strongroom, "--home", stored, *words, cwd=tmp_path, stdin="typed")

    assert "not installed" not in done.stderr
    answered = {"host get": 4, "key unlock": 5}
    assert done.returncode in {0, answered.get(" ".join(words[:2]))}, done.stderr


def test_keys_are_made_and_typed_with_the_command_line_alone(
    installed: Callable[[str], Installed], tmp_path: Path
) -> None:
    """An unlock key is shown, typed back and typed again, each measured here before it is sent."""
    home = tmp_path / "home"
    program = ("env", "-u", "PYTHONPATH", installed("cli").strongroom)
    with up(home, environ={"STRONGROOM_AUTOGEN_ROOT_KEY": "false"}):
        with Terminal(home, "init", "--mode", "unlock", "--keys", "1", program=program) as screen:
            screen.sees("New key 1 of 1: ")
            [key] = re.findall(r"SR1-[-0-9A-Z]+", screen.screen)
            screen.types(key[:-1])
            screen.sees("key 1 has ")
            screen.sees("New key 1 of 1: ")  # what is typed before the prompt is thrown away
            screen.types(key)
            assert screen.ends() == 0, screen.screen
        with Terminal(home, "lock", program=program) as screen:
            assert screen.ends() == 0, screen.screen
        with Terminal(home, "unlock", program=program) as screen:
            screen.sees("Unlock key or share: ")
            screen.types(key)
            screen.sees("unlocked")
            assert screen.ends() == 0, screen.screen


@pytest.mark.parametrize(
    "words",
    [
        ("up",),
        ("serve", "storage"),
        ("config", "check"),
        ("backup", "monday.backup"),
        ("backup", "verify", "some.file"),
        ("restore", "some.file"),
        ("migrate", "plan", "commissaire", "etcd://127.0.0.1:1"),
        ("migrate", "status"),
        ("machine", "config", "init"),
        ("machine", "list"),
        ("key", "import", "some.file"),
        ("backup",),
        ("restore", "--bogus"),
        ("machine", "authorize"),
        ("migrate", "plan"),
        ("key", "import"),
    ],
    ids=" ".join,
)
def test_a_command_of_the_server_says_what_to_install(
    installed: Callable[[str], Installed], stored: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Without the server it ends with 2 and one line that names the extra, before anything is made or asked."""
    there = installed("cli")
    (tmp_path / "some.file").write_text("{}\n")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "client.json").write_bytes((stored / "client.json").read_bytes())
    (home / "client.json").chmod(0o600)

    done = there.ended(there.strongroom, "--home", home, *words, cwd=tmp_path)

    assert re.fullmatch(
        r"strongroom: this needs \w+, which is not installed; in Strongroom's own tree: pip install '\.\[server\]'\n",
        done.stderr,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["client.json", "home", "some.file"]


def test_the_server_runs_with_what_its_extra_brings(installed: Callable[[str], Installed], tmp_path: Path) -> None:
    """Both processes start, a secret goes in and comes out, and a backup of it is whole."""
    there = installed("server")
    home = tmp_path / "home"
    with subprocess.Popen(
        [*("env", "-u", "PYTHONPATH"), there.strongroom, "up", "--home", home, "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["state"] == "unlocked"
            stored = there.ended(
                there.strongroom, "--home", home, "secret", "put", "--parents", "db/p", cwd=tmp_path, stdin="hunter2"
            )
            read = there.ended(there.strongroom, "--home", home, "secret", "get", "db/p", cwd=tmp_path)
            copied = there.ended(there.strongroom, "--home", home, "backup", "b.backup", cwd=tmp_path)
        finally:
            process.terminate()
    assert (stored.returncode, copied.returncode) == (0, 0), stored.stderr + copied.stderr
    assert "hunter2" in read.stdout


def imported_of(name: str) -> set[str]:
    """Return the names that what is called *name* adds to what can be imported."""
    tops = {file.parts[0].partition(".")[0] for file in distribution(name).files or ()}
    return {top for top in tops if top.isidentifier()}


def test_libraries_are_known_by_their_extras() -> None:
    """What a missing library is told by is what pyproject.toml asks for: cli's, and what server has besides."""
    optional = PROJECT["project"]["optional-dependencies"]
    cli = {Requirement(each).name for each in optional["cli"]}
    server = {Requirement(each).name for each in optional["server"]} - cli

    assert [name for name in cli if not imported_of(name) & LIBRARIES["cli"]] == []
    assert [name for name in server if not imported_of(name) & LIBRARIES["server"]] == []
    assert LIBRARIES["cli"] <= set().union(*map(imported_of, cli))
    assert LIBRARIES["server"] <= set().union(*map(imported_of, server))


def test_the_server_has_all_of_the_command_line() -> None:
    """The one extra is asked for in the same words as in the other, so that they cannot part."""
    optional = PROJECT["project"]["optional-dependencies"]

    assert set(optional["cli"]) <= set(optional["server"])


def test_the_contract_of_the_client_names_every_library_of_an_extra() -> None:
    """A library that is new to an extra is forbidden to the client from the beginning."""
    [contract] = [each for each in PROJECT["tool"]["importlinter"]["contracts"] if "small" in each["name"]]

    assert set(contract["forbidden_modules"]) == frozenset().union(*LIBRARIES.values())
