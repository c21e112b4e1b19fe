"""Make a virtual environment from lock files, on a machine that may have nothing but python3.

    python3 -m deploy.tools.make_venv DIRECTORY LOCK... [--project FOLDER [--editable]]

Every file is checked against the hashes in the lock files. All are wheels, so that no code of a package runs while it
is installed, but for those in `SOURCES`, which publish none. ``DIRECTORY/complete`` is written last: what lacks it is
made anew, and what fails is removed, so that a half-made environment is never taken for a whole one.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from . import fetch_debian  # noqa: TID251  # nothing is installed yet, and no link made

OLDEST = (3, 11)
SOURCES = ("etcd3",)  # built here with the first lock file's backend; pure Python


def make(directory: Path, locks: list[Path], project: list[str]) -> None:
    """Bring *directory* to what *locks* say, and put a source tree into it: what *project* tells pip to install.

    Raises:
        SystemExit: this machine cannot do it; the message says what would help.
        subprocess.CalledProcessError: venv or pip failed, and said why.
    """
    mark = directory / "complete"
    try:
        if not mark.exists():
            shutil.rmtree(directory, ignore_errors=True)
            _create(directory)
        mark.unlink(missing_ok=True)
        pip = [str(directory / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-qq"]
        for lock in locks:
            _install(pip, lock)
        subprocess.run([*pip, "check"], check=True)
        if project:
            _install_project(pip, project)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    mark.touch()


def _install(pip: list[str], lock: Path) -> None:
    """Install what *lock* says and nothing else."""
    options = ["--require-hashes", "--no-build-isolation", "--only-binary", ":all:"]
    for package in SOURCES:
        if f"\n{package}==" in lock.read_text(encoding="utf-8"):
            options += ["--no-binary", package]
    subprocess.run([*pip, "install", *options, "--requirement", str(lock)], check=True)


def _install_project(pip: list[str], project: list[str]) -> None:
    """Install the source tree itself, with the build backend that the lock files brought."""
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "install", *options, *project], capture_output=True, text=True, check=False)
    if done.returncode != 0:  # setuptools is chatty also where all is well
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()


def _create(directory: Path) -> None:
    """Create an environment that has pip.

    Debian keeps what ``python3 -m venv`` needs for that in a package of its own. Where it is not installed, the pip of
    Debian's archive is run from its wheel, once, to put itself into the environment.
    """
    python = str(directory / "bin/python")
    if importlib.util.find_spec("ensurepip") is not None:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        return
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    try:
        fetch_debian.unpack("python3-pip-whl")
    except fetch_debian.NotFetchedError as exc:
        raise SystemExit(f"install python3-venv, and try again ({exc})") from exc
    wheel = next((fetch_debian.UNPACKED / "usr/share/python-wheels").glob("pip-*.whl"))
    subprocess.run([python, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)], check=True)


def main() -> None:
    """Do what the command line says."""
    if sys.version_info[:2] < OLDEST:
        raise SystemExit(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; say which with: make PYTHON=python3.x …")
    parser = argparse.ArgumentParser(description="Make a virtual environment from lock files.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("locks", nargs="+", type=Path)
    parser.add_argument("--project", help="a source tree to install into it")
    parser.add_argument("--editable", action="store_true", help="do not copy the tree, but point to it")
    arguments = parser.parse_args()
    try:
        project = [arguments.project] if arguments.project else []
        make(arguments.directory, arguments.locks, ["--editable", *project] if arguments.editable else project)
    except subprocess.CalledProcessError as exc:
        raise SystemExit(f"{arguments.directory} was not made: the command above failed") from exc


if __name__ == "__main__":
    main()
