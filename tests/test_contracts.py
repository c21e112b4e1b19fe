"""The contracts that keep rooms apart, tried: an import that they forbid is added to a copy of the tree, and found."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from strongroom.deploy.tools.links import link

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("models", "storage_service", "http_proxy", "migration", "deploy")
GUARDED: Final = "guarded-room"  # the contract's id in pyproject.toml
KEYRING: Final = "strongroom.storage_service.keyring"

ROOT_KEY: Final = f"from {KEYRING} import rootkey"
CEREMONY: Final = f"from {KEYRING}.ceremonies.export import read"

OUTSIDE: Final = {
    "storage_service/http/secrets.py": ROOT_KEY,
    "storage_service/access/base.py": ROOT_KEY,
    "storage_service/services/door.py": ROOT_KEY,
    "storage_service/services/new.py": ROOT_KEY,  # nobody has heard of it
    "storage_service/new.py": f"from {KEYRING}.opening.wraps import wraps_of",
    "storage_service/backup/new.py": CEREMONY,
    "http_proxy/app.py": ROOT_KEY,
    "http_proxy/new.py": f"    import {KEYRING}",
    "migration/plan.py": ROOT_KEY,
    "migration/sources/new.py": CEREMONY,
    "deploy/new.py": ROOT_KEY,
    "deploy/first_start.py": ROOT_KEY,
    "deploy/cli/key/new.py": f"from {KEYRING}.machines import key",
}
INSIDE: Final = {
    "storage_service/bootstrap.py": ROOT_KEY,
    "storage_service/services/keys.py": ROOT_KEY,
    "storage_service/keyring/usage/new.py": ROOT_KEY,
    "deploy/newer.py": CEREMONY,
    "deploy/cli/new.py": CEREMONY,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the tree's packages, which can be imported."""
    for folder in (*ROOMS, "strongroom"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=_ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    link(tmp_path)
    return tmp_path


def _ignored(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or (Path(folder) / name).is_symlink()}


def add(tree: Path, lines: Mapping[str, str]) -> None:
    """Put a line at the end of each file, in a function if it is indented; make the file if it is not there."""
    for file, line in lines.items():
        with (tree / file).open("a", encoding="utf-8") as module:
            module.write(f"\n\ndef _later() -> None:\n{line}\n" if line.startswith(" ") else f"\n{line}\n")


def check(tree: Path) -> tuple[int, set[str]]:
    """Check the contract of the guarded room; return the exit code, and the modules that it names as intruders."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo", "--contract", GUARDED]
    environ = os.environ | {"PYTHONPATH": str(tree / ".editable"), "COLUMNS": "500"}
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return done.returncode, set(re.findall(r"^ *- (\S+) -> \S+", done.stdout, re.MULTILINE))


def module(file: str) -> str:
    """Return what the file at this path is imported as."""
    return ".".join(("strongroom", *Path(file).with_suffix("").parts))


def test_an_import_of_the_keyring_from_outside_its_door_breaks_the_build(tree: Path) -> None:
    """Any module but the few that the contract names breaks it by importing the keyring, a new one by birth."""
    add(tree, OUTSIDE)

    assert check(tree) == (1, {module(file) for file in OUTSIDE})


def test_a_new_room_has_a_floor_before_it_imports_anything(tree: Path) -> None:
    """A package at the top of which no contract knows the floor breaks the build, whatever it imports."""
    (tree / "console").mkdir()
    (tree / "console" / "__init__.py").write_text("import strongroom.deploy.cli\n")
    (tree / "strongroom" / "console").symlink_to("../console")

    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo", "--contract", "floors"]
    environ = os.environ | {"PYTHONPATH": str(tree / ".editable"), "COLUMNS": "500"}
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "console" in done.stdout


def test_whoever_may_touch_keys_may_import_the_keyring(tree: Path) -> None:
    """The modules that the contract lets in keep it, so it is the place that breaks it and not the line."""
    add(tree, INSIDE)

    assert check(tree) == (0, set())
