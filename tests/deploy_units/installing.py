"""Environments that Strongroom is installed in, made without a network from what the one that runs this has."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("models", "storage_service", "http_proxy", "migration", "deploy")
OFFLINE = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation")
_TOP = ("strongroom/__init__.py", "strongroom/py.typed", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """An environment that Strongroom is installed in, and the tree or wheel that it was installed from."""

    python: Path
    site: Path
    source: Path

    @property
    def strongroom(self) -> Path:
        """The command."""
        return self.python.with_name("strongroom")

    def run(self, *arguments: str | Path, cwd: Path, **more: str) -> str:
        """Run this Python, and return what it said; it must end well."""
        done = self.ended(self.python, *arguments, cwd=cwd, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ended(
        self, *command: str | Path, cwd: Path, stdin: str = "", **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command that finds nothing of ours but what is installed, and return how it ended."""
        hidden = ("PYTHON", "PYTEST", "STRONGROOM_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        return subprocess.run(
            command, cwd=cwd, env=environ | more, input=stdin, capture_output=True, text=True, check=False
        )


def copy_tree(folder: Path) -> Path:
    """Copy the tree into *folder* as a stranger gets it: without links, caches and environments."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "strongroom").mkdir()
    for name in _TOP:
        shutil.copy2(ROOT / name, folder / name)
    return folder


def empty(folder: Path, source: Path) -> Installed:
    """Make an environment in *folder* for what is to be installed from *source*; there is nothing in it, no pip either.

    Raises:
        CalledProcessError: it could not be made.
    """
    venv.create(folder, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Installed(folder / "bin/python", folder / "lib" / version / "site-packages", source)


def make_wheel(source: Path, folder: Path) -> Path:
    """Make a wheel of the tree in *source*, and put it into *folder*."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pip: list[str | Path] = [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, source]
    subprocess.run(pip, cwd=folder, env=environ, capture_output=True, check=True)
    [wheel] = folder.glob("strongroom-*.whl")
    return wheel


def install(there: Installed, wheel: Path, extra: str = "", also: tuple[str, ...] = ()) -> None:
    """Install *wheel* with what it says that it needs, for *extra* too, and nothing else but the packages *also*.

    Those are links to what lies in the environment that runs this, which has what the locks say.
    """
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        there.python,
        "install",
        *OFFLINE,
        "--no-compile",
        wheel,
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(pip, cwd=there.site, env=environ, capture_output=True, check=True)
    [metadata] = there.site.glob("strongroom-*.dist-info")
    found: dict[str, Distribution] = {}
    for name in [*_needed(Distribution.at(metadata), extra), *also]:
        _follow(name, found)
    for each in found.values():
        for top in {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            (there.site / top).symlink_to(Path(str(each.locate_file(top))))


def _follow(name: str, found: dict[str, Distribution]) -> None:
    """Put the distribution *name*, and all that it needs, into *found*."""
    if name not in found:
        found[name] = distribution(name)
        for each in _needed(found[name]):
            _follow(each, found)


def _needed(each: Distribution, extra: str = "") -> Iterator[str]:
    """Give the names of what *each* needs here, and for *extra*."""
    for requirement in map(Requirement, each.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name.lower().replace("_", "-")
