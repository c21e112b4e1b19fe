"""The rules of the house that can be told by looking at the tree: what lies where, and what stands nowhere."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import strongroom

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("models", "storage_service", "http_proxy", "migration", "deploy")
TOP_LEVEL = {
    *(*ROOMS, "strongroom", "tests", "benchmarks", "docs", "requirements"),
    *(
        ".ci",
        ".gitignore",
        "pyproject.toml",
        "MANIFEST.in",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
    ),
}
MADE = {"__pycache__", "build", "dist"}  # by tools, and ignored by git like all that begins with a dot
EVASIONS = {"skip", "skipif", "xfail", "importorskip"}
ALONE = {"DecodeError", "MsgspecError"}
WATCHED = EVASIONS | ALONE
NOT_INSTALLED = {"strongroom.deploy.tools"}


@functools.cache
def files() -> list[Path]:
    """Return every file of the source tree."""
    return sorted(_files())


def _files() -> Iterator[Path]:
    """Yield what git keeps, or all that is there, where it is no checkout."""
    if (ROOT / ".git").exists() and shutil.which("git") is not None:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            yield from (ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists())
            return
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if name not in MADE and not name.endswith(".egg-info")]
        subfolders[:] = [name for name in subfolders if not name.startswith(".") or name == ".ci"]
        yield from (Path(folder) / name for name in names)


def modules() -> list[Path]:
    """Return every module, tests too."""
    return [path for path in files() if path.suffix == ".py"]


class Read(NamedTuple):
    """What the rules ask of a module. Its syntax is let go: that of all would make every later test slower."""

    says: bool  # what it is for
    mute_tests: list[str]
    attributes: list[ast.Attribute]
    from_our_name: set[str]


@functools.cache
def read(path: Path) -> Read:
    """Read a module, once for all rules."""
    code = ast.parse(path.read_text())
    nodes = list(ast.walk(code))
    tests = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Read(
        says=ast.get_docstring(code) is not None,
        mute_tests=[test.name for test in tests if test.name.startswith("test_") and not ast.get_docstring(test)],
        attributes=[node for node in nodes if isinstance(node, ast.Attribute) and node.attr in WATCHED],
        from_our_name={
            alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module == "strongroom"
            for alias in node.names
        },
    )


def relative(paths: Iterable[Path]) -> list[str]:
    """Return paths as they are said in the tree."""
    return [str(path.relative_to(ROOT)) for path in paths]


def test_top_level_holds_what_it_may() -> None:
    """A stranger who opens the tree sees the rooms, the few files that every project has, and nothing else."""
    assert {path.relative_to(ROOT).parts[0] for path in files()} <= TOP_LEVEL


def test_modules_say_what_they_are_for() -> None:
    """Every module begins with a docstring."""
    assert relative(path for path in modules() if not read(path).says) == []


def test_tests_state_a_fact() -> None:
    """Every test has a docstring that says what it shows, and none is skipped or expected to fail."""
    for path in modules():
        if path.name.startswith("test_"):
            assert read(path).mute_tests == [], path
            assert not EVASIONS & {node.attr for node in read(path).attributes}, path


def test_no_file_names_a_machine() -> None:
    """No file holds the path of the tree it was written in, or the host of a package registry."""
    foreign = re.compile(rf"{re.escape(str(ROOT))}/|pyp[i]\.org|pythonhoste[d]|deb\.debia[n]|npmj[s]\.org")

    assert [str(path) for path in files() if foreign.search(path.read_text(errors="replace"))] == []


def test_whatever_a_parser_raises_is_caught() -> None:
    """No room catches msgspec's errors of bytes alone: bytes that are no UTF-8, or too deep, are other errors."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path.relative_to(ROOT).parts[0] in ROOMS and path.name != "strict_json.py"
        for node in read(path).attributes
        if node.attr in ALONE and ast.unparse(node.value) == "msgspec"
    ]
    assert found == []


def test_every_package_is_installed() -> None:
    """The wheel lists every package of the rooms below the one name; tests and benchmarks stay out."""
    packages = {
        ".".join(("strongroom", *path.parent.relative_to(ROOT).parts))
        for path in modules()
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in ROOMS
    }

    said = PROJECT["tool"]["setuptools"]
    assert packages - NOT_INSTALLED | {"strongroom"} == set(said["packages"])
    assert said["package-dir"] == {"strongroom": "strongroom"} | {f"strongroom.{room}": room for room in ROOMS}


def test_no_package_defines_a_name_that_a_module_in_it_has() -> None:
    """Whoever imports the module from its package would get the other: a command in place of what it runs."""
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in modules()
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in ROOMS
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if path.with_name(f"{node.name}.py").exists() or (path.with_name(node.name) / "__init__.py").exists()
    ]
    assert found == []


def test_the_one_name_has_no_code_of_its_own() -> None:
    """What lies in strongroom/ is what users import from and the mark of types; all else is in the rooms."""
    assert {path.name for path in files() if path.parent == ROOT / "strongroom"} == {"__init__.py", "py.typed"}


def test_a_bare_import_is_refused() -> None:
    """The linter refuses a room's name without ours before it, however it is imported."""
    code = "".join(f"import {room}\nfrom {room} import x\nfrom {room}.y import z\n" for room in ROOMS)
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251", "--output-format", "json"]
    command = [*ruff, "--stdin-filename", "tests/bare.py", "-"]

    found = json.loads(
        subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True, check=False).stdout
    )

    assert {each["location"]["row"] for each in found} == set(range(1, 3 * len(ROOMS) + 1))


# Code that tests hand to another Python stands in strings, where no linter looks.
QUOTED = re.compile(
    rf"(?<![\w.])(?<!from strongroom )(?:from|import) (?:{'|'.join(ROOMS)})(?:\.\w+)*(?= import\b|\\n|;|[\"']|$)",
    re.MULTILINE,
)


def test_no_string_imports_a_bare_room() -> None:
    """Code in a string imports the rooms by the one name, too: else two copies of a class would meet."""
    looked_at = [
        path for path in modules() if path.name not in {"installing.py", "test_one_name.py"}
    ]  # they run a bare tree's own

    assert relative(path for path in looked_at if QUOTED.search(path.read_text())) == []


def test_rooms_do_not_go_through_the_users_door() -> None:
    """Our own modules name the module that has what they want; `strongroom` itself is for those who use it."""
    asked = {
        (path.name, name)
        for path in modules()
        if path.relative_to(ROOT).parts[0] in ROOMS
        for name in read(path).from_our_name
    }
    assert {each for each in asked if each[1] not in ROOMS} == set()


def test_it_is_typed() -> None:
    """The one package tells its users' type checkers that it has types (PEP 561), once."""
    assert [path for path in files() if path.name == "py.typed"] == [ROOT / "strongroom/py.typed"]


def test_it_is_this_tree_that_is_tested() -> None:
    """The package that these tests import is linked to the rooms beside them, not to those of another checkout."""
    here = Path(strongroom.__file__).parent

    assert {room: (here / room).resolve() for room in ROOMS} == {room: ROOT / room for room in ROOMS}


def locked(name: str) -> dict[str, str]:
    """Return the pins of a lock file."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "requirements").glob("*.txt")))
def test_locks_are_whole(name: str) -> None:
    """Every pin has hashes, and no lock says where packages come from."""
    text = (ROOT / f"requirements/{name}.txt").read_text()

    assert "://" not in text
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:])


def test_locks_hold_what_the_project_asks_for() -> None:
    """Every dependency is locked, the build backend too, and both locks agree about what runs."""

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}

    project = PROJECT["project"]
    run, dev = locked("run"), locked("dev")
    assert names(project["dependencies"] + project["optional-dependencies"]["server"]) <= run.keys()
    assert names(project["optional-dependencies"]["dev"]) <= dev.keys()
    assert run.items() <= dev.items()
    assert set(PROJECT["build-system"]["requires"]) <= set((ROOT / "requirements/build.in").read_text().splitlines())


def test_changes_are_told() -> None:
    """The change log speaks of this version, or of what is to become one."""
    version = PROJECT["project"]["version"]

    assert re.search(rf"^## (Unreleased|{re.escape(version)}\b)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_decisions_are_numbered_and_listed() -> None:
    """Decisions are numbered without a gap, and the page before them lists each."""
    decisions = sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))

    assert [f"{number:04}" for number in range(1, len(decisions) + 1)] == [name[:4] for name in decisions]
    listed = (ROOT / "docs/adr/README.md").read_text()
    assert [name for name in decisions if f"({name})" not in listed] == []


def test_scripts_can_be_run() -> None:
    """Every script is executable, and its shell can read it."""
    scripts = [path for path in files() if path.read_bytes()[:2] == b"#!"]
    assert scripts
    for script in scripts:
        shell = Path(script.read_text().splitlines()[0].split()[-1]).name
        assert script.stat().st_mode & 0o111, script
        assert shell in {"sh", "bash"}, script
        assert subprocess.run([shell, "-n", script], check=False).returncode == 0, script


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Test files are imported by their bare names, so two of one name would end the run before it starts."""
    names = [path.name for path in files() if path.is_relative_to(ROOT / "tests") and path.name.startswith("test_")]
    assert names
    assert sorted(names) == sorted(set(names))


def test_no_module_is_another_ones_copy() -> None:
    """What two rooms need lies where both may import it: a mend of one of two copies leaves the other as it was."""
    first: dict[bytes, Path] = {}
    copies = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            text = path.read_bytes()
            if len(text.splitlines()) > 5:
                copies += [(first[text], path)] if text in first else []
                first.setdefault(text, path)
    assert copies == []
